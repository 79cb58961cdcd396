//! The trial of a release that runs for the first time: feeds the gate with what the
//! machine's health checks see, and does what it says. Ends with the release good, or the
//! machine going back.

use super::{
    Base, SUBJECT,
    gate::{Condition, Gate, Held, Seen, Verdict},
    loader::{self, Loader as _},
    now,
    record::{self, State},
};
use crate::{
    engine::{End, Handle},
    names,
    orchestrator::boot_time_ms,
    resource::{Phase, Resource},
};
use anyhow::Context as _;
use futures_util::StreamExt as _;
use keelson_config::{HealthGate, Role};
use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::TcpStream,
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

/// The kind of the resources that show the conditions while it waits.
const KIND: &str = "gate";

/// How often an agent's server is tried, and the least often that anything is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// How long a server may take to answer.
const CONNECT: Duration = Duration::from_secs(3);

/// How soon marking is tried again where it failed.
const AGAIN: Duration = Duration::from_secs(10);

/// The port of a server whose URL names none.
const HTTPS: u16 = 443;

/// How many lines of each log are kept of a boot that is not good.
const LINES: u32 = 20;

/// Judges until there is a verdict, and carries it out.
pub(super) async fn run(handle: Handle, base: Arc<Base>) {
    let mut gate = Gate::new(HealthGate::default());
    let mut health = handle.health();
    let why = loop {
        let config = handle.config();
        if let Some(stored) = &config {
            gate.rules(stored.machine.health_gate.clone());
        }
        let checks = health.borrow_and_update().to_vec();
        let seen = Seen {
            checks,
            restarts: handle
                .services()
                .iter()
                .map(|service| u64::from(service.restarts))
                .sum(),
            alone: match &config {
                Some(stored) => alone(&stored.machine).await,
                None => false,
            },
        };
        publish(&handle, gate.conditions(&seen));
        let elapsed = Duration::from_millis(boot_time_ms());
        match gate.look(elapsed, &seen) {
            Verdict::Good => break None,
            Verdict::Bad(why) => break Some(why),
            Verdict::Wait(until) => {
                let pause = until.saturating_sub(elapsed).min(LOOK);
                tokio::select! {
                    () = sleep(pause) => {}
                    Ok(()) = health.changed() => {}
                }
            }
        }
    };
    match why {
        None => good(&handle, &base).await,
        Some(why) => bad(&handle, &base, why).await,
    }
    handle.resources().replace(KIND, Vec::new());
}

/// Whether an agent cannot reach the server that it should join.
async fn alone(machine: &keelson_config::Machine) -> bool {
    let server = machine
        .orchestrator
        .as_ref()
        .filter(|_| machine.role == Role::Agent)
        .and_then(|orchestrator| orchestrator.server.as_deref());
    let Some((host, port)) = server.and_then(place) else {
        return false;
    };
    timeout(CONNECT, reachable(&host, port)).await != Ok(true)
}

/// The host and port of an https URL.
fn place(url: &str) -> Option<(String, u16)> {
    let uri: http::Uri = url.parse().ok()?;
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    Some((host.to_owned(), uri.port_u16().unwrap_or(HTTPS)))
}

async fn reachable(host: &str, port: u16) -> bool {
    let addresses = match host.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => names::addresses(host, Path::new(names::RESOLV_CONF))
            .await
            .unwrap_or_default(),
    };
    for address in addresses {
        if TcpStream::connect(SocketAddr::new(address, port))
            .await
            .is_ok()
        {
            return true;
        }
    }
    false
}

fn publish(handle: &Handle, conditions: Vec<Condition>) {
    let resource = |condition: Condition| {
        let (phase, state) = match condition.state {
            Held::Yes => (Phase::Ready, "holds"),
            Held::No => (Phase::Pending, "does not hold"),
            Held::Waived => (Phase::Ready, "waived"),
        };
        Resource::new(KIND, condition.name, phase)
            .message(condition.message)
            .field("state", state)
    };
    let all = conditions.into_iter().map(resource).collect();
    handle.resources().replace(KIND, all);
}

