//! The whole line once, as a person would do it: build, boot, configure, wait,
//! deploy, look.

use crate::{
    build::{self, Built},
    step::step,
};
use anyhow::{Context, Result};
use keelson_tests::{BOOT, Flavor, Guest, Kubectl, NETWORK, Osctl, Vm, fetch, is_slow};
use std::{
    fs,
    path::Path,
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

/// The port that the demo's service has on the node.
const NODE_PORT: u16 = 30080;
/// The Kubernetes API's port.
const KUBERNETES: u16 = 6443;

/// A web server of one pod, and the way to it.
const MANIFEST: &str = include_str!("../../demo.yaml");

/// Runs the demo. With `once` the machine is shut down at the end.
pub(crate) fn run(root: &Path, once: bool) -> Result<()> {
    let begun = Instant::now();
    eprintln!("Keelson: from source to a pod that answers\n");
    let built = build::image(root, Flavor::K3s)?;
    let folder = root.join("target/demo");
    stop_earlier(&folder)?;
    match drive(&built, &folder, once) {
        Ok(()) => {
            eprintln!("\nAll of it took {:.0} s.", begun.elapsed().as_secs_f64());
            Ok(())
        }
        Err(error) => Err(error.context(format!(
            "the demo stopped (console: {})",
            folder.join("console.log").display()
        ))),
    }
}

/// Everything after the build.
fn drive(built: &Built, folder: &Path, once: bool) -> Result<()> {
    if is_slow(&built.image) {
        eprintln!(
            "  · the machine is emulated, which takes a few minutes; KEELSON_ACCEL=kvm asks for KVM"
        );
    }
    let osctl = Osctl::at(folder)?;
    let mut vm = step("boot the image", || {
        let vm = Guest::new(&built.image)
            .memory_mib(3072)
            .forward(KUBERNETES)
            .forward(NODE_PORT)
            .folder(folder)
            .start("keelson-demo")?;
        fs::write(folder.join("pid"), vm.pid().to_string())?;
        vm.console().wait_for("keelson", BOOT)?;
        Ok(vm)
    })?;
    let fingerprint = step("the node waits in maintenance mode", || {
        vm.wait_for_maintenance()
    })?;
    step("generate secrets and a config", || {
        generate(&osctl, &vm, built)
    })?;
    step("apply the config", || {
        let endpoint = vm.endpoint();
        let node = [
            "--insecure",
            "--cert-fingerprint",
            &fingerprint,
            "--node",
            &endpoint,
        ];
        osctl
            .ok(["apply-config", "-f", "machine.yaml"].iter().chain(&node))
            .map(drop)
    })?;
    step("the node is healthy", || {
        osctl.ok(["health", "--timeout", "15m"]).map(drop)
    })?;
    let program = built
        .kubectl
        .as_ref()
        .context("this image brings no kubectl")?;
    let kubectl = Kubectl::new(program, folder);
    step("get the kubeconfig", || {
        let server = format!("https://{}", vm.address(KUBERNETES));
        osctl.ok(["kubeconfig", "--server", &server]).map(drop)
    })?;
    step("deploy a pod", || {
        fs::write(folder.join("demo.yaml"), MANIFEST)?;
        kubectl.ok(&["apply", "-f", "demo.yaml"])?;
        kubectl.ok(&[
            "wait",
            "--for=condition=Available",
            "deployment/hello",
            "--timeout=600s",
        ])
    })?;
    let page = step("fetch a page from it", || {
        fetch(vm.address(NODE_PORT), Duration::from_secs(120))
    })?;
    eprintln!("\n{}\n", page.trim());
    eprintln!("{}", kubectl.ok(&["get", "nodes,pods", "-o", "wide"])?);
    for kind in ["service", "address"] {
        eprintln!("{}", osctl.ok(["get", kind])?);
    }
    if once {
        return step("shut the machine down through its API", || {
            osctl.ok(["shutdown"])?;
            vm.wait_for_exit(Duration::from_secs(180))
        });
    }
    let config = folder.join("osctl.yaml");
    let osctl = "target/debug/osctl";
    vm.detach();
    eprintln!(
        "The machine runs on (its files: {}). Try next:\n",
        folder.display()
    );
    eprintln!(
        "  export OSCTL_CONFIG={} KUBECONFIG={}",
        config.display(),
        folder.join("kubeconfig").display()
    );
    eprintln!("  {osctl} health");
    eprintln!("  {osctl} logs machined --follow");
    eprintln!("  {osctl} shutdown");
    Ok(())
}

/// Makes the files that a person would make.
fn generate(osctl: &Osctl, vm: &Vm, built: &Built) -> Result<()> {
    for file in ["secrets.yaml", "machine.yaml", "osctl.yaml", "kubeconfig"] {
        let path = osctl.file(file);
        if path.exists() {
            fs::remove_file(path)?;
        }
    }
    let orchestrator = match built.flavor {
        Flavor::K3s => "k3s",
        _ => "kubernetes-standin",
    };
    osctl.ok(["gen", "secrets", "--output", "secrets.yaml"])?;
    fs::write(osctl.file("network.yaml"), NETWORK)?;
    osctl.ok([
        "gen",
        "config",
        "--secrets",
        "secrets.yaml",
        "--role",
        "server",
        "--hostname",
        "demo-1",
        "--orchestrator",
        orchestrator,
        "--patch",
        "network.yaml",
        "--output",
        "machine.yaml",
    ])?;
    osctl.ok([
        "config",
        "add",
        "demo",
        "--secrets",
        "secrets.yaml",
        "--endpoint",
        &vm.endpoint(),
    ])?;
    Ok(())
}

/// Ends the machine that an earlier demo left running.
fn stop_earlier(folder: &Path) -> Result<()> {
    let file = folder.join("pid");
    let Ok(pid) = fs::read_to_string(&file) else {
        return Ok(());
    };
    let pid: u32 = pid
        .trim()
        .parse()
        .with_context(|| format!("reading {}", file.display()))?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if String::from_utf8_lossy(&command).contains("keelson-demo") {
        eprintln!("  · ending the machine of an earlier demo (process {pid})");
        Command::new("kill").arg(pid.to_string()).status()?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while Path::new(&format!("/proc/{pid}")).exists() && Instant::now() < deadline {
            sleep(Duration::from_millis(100));
        }
    }
    fs::remove_file(file)?;
    let disk = folder.join("disk.qcow2");
    if disk.exists() {
        fs::remove_file(disk)?;
    }
    Ok(())
}
