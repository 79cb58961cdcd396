//! A config is applied through the API and is still there after a reboot.
#![allow(missing_docs)]

use anyhow::Result;
use keelson_tests::{BOOT, Node};

#[test]
fn a_config_is_applied_and_survives_a_reboot() -> Result<()> {
    let (mut node, fingerprint) = Node::waiting("config")?;
    let endpoint = node.vm.endpoint();
    let apply = [
        "apply-config",
        "--insecure",
        "--cert-fingerprint",
        &fingerprint,
        "--node",
        &endpoint,
        "-f",
        "machine.yaml",
    ];
    let planned = node.osctl.ok(apply.iter().chain(&["--dry-run"]))?;
    assert!(
        planned.contains("node-1"),
        "the dry run tells the steps: {planned}"
    );
    node.osctl.ok(apply)?;

    node.context("admin", "os:admin")?;
    node.osctl.ok(["health", "--timeout", "4m"])?;
    let again = node
        .osctl
        .ok(["apply-config", "-f", "machine.yaml", "--dry-run"])?;
    assert!(
        !again.contains("set the host name"),
        "the second time there is nothing to do: {again}"
    );

    let position = node.vm.console().position();
    node.osctl.ok(["reboot"])?;
    node.vm.console().wait_after(position, "EFI stub", BOOT)?;
    node.osctl.ok(["health", "--timeout", "6m"])?;
    let config = node.osctl.ok(["get", "config"])?;
    assert!(config.contains("node-1"), "{config}");
    assert!(
        !config.contains("PRIVATE KEY"),
        "secrets are starred out: {config}"
    );

    node.osctl.ok(["shutdown"])?;
    node.vm.wait_for_exit(BOOT)
}
