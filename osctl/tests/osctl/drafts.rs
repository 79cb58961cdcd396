//! Configs compared, patched, edited, explained and converted, from the outside.

use crate::{
    calls::configured,
    desk::{Desk, Run},
    node::Node,
};
use keelson_api::v1::{self as api, apply_config_request::Mode};

/// A configured node that has the desk's machine.yaml stored, with a comment in it.
fn stored() -> (Desk, Node) {
    let (desk, node) = configured();
    let config = format!("# mine\n{}", desk.read("machine.yaml"));
    node.state.lock().unwrap().config = Some(config);
    (desk, node)
}

/// What was sent to the node, as text.
fn sent(node: &Node) -> Vec<(bool, u64, String)> {
    let state = node.state.lock().unwrap();
    let text = |it: &api::ApplyConfigRequest| String::from_utf8(it.config.clone()).unwrap();
    let sent = state.applied.iter();
    sent.map(|it| (it.dry_run, it.expected_generation, text(it)))
        .collect()
}

#[test]
fn two_configs_are_compared() {
    let desk = Desk::with_secrets();
    let other = desk
        .read("machine.yaml")
        .replace("hostname: server-1", "hostname: server-2")
        .replace("agent-token: ", "agent-token: x");
    desk.write("other.yaml", other);
    let diff = desk.ok(&["config", "diff", "machine.yaml", "other.yaml"]);
    assert_eq!(
        diff,
        "~ machine.hostname: server-1 -> server-2\n\
         ~ orchestrator.settings.agent-token: *** (another)\n\
         applying this: restarts the orchestrator\n"
    );
    assert_eq!(desk.ok(&["config", "diff", "other.yaml", "other.yaml"]), "");
    let patch = desk.ok(&["config", "diff", "machine.yaml", "other.yaml", "--as-patch"]);
    assert!(
        patch.starts_with("machine:\n  hostname: server-2\n"),
        "{patch}"
    );
    desk.write("patch.yaml", patch);
    let made = [
        "gen",
        "config",
        "--secrets",
        "secrets.yaml",
        "--hostname",
        "server-1",
        "--patch",
        "patch.yaml",
        "-o",
        "made.yaml",
    ];
    desk.ok(&made);
    assert_eq!(desk.ok(&["config", "diff", "made.yaml", "other.yaml"]), "");
}

#[test]
fn a_patch_changes_what_is_stored_and_nothing_else() {
    let (desk, node) = stored();
    let patch = "machine: {sysctls: {vm.max_map_count: \"262144\"}}";
    let out = desk.ok(&["patch", "-p", patch]);
    assert!(
        out.contains("+ machine.sysctls[\"vm.max_map_count\"]: \"262144\"\n")
            && out.contains("stored config 8 and does this:"),
        "{out}"
    );
    let (dry_run, generation, text) = sent(&node).pop().unwrap();
    assert!(!dry_run && generation == 7);
    desk.write("sent.yaml", text);
    desk.ok(&["validate", "--strict", "sent.yaml"]);
    let diff = desk.ok(&["config", "diff", "machine.yaml", "sent.yaml"]);
    assert_eq!(diff.lines().count(), 1, "{diff}");
    // A second patch in a file, a JSON patch.
    desk.write(
        "steps.yaml",
        "[{op: replace, path: /machine/hostname, value: server-2}]",
    );
    let out = desk.ok(&["patch", "-f", "steps.yaml", "--dry-run"]);
    assert!(
        out.contains("server-1 -> server-2") && out.contains("would do this"),
        "{out}"
    );
    assert!(sent(&node).pop().unwrap().0, "a dry run");
    // What changes nothing is not sent.
    let count = sent(&node).len();
    let out = desk.ok(&["patch", "-p", "machine: {hostname: server-1}"]);
    assert!(
        out.contains("changes nothing") && sent(&node).len() == count,
        "{out}"
    );
}

