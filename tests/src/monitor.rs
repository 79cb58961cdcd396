//! QEMU's monitor (QMP): pressing a machine's buttons, and where its processors are when
//! it says nothing any more.

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

/// How long QEMU may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// The monitor of a guest, on a socket that takes one client at a time.
#[derive(Clone, Debug)]
pub(crate) struct Monitor {
    socket: PathBuf,
}

impl Monitor {
    pub(crate) fn new(socket: &Path) -> Self {
        Monitor {
            socket: socket.to_owned(),
        }
    }

    /// QEMU's option that makes it listen.
    pub(crate) fn option(&self) -> String {
        format!("unix:{},server=on,wait=off", self.socket.display())
    }

    /// Does one thing; returns what QEMU says to it.
    pub(crate) fn execute(&self, command: &str, arguments: Value) -> Result<Value> {
        let mut socket = UnixStream::connect(&self.socket).context("QEMU does not listen")?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut lines = BufReader::new(socket.try_clone()?).lines();
        let mut answer = Value::Null;
        for (command, arguments) in [("qmp_capabilities", json!({})), (command, arguments)] {
            let request = json!({"execute": command, "arguments": arguments});
            writeln!(socket, "{request}")?;
            // Events and the greeting come between.
            answer = loop {
                let line = lines.next().context("QEMU closed its monitor")?;
                let line = line.with_context(|| format!("QEMU says nothing to {command}"))?;
                let mut said: Value = serde_json::from_str(&line)?;
                if !said["error"].is_null() {
                    bail!("QEMU refused {command}: {}", said["error"]);
                }
                if said.get("return").is_some() {
                    break said["return"].take();
                }
            };
        }
        Ok(answer)
    }

    /// Where the machine is, in words: whether it runs, and its processors' places twice, a second
    /// apart. For errors: what cannot be had is told in its place.
    pub(crate) fn place(&self) -> String {
        let look = || -> Result<String> {
            let status = self.execute("query-status", json!({}))?;
            let first = self.registers()?;
            sleep(Duration::from_secs(1));
            let second = self.registers()?;
            Ok(format!(
                "the machine is {}; its processors were at\n{first}\nand a second later at\n{second}",
                status["status"].as_str().unwrap_or("in no state")
            ))
        };
        look().unwrap_or_else(|error| format!("where the machine is cannot be told: {error:#}"))
    }

    /// The lines of the processors' registers that say where they are.
    fn registers(&self) -> Result<String> {
        let line = json!({"command-line": "info registers -a"});
        let all = self.execute("human-monitor-command", line)?;
        let all = all.as_str().unwrap_or_default();
        let telling = ["CPU#", "RSP=", "RIP=", "ESP=", "EIP=", "CR0="];
        let lines = all
            .lines()
            .map(str::trim)
            .filter(|line| telling.iter().any(|word| line.contains(word)));
        Ok(lines.collect::<Vec<_>>().join("\n"))
    }
}
