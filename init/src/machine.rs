//! The second role: PID 1 of the running machine. It prepares what every process needs
//! and then supervises until the run ends. What there is to run stands here.

use crate::{
    alive::Bounds,
    buttons::Buttons,
    cgroup::{ROOT, Tree},
    console::{self, Level},
    crash, mount, power,
    service::Backoff,
    supervise::{Cause, MACHINED, Setup, Speakers, Supervisor},
    watchdog::Guard,
};
use keelson_api::init as pb;
use keelson_disk::cmdline;
use rustix::{
    fs::Mode,
    system::{RebootCommand, reboot},
};
use std::{convert::Infallible, io, path::Path};
use thiserror::Error;

/// Where notify sockets are made.
const NOTIFY_DIR: &str = "/run/keelson/notify";

/// Where machined writes its log; in memory.
const MACHINED_LOG: &str = "/run/log/machined.log";

/// The directories that PID 1 makes, and their modes.
const DIRECTORIES: [(&str, u32); 4] = [
    ("/run/keelson", 0o755),
    (NOTIFY_DIR, 0o711),
    ("/run/log", 0o755),
    ("/run/etc", 0o755),
];

/// The user that apid runs as; it stands in the image's /etc/passwd.
const APID: pb::User = pb::User { uid: 100, gid: 100 };

/// How long machined may be silent. It speaks every five seconds, but for the time until
/// STATE is mounted, for which a disk may be waited for, checked or formatted.
const BOUNDS: Bounds = Bounds {
    grace: 180_000,
    silence: 60_000,
    death: 30_000,
    replacements: 3,
    steady: 600_000,
};

/// Why the machine cannot be run.
#[derive(Debug, Error)]
pub enum Error {
    /// A filesystem is missing.
    #[error(transparent)]
    Mount(#[from] mount::Error),
    /// A directory could not be made.
    #[error("cannot make {path}")]
    Directory {
        /// The directory.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The tree of control groups could not be made.
    #[error("cannot prepare control groups in {ROOT}")]
    Cgroups(#[source] io::Error),
    /// The loop failed.
    #[error("cannot supervise")]
    Supervise(#[source] io::Error),
}

impl Error {
    /// What a person can do about it.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Mount(_) | Self::Cgroups(_) => "the kernel lacks what this image needs",
            Self::Directory { .. } | Self::Supervise(_) => "if this stays, install again",
        }
    }
}

/// Runs the machine; it comes back only to say why it cannot.
pub fn run() -> Result<Infallible, Error> {
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let watchdog = Guard::inherit();
    mount::second()?;
    for (path, mode) in DIRECTORIES {
        make(path, mode).map_err(|source| Error::Directory { path, source })?;
    }
    let cgroups = Tree::new(ROOT);
    for (controller, error) in cgroups.prepare().map_err(Error::Cgroups)? {
        console::log(
            Level::Warning,
            &format!("control group controller {controller}: {error}"),
        );
    }
    // Ctrl-Alt-Del is a signal to PID 1 from now on, and no reset.
    if let Err(errno) = reboot(RebootCommand::CadOff) {
        console::log(
            Level::Warning,
            &format!("Ctrl-Alt-Del stays a reset: {errno}"),
        );
    }
    let mut supervisor = Supervisor::new(Setup {
        cgroups,
        log_roots: vec!["/var/log".into(), "/run/log".into()],
        notify_dir: NOTIFY_DIR.into(),
        speakers: Speakers::Cgroup,
        kept: kept(),
        alive: watched().then_some(BOUNDS),
        watchdog,
        buttons: Buttons::of_machine(),
    })
    .map_err(Error::Supervise)?;
    let ending = supervisor.run().map_err(Error::Supervise)?;
    if ending.cause == Cause::Failed {
        crash::quote(MACHINED, Path::new(MACHINED_LOG));
    }
    power::end(&ending, supervisor.into_watchdog())
}

/// Whether a machined that hangs is replaced: unless the person who looks into it has
/// switched that off.
fn watched() -> bool {
    cmdline::watchdog(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default())
}

fn make(path: &str, mode: u32) -> io::Result<()> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    Ok(rustix::fs::chmod(path, Mode::from_raw_mode(mode))?)
}

/// What PID 1 runs by itself. Only machined's death in a loop is the machine's: without
/// it nothing can be changed or repaired. Without apid the node works on unseen.
fn kept() -> Vec<(pb::Start, Backoff)> {
    let backoff = Backoff {
        first: 100,
        longest: 10_000,
        steady: 60_000,
        crash_loop: None,
    };
    let service = |name: &str, oom_score_adj| pb::Start {
        name: name.to_owned(),
        argv: vec![format!("/usr/bin/{name}")],
        env: [
            ("PATH", "/usr/bin:/usr/sbin"),
            // One heap for all threads: they do little at a time, and each heap of its
            // own keeps what it once needed (mallopt(3)).
            ("MALLOC_ARENA_MAX", "1"),
            // The kernel's default, but fixed: left to itself it grows with the largest piece that
            // was ever given back, and what a boot has needed is kept for good.
            ("MALLOC_TRIM_THRESHOLD_", "131072"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into(),
        cgroup: format!("system/{name}"),
        limits: Some(pb::Limits {
            open_files: 65_536,
            oom_score_adj,
            ..Default::default()
        }),
        log_file: format!("/run/log/{name}.log"),
        notify: true,
        ..Default::default()
    };
    let apid = pb::Start {
        user: Some(APID),
        sandbox: Some(pb::Sandbox { unprivileged: true }),
        ..service("apid", -900)
    };
    vec![
        (
            service(MACHINED, -950),
            Backoff {
                crash_loop: Some(10),
                ..backoff.clone()
            },
        ),
        (apid, backoff),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Spec;

    #[test]
    fn what_is_kept_is_valid() {
        let roots = ["/var/log".into(), "/run/log".into()];
        for (start, _) in kept() {
            Spec::check(start, &roots).unwrap();
        }
    }
}