#[test]
fn a_bad_patch_is_not_sent() {
    let (desk, node) = stored();
    for (patch, want) in [
        (
            "machine: {hostnam: a}",
            "--patch:1:11: error: machine.hostnam: unknown key",
        ),
        ("machine: {role: null}", "machine.role: is required"),
        (
            "[{op: remove, path: /machine/sysctls}]",
            "there is nothing at /machine/sysctls",
        ),
    ] {
        let error = desk.fails(2, &["patch", "-p", patch]);
        assert!(error.contains(want), "{error}");
    }
    assert!(sent(&node).is_empty());
}

#[test]
fn somebody_else_was_faster() {
    let (desk, node) = stored();
    node.state.lock().unwrap().changed = true;
    let error = desk.fails(1, &["patch", "-p", "machine: {hostname: b}"]);
    assert!(error.contains("not generation 7 any more"), "{error}");
    let file = [
        "apply-config",
        "-f",
        "machine.yaml",
        "--expected-generation",
        "6",
    ];
    let error = desk.fails(1, &file);
    assert!(error.contains("not generation 6 any more"), "{error}");
}

#[test]
fn a_config_counts_when_one_says() {
    let (desk, node) = stored();
    let mode = |node: &Node| {
        let state = node.state.lock().unwrap();
        let last = state.applied.last().unwrap();
        (last.mode(), last.try_for.map(|it| it.seconds))
    };
    let apply = ["apply-config", "-f", "machine.yaml"];
    let with = |more: &[&str]| desk.ok(&[&apply[..], more].concat());
    assert!(with(&[]).contains("stored config 7 and does this:"));
    assert_eq!(mode(&node), (Mode::Auto, None));
    assert!(
        with(&["--mode", "staged"]).contains("stored config 7 and does this at its next boot:")
    );
    assert_eq!(mode(&node), (Mode::Staged, None));
    assert!(with(&["--mode", "reboot"]).contains("stored config 7, reboots and does this:"));
    assert_eq!(mode(&node), (Mode::Reboot, None));
    with(&["--mode", "no-reboot", "--dry-run"]);
    assert_eq!(mode(&node), (Mode::NoReboot, None));
    // Tried, and kept once the node has followed it.
    let out = with(&["--mode", "try", "--yes"]);
    assert!(out.contains("tries the config and does this:") && out.contains("keeps it: config 8"));
    assert_eq!(mode(&node), (Mode::Try, Some(60)));
    assert_eq!(node.state.lock().unwrap().confirms, 2);
    // With nobody to ask it is left to undo itself.
    let run = desk.run(&[&apply[..], &["--mode", "try", "--try-for", "2m"]].concat());
    assert!(
        run.code == 0 && run.err.contains("osctl apply-config --confirm"),
        "{run:?}"
    );
    assert_eq!(mode(&node), (Mode::Try, Some(120)));
    assert_eq!(node.state.lock().unwrap().confirms, 2);
    assert!(
        desk.ok(&["apply-config", "--confirm"])
            .contains("keeps it: config 8")
    );
    let out = desk.ok(&["apply-config", "--revert"]);
    assert!(
        out.contains("goes back to the stored config") && out.contains("forgets config 9"),
        "{out}"
    );
    let patch = ["patch", "-p", "machine: {hostname: b}", "--mode", "staged"];
    assert!(desk.ok(&patch).contains("at its next boot"));
    for wrong in [
        &["apply-config"][..],
        &["apply-config", "-f", "machine.yaml", "--try-for", "2m"],
        &["apply-config", "-f", "machine.yaml", "--confirm"],
        &["apply-config", "--confirm", "--revert"],
        &["apply-config", "-f", "machine.yaml", "--mode", "later"],
    ] {
        desk.fails(2, wrong);
    }
}

/// Runs `osctl edit` with a shell script for an editor; `$1` is the file.
fn edit(desk: &Desk, script: &str, args: &[&str]) -> Run {
    desk.write("editor.sh", script);
    let mut osctl = desk.osctl(&[&["edit"], args].concat());
    osctl
        .env("EDITOR", "/bin/sh editor.sh")
        .env("PATH", "/usr/bin:/bin")
        .env("XDG_RUNTIME_DIR", desk.path(""));
    osctl.output().unwrap().into()
}

/// The folders that editing has left behind.
fn left(desk: &Desk) -> usize {
    std::fs::read_dir(desk.path(""))
        .unwrap()
        .filter(|it| {
            let name = it.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with("osctl-edit-")
        })
        .count()
}

