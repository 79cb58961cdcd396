//! Tests of `spawn.rs`.

use super::*;
use std::path::Path;

fn text(value: impl AsRef<str>) -> CString {
    CString::new(value.as_ref()).unwrap()
}

fn shell(script: &str) -> Vec<CString> {
    ["/bin/sh", "-c", script].map(text).to_vec()
}

fn log(dir: &Path) -> LogFile {
    LogFile {
        base: text(dir.to_str().unwrap()),
        directories: vec![text("a")],
        name: text("b.log"),
    }
}

fn program<'a>(argv: &'a [CString], env: &'a [CString], log: &'a LogFile) -> Program<'a> {
    Program {
        argv,
        env,
        directory: c"/",
        cgroup: None,
        log: Some(log),
        inherit: None,
        limits: &[],
        oom_score_adj: 0,
        identity: None,
        unprivileged: false,
    }
}

fn run(program: &Program<'_>) -> i32 {
    let pid = spawn(program).unwrap();
    crate::wait::collect(pid).unwrap().code
}

#[test]
fn output_is_appended_and_the_environment_is_exact() {
    let dir = tempfile::tempdir().unwrap();
    let log = log(dir.path());
    let argv = ["/usr/bin/env"].map(text);
    let env = [text("ONLY=this")];
    assert_eq!(run(&program(&argv, &env, &log)), 0);
    assert_eq!(run(&program(&argv, &env, &log)), 0);
    let out = std::fs::read_to_string(dir.path().join("a/b.log")).unwrap();
    assert_eq!(out, "ONLY=this\nONLY=this\n");
}

#[test]
fn a_missing_program_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let log = log(dir.path());
    let argv = [text("/nonexistent/program")];
    let error = spawn(&program(&argv, &[], &log)).unwrap_err();
    assert_eq!(error.stage, Stage::Exec);
    assert_eq!(error.source.raw_os_error(), Some(libc::ENOENT));
}

#[test]
fn a_symbolic_link_or_a_pipe_is_no_log() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/tmp", dir.path().join("a")).unwrap();
    let argv = shell("true");
    let log = log(dir.path());
    assert_eq!(
        spawn(&program(&argv, &[], &log)).unwrap_err().stage,
        Stage::Log
    );
    std::fs::remove_file(dir.path().join("a")).unwrap();
    std::fs::create_dir(dir.path().join("a")).unwrap();
    let pipe = dir.path().join("a/b.log");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
    assert_eq!(
        spawn(&program(&argv, &[], &log)).unwrap_err().stage,
        Stage::Log
    );
}

#[test]
fn the_cgroup_is_joined_by_the_child_itself() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("cgroup.procs"), "").unwrap();
    let cgroup = std::fs::File::open(dir.path()).unwrap();
    let argv = shell("exit 3");
    let log = log(dir.path());
    let program = Program {
        cgroup: Some(cgroup.as_fd()),
        ..program(&argv, &[], &log)
    };
    assert_eq!(run(&program), 3);
    assert_eq!(
        std::fs::read_to_string(dir.path().join("cgroup.procs")).unwrap(),
        "0"
    );
}

#[test]
fn one_descriptor_is_inherited_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let log = log(dir.path());
    // High enough that the shell does not open the same number for its own use.
    let held = above(std::fs::File::open("/dev/null").unwrap().into(), 100).unwrap();
    rustix::io::fcntl_setfd(&held, FdFlags::empty()).unwrap();
    let kept = std::fs::File::open(dir.path()).unwrap();
    let argv =
        shell("for fd in /proc/self/fd/*; do echo ${fd##*/}; done; readlink /proc/self/fd/3");
    let program = Program {
        inherit: Some(kept.as_fd()),
        ..program(&argv, &[], &log)
    };
    assert_eq!(run(&program), 0);
    let out = std::fs::read_to_string(dir.path().join("a/b.log")).unwrap();
    let wanted = dir.path().to_str().unwrap();
    assert!(out.lines().any(|line| line == wanted), "{out}");
    assert!(
        !out.lines().any(|line| line == held.as_raw_fd().to_string()),
        "{out}"
    );
}

#[test]
fn an_unprivileged_program_can_gain_nothing() {
    if !rustix::process::getuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let log = log(dir.path());
    let argv =
        shell("grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|SigIgn|SigBlk):' /proc/self/status");
    let program = Program {
        identity: Some(Identity { uid: 100, gid: 100 }),
        unprivileged: true,
        oom_score_adj: 321,
        limits: &[Limit {
            resource: Resource::Nofile,
            value: Some(77),
        }],
        ..program(&argv, &[], &log)
    };
    assert_eq!(run(&program), 0);
    let out = std::fs::read_to_string(dir.path().join("a/b.log")).unwrap();
    let zero = "0000000000000000";
    for (key, want) in [
        ("Uid:", "100\t100\t100\t100"),
        ("Gid:", "100\t100\t100\t100"),
        ("Groups:", ""),
        ("CapInh:", zero),
        ("CapPrm:", zero),
        ("CapEff:", zero),
        ("CapBnd:", zero),
        ("CapAmb:", zero),
        ("NoNewPrivs:", "1"),
        ("SigIgn:", zero),
        ("SigBlk:", zero),
    ] {
        let line = out
            .lines()
            .find(|line| line.starts_with(key))
            .unwrap_or_default();
        assert_eq!(line[key.len()..].trim(), want, "{key} in {out}");
    }
}

#[test]
fn numbers_are_written_as_text() {
    for number in [0, 7, -1, 1000, -999, i32::MIN, i32::MAX] {
        assert_eq!(decimal(number, &mut [0; 12]), number.to_string().as_bytes());
    }
}
