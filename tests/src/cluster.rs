//! The cluster as its user sees it: kubectl, and a page from a pod.

use anyhow::{Context, Result, bail, ensure};
use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

/// kubectl, as an orchestrator brings it: `PROGRAM kubectl …`.
pub struct Kubectl {
    program: PathBuf,
    folder: PathBuf,
}

impl Kubectl {
    /// Runs in a folder that holds a `kubeconfig`.
    pub fn new(program: &Path, folder: &Path) -> Kubectl {
        Kubectl {
            program: program.to_owned(),
            folder: folder.to_owned(),
        }
    }

    /// Runs it and expects success; returns what it printed.
    pub fn ok(&self, args: &[&str]) -> Result<String> {
        let output = Command::new(&self.program)
            .arg("kubectl")
            .args(args)
            .current_dir(&self.folder)
            .env("KUBECONFIG", self.folder.join("kubeconfig"))
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("starting {}", self.program.display()))?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "kubectl {args:?}: {}",
            complaint.trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Fetches `/` over HTTP, again and again until it is answered with 200.
pub fn fetch(address: SocketAddr, limit: Duration) -> Result<String> {
    let deadline = Instant::now() + limit;
    loop {
        match get(address) {
            Ok(page) => return Ok(page),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => sleep(Duration::from_secs(1)),
        }
    }
}

fn get(address: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the answer is no HTTP")?;
    if !head.starts_with("HTTP/1.1 200") {
        bail!("the answer is {}", head.lines().next().unwrap_or_default());
    }
    Ok(body.to_owned())
}
