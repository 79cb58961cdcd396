//! What a machine does while its writes are recorded, and a real boot of a state.

use anyhow::{Context as _, Result, bail, ensure};
use std::{
    fs,
    path::Path,
    thread::sleep,
    time::{Duration, Instant},
};

use super::{Recording, judge::Version, replay::State};
use crate::{BOOT, Flavor, Guest, Image, Node, Osctl, Release, development_key};

/// The folder of a recording that has the person's files: secrets, config, contexts.
const PERSON: &str = "osctl";

/// Starts a fresh machine with its writes recorded in a folder, lets `work` use it, shuts it
/// down, and holds the record against the disk. Marks: `boot`, those of `work`, `shutdown`.
pub fn record(folder: &Path, work: impl FnOnce(&Node) -> Result<()>) -> Result<()> {
    let vm = Guest::new(&Image::find(Flavor::Standin)?)
        .log_writes(folder)
        .folder(&folder.join("guest"))
        .start("torture")?;
    let osctl = Osctl::at(&folder.join(PERSON))?;
    let mut node = Node { vm, osctl };
    Recording::mark(folder, "boot")?;
    work(&node).with_context(|| format!("the console's end:\n{}", node.vm.console().end()))?;
    Recording::mark(folder, "shutdown")?;
    node.osctl.ok(["shutdown"])?;
    node.vm.wait_for_exit(BOOT)?;
    Recording::open(folder)?.check(&node.vm.disk())
}

/// Gives a machine its config and waits until it is healthy. Mark: `config`.
pub fn configure(folder: &Path, node: &Node) -> Result<()> {
    node.generate("standin", "good")?;
    let fingerprint = node.vm.wait_for_maintenance()?;
    Recording::mark(folder, "config")?;
    let endpoint = node.vm.endpoint();
    node.osctl.ok([
        "apply-config",
        "--insecure",
        "--cert-fingerprint",
        &fingerprint,
        "--node",
        &endpoint,
        "-f",
        "machine.yaml",
    ])?;
    node.context("admin", "os:admin")?;
    node.healthy()
}

/// Records a machine that gets its config and restarts. Mark: `reboot`.
pub fn record_config(folder: &Path) -> Result<()> {
    record(folder, |node| {
        configure(folder, node)?;
        Recording::mark(folder, "reboot")?;
        let position = node.vm.console().position();
        node.osctl.ok(["reboot"])?;
        node.vm.console().wait_after(position, "EFI stub", BOOT)?;
        node.healthy()?;
        Ok(())
    })
}

/// The UKI that comes onto the disk in a recording of an upgrade, in its folder.
const NEXT: &str = "next.efi";

/// Records a machine that is upgraded and keeps the new release. Mark: `upgrade`.
pub fn record_upgrade(folder: &Path) -> Result<()> {
    let release = Release::of(&Image::find(Flavor::Standin)?, "0.2.0")?;
    let bundle = folder.with_extension("bundle");
    release.bundle(&development_key(), &bundle)?;
    record(folder, |node| {
        let gate = "machine:\n  healthGate: {deadline: 4m, stable: 3s}\n";
        fs::write(node.osctl.file("more.yaml"), gate)?;
        fs::copy(release.uki(), folder.join(NEXT))?;
        configure(folder, node)?;
        Recording::mark(folder, "upgrade")?;
        let bundle = bundle.to_string_lossy();
        node.osctl
            .ok(["upgrade", "--timeout", "20m", "--bundle", &bundle])
            .map(drop)
    })
}

/// The release that comes onto the disk in a recording, if one does.
pub fn next(folder: &Path) -> Result<Vec<Version>> {
    let path = folder.join(NEXT);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let version = Version::read(&fs::read(&path)?);
    Ok(vec![
        version.with_context(|| format!("reading {}", path.display()))?,
    ])
}

/// Boots a state of a recording. It is good when the machine waits for a config, or has the one
/// of the recording and is healthy, and runs the version that it is judged to run. Returns what
/// `osctl version` says, or that it waits.
pub fn boot(recording: &Recording, state: &State, image: &Image, version: &str) -> Result<String> {
    let folder = tempfile::Builder::new()
        .prefix("keelson-state-")
        .tempdir()?;
    let disk = recording.write(&state.map, folder.path())?;
    let name = format!("torture-{}", state.number);
    let vm = Guest::new(image).start_on(&name, &disk)?;
    let osctl = Osctl::at(&recording.folder().join(PERSON))?;
    let node = Node { vm, osctl };
    if node.osctl.file("secrets.yaml").exists() {
        node.context(&name, "os:admin")?;
    }
    let had_config = recording
        .during(state.happened)
        .is_some_and(|what| !["boot", "config"].contains(&what));
    let endpoint = node.vm.endpoint();
    let deadline = Instant::now() + 2 * BOOT;
    loop {
        let console = node.vm.console();
        if console.find_after(0, "--cert-fingerprint").is_some() {
            ensure!(!had_config, "its config is lost");
            return Ok("it waits for a config".into());
        }
        let answer = node.osctl.run(["version"])?;
        if answer.code == 0 {
            node.osctl
                .ok(["health", "--timeout", "6m"])
                .context("it answers and is not healthy")?;
            let config = node.osctl.ok(["get", "config"])?;
            ensure!(config.contains("node-1"), "its config is another: {config}");
            let node = answer.stdout.lines().find(|line| line.contains(&endpoint));
            ensure!(
                node.is_some_and(|line| line.split_whitespace().nth(1) == Some(version)),
                "it does not run {version}: {}",
                answer.stdout
            );
            return Ok(answer.stdout);
        }
        if Instant::now() > deadline {
            bail!(
                "{} does not come up; the console's end:\n{}",
                state.number,
                console.end()
            );
        }
        sleep(Duration::from_secs(1));
    }
}
