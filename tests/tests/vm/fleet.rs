//! Several nodes are upgraded in turn, and the first that comes back ends it.

use anyhow::{Result, ensure};
use keelson_tests::{BOOT, Flavor, Guest, Image, Node, Osctl, Release, Vm, development_key};
use std::fs;

/// A gate that does not hold anybody up.
const GATE: &str = "machine:\n  healthGate: {deadline: 10m, stable: 5s}\n";

#[test]
fn nodes_are_upgraded_in_turn_and_the_first_that_comes_back_ends_it() -> Result<()> {
    let image = Image::find(Flavor::Standin)?;
    let osctl = Osctl::new()?;
    fs::write(osctl.file("more.yaml"), GATE)?;
    // Named first, and upgraded last.
    let agent = {
        osctl.ok(["gen", "secrets"])?;
        let patch = format!(
            "{}orchestrator:\n  settings: {{standin: good}}\n",
            keelson_tests::NETWORK
        );
        fs::write(osctl.file("patch.yaml"), patch)?;
        start(&osctl, &image, "agent", "node-2")?
    };
    let node = Node {
        vm: start(&osctl, &image, "server", "node-1")?,
        osctl,
    };
    node.context("admin", "os:admin")?;
    node.wait_for_answer(BOOT)?;
    let both = format!("{},{}", agent.endpoint(), node.vm.endpoint());
    let versions = |wanted: [&str; 2]| -> Result<()> {
        let said = node.osctl.ok(["version", "-n", &both, "-o", "json"])?;
        let said: serde_json::Value = serde_json::from_str(&said)?;
        for (place, version) in wanted.iter().enumerate() {
            let found = &said["nodes"][place]["version"];
            ensure!(found == version, "node {place} runs {found}: {said}");
        }
        Ok(())
    };
    for one in both.split(',') {
        node.osctl.ok(["health", "-n", one, "--timeout", "10m"])?;
    }

    let folder = tempfile::tempdir()?;
    let upgrade = |version: &str, options: &str| {
        let bundle = folder.path().join(version);
        Release::of(&image, version)?
            .kernel_options(options)
            .bundle(&development_key(), &bundle)?;
        let bundle = bundle.to_string_lossy();
        let words = [
            "upgrade",
            "-n",
            &both,
            "--timeout",
            "20m",
            "--bundle",
            &bundle,
        ];
        node.osctl.run(words)
    };
    let output = upgrade("0.2.0", "")?;
    ensure!(output.code == 0, "{output:?}");
    let place = |text: &str| output.stderr.find(text);
    let (server, agent) = (
        place(&format!("{}: 0.2.0 is good", node.vm.endpoint())),
        place(&format!("{}: 0.2.0 is good", agent.endpoint())),
    );
    ensure!(server.is_some() && server < agent, "{}", output.stderr);
    versions(["0.2.0", "0.2.0"])?;

    let output = upgrade("0.3.0", "rdinit=/none")?;
    ensure!(output.code == 1, "{output:?}");
    ensure!(
        output.stderr.contains("0 of 2 nodes are upgraded"),
        "{}",
        output.stderr
    );
    versions(["0.2.0", "0.2.0"])
}

/// A machine of the cluster that the home of `osctl` has the secrets of.
fn start(osctl: &Osctl, image: &Image, role: &str, hostname: &str) -> Result<Vm> {
    let file = format!("{hostname}.yaml");
    let mut words = vec![
        "gen",
        "config",
        "--secrets",
        "secrets.yaml",
        "--role",
        role,
        "--hostname",
        hostname,
        "--orchestrator",
        "standin",
        "--output",
        &file,
        "--patch",
        "patch.yaml",
        "--patch",
        "more.yaml",
    ];
    if role == "agent" {
        words.extend(["--endpoint", "https://10.0.2.99:6443"]);
    }
    osctl.ok(words)?;
    Guest::new(image).config(&osctl.file(&file)).start(hostname)
}
