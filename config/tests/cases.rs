//! Every file below `cases/` is a config. One in `invalid/` is refused with
//! exactly the words in its `.expect`; one in `valid/` means exactly the machine
//! in its `.expect`. A new case is a new file: `UPDATE_EXPECT=1 cargo test` writes
//! what is expected, and whoever commits it reads it first.

use keelson_config::{Machine, Severity, parse};
use std::{
    fs,
    path::{Path, PathBuf},
};

fn cases(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/cases")
        .join(folder);
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "yaml")
    });
    files.sort();
    files
}

/// Compares with the `.expect` beside a case, or writes it.
fn compare(case: &Path, found: &str, wrong: &mut Vec<String>) {
    let expect = case.with_extension("expect");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(&expect, found).unwrap();
        return;
    }
    let want = fs::read_to_string(&expect).unwrap_or_default();
    if want != found {
        wrong.push(format!(
            "{}\n--- expected\n{want}--- found\n{found}",
            case.display()
        ));
    }
}

/// A machine without what is not there, so that a new key changes no other case. The role
/// `none` is there.
fn shown(machine: &Machine) -> String {
    let text = format!("{machine:#?}\n");
    let there = |line: &&str| {
        let nothing = [": None,", ": [],", ": {},"];
        line.trim_start() == "role: None," || !nothing.iter().any(|end| line.ends_with(end))
    };
    text.split_inclusive('\n')
        .filter(|line| there(&line.trim_end()))
        .collect()
}

#[test]
fn invalid() {
    let mut wrong = Vec::new();
    let cases = cases("invalid");
    assert!(cases.len() >= 50, "only {} cases", cases.len());
    for case in cases {
        let name = case.file_name().unwrap().to_str().unwrap();
        let outcome = parse(name, &fs::read(&case).unwrap());
        if outcome.machine.is_some()
            || !outcome
                .diagnostics
                .iter()
                .any(|d| d.severity == Severity::Error)
        {
            wrong.push(format!("{name} is accepted"));
            continue;
        }
        let rendered: String = outcome.diagnostics.iter().map(|d| d.to_string()).collect();
        compare(&case, &rendered, &mut wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn valid() {
    let mut wrong = Vec::new();
    for case in cases("valid") {
        let name = case.file_name().unwrap().to_str().unwrap();
        let outcome = parse(name, &fs::read(&case).unwrap());
        let mut found: String = outcome.diagnostics.iter().map(|d| d.to_string()).collect();
        let Some(machine) = outcome.machine else {
            wrong.push(format!("{name} is refused:\n{found}"));
            continue;
        };
        found.push_str(&shown(&machine));
        compare(&case, &found, &mut wrong);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
