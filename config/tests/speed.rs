//! How long it takes: prints figures, asserts nothing about them. Run it by
//! `cargo test --release -p keelson-config --test speed -- --ignored --nocapture`.

use keelson_config::{Draft, parse, redact};
use std::time::{Duration, Instant};

const CONFIG: &str = include_str!("cases/valid/server.yaml");

/// A valid config of so many lines: sysctls, links with routes, settings.
fn long_config(lines: usize) -> String {
    let sysctls: String = (0..lines / 3)
        .map(|n| format!("\n    vm.parameter_{n}: \"{n}\""))
        .collect();
    let links: String = (0..lines / 12)
        .map(|n| {
            let (a, b) = (n / 250, n % 250);
            format!(
                "    - name: nic{n}\n      addresses: [10.{a}.{b}.5/24]\n      routes:\n        - {{to: 172.{}.{b}.0/24, via: 10.{a}.{b}.1}}\n",
                16 + a
            )
        })
        .collect();
    let settings: String = (0..lines / 3)
        .map(|n| format!("\n    some-key-{n}: [\"value {n}\", {n}]"))
        .collect();
    let config = CONFIG
        .replace(
            "  sysctls: {vm.max_map_count: \"262144\", net.core.somaxconn: 4096, kernel.printk: 4 4 1 7}",
            &format!("  sysctls:{sysctls}"),
        )
        .replace("  nameservers:", &format!("{links}  nameservers:"))
        .replace("    cluster-init: true", &format!("    cluster-init: true{settings}"));
    assert!(
        config.lines().count() >= lines,
        "{}",
        config.lines().count()
    );
    config
}

fn best(what: &str, mut work: impl FnMut()) {
    let mut took: Vec<Duration> = (0..20)
        .map(|_| {
            let begin = Instant::now();
            work();
            begin.elapsed()
        })
        .collect();
    took.sort();
    println!(
        "{what:<28} best {:>9.3?}, median {:>9.3?}",
        took[0], took[10]
    );
}

#[test]
#[ignore = "prints figures, for a release build"]
fn two_thousand_lines() {
    let text = long_config(2000);
    let outcome = parse("long.yaml", text.as_bytes());
    assert!(outcome.machine.is_some(), "{:?}", outcome.diagnostics);
    println!("{} lines, {} bytes", text.lines().count(), text.len());
    best("parse and validate", || {
        drop(parse("long.yaml", text.as_bytes()))
    });
    best("star out", || drop(redact(text.as_bytes())));
    let draft = Draft::read("long.yaml", text.as_bytes()).unwrap();
    best("read as a draft and print", || {
        let draft = Draft::read("long.yaml", text.as_bytes());
        drop(draft.map(|draft| draft.print()));
    });
    best("compare with itself", || drop(draft.changes(&draft)));
}
