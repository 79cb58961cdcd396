//! The examples in docs/examples: the commands at the top of each are run as they
//! stand, beside the files of its folder.

use crate::desk::Desk;
use std::{fs, path::Path};

/// The commands in a file's first comment, each as its words.
fn commands(text: &str) -> Vec<Vec<String>> {
    let comment: Vec<&str> = text
        .lines()
        .map_while(|line| line.strip_prefix('#'))
        .collect();
    comment
        .join("\n")
        .replace("\\\n", "")
        .lines()
        .filter_map(|line| line.trim().strip_prefix("osctl "))
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .collect()
}

fn folder(path: &Path, run: &mut usize) {
    let mut files = Vec::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            folder(&path, run);
        } else if path.extension().is_some_and(|it| it == "yaml") {
            files.push(path);
        }
    }
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        let commands = commands(&text);
        // What is only a part of others has none.
        if commands.is_empty() {
            continue;
        }
        let desk = Desk::new();
        for part in &files {
            let name = part.file_name().unwrap().to_str().unwrap();
            desk.write(name, fs::read(part).unwrap());
        }
        for command in commands {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            let done = desk.run(&words);
            assert_eq!(done.code, 0, "{}: {words:?}: {}", file.display(), done.err);
        }
        let config = desk.read("machine.yaml");
        assert!(config.contains("BEGIN CERTIFICATE"), "{}", file.display());
        *run += 1;
    }
}

#[test]
fn every_example_makes_a_valid_config() {
    let mut run = 0;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples");
    folder(&root, &mut run);
    assert!(run >= 8, "only {run} examples");
}
