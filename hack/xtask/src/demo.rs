//! The whole line once, as a person would do it: build, boot, configure, wait,
//! deploy, look.

use crate::{
    build::{self, Built},
    step::step,
};
use anyhow::{Context, Result};
use keelson_tests::{
    BOOT, Flavor, Guest, Kubectl, NETWORK, Osctl, Release, Vm, development_key, fetch, is_slow,
};
use std::{
    fs,
    net::SocketAddr,
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

/// What the demo is to do.
#[derive(Clone, Copy)]
pub(crate) struct Demo {
    /// Shut the machine down at the end.
    pub(crate) once: bool,
    /// Upgrade the machine to a release with the next version.
    pub(crate) upgrade: bool,
}

/// Runs the demo.
pub(crate) fn run(root: &Path, demo: Demo) -> Result<()> {
    let begun = Instant::now();
    eprintln!("Keelson: from source to a pod that answers\n");
    let built = build::image(root, Flavor::K3s)?;
    let folder = root.join("target/demo");
    let outcome = match demo.upgrade.then(|| running(&folder)).flatten() {
        Some(page) => renew(&built, &folder, page).and_then(|()| match demo.once {
            true => shut_down(&folder),
            false => Ok(()),
        }),
        None => {
            stop_earlier(&folder)?;
            drive(&built, &folder, demo)
        }
    };
    match outcome {
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
fn drive(built: &Built, folder: &Path, demo: Demo) -> Result<()> {
    if is_slow(&built.image) {
        eprintln!(
            "  · no kernel boots with KVM here: the machine is emulated, which takes a few minutes"
        );
    }
    let osctl = Osctl::at(folder)?;
    let mut vm = step("boot the image", || {
        let vm = Guest::new(&built.image)
            .has_the_host()
            .memory_mib(3072)
            .forward(KUBERNETES)
            .forward(NODE_PORT)
            .folder(folder)
            .start("keelson-demo")?;
        fs::write(folder.join("pid"), vm.pid().to_string())?;
        fs::write(folder.join("page"), vm.address(NODE_PORT).to_string())?;
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
    if demo.upgrade {
        renew(built, folder, vm.address(NODE_PORT))?;
    }
    if demo.once {
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

/// Where the machine of an earlier demo serves its page, if it still runs.
fn running(folder: &Path) -> Option<SocketAddr> {
    let pid = fs::read_to_string(folder.join("pid")).ok()?;
    let command = fs::read(format!("/proc/{}/cmdline", pid.trim())).ok()?;
    let page = fs::read_to_string(folder.join("page")).ok()?;
    String::from_utf8_lossy(&command)
        .contains("keelson-demo")
        .then(|| page.trim().parse().ok())?
}

/// Upgrades the machine to the same image under the next version, and waits for its pod.
fn renew(built: &Built, folder: &Path, page: SocketAddr) -> Result<()> {
    let osctl = Osctl::at(folder)?;
    let before = version(&osctl)?;
    let next = next(&before).with_context(|| format!("{before} has no next version"))?;
    eprintln!();
    let bundle = folder.join("next.bundle");
    step(&format!("build {next} and sign it"), || {
        Release::of(&built.image, &next)?.bundle(&development_key(), &bundle)
    })?;
    let begun = Instant::now();
    let file = bundle.to_string_lossy().into_owned();
    step("send it; the node writes and proves it", || {
        osctl
            .ok(["upgrade", "--no-wait", "--bundle", &file])
            .map(drop)
    })?;
    step("the node reboots into it", || {
        let deadline = Instant::now() + BOOT;
        while version(&osctl).ok().as_ref() != Some(&next) {
            anyhow::ensure!(Instant::now() < deadline, "{next} does not answer");
            sleep(Duration::from_millis(500));
        }
        Ok(())
    })?;
    step("the pod answers again", || {
        fetch(page, Duration::from_secs(600)).map(drop)
    })?;
    let took = begun.elapsed().as_secs_f64();
    step("the node is healthy and keeps it", || {
        osctl.ok(["health", "--timeout", "15m"])?;
        let deadline = Instant::now() + Duration::from_secs(600);
        while !osctl
            .ok(["get", "upgrade", "-o", "json"])?
            .contains("\"good\"")
        {
            anyhow::ensure!(Instant::now() < deadline, "{next} was not marked good");
            sleep(Duration::from_secs(1));
        }
        Ok(())
    })?;
    eprintln!("\n{before} became {next}; the pod answered {took:.0} s after the upgrade began.\n");
    eprintln!("{}", osctl.ok(["version"])?);
    eprintln!("{}", osctl.ok(["get", "upgrade"])?);
    Ok(())
}

/// The version that the node runs.
fn version(osctl: &Osctl) -> Result<String> {
    let said: serde_json::Value = serde_json::from_str(&osctl.ok(["version", "-o", "json"])?)?;
    let version = said["nodes"][0]["version"].as_str();
    version
        .map(str::to_owned)
        .context("the node tells no version")
}

/// The version with its last number raised.
fn next(version: &str) -> Option<String> {
    let (front, last) = version.rsplit_once('.')?;
    let last: u64 = last.parse().ok()?;
    Some(format!("{front}.{}", last + 1))
}

/// Shuts down the machine of an earlier demo.
fn shut_down(folder: &Path) -> Result<()> {
    step("shut the machine down through its API", || {
        Osctl::at(folder)?.ok(["shutdown"])?;
        let deadline = Instant::now() + Duration::from_secs(300);
        while running(folder).is_some() {
            anyhow::ensure!(Instant::now() < deadline, "it still runs");
            sleep(Duration::from_millis(200));
        }
        Ok(())
    })
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
