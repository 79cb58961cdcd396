//! The program as a person meets it: help, completion, errors and exit codes.

use std::process::{Command, Output};

fn run(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_image-builder"))
        .args(words)
        .env_remove("SOURCE_DATE_EPOCH")
        .output()
        .expect("the program runs")
}

#[test]
fn every_command_has_help_with_examples() {
    for command in ["build", "disk", "inspect", "completion"] {
        let output = run(&[command, "--help"]);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success());
        assert!(text.contains("Example"), "{command}: {text}");
    }
}

#[test]
fn completion_knows_the_commands() {
    let text = String::from_utf8(run(&["completion", "bash"]).stdout).unwrap();
    assert!(text.contains("inspect"));
}

#[test]
fn errors_say_what_to_what() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("zeros");
    std::fs::write(&file, vec![0; 1 << 20]).unwrap();
    let file = file.to_string_lossy();
    for (words, code, want) in [
        (
            vec!["inspect", "/nonexistent"],
            1,
            "cannot open /nonexistent",
        ),
        (
            vec!["inspect", &file],
            1,
            "no valid partition table: there is none",
        ),
        (vec!["inspekt"], 2, "inspect"),
        (vec!["disk"], 2, "--root-tree"),
        (
            vec![
                "build",
                "--orchestrator",
                "/nonexistent",
                "--build-time",
                "1",
            ],
            1,
            "neither `k3s`, `none`, a file nor a folder",
        ),
    ] {
        let output = run(&words);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {text}");
        assert!(text.contains(want), "{words:?}: {text}");
    }
}
