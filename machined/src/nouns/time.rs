//! The clock: asks the servers of the config by SNTP, sets the clock or lets it
//! slew, and never lets it be before the day when the image was built. The asking
//! itself is a task of its own; no pass waits for a server.

mod choose;
mod client;
mod packet;
mod task;

use crate::{
    engine::Wake,
    noun::Noun,
    resource::{Phase, Resource},
};
use anyhow::Context as _;
use client::{ServerStatus, Status};
use keelson_config::Machine;
use std::{
    fmt,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use task::{Clock, MachineClock, Task};
use tokio::sync::watch;

/// Where the resolvers are listed.
const RESOLV_CONF: &str = "/run/etc/resolv.conf";
/// The port of NTP: RFC 5905, section 16.
const PORT: u16 = 123;

/// The noun.
pub(crate) struct Clocks {
    clock: Box<dyn Clock>,
    build_time: SystemTime,
    servers: watch::Sender<Vec<String>>,
    status: watch::Receiver<Status>,
}

/// What was read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Have {
    clock: SystemTime,
    servers: Vec<String>,
    status: Status,
}

/// One missing step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Set a clock that is before the day when the image was built to that day.
    Raise(SystemTime),
    /// Ask these servers.
    Ask(Vec<String>),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Raise(to) => {
                let seconds = to.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                write!(
                    f,
                    "set the clock to when the image was built, {seconds} seconds after 1970"
                )
            }
            Step::Ask(servers) if servers.is_empty() => f.write_str("ask no server for the time"),
            Step::Ask(servers) => write!(f, "ask {} for the time", servers.join(", ")),
        }
    }
}

/// What is missing.
fn plan(
    clock: SystemTime,
    build_time: SystemTime,
    asked: &[String],
    wanted: &[String],
) -> Vec<Step> {
    let raise = (clock < build_time).then_some(Step::Raise(build_time));
    let ask = (asked != wanted).then(|| Step::Ask(wanted.to_vec()));
    raise.into_iter().chain(ask).collect()
}

impl Clocks {
    /// The noun, and its task, which begins to ask when a config says whom.
    /// `build_time` is in seconds since 1970.
    pub(crate) fn start(build_time: u64, wake: Wake) -> Self {
        let (servers, servers_receiver) = watch::channel(Vec::new());
        let (status_sender, status) = watch::channel(Status::default());
        let earliest = Duration::from_secs(build_time);
        let task = Task {
            servers: servers_receiver,
            status: status_sender,
            wake,
            clock: MachineClock,
            earliest,
            resolv_conf: PathBuf::from(RESOLV_CONF),
            port: PORT,
        };
        // Ends when this noun is dropped.
        drop(tokio::spawn(task.run()));
        Clocks {
            clock: Box::new(MachineClock),
            build_time: UNIX_EPOCH + earliest,
            servers,
            status,
        }
    }
}

impl Noun for Clocks {
    const KIND: &'static str = "time";
    type Have = Have;
    type Step = Step;

    async fn observe(&mut self, _: &Machine) -> anyhow::Result<Have> {
        let status = self.status.borrow_and_update().clone();
        Ok(Have {
            clock: self.clock.now(),
            servers: self.servers.borrow().clone(),
            status,
        })
    }

    fn plan(&self, have: &Have, want: &Machine) -> Vec<Step> {
        plan(
            have.clock,
            self.build_time,
            &have.servers,
            &want.time.servers,
        )
    }

    async fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Raise(to) => self.clock.set(*to).context("setting the clock"),
            Step::Ask(servers) => {
                self.servers.send_replace(servers.clone());
                Ok(())
            }
        }
    }

    fn publish(&self, have: &Have, _: &Machine) -> Vec<Resource> {
        publish(&have.servers, &have.status)
    }
}

/// The clock itself, and every server.
fn publish(servers: &[String], status: &Status) -> Vec<Resource> {
    let clock = Resource::new(Clocks::KIND, "clock", Phase::Pending);
    let clock = match (servers.is_empty(), &status.problem, status.offset) {
        (true, ..) => Resource {
            phase: Phase::Ready,
            ..clock
        }
        .message("no server is configured"),
        (_, Some(problem), None) => clock.message(problem.as_str()),
        (_, None, None) => clock.message("no server has answered yet"),
        (_, problem, Some(offset)) => {
            // It was right, and the kernel keeps it near that for a while.
            let clock = Resource {
                phase: Phase::Ready,
                ..clock
            };
            clock
                .message(problem.as_deref().unwrap_or("synchronised"))
                .field("offset", milliseconds(offset))
                .field("error", milliseconds(status.error))
                .field(
                    "following",
                    status
                        .servers
                        .iter()
                        .filter(|server| server.followed)
                        .count(),
                )
        }
    };
    let clock = clock
        .field("synchronised", status.offset.is_some())
        .field("poll", format!("{}s", status.poll));
    // A list of servers that was just replaced is not described by the old one's status.
    let known = status
        .servers
        .iter()
        .filter(|server| servers.contains(&server.name))
        .map(describe);
    std::iter::once(clock).chain(known).collect()
}