/// Marks the release good: first for the boot loader, then in the record.
async fn good(handle: &Handle, base: &Arc<Base>) {
    let events = handle.journal();
    let mut told = String::new();
    loop {
        let work = base.clone();
        let marked = spawn_blocking(move || mark_good(&work)).await;
        match marked.map_err(anyhow::Error::from).flatten() {
            Ok(()) => {
                let version = &base.running.version;
                return events.say(SUBJECT, format!("{version} is good"));
            }
            Err(error) => {
                let text = format!("could not be marked good: {error:#}; tried again");
                if text != told {
                    events.say(SUBJECT, text.as_str());
                    told = text;
                }
            }
        }
        sleep(AGAIN).await;
    }
}

fn mark_good(base: &Base) -> anyhow::Result<()> {
    base.disk.with_loader(|loader| {
        let entries = loader.entries()?;
        let own = loader::find(&entries, &base.running.root_hash)
            .context("the running release has no entry in the boot loader")?;
        loader.mark_good(own)
    })?;
    base.memory.change(|record| {
        let signed = match &record.state {
            State::Trying { release, .. } => release.floor.clone(),
            _ => String::new(),
        };
        for floor in [&base.release.floor, &signed] {
            if let Some(floor) = higher(&record.floor, floor) {
                record.floor = floor;
            }
        }
        record.mark_good(base.release.clone(), now());
    })
}

/// The new floor, if it is higher than the one before.
fn higher(before: &str, floor: &str) -> Option<String> {
    let parse = |text: &str| text.parse::<keelson_disk::version::Version>().ok();
    let new = parse(floor)?;
    (parse(before).is_none_or(|before| before < new)).then(|| floor.to_owned())
}

/// Writes down why, and reboots: the boot loader counts.
async fn bad(handle: &Handle, base: &Arc<Base>, why: String) {
    let events = handle.journal();
    events.say(
        SUBJECT,
        format!("{} is not good: {why}", base.running.version),
    );
    let log = last_lines(handle).await;
    let (work, reason) = (base.clone(), why.clone());
    let noted = spawn_blocking(move || {
        work.memory.change(|record| {
            if let State::Trying {
                reason: told,
                log: kept,
                ..
            } = &mut record.state
            {
                *told = Some(reason);
                *kept = record::bounded(log);
            }
        })
    });
    if let Err(error) = noted.await.map_err(anyhow::Error::from).flatten() {
        events.say(SUBJECT, format!("why is not remembered: {error:#}"));
    }
    let source = format!("the health gate: {why}");
    while let Err(error) = handle.power(End::default(), source.clone()).await {
        events.say(SUBJECT, format!("could not reboot: {error}; tried again"));
        sleep(AGAIN).await;
    }
}

/// The ends of the logs that tell most about a boot that is not good.
async fn last_lines(handle: &Handle) -> Vec<String> {
    let mut lines = Vec::new();
    let services: Vec<String> = handle
        .services()
        .iter()
        .map(|service| service.name.clone())
        .filter(|name| name != "apid")
        .collect();
    let deadline = Instant::now() + CONNECT;
    for service in services {
        let Ok(pieces) = handle.logs(&service, Some(LINES), false) else {
            continue;
        };
        let mut text = Vec::new();
        tokio::pin!(pieces);
        while let Ok(Some(Ok(piece))) = tokio::time::timeout_at(deadline, pieces.next()).await {
            text.extend_from_slice(&piece);
        }
        let text = String::from_utf8_lossy(&text);
        lines.extend(text.lines().map(|line| format!("{service}: {line}")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_where_its_url_says() {
        for (url, want) in [
            ("https://10.0.0.1:6443", Some(("10.0.0.1", 6443))),
            ("https://[2001:db8::1]:6443", Some(("2001:db8::1", 6443))),
            ("https://server.example", Some(("server.example", 443))),
            ("nonsense url", None),
        ] {
            let want = want.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(place(url), want, "{url}");
        }
    }

    #[test]
    fn the_floor_never_falls() {
        assert_eq!(higher("", "0.2.0"), Some("0.2.0".into()));
        assert_eq!(higher("0.1.0", "0.2.0"), Some("0.2.0".into()));
        assert_eq!(higher("0.3.0", "0.2.0"), None);
        assert_eq!(higher("0.3.0", ""), None);
    }

    #[tokio::test]
    async fn a_closed_port_is_out_of_reach() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(reachable("127.0.0.1", port).await);
        drop(listener);
        assert!(!reachable("127.0.0.1", port).await);
    }
}
