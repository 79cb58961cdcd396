//! A tiny program that keeps the contract of an orchestrator and orchestrates
//! nothing: for tests of the machine's own life cycle, where a real one would
//! take minutes. It starts at once and can be told, by a key of its config, to
//! misbehave: crash, hang, never get ready, or write without end.
//!
//! What it keeps: `server` and `agent` as its one argument, its config file, a
//! token, certificates and a kubeconfig made at first start, `READY=1`, `/ping`,
//! `/cacerts`, `/readyz` and `/livez` on port 6443, the kubelet's `/healthz` on
//! port 10248, and SIGTERM.

mod assassin;
mod config;
mod hang;
mod idle;
mod memory;
mod probe;
mod serve;

use anyhow::{Context, Result, bail};
use config::{Behaviour, Config};
use nix::sys::signal::{SigSet, Signal};
use std::{
    fs,
    io::Write as _,
    os::unix::{fs::PermissionsExt as _, net::UnixDatagram},
    path::Path,
    process, thread,
    time::Duration,
};

/// Where the kubeconfig goes.
const KUBECONFIG: &str = "/etc/rancher/k3s/k3s.yaml";

/// Tells a stand-in that was put in PID 1's place what to do there.
const AS_INIT: &str = "/usr/lib/keelson/standin-init";

fn main() -> Result<()> {
    // In place of a daemon or of PID 1 it ends at once, or hangs if it is told to.
    if process::id() == 1 && fs::read_to_string(AS_INIT).is_ok_and(|text| text == "hang") {
        loop {
            thread::sleep(Duration::from_secs(3600));
        }
    }
    let args: Vec<String> = std::env::args().collect();
    let server = match args.get(1).map(String::as_str) {
        Some("server") => true,
        Some("agent") => false,
        Some("orphan") => return probe::orphan(),
        Some("--version") => {
            println!("standin version {}", env!("CARGO_PKG_VERSION"));
            return Ok(());
        }
        _ => bail!("usage: standin server|agent"),
    };
    let config = config::read()?;
    println!(
        "standin {} starts, pid {}",
        if server { "server" } else { "agent" },
        process::id()
    );
    let mut term = SigSet::empty();
    term.add(Signal::SIGTERM);
    if matches!(
        config.behaviour,
        Behaviour::IgnoreTerm | Behaviour::KillMachinedAtTheEnd
    ) {
        // Before there are threads: they inherit it.
        term.thread_block()?;
    }
    match config.behaviour {
        Behaviour::Crash => bail!("told to crash"),
        Behaviour::Hang | Behaviour::NeverReady => {}
        _ => get_ready(&config, server)?,
    }
    match config.behaviour {
        Behaviour::Assassin => drop(thread::spawn(assassin::kill_ten_times)),
        Behaviour::StopMachined | Behaviour::FreezeInit | Behaviour::Panic => {
            let (behaviour, marker) = (config.behaviour, config.data_dir.join("hung"));
            drop(thread::spawn(move || hang::once(behaviour, &marker)));
        }
        Behaviour::Probe => drop(thread::spawn(probe::run)),
        Behaviour::Idle => drop(thread::spawn(idle::report)),
        Behaviour::Write => memory::write(&config.data_dir)?,
        Behaviour::FillDisk => memory::fill(&config.data_dir)?,
        Behaviour::KillMachinedAtTheEnd => {
            drop(thread::spawn(move || assassin::kill_machined_after(term)))
        }
        _ => {}
    }
    live(config.behaviour)
}

/// Everything up to READY=1.
fn get_ready(config: &Config, server: bool) -> Result<()> {
    serve::kubelet()?;
    if server {
        let tls = serve::certificates(&config.data_dir.join("server/tls"))?;
        write_private(Path::new(KUBECONFIG), &serve::kubeconfig(&tls))?;
        memory::open(&config.data_dir)?;
        serve::control_plane(tls)?;
    }
    notify("READY=1")?;
    println!("standin is ready");
    Ok(())
}

/// Counts, so that a gap in the log would show.
fn live(behaviour: Behaviour) -> Result<()> {
    let pause = match behaviour {
        Behaviour::Spew => Duration::ZERO,
        Behaviour::Hang | Behaviour::Idle => Duration::from_secs(3600),
        _ => Duration::from_millis(100),
    };
    for count in 0u64.. {
        writeln!(std::io::stdout(), "tick {count}")?;
        if behaviour == Behaviour::CrashLater && count == 50 {
            bail!("told to crash after five seconds");
        }
        thread::sleep(pause);
    }
    Ok(())
}

fn notify(text: &str) -> Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    UnixDatagram::unbound()?
        .send_to(text.as_bytes(), &path)
        .context("saying READY=1")?;
    Ok(())
}

/// Writes a file that only root may read, with the directories above it.
fn write_private(path: &Path, text: &str) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("making {}", parent.display()))?;
    }
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(())
}