#[test]
fn an_edit_keeps_comments_and_says_what_it_does() {
    let (desk, node) = stored();
    let change = "sed -i 's/hostname: server-1/hostname: server-9/' \"$1\"";
    let run = edit(&desk, change, &["--yes"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(
        run.out.contains("~ machine.hostname: server-1 -> server-9")
            && run.out.contains("would do this")
            && run.out.contains("stored config 8"),
        "{run:?}"
    );
    let sent = sent(&node);
    assert_eq!(sent.len(), 2);
    assert!(sent[0].0 && !sent[1].0 && sent[1].1 == 7);
    assert!(sent[1].2.starts_with("# mine\n") && sent[1].2.contains("hostname: server-9"));
    assert_eq!(left(&desk), 0);
}

#[test]
fn an_edit_that_changes_nothing_or_is_not_agreed_to_sends_nothing() {
    let (desk, node) = stored();
    let run = edit(&desk, "true", &["--yes"]);
    assert_eq!((run.code, run.out.trim()), (0, "nothing was changed"));
    assert_eq!(left(&desk), 0);
    let run = edit(&desk, "echo '# more' >> \"$1\"", &[]);
    assert_eq!(run.code, 2, "{run:?}");
    assert!(
        run.err.contains("--yes") && run.err.contains("is kept"),
        "{run:?}"
    );
    assert!(sent(&node).iter().all(|(dry_run, ..)| *dry_run));
    let run = edit(&desk, "exit 3", &["--yes"]);
    assert_eq!(run.code, 1, "{run:?}");
}

#[test]
fn an_edit_with_mistakes_opens_again() {
    let (desk, node) = stored();
    // First a mistake, then what was said of it is put right.
    let script = "if grep -q '^#: .*unknown key' \"$1\"; then sed -i 's/hostnam:/hostname:/' \"$1\"
else sed -i 's/hostname: server-1/hostnam: server-9/' \"$1\"; fi";
    let run = edit(&desk, script, &["--yes"]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(!sent(&node)[0].2.contains("#:"));
    // One that stays wrong is given up, and kept.
    let run = edit(
        &desk,
        "sed -i 's/hostname: server-1/hostnam: server-9/' \"$1\"",
        &["--yes"],
    );
    assert_eq!(run.code, 2, "{run:?}");
    assert!(
        run.err.contains("unknown key") && run.err.contains("is kept"),
        "{run:?}"
    );
    assert_eq!(left(&desk), 1);
}

#[test]
fn the_model_is_explained() {
    let desk = Desk::new();
    let page = desk.ok(&["explain", "network.links"]);
    assert!(
        page.contains("list of map") && page.contains("addresses"),
        "{page}"
    );
    assert!(
        desk.fails(2, &["explain", "network.link"])
            .contains("network.links")
    );
    assert!(
        desk.ok(&["schema"])
            .contains("\"additionalProperties\": false")
    );
}

#[test]
fn another_systems_config_is_converted() {
    let desk = Desk::with_secrets();
    desk.write(
        "k3os.yaml",
        "hostname: a\nssh_authorized_keys: [x]\nk3os: {token: correct-horse-battery-staple, k3s_args: [server]}\n",
    );
    let run = desk.run(&[
        "convert",
        "k3os",
        "k3os.yaml",
        "--secrets",
        "secrets.yaml",
        "-o",
        "a.yaml",
    ]);
    assert_eq!(run.code, 0, "{run:?}");
    assert!(
        run.err.contains("not carried over: ssh_authorized_keys"),
        "{run:?}"
    );
    desk.ok(&["validate", "--strict", "a.yaml"]);
    // Without secrets it is a patch.
    desk.ok(&["convert", "k3os", "k3os.yaml", "-o", "patch.yaml"]);
    let made = [
        "gen",
        "config",
        "--secrets",
        "secrets.yaml",
        "--patch",
        "patch.yaml",
        "-o",
        "b.yaml",
    ];
    desk.ok(&made);
    assert!(
        desk.read("b.yaml")
            .contains("token: correct-horse-battery-staple")
    );
}
