//! Upgrades: what may not run is refused, what runs well is kept, and from whatever does
//! not the machine comes back by itself.

use anyhow::{Context, Result, ensure};
use keelson_disk::{bundle::Manifest, verity};
use keelson_tests::{
    BOOT, Flavor, Image, Node, Release, development_key, image_builder, signed_again,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread::sleep,
    time::{Duration, Instant},
};

/// A gate that does not hold anybody up, and has patience with a slow host.
const GATE: &str = "machine:\n  healthGate: {deadline: 10m, stable: 5s}\n";

/// A gate without patience: nothing is going to get healthy.
const SHORT_GATE: &str = "machine:\n  healthGate: {deadline: 30s, stable: 5s}\n";

/// How `osctl` ends that has waited in vain.
const TIMEOUT: i32 = 5;

#[test]
fn what_may_not_run_is_refused_and_a_good_release_is_kept() -> Result<()> {
    let node = Node::configured_with("upgrade", "good", GATE)?;
    let image = Image::find(Flavor::Standin)?;
    let folder = tempfile::tempdir()?;
    let good = folder.path().join("good.bundle");
    Release::of(&image, "0.2.0")?
        .floor("0.2.0")
        .bundle(&development_key(), &good)?;
    node.healthy()?;

    let bytes = fs::read(&good)?;
    let spoilt = |name: &str, at: usize| -> Result<PathBuf> {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        let path = folder.path().join(name);
        fs::write(&path, bytes)?;
        Ok(path)
    };
    let short = folder.path().join("short");
    fs::write(&short, &bytes[..bytes.len() - 1000])?;
    let foreign = folder.path().join("foreign.bundle");
    Release::of(&image, "0.2.0")?.bundle(&foreign_key(folder.path())?, &foreign)?;
    let same = folder.path().join("same.bundle");
    Release::of(&image, env!("CARGO_PKG_VERSION"))?
        .kernel_options("another=build")
        .bundle(&development_key(), &same)?;
    let older = folder.path().join("older.bundle");
    Release::of(&image, "0.0.9")?.bundle(&development_key(), &older)?;
    let forged = |name: &str, change: fn(&mut Manifest)| -> Result<PathBuf> {
        let path = folder.path().join(name);
        signed_again(&good, &development_key(), change, &path)?;
        Ok(path)
    };
    let foreign_arch = forged("arch", |manifest| manifest.arch = "arm64".into())?;
    let metal = forged("variant", |manifest| manifest.variant = "metal".into())?;
    let oversize = forged("oversize", |manifest| {
        manifest.root.data_blocks = (3 << 30) / verity::BLOCK;
        manifest.image.unpacked_bytes = manifest.root.image_blocks() * verity::BLOCK;
    })?;
    for (what, bundle, why) in [
        ("its manifest", spoilt("manifest", 40)?, ""),
        ("its UKI", spoilt("uki", 1 << 20)?, "UKI"),
        ("its root", spoilt("root", bytes.len() - 5000)?, ""),
        ("its end is missing", short, "cut off"),
        ("a key that is not trusted", foreign, "trust"),
        ("another build of what runs", same, "another build"),
        ("older than what runs", older.clone(), "older"),
        ("another architecture", foreign_arch, "is for arm64"),
        ("another variant", metal, "the variant metal"),
        ("larger than a slot", oversize, "a slot of this machine has"),
    ] {
        let output = upgrade(&node, &bundle)?;
        ensure!(output.code != 0, "{what}: it was taken");
        ensure!(output.stderr.contains(why), "{what}: {}", output.stderr);
        ensure!(version(&node)? == env!("CARGO_PKG_VERSION"), "{what}");
    }

    let output = upgrade(&node, &good)?;
    ensure!(output.code == 0, "{}", output.stderr);
    ensure!(version(&node)? == "0.2.0");
    node.healthy()?;
    // It is kept: a reboot does not go back.
    node.osctl.ok(["reboot", "--wait"])?;
    ensure!(version(&node)? == "0.2.0");
    let output = upgrade(&node, &older)?;
    ensure!(output.stderr.contains("floor"), "{}", output.stderr);

    // The config stays what it is, but the cluster goes back: it was started once before the
    // upgrade and three times since. A patch that comes before this boot has started it would
    // spare it the third.
    node.healthy()?;
    node.osctl
        .ok(["patch", "-p", "machine: {hostname: node-2}"])?;
    node.wait_for_log("standin", "remembers 3 starts", BOOT)?;
    node.healthy()?;
    node.osctl.ok(["rollback", "--restore-snapshot"])?;
    wait_for_version(&node, env!("CARGO_PKG_VERSION"))?;
    let told = node.osctl.ok(["get", "upgrade"])?;
    ensure!(told.contains("rolled back"), "{told}");
    let config = node.osctl.ok(["get", "config"])?;
    ensure!(config.contains("node-2"), "{config}");
    node.healthy()?;
    let log = node.osctl.ok(["logs", "standin"])?;
    let last = log.lines().rfind(|line| line.contains("remembers"));
    ensure!(last == Some("standin remembers 1 starts"), "{log}");
    Ok(())
}

