//! Real Kubernetes runs a pod on the node, the pod answers, and a reboot ends it in
//! order: its hook runs, its volume is whole, and it is there again afterwards.

use anyhow::{Result, ensure};
use keelson_tests::{BOOT, Flavor, Guest, Image, Kubectl, NETWORK, Osctl, Vm, fetch};
use std::{
    fs,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

/// The demo's pod with a hook that writes to a folder of the machine before its end.
const HOOK: &str = r#"{"spec": {"template": {"spec": {
    "securityContext": {"runAsUser": 0},
    "volumes": [{"name": "notes", "hostPath": {"path": "/var/lib/notes", "type": "DirectoryOrCreate"}}],
    "containers": [{
        "name": "web",
        "env": [{"name": "NOTES", "value": "/notes/notes"}],
        "volumeMounts": [{"name": "notes", "mountPath": "/notes"}],
        "lifecycle": {"preStop": {"exec": {"command": ["/hello", "note"]}}}
    }]
}}}}"#;

/// A pod that cannot be evicted: it is stopped through the container runtime.
const DAEMON: &str = r#"{"apiVersion": "apps/v1", "kind": "DaemonSet",
    "metadata": {"name": "daemon"},
    "spec": {
        "selector": {"matchLabels": {"app": "daemon"}},
        "template": {
            "metadata": {"labels": {"app": "daemon"}},
            "spec": {"containers": [{
                "name": "hello", "image": "docker.io/keelson/hello:1", "imagePullPolicy": "Never"
            }]}
        }
    }
}"#;

/// The address that servers share, in the network of QEMU's.
const SHARED: &str = "network: {virtualAddress: {address: 10.0.2.100}}";

#[test]
fn a_pod_of_real_kubernetes_answers() -> Result<()> {
    let osctl = Osctl::new()?;
    osctl.ok(["gen", "secrets"])?;
    fs::write(osctl.file("network.yaml"), NETWORK)?;
    fs::write(osctl.file("shared.yaml"), SHARED)?;
    osctl.ok([
        "gen",
        "config",
        "--secrets",
        "secrets.yaml",
        "--hostname",
        "pod-1",
        "--orchestrator",
        "kubernetes-standin",
        "--patch",
        "network.yaml",
        "--patch",
        "shared.yaml",
    ])?;
    let mut vm = Guest::new(&Image::find(Flavor::Kubernetes)?)
        .memory_mib(3072)
        .forward(6443)
        .forward(30080)
        .config(&osctl.file("machine.yaml"))
        .start("pod")?;
    osctl.ok([
        "config",
        "add",
        "pod",
        "--secrets",
        "secrets.yaml",
        "--endpoint",
        &vm.endpoint(),
    ])?;
    vm.console().wait_for("keelson", BOOT)?;
    osctl.ok(["health", "--timeout", "15m"])?;
    osctl.ok([
        "kubeconfig",
        "--server",
        &format!("https://{}", vm.address(6443)),
    ])?;

    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let program = workspace.join("target/payload/kubernetes/bin/kubernetes-standin");
    let kubectl = Kubectl::new(&program, &osctl.file("."));
    fs::copy(workspace.join("hack/demo.yaml"), osctl.file("demo.yaml"))?;
    kubectl.ok(&["apply", "-f", "demo.yaml"])?;
    kubectl.ok(&["patch", "deployment/hello", "--patch", HOOK])?;
    fs::write(osctl.file("daemon.json"), DAEMON)?;
    kubectl.ok(&["apply", "-f", "daemon.json"])?;
    kubectl.ok(&["rollout", "status", "daemonset/daemon", "--timeout=600s"])?;
    kubectl.ok(&["rollout", "status", "deployment/hello", "--timeout=600s"])?;
    let first = pod_of(&fetch_until(&vm, |page| !page.contains("<pre>"))?);
    holds_the_shared_address(&osctl)?;

    let ending = osctl.run(["reboot", "--wait"])?;
    assert_eq!(ending.code, 0, "{}", ending.stderr);
    println!("{}", ending.stderr);
    for phase in [
        "drain: 1 evicted",
        "pods: 1 stopped",
        "orchestrator: done",
        "volumes: done",
    ] {
        assert!(ending.stderr.contains(phase), "{}", ending.stderr);
    }
    osctl.ok(["health", "--timeout", "15m"])?;
    let again = fetch_until(&vm, |page| page.contains("<pre>"))?;
    assert_ne!(pod_of(&again), first, "{again}");
    let note = format!("pod {first} was ended in order");
    assert!(again.contains(&note), "{again}");
    let cordon = "jsonpath=[{.items[*].spec.unschedulable}] {.items[*].metadata.annotations}";
    let node = kubectl.ok(&["get", "nodes", "--output", cordon])?;
    assert!(
        node.starts_with("[] ") && !node.contains("keelson.dev"),
        "{node}"
    );

    holds_the_shared_address(&osctl)?;
    // It was given up before the reboot, so that another could have had it, and taken again.
    let lease = "lease/keelson-virtual-address";
    let changes = "jsonpath={.spec.holderIdentity} {.spec.leaseTransitions}";
    let lease = kubectl.ok(&["get", "--namespace=kube-system", lease, "--output", changes])?;
    assert_eq!(lease, "pod-1 1");

    osctl.ok(["shutdown", "--force"])?;
    vm.wait_for_exit(BOOT)
}

/// The machine answers to the address that servers share.
fn holds_the_shared_address(osctl: &Osctl) -> Result<()> {
    let deadline = Instant::now() + BOOT;
    loop {
        let shown = osctl.ok(["get", "address"])?;
        if shown.contains("10.0.2.100/32") {
            return Ok(());
        }
        let why = osctl.ok(["get", "virtualaddress", "--output", "yaml"])?;
        ensure!(Instant::now() < deadline, "{shown}\n{why}");
        sleep(Duration::from_secs(1));
    }
}

/// The page, as soon as it is as it should be.
fn fetch_until(vm: &Vm, good: impl Fn(&str) -> bool) -> Result<String> {
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        let page = fetch(vm.address(30080), Duration::from_secs(300))?;
        if page.contains("Hello from Keelson") && good(&page) {
            return Ok(page);
        }
        ensure!(Instant::now() < deadline, "the page stays: {page}");
        sleep(Duration::from_secs(1));
    }
}

/// The pod that the page comes from.
fn pod_of(page: &str) -> String {
    let rest = page.split("from pod ").nth(1).unwrap_or_default();
    rest.split('.').next().unwrap_or_default().to_owned()
}
