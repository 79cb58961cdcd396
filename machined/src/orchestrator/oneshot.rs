//! A run of the orchestrator's program that ends by itself: through init, like
//! everything that runs, with its output in a file of its own.

use super::{payload::Payload, render};
use crate::initclient::{Init, InitError, InitEvent};
use keelson_api::init as proto;
use std::{
    fs::File,
    io::{Read as _, Seek as _, SeekFrom},
    time::Duration,
};
use tokio::{
    sync::broadcast,
    time::{sleep, timeout},
};

/// What the names of such services begin with.
const PREFIX: &str = "once-";

/// How long it may take to end when its time is over.
const GRACE_MS: u32 = 5000;

/// How often init is asked whether it still runs, should its end not have been told.
const LOOK: Duration = Duration::from_secs(5);

/// How much of the end of its output is looked at for a reason, in bytes.
const TAIL: u64 = 2000;

/// Why it did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OnceError {
    /// It could not be started.
    #[error("it could not be started: {0}")]
    Start(#[from] InitError),
    /// It was killed after its time.
    #[error("it was not done within {} s", .0.as_secs())]
    Late(Duration),
    /// It ended with an error.
    #[error("it ended with {how}: {last}")]
    Failed {
        /// The exit code or the signal.
        how: String,
        /// The last line of its output.
        last: String,
    },
}

/// Whether a service of init is one of these: it has ended for good when it has ended.
pub(crate) fn is_one(service: &str) -> bool {
    service.starts_with(PREFIX)
}

/// Runs the program with these arguments to its end.
pub(crate) async fn run(
    init: &Init,
    payload: &Payload,
    name: &str,
    args: &[&str],
    patience: Duration,
) -> Result<(), OnceError> {
    let name = format!("{PREFIX}{name}");
    let log_file = format!("/var/log/keelson/{name}.log");
    let start = proto::Start {
        log_file: log_file.clone(),
        ..render::once(payload, &name, args)
    };
    // Before the start: the end may be told before the answer is read.
    let events = init.events();
    let pid = init.start(start).await?;
    let Ok(exited) = timeout(patience, end(init, events, &name, pid)).await else {
        let stop = proto::Stop {
            name,
            signal: 0,
            grace_ms: GRACE_MS,
            kill_cgroup: true,
        };
        init.stop(stop).await?;
        return Err(OnceError::Late(patience));
    };
    let how = match exited {
        Some(proto::Exited {
            signal: 0, code: 0, ..
        }) => return Ok(()),
        Some(proto::Exited {
            signal: 0, code, ..
        }) => format!("exit code {code}"),
        Some(proto::Exited { signal, .. }) => format!("signal {signal}"),
        None => "a result that was not told".into(),
    };
    Err(OnceError::Failed {
        how,
        last: last_line(&log_file),
    })
}

/// Waits for its end; `None` if it is gone and nobody knows how.
async fn end(
    init: &Init,
    mut events: broadcast::Receiver<InitEvent>,
    name: &str,
    pid: u32,
) -> Option<proto::Exited> {
    loop {
        let processes = tokio::select! {
            event = events.recv() => match event {
                Ok(InitEvent::Exited(exited)) if exited.name == name && exited.pid == pid => {
                    return Some(exited);
                }
                Ok(InitEvent::Missed(processes)) => processes,
                Ok(_) => continue,
                Err(broadcast::error::RecvError::Closed) => return None,
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    init.list().await.unwrap_or_default()
                }
            },
            () = sleep(LOOK) => match init.list().await {
                Ok(processes) => processes,
                Err(_) => continue,
            },
        };
        match processes.into_iter().find(|process| process.name == name) {
            Some(process) if process.pid == pid => {}
            Some(process) => return process.last.filter(|last| last.pid == pid),
            None => return None,
        }
    }
}

/// The last line of a log, for a person.
fn last_line(path: &str) -> String {
    let tail = || -> std::io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match tail() {
        Ok(text) => text
            .lines()
            .rfind(|line| !line.trim().is_empty())
            .map_or_else(
                || "it said nothing".into(),
                |line| line.chars().take(300).collect(),
            ),
        Err(error) => format!("{path} cannot be read: {error}"),
    }
}