#[test]
fn an_upgrade_whose_datastore_cannot_be_kept_is_called_off() -> Result<()> {
    let node = Node::configured_with("full", "fill-disk", GATE)?;
    let folder = tempfile::tempdir()?;
    let bundle = folder.path().join("bundle");
    let image = Image::find(Flavor::Standin)?;
    Release::of(&image, "0.2.0")?.bundle(&development_key(), &bundle)?;
    node.wait_for_log("standin", "has filled the volume", BOOT)?;
    let output = upgrade(&node, &bundle)?;
    ensure!(output.code != 0, "{output:?}");
    ensure!(
        output.stderr.contains("a snapshot needs"),
        "{}",
        output.stderr
    );
    ensure!(version(&node)? == env!("CARGO_PKG_VERSION"));
    // The volume is looked at from time to time.
    let deadline = Instant::now() + BOOT;
    loop {
        let health = node.osctl.run(["health", "--no-wait"])?;
        if health.stdout.contains("/var is full") {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{health:?}");
        sleep(Duration::from_secs(1));
    }
}

#[test]
fn a_release_whose_init_hangs_is_given_up() -> Result<()> {
    let node = Node::configured_with("hang", "good", GATE)?;
    let image = Image::find(Flavor::Standin)?;
    let folder = tempfile::tempdir()?;
    let bundle = folder.path().join("bundle");
    let standin = image
        .dir()
        .join("trees/root/usr/lib/orchestrator/bin/standin");
    Release::of(&image, "0.2.0")?
        .program("usr/bin/init", &standin)?
        .file("usr/lib/keelson/standin-init", b"hang", 0o644)?
        .bundle(&development_key(), &bundle)?;
    node.healthy()?;
    let output = upgrade(&node, &bundle)?;
    ensure!(output.code == 1, "{output:?}");
    ensure!(version(&node)? == env!("CARGO_PKG_VERSION"));
    ensure!(output.stderr.contains("watchdog"), "{}", output.stderr);
    Ok(())
}

#[test]
fn an_agent_whose_server_is_away_keeps_its_release() -> Result<()> {
    let alone = "\
machine:
  role: agent
  healthGate: {deadline: 10m, stable: 5s}
orchestrator:
  server: https://10.0.2.99:6443
";
    let node = Node::configured_with("alone", "never-ready", alone)?;
    let image = Image::find(Flavor::Standin)?;
    let folder = tempfile::tempdir()?;
    let bundle = folder.path().join("bundle");
    Release::of(&image, "0.2.0")?.bundle(&development_key(), &bundle)?;
    let output = upgrade(&node, &bundle)?;
    ensure!(output.code == 0, "{output:?}");
    node.osctl.ok(["reboot", "--wait"])?;
    ensure!(version(&node)? == "0.2.0");
    Ok(())
}

#[test]
fn from_a_release_that_does_not_run_the_machine_comes_back() -> Result<()> {
    let node = Node::configured_with("fallback", "good", GATE)?;
    let image = Image::find(Flavor::Standin)?;
    let folder = tempfile::tempdir()?;
    let standin = image
        .dir()
        .join("trees/root/usr/lib/orchestrator/bin/standin");
    node.healthy()?;
    let cases: [(&str, &str, fn(Release, &Path) -> Result<Release>); 3] = [
        ("0.2.0", "its kernel panics", |release, _| {
            Ok(release.kernel_options("rdinit=/none"))
        }),
        ("0.3.0", "its PID 1 ends", |release, standin| {
            release.program("usr/bin/init", standin)
        }),
        ("0.4.0", "its machined crashes", |release, standin| {
            release.program("usr/bin/machined", standin)
        }),
    ];
    for (version, what, spoil) in cases {
        let bundle = folder.path().join(version);
        spoil(Release::of(&image, version)?, &standin)?.bundle(&development_key(), &bundle)?;
        let output = upgrade(&node, &bundle)?;
        ensure!(output.code == 1, "{what}: {output:?}");
        ensure!(
            self::version(&node)? == env!("CARGO_PKG_VERSION"),
            "{what}: it runs"
        );
        ensure!(
            output.stderr.contains("machined"),
            "{what}: {}",
            output.stderr
        );
        let again = upgrade(&node, &bundle)?;
        ensure!(
            again.stderr.contains("has failed here"),
            "{what}: {}",
            again.stderr
        );
        node.healthy()?;
    }
    Ok(())
}

#[test]
fn a_release_that_does_not_get_healthy_is_given_up() -> Result<()> {
    // What it runs now is not healthy either; but that one was good once.
    let node = Node::configured_with("unhealthy", "never-ready", SHORT_GATE)?;
    let image = Image::find(Flavor::Standin)?;
    let folder = tempfile::tempdir()?;
    let bundle = folder.path().join("bundle");
    Release::of(&image, "0.2.0")?.bundle(&development_key(), &bundle)?;
    let output = upgrade(&node, &bundle)?;
    ensure!(output.code == 1, "{output:?}");
    ensure!(
        output.stderr.contains("orchestrator ready"),
        "{}",
        output.stderr
    );
    ensure!(version(&node)? == env!("CARGO_PKG_VERSION"));
    let told = node.osctl.ok(["get", "upgrade", "-o", "yaml"])?;
    ensure!(
        told.contains("fell back") && told.contains("standin: "),
        "{told}"
    );
    Ok(())
}

/// Upgrades and waits until that has ended, well or not.
fn upgrade(node: &Node, bundle: &Path) -> Result<keelson_tests::Output> {
    let bundle = bundle.to_string_lossy();
    let output = node
        .osctl
        .run(["upgrade", "--timeout", "20m", "--bundle", &bundle])?;
    ensure!(
        output.code != TIMEOUT,
        "{}; the console's end:\n{}",
        output.stderr,
        node.vm.console().end()
    );
    Ok(output)
}

fn version(node: &Node) -> Result<String> {
    node.wait_for_answer(keelson_tests::BOOT)?;
    let said = node.osctl.ok(["version", "-o", "json"])?;
    let said: serde_json::Value = serde_json::from_str(&said)?;
    let version = said["nodes"][0]["version"].as_str();
    version
        .map(str::to_owned)
        .with_context(|| format!("no version in {said}"))
}

fn wait_for_version(node: &Node, wanted: &str) -> Result<()> {
    let deadline = Instant::now() + keelson_tests::BOOT;
    loop {
        let found = version(node)?;
        if found == wanted {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{found} still runs");
        sleep(Duration::from_secs(1));
    }
}

/// A key that no image trusts.
fn foreign_key(folder: &Path) -> Result<PathBuf> {
    let name = folder.join("foreign");
    let made = Command::new(image_builder())
        .args(["key", "new"])
        .arg(&name)
        .output()?;
    ensure!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    Ok(name.with_extension("key"))
}
