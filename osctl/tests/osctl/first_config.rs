//! The way of a node from its first config to healthy, as osctl goes it.

use crate::desk::{Desk, Run, position};
use crate::node::{Node, Tls, check, health};
use keelson_api::v1::{Diagnostic, diagnostic::Severity, health_check::State as Is};
use std::{
    process::Stdio,
    thread::sleep,
    time::{Duration, Instant},
};

#[test]
fn a_node_in_maintenance_is_recognised_by_its_fingerprint() {
    let desk = Desk::with_secrets();
    let tls = Tls::maintenance();
    let node = Node::start(&tls);
    let at = node.at();
    let apply = [
        "apply-config",
        "-f",
        "machine.yaml",
        "--insecure",
        "--endpoint",
        &at,
    ];
    let with = |more: &[&str]| desk.run(&[&apply[..], more].concat());
    let wrong = "00:".repeat(31) + "00";

    let none = with(&[]);
    assert_eq!(none.code, 2);
    assert!(
        none.err.contains(&tls.1) && none.err.contains("console"),
        "{none:?}"
    );
    let other = with(&["--cert-fingerprint", &wrong]);
    assert_eq!(other.code, 3);
    assert!(
        other.err.contains(&tls.1) && other.err.contains(&wrong),
        "{other:?}"
    );
    assert!(
        node.state.lock().unwrap().applied.is_empty(),
        "nothing was sent"
    );

    let dry = with(&["--cert-fingerprint", &tls.1, "--dry-run"]);
    assert!(dry.code == 0 && dry.out.contains("would do"), "{dry:?}");
    let right = with(&["--cert-fingerprint", &tls.1]);
    assert_eq!(right.code, 0, "{right:?}");
    assert!(
        right.out.contains("stored config 7") && right.out.contains("vm.max_map_count"),
        "{right:?}"
    );
    let state = node.state.lock().unwrap();
    assert_eq!(
        state
            .applied
            .iter()
            .map(|it| it.dry_run)
            .collect::<Vec<_>>(),
        [true, false]
    );
    assert_eq!(
        state.applied[1].config,
        desk.read("machine.yaml").into_bytes()
    );
    assert_eq!(state.applied[1].file_name, "machine.yaml");
}

#[test]
fn an_invalid_config_is_never_sent() {
    let desk = Desk::with_secrets();
    let tls = Tls::maintenance();
    let node = Node::start(&tls);
    desk.write(
        "bad.yaml",
        desk.read("machine.yaml")
            .replace("role: server", "role: sever"),
    );
    let at = node.at();
    let pinned = [
        "--insecure",
        "--endpoint",
        &at,
        "--cert-fingerprint",
        &tls.1,
    ];
    let place = format!("bad.yaml:{}", position(&desk.read("bad.yaml"), "sever"));
    let error = desk.fails(
        2,
        &[&["apply-config", "-f", "bad.yaml"][..], &pinned].concat(),
    );
    assert!(
        error.contains(&place) && error.contains("nothing was sent"),
        "{error}"
    );
    assert!(node.state.lock().unwrap().applied.is_empty());
    // The node knows more than this osctl: what it says is told.
    node.state.lock().unwrap().diagnostics = vec![Diagnostic {
        severity: Severity::Error.into(),
        rendered: "machine.yaml:1:1: no such orchestrator in this image\n".to_owned(),
        ..Default::default()
    }];
    let error = desk.fails(
        2,
        &[&["apply-config", "-f", "machine.yaml"][..], &pinned].concat(),
    );
    assert!(
        error.contains("no such orchestrator in this image"),
        "{error}"
    );
}

#[test]
fn a_context_does_not_trust_a_node_in_maintenance() {
    let desk = Desk::with_secrets();
    let node = Node::start(&Tls::maintenance());
    desk.ok(&[
        "config",
        "add",
        "demo",
        "--secrets",
        "secrets.yaml",
        "--endpoint",
        &node.at(),
    ]);
    let error = desk.fails(3, &["version"]);
    assert!(error.contains("waits for its first config"), "{error}");
}

#[test]
fn a_configured_node_lets_nobody_in_without_a_certificate() {
    let desk = Desk::with_secrets();
    let tls = Tls::configured(&desk.read("secrets.yaml"));
    let node = Node::start(&tls);
    let pinned = [
        "--insecure",
        "--endpoint",
        &node.at(),
        "--cert-fingerprint",
        &tls.1,
    ];
    let error = desk.fails(4, &[&["version"][..], &pinned].concat());
    assert!(error.contains("it has a config already"), "{error}");
}

