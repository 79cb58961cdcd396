//! A node without a config: what it allows, what it refuses, and that a bad
//! config changes nothing.

use anyhow::Result;
use keelson_api::v1::{
    ApplyConfigRequest, GetConfigRequest, HealthRequest, KindsRequest, KubeconfigRequest,
    ListServicesRequest, LogsRequest, RebootRequest, ShutdownRequest, VersionRequest,
    diagnostic::Severity, machine_service_client::MachineServiceClient,
    resource_service_client::ResourceServiceClient,
};
use keelson_tests::{Node, connect};
use std::fs;
use tonic::{Code, transport::Channel};

#[tokio::test]
async fn a_node_without_config_allows_little() -> Result<()> {
    let (node, fingerprint) = Node::waiting("maintenance")?;
    let channel = connect(node.vm.address(keelson_api::PORT), None).await?;
    let mut machine = MachineServiceClient::new(channel.clone());
    let mut resources = ResourceServiceClient::new(channel);

    assert!(
        machine
            .version(VersionRequest {})
            .await?
            .into_inner()
            .maintenance
    );
    assert!(
        resources
            .kinds(KindsRequest {})
            .await?
            .into_inner()
            .kinds
            .contains(&"volume".to_owned())
    );
    machine.health(HealthRequest { watch: false }).await?;
    let refused = [
        machine.get_config(GetConfigRequest::default()).await.err(),
        machine.kubeconfig(KubeconfigRequest::default()).await.err(),
        machine.list_services(ListServicesRequest {}).await.err(),
        machine.logs(LogsRequest::default()).await.err(),
        machine.reboot(RebootRequest::default()).await.err(),
        machine.shutdown(ShutdownRequest::default()).await.err(),
    ];
    for (index, status) in refused.iter().enumerate() {
        assert_eq!(
            status.as_ref().map(tonic::Status::code),
            Some(Code::PermissionDenied),
            "call {index}"
        );
    }

    a_wrong_fingerprint_is_refused(&node, &fingerprint)?;
    bad_input_changes_nothing(&node, &fingerprint)?;
    what_osctl_would_not_send_is_refused_too(&mut machine, &node).await?;
    assert!(
        machine
            .version(VersionRequest {})
            .await?
            .into_inner()
            .maintenance
    );
    Ok(())
}

fn a_wrong_fingerprint_is_refused(node: &Node, fingerprint: &str) -> Result<()> {
    let wrong = format!(
        "{}{}",
        if fingerprint.starts_with('0') {
            '1'
        } else {
            '0'
        },
        &fingerprint[1..]
    );
    let output = apply(node, &wrong, "machine.yaml")?;
    assert_eq!(output.code, 3, "{}", output.stderr);
    assert!(
        output.stderr.contains(fingerprint),
        "both fingerprints are told: {}",
        output.stderr
    );
    Ok(())
}

fn bad_input_changes_nothing(node: &Node, fingerprint: &str) -> Result<()> {
    let good = fs::read_to_string(node.osctl.file("machine.yaml"))?;
    let bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned()
        + &('b'..='z')
            .map(|c| {
                format!(
                    "{c}: &{c} [{}]\n",
                    vec![format!("*{}", (c as u8 - 1) as char); 9].join(", ")
                )
            })
            .collect::<String>();
    let cases: [(&str, Vec<u8>, &str); 6] = [
        (
            "unknown-key",
            good.replace("hostname:", "hostnam:").into_bytes(),
            "hostname",
        ),
        (
            "wrong-type",
            good.replace("role: server", "role: [server]").into_bytes(),
            "role",
        ),
        (
            "duplicate-key",
            format!("{good}\nkind: Machine\n").into_bytes(),
            "kind",
        ),
        ("garbage", (0..=255u8).cycle().take(4096).collect(), "error"),
        ("alias-bomb", bomb.into_bytes(), "error"),
        ("ten-megabytes", vec![b'a'; 10 << 20], "error"),
    ];
    for (name, bytes, told) in cases {
        let file = format!("{name}.yaml");
        fs::write(node.osctl.file(&file), bytes)?;
        let output = apply(node, fingerprint, &file)?;
        assert_eq!(output.code, 2, "{name}: {}", output.stderr);
        assert!(output.stderr.contains(told), "{name}: {}", output.stderr);
    }
    Ok(())
}

/// The node decides by itself: it does not rely on `osctl` having looked.
async fn what_osctl_would_not_send_is_refused_too(
    machine: &mut MachineServiceClient<Channel>,
    node: &Node,
) -> Result<()> {
    for name in ["unknown-key", "duplicate-key", "garbage", "alias-bomb"] {
        let config = fs::read(node.osctl.file(&format!("{name}.yaml")))?;
        let file_name = format!("{name}.yaml");
        let request = ApplyConfigRequest {
            config,
            file_name,
            ..Default::default()
        };
        let answer = machine.apply_config(request).await?.into_inner();
        assert_eq!(answer.generation, 0, "{name}");
        let first = answer
            .diagnostics
            .first()
            .map(|found| (found.severity(), found.line));
        assert!(
            matches!(first, Some((Severity::Error, _))),
            "{name}: {first:?}"
        );
    }
    let config = fs::read(node.osctl.file("ten-megabytes.yaml"))?;
    let request = ApplyConfigRequest {
        config,
        ..Default::default()
    };
    assert!(
        machine.apply_config(request).await.is_err(),
        "ten megabytes are refused whole"
    );
    Ok(())
}

fn apply(node: &Node, fingerprint: &str, file: &str) -> Result<keelson_tests::Output> {
    let endpoint = node.vm.endpoint();
    node.osctl.run([
        "apply-config",
        "--insecure",
        "--cert-fingerprint",
        fingerprint,
        "--node",
        &endpoint,
        "-f",
        file,
    ])
}
