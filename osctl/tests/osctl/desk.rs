//! A person's desk: a home folder of its own, and osctl run in it.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

/// A home folder that is gone after the test.
pub(crate) struct Desk {
    home: tempfile::TempDir,
}

/// What a run of osctl left.
#[derive(Debug)]
pub(crate) struct Run {
    /// The exit code.
    pub(crate) code: i32,
    /// What it wrote to stdout.
    pub(crate) out: String,
    /// What it wrote to stderr.
    pub(crate) err: String,
}

impl Desk {
    /// An empty one.
    pub(crate) fn new() -> Desk {
        Desk {
            home: tempfile::tempdir().unwrap(),
        }
    }

    /// One with secrets.yaml, and a valid machine.yaml made from them.
    pub(crate) fn with_secrets() -> Desk {
        let desk = Desk::new();
        desk.ok(&["gen", "secrets"]);
        desk.ok(&[
            "gen",
            "config",
            "--secrets",
            "secrets.yaml",
            "--hostname",
            "server-1",
        ]);
        desk
    }

    /// A file in the home folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// The text of a file in the home folder.
    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }

    /// Writes a file in the home folder.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    /// osctl, ready to run in the home folder with nothing else of the environment.
    pub(crate) fn osctl(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_osctl"));
        command
            .args(args)
            .current_dir(self.home.path())
            .env_clear()
            .env("HOME", self.home.path());
        command.stdin(Stdio::null());
        command
    }

    /// Runs it.
    pub(crate) fn run(&self, args: &[&str]) -> Run {
        self.osctl(args).output().unwrap().into()
    }

    /// Runs it; it must work. Returns what it wrote to stdout.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let run = self.run(args);
        assert_eq!(run.code, 0, "osctl {args:?}: {}", run.err);
        run.out
    }

    /// Runs it; it must end with this code. Returns what it wrote to stderr.
    pub(crate) fn fails(&self, code: i32, args: &[&str]) -> String {
        let run = self.run(args);
        assert_eq!(run.code, code, "osctl {args:?}: {run:?}");
        run.err
    }

    /// The permissions of a file in the home folder.
    pub(crate) fn mode(&self, name: &str) -> u32 {
        use std::os::unix::fs::PermissionsExt;
        Path::metadata(&self.path(name))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Run {
        Run {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Where a text begins in a file, as diagnostics name it: `line:column`.
pub(crate) fn position(file: &str, text: &str) -> String {
    let before = &file[..file.find(text).unwrap()];
    let line = before.lines().count() + usize::from(before.ends_with('\n') || before.is_empty());
    let column = before
        .rsplit('\n')
        .next()
        .unwrap_or_default()
        .chars()
        .count()
        + 1;
    format!("{line}:{column}")
}
