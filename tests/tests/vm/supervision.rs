//! The daemons may die at any time: the orchestrator does not notice.

use anyhow::{Context, Result, ensure};
use keelson_tests::{BOOT, Node};
use std::{fs, time::Duration};

#[test]
fn killing_the_daemons_does_not_touch_the_orchestrator() -> Result<()> {
    let node = Node::configured("supervision", "assassin")?;
    let log = node.wait_for_log("standin", "killed all", Duration::from_secs(600))?;
    assert_eq!(
        log.matches("standin server starts").count(),
        1,
        "it was started once"
    );
    assert!(
        log.contains("killed machined 10") && log.contains("killed apid 10"),
        "{log}"
    );

    let ticks: Vec<u64> = log
        .lines()
        .filter_map(|line| line.strip_prefix("tick "))
        .filter_map(|count| count.parse().ok())
        .collect();
    assert!(ticks.len() > 50);
    if let Some(gap) = ticks.windows(2).find(|pair| pair[1] != pair[0] + 1) {
        panic!("its log has a gap from {} to {}:\n{log}", gap[0], gap[1]);
    }

    let services: serde_json::Value =
        serde_json::from_str(&node.osctl.ok(["service", "list", "-o", "json"])?)?;
    let text = services.to_string();
    let started = log
        .lines()
        .find_map(|line| line.split("pid ").nth(1))
        .context("no pid in the log")?;
    assert!(
        text.contains(started),
        "its process is still {started}: {text}"
    );
    Ok(())
}

#[test]
fn from_inside_nothing_can_be_changed_and_orphans_are_reaped() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let disk = folder.path().join("disk");
    fs::write(&disk, [&b"LUKS\xba\xbe"[..], &[7; 1 << 20]].concat())?;
    // The disk that it means is left alone, so it is never mounted.
    let volume = "storage: {volumes: [{name: refused, disk: {serial: foreign}}]}";
    let node = Node::configured_on("probe", "probe", volume, |guest| {
        guest.disk(&disk, "foreign")
    })?;
    let log = node.wait_for_log("standin", "probe: done", Duration::from_secs(600))?;
    let probes: Vec<_> = log
        .lines()
        .filter(|line| line.starts_with("probe: "))
        .collect();
    assert!(
        !probes
            .iter()
            .any(|line| line.contains("wrote") || line.contains("found")),
        "{probes:#?}"
    );
    assert_eq!(
        probes
            .iter()
            .filter(|line| line.contains("refused"))
            .count(),
        7,
        "{probes:#?}"
    );
    assert!(
        log.contains("probe: 300 orphans made, 0 zombies left"),
        "{probes:#?}"
    );
    Ok(())
}

#[test]
fn an_orchestrator_that_crashes_is_started_again_and_its_reason_told() -> Result<()> {
    let node = Node::configured("crash", "crash")?;
    node.wait_for_log("standin", "told to crash", Duration::from_secs(120))?;
    let output = node.osctl.run(["health", "--timeout", "5s"])?;
    assert_eq!(output.code, 5, "{}", output.stderr);
    let log = node.osctl.ok(["logs", "standin"])?;
    let starts = log.matches("standin server starts").count();
    node.wait_for_log("standin", "told to crash", Duration::from_secs(1))?;
    assert!(starts >= 1);
    let orchestrator = node.osctl.ok(["get", "orchestrator", "-o", "yaml"])?;
    assert!(
        orchestrator.contains("exit") || orchestrator.contains("code 1"),
        "{orchestrator}"
    );
    Ok(())
}

#[test]
fn a_machined_that_dies_while_the_machine_goes_down_is_followed_by_one_that_goes_on() -> Result<()>
{
    let node = Node::configured("ending", "kill-machined-at-the-end")?;
    node.healthy()?;
    let position = node.vm.console().position();
    // It may not see the end of it: who tells it dies.
    node.osctl.run(["reboot"])?;
    let console = node.vm.console();
    console.wait_after(position, "rebooting: reboot, asked for by", BOOT)?;
    console.wait_after(position, "EFI stub", BOOT)?;
    node.wait_for_answer(BOOT)?;
    let log = node.wait_for_log("standin", "killed machined", BOOT)?;
    ensure!(log.contains("killed machined: Some(Ok(()))"), "{log}");
    Ok(())
}
