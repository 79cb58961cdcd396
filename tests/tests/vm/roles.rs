//! Who is let in, and who is not.

use anyhow::Result;
use keelson_api::v1::{VersionRequest, machine_service_client::MachineServiceClient};
use keelson_tests::{Identity, Node, connect};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tonic::transport::Channel;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest,
};

/// Shows: machine.api.ca
#[tokio::test]
async fn who_has_no_right_is_refused() -> Result<()> {
    let node = Node::configured("roles", "good")?;
    let address = node.vm.address(keelson_api::PORT);

    assert!(
        version(address, None).await.is_err(),
        "without a certificate"
    );
    assert!(
        version(address, Some(stranger()?)).await.is_err(),
        "from another CA"
    );

    let admin = Identity::of_context(&node.osctl.file("osctl.yaml"))?;
    any_grpc_tool_finds_its_way(connect(address, Some(admin)).await?).await?;

    node.context("reader", "os:reader")?;
    node.osctl.ok(["get", "address"])?;
    for refused in [["reboot"], ["shutdown"], ["kubeconfig"]] {
        let output = node.osctl.run(refused)?;
        assert_eq!(
            output.code, 4,
            "{refused:?} as a reader: {}{}",
            output.stdout, output.stderr
        );
    }
    assert_eq!(node.osctl.run(["get", "config", "--show-secrets"])?.code, 4);
    node.context("operator", "os:operator")?;
    assert_eq!(node.osctl.run(["kubeconfig"])?.code, 4);
    Ok(())
}

async fn version(address: std::net::SocketAddr, identity: Option<Identity>) -> Result<()> {
    let channel = connect(address, identity).await?;
    MachineServiceClient::new(channel)
        .version(VersionRequest {})
        .await?;
    Ok(())
}

/// Health and reflection, as grpcurl and load balancers use them.
async fn any_grpc_tool_finds_its_way(channel: Channel) -> Result<()> {
    let request = HealthCheckRequest {
        service: "keelson.v1.MachineService".to_owned(),
    };
    let health = HealthClient::new(channel.clone())
        .check(request)
        .await?
        .into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);

    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::once(request))
        .await?
        .into_inner();
    let answer = format!("{:?}", answers.message().await?);
    assert!(answer.contains("keelson.v1.ResourceService"), "{answer}");
    Ok(())
}

/// A certificate that says it is an administrator's, from a CA that nobody knows.
fn stranger() -> Result<Identity> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let mut params = CertificateParams::new(Vec::new())?;
    params
        .distinguished_name
        .push(DnType::OrganizationName, "os:admin");
    let key = KeyPair::generate()?;
    let leaf = params.signed_by(&key, &ca)?;
    Ok(Identity {
        chain: vec![leaf.der().clone()],
        key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
    })
}