fn describe(server: &ServerStatus) -> Resource {
    let phase = if server.followed {
        Phase::Ready
    } else {
        Phase::Pending
    };
    let message = match (&server.problem, &server.answer, server.followed) {
        (Some(problem), ..) => problem.as_str(),
        (None, None, _) => "was not asked yet",
        (None, Some(_), false) => "the others say otherwise",
        (None, Some(_), true) => "",
    };
    let resource = Resource::new(Clocks::KIND, &server.name, phase).message(message);
    let resource = match server.address {
        Some(address) => resource.field("address", address.to_string()),
        None => resource,
    };
    match &server.answer {
        Some(answer) => resource
            .field("offset", milliseconds(answer.offset))
            .field("delay", milliseconds(answer.delay))
            .field("stratum", answer.stratum),
        None => resource,
    }
}

/// "12.345ms"
fn milliseconds(nanos: packet::Nanos) -> String {
    let micros = nanos / 1000;
    let sign = if micros < 0 { "-" } else { "" };
    format!(
        "{sign}{}.{:03}ms",
        micros.unsigned_abs() / 1000,
        micros.unsigned_abs() % 1000
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(all: &[&str]) -> Vec<String> {
        all.iter().map(|name| (*name).to_owned()).collect()
    }

    /// Shows: machine.time.servers
    #[test]
    fn plans() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let ask = |all: &[&str]| Step::Ask(names(all));
        let cases: [(&str, u64, &[&str], &[&str], Vec<Step>); 6] = [
            ("as wanted", 1001, &["a"], &["a"], vec![]),
            ("nobody is asked", 1001, &[], &["a"], vec![ask(&["a"])]),
            (
                "others are asked",
                1001,
                &["b", "a"],
                &["a", "b"],
                vec![ask(&["a", "b"])],
            ),
            ("nobody is to be asked", 1001, &["a"], &[], vec![ask(&[])]),
            (
                "before the image was built",
                999,
                &["a"],
                &["a"],
                vec![Step::Raise(at(1000))],
            ),
            (
                "both",
                0,
                &[],
                &["a"],
                vec![Step::Raise(at(1000)), ask(&["a"])],
            ),
        ];
        for (name, clock, asked, wanted, want) in cases {
            assert_eq!(
                plan(at(clock), at(1000), &names(asked), &names(wanted)),
                want,
                "{name}"
            );
        }
    }

    #[test]
    fn published() {
        let server = |problem: Option<&str>, followed| ServerStatus {
            name: "a".to_owned(),
            problem: problem.map(str::to_owned),
            followed,
            ..ServerStatus::default()
        };
        let status = |offset, problem: Option<&str>, server| Status {
            servers: vec![server],
            offset,
            problem: problem.map(str::to_owned),
            ..Status::default()
        };
        let quiet = || server(Some("does not answer"), false);
        type Case<'a> = (
            &'a str,
            &'a [&'a str],
            Status,
            (Phase, &'a str),
            Option<Phase>,
        );
        let cases: [Case<'_>; 5] = [
            (
                "no servers",
                &[],
                Status::default(),
                (Phase::Ready, "no server is configured"),
                None,
            ),
            (
                "just begun",
                &["a"],
                Status::default(),
                (Phase::Pending, "no server has answered yet"),
                None,
            ),
            (
                "no answer",
                &["a"],
                status(None, Some("no server answers"), quiet()),
                (Phase::Pending, "no server answers"),
                Some(Phase::Pending),
            ),
            (
                "synchronised",
                &["a"],
                status(Some(0), None, server(None, true)),
                (Phase::Ready, "synchronised"),
                Some(Phase::Ready),
            ),
            (
                "lost again",
                &["a"],
                status(Some(0), Some("no server answers"), quiet()),
                (Phase::Ready, "no server answers"),
                Some(Phase::Pending),
            ),
        ];
        for (name, servers, status, (phase, message), of_server) in cases {
            let published = publish(&names(servers), &status);
            assert_eq!(
                (published[0].phase, published[0].message.as_str()),
                (phase, message),
                "{name}"
            );
            assert_eq!(
                published.get(1).map(|resource| resource.phase),
                of_server,
                "{name}"
            );
        }
    }

    #[test]
    fn in_milliseconds() {
        for (nanos, want) in [
            (0, "0.000ms"),
            (12_345_678, "12.345ms"),
            (-500_000, "-0.500ms"),
            (3_600_000_000_000, "3600000.000ms"),
        ] {
            assert_eq!(milliseconds(nanos), want);
        }
    }
}
