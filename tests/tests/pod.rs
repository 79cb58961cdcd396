//! Real Kubernetes runs a pod on the node, and the pod answers.
#![allow(missing_docs)]

use anyhow::Result;
use keelson_tests::{BOOT, Flavor, Guest, Image, Kubectl, NETWORK, Osctl, fetch};
use std::{fs, path::Path, time::Duration};

#[test]
fn a_pod_of_real_kubernetes_answers() -> Result<()> {
    let osctl = Osctl::new()?;
    osctl.ok(["gen", "secrets"])?;
    fs::write(osctl.file("network.yaml"), NETWORK)?;
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
    kubectl.ok(&[
        "wait",
        "--for=condition=Available",
        "deployment/hello",
        "--timeout=600s",
    ])?;
    let page = fetch(vm.address(30080), Duration::from_secs(120))?;
    assert!(page.contains("Hello from Keelson"), "{page}");

    osctl.ok(["shutdown"])?;
    vm.wait_for_exit(BOOT)
}
