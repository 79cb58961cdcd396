//! `osctl` as a person runs it, with a home of its own.

use crate::image::target;
use anyhow::{Context, Result, ensure};
use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tempfile::TempDir;

/// `osctl` with its files in one folder.
pub struct Osctl {
    home: PathBuf,
    _passing: Option<TempDir>,
}

/// What a run of `osctl` left.
#[derive(Debug)]
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

impl Osctl {
    /// With a home that goes when this goes.
    pub fn new() -> Result<Osctl> {
        let home = tempfile::Builder::new()
            .prefix("keelson-osctl-")
            .tempdir()?;
        Ok(Osctl {
            home: home.path().to_owned(),
            _passing: Some(home),
        })
    }

    /// With this home.
    pub fn at(home: &Path) -> Result<Osctl> {
        fs::create_dir_all(home)?;
        Ok(Osctl {
            home: home.to_owned(),
            _passing: None,
        })
    }

    /// A file in its home.
    pub fn file(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    /// The command, ready to run.
    pub fn command(&self) -> Command {
        let mut command = Command::new(program());
        command
            .current_dir(&self.home)
            .env("HOME", &self.home)
            .env("OSCTL_CONFIG", self.file("osctl.yaml"))
            .env("KUBECONFIG", self.file("kubeconfig"))
            .env_remove("XDG_CONFIG_HOME")
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<Output> {
        let output = self
            .command()
            .args(args)
            .output()
            .with_context(|| format!("starting {}", program().display()))?;
        Ok(Output {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs it and expects success; returns what it printed.
    pub fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Result<String> {
        let args: Vec<_> = args
            .into_iter()
            .map(|arg| arg.as_ref().to_owned())
            .collect();
        let output = self.run(&args)?;
        ensure!(
            output.code == 0,
            "osctl {args:?} ended with {}:\n{}{}",
            output.code,
            output.stdout,
            output.stderr
        );
        Ok(output.stdout)
    }
}

fn program() -> PathBuf {
    std::env::var_os("KEELSON_OSCTL").map_or_else(|| target().join("debug/osctl"), PathBuf::from)
}
