//! What osctl does without any node.

use crate::desk::{Desk, position};
use std::{io::Write, process::Stdio};

#[test]
fn secrets_and_configs_are_private_and_never_overwritten() {
    let desk = Desk::with_secrets();
    for (file, args) in [
        ("secrets.yaml", &["gen", "secrets"][..]),
        (
            "machine.yaml",
            &["gen", "config", "--secrets", "secrets.yaml"],
        ),
    ] {
        assert_eq!(desk.mode(file), 0o600, "{file}");
        let before = desk.read(file);
        assert!(desk.fails(2, args).contains("--force"), "{file}");
        assert_eq!(desk.read(file), before);
        desk.ok(&[args, &["--force"]].concat());
        assert_ne!(desk.read(file), before);
    }
}

#[test]
fn the_generated_config_is_valid_even_when_strict() {
    let desk = Desk::with_secrets();
    desk.ok(&["validate", "--strict", "machine.yaml"]);
    for role in ["server", "agent", "none"] {
        let endpoint = ["--endpoint", "10.0.0.1"];
        let gen_config = [
            "gen",
            "config",
            "--secrets",
            "secrets.yaml",
            "-o",
            "-",
            "--role",
            role,
        ];
        let config = desk.ok(&[&gen_config[..], &endpoint].concat());
        assert_eq!(
            config,
            desk.ok(&[&gen_config[..], &endpoint].concat()),
            "deterministic"
        );
        let mut command = desk.osctl(&["validate", "--strict", "-"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(config.as_bytes())
            .unwrap();
        assert!(child.wait().unwrap().success(), "{role}");
    }
}

#[test]
fn a_patch_that_makes_the_config_invalid_is_refused() {
    let desk = Desk::with_secrets();
    desk.write("patch.yaml", "machine: {hostnam: x}\n");
    let error = desk.fails(
        2,
        &[
            "gen",
            "config",
            "--secrets",
            "secrets.yaml",
            "--patch",
            "patch.yaml",
            "-o",
            "new.yaml",
        ],
    );
    assert!(
        error.contains("hostnam") && error.contains("hostname"),
        "{error}"
    );
    assert!(!desk.path("new.yaml").exists());
}

#[test]
fn bad_configs_end_with_2_and_say_where() {
    let desk = Desk::with_secrets();
    let good = desk.read("machine.yaml");
    let bomb: String = std::iter::once("a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned())
        .chain((1..30).map(|n| {
            let last = format!("*a{},", n - 1).repeat(9);
            format!("a{n}: &a{n} [{last}]\n")
        }))
        .collect();
    let whole: [(&str, Vec<u8>, &str); 4] = [
        ("empty", Vec::new(), "bad.yaml"),
        ("10 MB", vec![b'#'; 10_000_000], "more than 1 MiB"),
        ("an alias bomb", bomb.into_bytes(), "bad.yaml"),
        ("binary", (0..=255).cycle().take(5000).collect(), "bad.yaml"),
    ];
    for (rule, bytes, said) in whole {
        desk.write("bad.yaml", bytes);
        let error = desk.fails(2, &["validate", "bad.yaml"]);
        assert!(error.contains(said), "{rule}: {error}");
    }
    let twice = "role: server\n  role: none";
    for (rule, instead, place) in [
        ("an unknown key", "rolle: server", "rolle"),
        ("a key twice", twice, "role: none"),
        ("a wrong type", "role: [1]", "role: [1]"),
        ("a wrong value", "role: sever", "sever"),
    ] {
        let config = good.replace("role: server\n", &format!("{instead}\n"));
        let place = format!("bad.yaml:{}: error:", position(&config, place));
        desk.write("bad.yaml", config);
        let error = desk.fails(2, &["validate", "bad.yaml"]);
        assert!(error.contains(&place), "{rule}: {place} in {error}");
    }
    assert!(
        desk.fails(2, &["validate", "none.yaml"])
            .contains("cannot read none.yaml")
    );
}

#[test]
fn every_file_is_validated_and_one_bad_one_is_enough() {
    let desk = Desk::with_secrets();
    desk.write("bad.yaml", "kind: Machin\n");
    let run = desk.run(&["validate", "bad.yaml", "machine.yaml"]);
    assert_eq!(run.code, 2);
    assert!(
        run.out.contains("machine.yaml is valid") && run.err.contains("bad.yaml"),
        "{run:?}"
    );
}

#[test]
fn contexts_are_added_used_listed_merged_and_removed() {
    let desk = Desk::with_secrets();
    let add = |name: &str, more: &[&str]| {
        let args = [
            "config",
            "add",
            name,
            "--secrets",
            "secrets.yaml",
            "--endpoint",
            "10.0.0.1,n2:7",
        ];
        desk.run(&[&args[..], more].concat())
    };
    assert!(desk.run(&["config", "list"]).err.contains("no context yet"));
    assert_eq!(add("demo", &[]).code, 0);
    assert_eq!(desk.mode(".config/osctl/config.yaml"), 0o600);
    assert_eq!(add("demo", &[]).code, 2, "it is there already");
    assert_eq!(
        add("reader", &["--role", "os:reader", "--days", "7"]).code,
        0
    );
    let list = desk.ok(&["config", "list"]);
    let rows: Vec<Vec<&str>> = list
        .lines()
        .map(|it| it.split_whitespace().collect())
        .collect();
    assert_eq!(rows[0], ["CURRENT", "NAME", "ENDPOINTS", "ROLE", "EXPIRES"]);
    assert_eq!(
        rows[1][..4],
        ["*", "demo", "10.0.0.1:50000,n2:7", "os:admin"]
    );
    assert_eq!(rows[2][..3], ["reader", "10.0.0.1:50000,n2:7", "os:reader"]);
    desk.ok(&["config", "use", "reader"]);
    assert!(
        desk.fails(2, &["config", "use", "raeder"])
            .contains("did you mean \"reader\"?")
    );
    let json: serde_json::Value =
        serde_json::from_str(&desk.ok(&["config", "list", "-o", "json"])).unwrap();
    assert_eq!(
        (&json[0]["current"], &json[1]["current"]),
        (&false.into(), &true.into())
    );
    desk.ok(&[
        "--config",
        "other.yaml",
        "config",
        "merge",
        ".config/osctl/config.yaml",
    ]);
    assert_eq!(
        desk.read("other.yaml"),
        desk.read(".config/osctl/config.yaml")
    );
    desk.ok(&["config", "remove", "reader"]);
    assert!(!desk.ok(&["config", "list"]).contains("reader"));
    assert!(desk.fails(2, &["version"]).contains("no context is chosen"));
}

#[test]
fn certificates_from_files_must_belong_together() {
    let desk = Desk::with_secrets();
    let secrets: serde_json::Value = serde_saphyr::from_str(&desk.read("secrets.yaml")).unwrap();
    let pem = |part: &str, key: &str| secrets[part][key].as_str().unwrap().to_owned();
    desk.write("ca", pem("ca", "cert"));
    desk.write("key", pem("ca", "key"));
    desk.write("other", pem("serverIssuer", "key"));
    let add = [
        "config",
        "add",
        "x",
        "--endpoint",
        "h",
        "--ca",
        "ca",
        "--cert",
        "ca",
        "--key",
    ];
    assert!(
        desk.fails(2, &[&add[..], &["other"]].concat())
            .contains("not the key")
    );
    desk.ok(&[&add[..], &["key"]].concat());
    desk.fails(2, &["config", "add", "y", "--endpoint", "h"]);
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let desk = Desk::new();
    let mut child = desk
        .osctl(&["completion", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()));
}

#[test]
fn help_and_usage() {
    let desk = Desk::new();
    insta::assert_snapshot!("help", desk.ok(&["--help"]));
    insta::assert_snapshot!("help_exit_codes", desk.ok(&["help", "exit-codes"]));
    insta::assert_snapshot!("no_command", desk.fails(2, &[]));
    insta::assert_snapshot!("unknown_command", desk.fails(2, &["helth"]));
    insta::assert_snapshot!("bad_node", desk.fails(2, &["-n", "https://x", "version"]));
    insta::assert_snapshot!("no_context", desk.fails(2, &["version"]));
    assert_eq!(
        desk.ok(&["version", "--client"]),
        concat!("osctl ", env!("CARGO_PKG_VERSION"), "\n")
    );
    for shell in ["bash", "zsh", "fish"] {
        assert!(desk.ok(&["completion", shell]).contains("apply-config"));
    }
}
