//! An upgrade in its parts, on a machine that runs the stand-in: how long each took, and how
//! fast the slot was written beside a plain program that writes to the same disk.

use crate::step::step;
use anyhow::{Context as _, Result};
use keelson_tests::{BOOT, Image, Node, Release, development_key};
use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

/// A gate that does not hold anybody up.
const GATE: &str = "machine:\n  healthGate: {deadline: 10m, stable: 1s}\n";

const MIB: f64 = (1 << 20) as f64;

/// One upgrade, in seconds and MiB per second.
#[derive(Clone, Copy, Default)]
struct Figures {
    staged: f64,
    kernel: f64,
    write: f64,
    verify: f64,
    reboot: f64,
    healthy: f64,
    slot_speed: f64,
    plain_speed: f64,
}

/// Measures so many, and prints the medians.
pub(super) fn run(image: &Image, runs: u32) -> Result<()> {
    let mut all = Vec::new();
    for run in 1..=runs {
        all.push(step(&format!("upgrade ({run} of {runs})"), || one(image))?);
    }
    let median = |of: fn(&Figures) -> f64| {
        let mut values: Vec<f64> = all.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let mut text = format!("medians of {runs}\n");
    for (what, unit, of) in [
        (
            "sent, written and proved, in all",
            "s",
            (|it| it.staged) as fn(&Figures) -> f64,
        ),
        ("  of it: the UKI", "s", |it| it.kernel),
        ("  of it: the root, as it arrives", "s", |it| it.write),
        ("  of it: the root read back", "s", |it| it.verify),
        ("from the word to reboot to the API's answer", "s", |it| {
            it.reboot
        }),
        ("from there to healthy", "s", |it| it.healthy),
        ("the root was written with", "MiB/s", |it| it.slot_speed),
        ("a plain program writes and flushes with", "MiB/s", |it| {
            it.plain_speed
        }),
        ("the one to the other", "", |it| {
            it.slot_speed / it.plain_speed
        }),
    ] {
        // Writing to a text does not fail.
        writeln!(text, "{what:<44} {:>8.2} {unit}", median(of)).unwrap_or_default();
    }
    print!("{text}");
    Ok(())
}

fn one(image: &Image) -> Result<Figures> {
    let node = Node::configured_with("bench-upgrade", "write", GATE)?;
    let folder = tempfile::tempdir()?;
    let bundle = folder.path().join("bundle");
    Release::of(image, "0.2.0")?.bundle(&development_key(), &bundle)?;
    let log = node.wait_for_log("standin", "write: ", BOOT)?;
    let plain = log.lines().find_map(|line| {
        let mut words = line.strip_prefix("write: ")?.split_whitespace();
        let bytes: f64 = words.next()?.parse().ok()?;
        let micros: f64 = words.nth(2)?.parse().ok()?;
        Some(bytes / MIB / (micros / 1e6))
    });
    node.osctl.ok(["health", "--timeout", "5m"])?;

    let begun = Instant::now();
    let bundle = bundle.to_string_lossy();
    node.osctl.ok(["upgrade", "--stage", "--bundle", &bundle])?;
    let staged = begun.elapsed().as_secs_f64();
    let told = node.osctl.ok(["get", "upgrade", "-o", "json"])?;
    let told: serde_json::Value = serde_json::from_str(&told)?;
    let spec = &told[0]["spec"];
    let seconds = |step: &str| {
        let seconds = spec["seconds"][step].as_f64();
        seconds.with_context(|| format!("{step} is not in {told}"))
    };
    let bytes = spec["total"].as_f64().context("it tells no size")?;

    let begun = Instant::now();
    node.osctl.run(["reboot"])?;
    // What answers first may still be the release that goes down.
    let next = |text: String| text.contains("\"0.2.0\"");
    while !node
        .osctl
        .run(["version", "-o", "json"])
        .is_ok_and(|it| next(it.stdout))
    {
        anyhow::ensure!(begun.elapsed() < 2 * BOOT, "0.2.0 does not answer");
        std::thread::sleep(Duration::from_millis(200));
    }
    let reboot = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    node.osctl.ok(["health", "--timeout", "5m"])?;
    Ok(Figures {
        staged,
        kernel: seconds("kernel")?,
        write: seconds("write")?,
        verify: seconds("verify")?,
        reboot,
        healthy: begun.elapsed().as_secs_f64(),
        slot_speed: bytes / MIB / seconds("write")?,
        plain_speed: plain.context("the stand-in did not say how fast it writes")?,
    })
}