#[test]
fn health_waits_through_the_change_of_certificates() {
    let desk = Desk::with_secrets();
    let mut node = Node::start(&Tls::maintenance());
    let state = node.state.clone();
    state.lock().unwrap().health = vec![
        health(vec![
            check("network", Is::Healthy, "eth0 up"),
            check("k3s", Is::Waiting, "starting"),
        ]),
        health(vec![
            check("network", Is::Healthy, "eth0 up"),
            check("k3s", Is::Healthy, "ready"),
        ]),
    ];
    desk.ok(&[
        "config",
        "add",
        "demo",
        "--secrets",
        "secrets.yaml",
        "--endpoint",
        &node.at(),
    ]);
    let mut command = desk.osctl(&["health", "--timeout", "60s"]);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    sleep(Duration::from_millis(1500));
    node.stop();
    sleep(Duration::from_millis(1500));
    let tls = Tls::configured(&desk.read("secrets.yaml"));
    let _node = Node::start_at(node.address, &tls, state);
    let run: Run = child.wait_with_output().unwrap().into();
    assert_eq!(run.code, 0, "{run:?}");
    let order = [
        "signed its certificate itself",
        "refused",
        "healthy    network: eth0 up",
        "waiting    k3s: starting",
        "healthy    k3s: ready",
        "is healthy (",
    ];
    let mut rest = run.err.as_str();
    for text in order {
        let (_, after) = rest
            .split_once(text)
            .unwrap_or_else(|| panic!("{text:?} in {}", run.err));
        rest = after;
    }
}

#[test]
fn health_that_never_comes_ends_in_time_and_says_what_is_missing() {
    let desk = Desk::with_secrets();
    let node = Node::start(&Tls::configured(&desk.read("secrets.yaml")));
    desk.ok(&[
        "config",
        "add",
        "demo",
        "--secrets",
        "secrets.yaml",
        "--endpoint",
        &node.at(),
    ]);
    let checks = vec![
        check("network", Is::Healthy, ""),
        check("k3s", Is::Unhealthy, "exited with 1"),
    ];
    node.state.lock().unwrap().health = vec![health(checks)];
    let begin = Instant::now();
    let error = desk.fails(5, &["health", "--timeout", "2s"]);
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert!(
        error.contains("k3s: exited with 1") && !error.contains("cause: network"),
        "{error}"
    );
    let once = desk.run(&["health", "--no-wait"]);
    assert_eq!(once.code, 1);
    insta::assert_snapshot!("health_once", once.out);
    assert!(
        desk.fails(5, &["health", "--timeout", "1s", "-n", "127.0.0.1:1"])
            .contains("refused")
    );
}

#[test]
fn a_foreign_node_is_not_waited_for() {
    let desk = Desk::with_secrets();
    let foreign = Node::start(&Tls::configured(&Desk::with_secrets().read("secrets.yaml")));
    desk.ok(&[
        "config",
        "add",
        "demo",
        "--secrets",
        "secrets.yaml",
        "--endpoint",
        &foreign.at(),
    ]);
    let begin = Instant::now();
    desk.fails(3, &["health", "--timeout", "60s"]);
    assert!(begin.elapsed() < Duration::from_secs(20));
}

#[test]
fn reboot_waits_until_the_node_is_back() {
    let desk = Desk::with_secrets();
    let tls = Tls::configured(&desk.read("secrets.yaml"));
    let mut node = Node::start(&tls);
    desk.ok(&[
        "config",
        "add",
        "demo",
        "--secrets",
        "secrets.yaml",
        "--endpoint",
        &node.at(),
    ]);
    let mut command = desk.osctl(&["reboot", "--wait", "--timeout", "60s"]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while !node.state.lock().unwrap().rebooted {
        sleep(Duration::from_millis(50));
    }
    sleep(Duration::from_millis(1500));
    assert!(
        child.try_wait().unwrap().is_none(),
        "the node has not gone down yet"
    );
    node.stop();
    sleep(Duration::from_millis(500));
    let _node = Node::start_at(node.address, &tls, node.state.clone());
    let run: Run = child.wait_with_output().unwrap().into();
    assert!(
        run.code == 0 && run.err.contains("is back after"),
        "{run:?}"
    );
}
