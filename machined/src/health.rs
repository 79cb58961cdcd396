//! The health checks: what a person, or an upgrade, wants to see green. `checks` is
//! pure; what it judges is what others publish.

use crate::{
    engine::Outcome,
    orchestrator::{
        self, Orchestrator,
        probe::{Answer, Probes},
    },
    resource::{Phase, Resource, Store},
    store::Stored,
};
use keelson_api::v1::{self, HealthCheck, health_check::State, service};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{broadcast, watch},
    time::sleep,
};

/// What the checks judge.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// The generation of the stored config; `None` in maintenance.
    pub generation: Option<u64>,
    /// What came of the last pass over the nouns.
    pub outcome: Outcome,
    /// The resources of the kinds that count.
    pub resources: Vec<Resource>,
    /// The addresses that others can reach the machine at.
    pub addresses: Vec<String>,
    /// The services.
    pub services: Arc<Vec<v1::Service>>,
    /// The orchestrator.
    pub orchestrator: orchestrator::Status,
}

/// All checks, in the order to show them.
pub(crate) fn checks(seen: &Seen) -> Vec<HealthCheck> {
    let mut checks = vec![
        config(seen),
        network(seen),
        nouns(&clock_alone(seen), "time", &["time"]),
        nouns(seen, "volumes", &["volume"]),
        services(seen),
    ];
    if seen.orchestrator.wanted || seen.orchestrator.pid != 0 {
        checks.extend(orchestrator_checks(&seen.orchestrator));
    }
    checks
}

fn check(name: &str, state: State, message: impl Into<String>) -> HealthCheck {
    HealthCheck {
        name: name.to_owned(),
        state: state.into(),
        message: message.into(),
    }
}

/// The nouns that have a check of their own.
const ELSEWHERE: [&str; 6] = ["link", "address", "route", "rule", "time", "volume"];

fn config(seen: &Seen) -> HealthCheck {
    let failed: Vec<String> = seen
        .outcome
        .failures
        .iter()
        .filter(|(kind, _)| !ELSEWHERE.contains(kind))
        .map(|(kind, failure)| format!("{kind}: {failure}"))
        .collect();
    match seen.generation {
        None => check(
            "config",
            State::Waiting,
            "the machine waits for its first config",
        ),
        Some(_) if !failed.is_empty() => check("config", State::Unhealthy, failed.join("; ")),
        // Only what is tried has a number above the stored one's.
        Some(generation) if seen.outcome.generation > generation => check(
            "config",
            State::Healthy,
            format!("one that is tried is applied, generation {generation} is stored"),
        ),
        Some(generation) if seen.outcome.generation != generation => check(
            "config",
            State::Waiting,
            format!("generation {generation} is being applied"),
        ),
        Some(generation) => check(
            "config",
            State::Healthy,
            format!("generation {generation} is applied"),
        ),
    }
}

fn network(seen: &Seen) -> HealthCheck {
    let nouns = nouns(seen, "network", &["link", "address", "route", "rule"]);
    if nouns.state() == State::Unhealthy {
        return nouns;
    }
    if seen.addresses.is_empty() {
        return check("network", State::Waiting, "there is no address yet");
    }
    if nouns.state() == State::Waiting {
        return nouns;
    }
    check("network", State::Healthy, seen.addresses.join(", "))
}

/// One check over the resources of some kinds: as bad as the worst of them.
fn nouns(seen: &Seen, name: &str, kinds: &[&str]) -> HealthCheck {
    let mine: Vec<&Resource> = seen
        .resources
        .iter()
        .filter(|r| kinds.contains(&r.kind.as_str()))
        .collect();
    let with = |phase| {
        let those = mine.iter().filter(|resource| resource.phase == phase);
        let texts: Vec<String> = those
            .map(|r| format!("{} {}: {}", r.kind, r.name, r.message))
            .collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    };
    if let Some(text) = with(Phase::Failed) {
        return check(name, State::Unhealthy, text);
    }
    if let Some(text) = with(Phase::Pending) {
        return check(name, State::Waiting, text);
    }
    if mine.is_empty() {
        return check(name, State::Waiting, "not looked at yet");
    }
    let texts: Vec<&str> = mine
        .iter()
        .map(|r| r.message.as_str())
        .filter(|text| !text.is_empty())
        .collect();
    check(name, State::Healthy, texts.join("; "))
}

/// Of the time's resources only the clock counts: one server of several may be silent.
fn clock_alone(seen: &Seen) -> Seen {
    let clock = |resource: &&Resource| resource.kind != "time" || resource.name == "clock";
    Seen {
        resources: seen.resources.iter().filter(clock).cloned().collect(),
        ..seen.clone()
    }
}

fn services(seen: &Seen) -> HealthCheck {
    let ours: Vec<&v1::Service> = seen
        .services
        .iter()
        .filter(|s| matches!(s.name.as_str(), "machined" | "apid"))
        .collect();
    let not = |state| {
        ours.iter()
            .filter(|s| s.state() == state)
            .map(|s| s.name.as_str())
            .collect::<Vec<_>>()
            .join(", ")
    };
    let (down, starting) = (not(service::State::Backoff), not(service::State::Starting));
    if !down.is_empty() {
        check("services", State::Unhealthy, format!("not running: {down}"))
    } else if !starting.is_empty() || ours.is_empty() {
        check("services", State::Waiting, format!("starting: {starting}"))
    } else {
        check("services", State::Healthy, "machined and apid run")
    }
}

fn orchestrator_checks(status: &orchestrator::Status) -> Vec<HealthCheck> {
    let process = match status.service {
        service::State::Backoff => check("orchestrator", State::Unhealthy, status.message.as_str()),
        service::State::Starting | service::State::Running => check(
            "orchestrator",
            State::Healthy,
            format!("runs, process {}", status.pid),
        ),
        service::State::Stopping => check("orchestrator", State::Waiting, "is being stopped"),
        service::State::Stopped | service::State::Unspecified => {
            check("orchestrator", State::Waiting, status.message.as_str())
        }
    };
    let running = status.service == service::State::Running;
    let ready = match &status.probes {
        _ if status.overdue => check(
            "orchestrator ready",
            State::Unhealthy,
            status.message.as_str(),
        ),
        _ if !running => check(
            "orchestrator ready",
            State::Waiting,
            status.message.as_str(),
        ),
        None => check("orchestrator ready", State::Waiting, "not asked yet"),
        Some(Probes { ping, ready, .. }) => match [ping, ready]
            .into_iter()
            .flatten()
            .find_map(|a| a.as_ref().err())
        {
            Some(wrong) => check("orchestrator ready", State::Unhealthy, wrong.as_str()),
            None => check(
                "orchestrator ready",
                State::Healthy,
                "it said so, and its API answers",
            ),
        },
    };
    let kubelet = match status.probes.as_ref().map(|probes| &probes.kubelet) {
        None => check("kubelet", State::Waiting, "not asked yet"),
        Some(answer) => kubelet(answer, running),
    };
    vec![process, ready, kubelet]
}

fn kubelet(answer: &Answer, running: bool) -> HealthCheck {
    match answer {
        Ok(()) => check("kubelet", State::Healthy, "answers"),
        Err(wrong) if running => check("kubelet", State::Unhealthy, wrong.as_str()),
        Err(wrong) => check("kubelet", State::Waiting, wrong.as_str()),
    }
}

/// The kinds whose resources count.
const KINDS: [&str; 6] = ["link", "address", "route", "rule", "time", "volume"];

/// How long changes are gathered.
const GATHER: Duration = Duration::from_millis(100);

/// Where the checks look.
pub(crate) struct Sources {
    pub config: watch::Receiver<Option<Arc<Stored>>>,
    pub outcome: watch::Receiver<Outcome>,
    pub resources: Arc<Store>,
    pub services: watch::Receiver<Arc<Vec<v1::Service>>>,
    pub orchestrator: Orchestrator,
}

/// Keeps the checks: judges again when something changed.
pub(crate) async fn keep(mut sources: Sources, health: watch::Sender<Arc<Vec<HealthCheck>>>) {
    let mut changes = sources.resources.watch();
    let mut status = sources.orchestrator.status();
    loop {
        let seen = Seen {
            generation: sources
                .config
                .borrow_and_update()
                .as_ref()
                .map(|stored| stored.generation),
            outcome: sources.outcome.borrow_and_update().clone(),
            resources: KINDS
                .iter()
                .flat_map(|kind| sources.resources.list(kind))
                .collect(),
            addresses: orchestrator::needs::addresses(&sources.resources),
            services: sources.services.borrow_and_update().clone(),
            orchestrator: status.borrow_and_update().clone(),
        };
        let checks = checks(&seen);
        health.send_if_modified(|old| {
            let changed = **old != checks;
            *old = Arc::new(checks);
            changed
        });
        let alive = tokio::select! {
            changed = sources.config.changed() => changed.is_ok(),
            changed = sources.outcome.changed() => changed.is_ok(),
            changed = sources.services.changed() => changed.is_ok(),
            change = changes.recv() => !matches!(change, Err(broadcast::error::RecvError::Closed)),
            // Without an orchestrator nobody sends here any more.
            Ok(()) = status.changed() => true,
        };
        if !alive {
            return;
        }
        sleep(GATHER).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(kind: &str, phase: Phase, message: &str) -> Resource {
        let name = if kind == "time" { "clock" } else { "x" };
        Resource::new(kind, name, phase).message(message)
    }

    fn state(checks: &[HealthCheck], name: &str) -> Option<State> {
        checks
            .iter()
            .find(|check| check.name == name)
            .map(HealthCheck::state)
    }

    fn service(name: &str, state: service::State) -> v1::Service {
        v1::Service {
            name: name.into(),
            state: state.into(),
            ..Default::default()
        }
    }

    fn good() -> Seen {
        Seen {
            generation: Some(3),
            outcome: Outcome {
                passes: 1,
                generation: 3,
                failures: Default::default(),
            },
            resources: KINDS
                .iter()
                .map(|kind| resource(kind, Phase::Ready, ""))
                .collect(),
            addresses: vec!["10.0.2.15".into()],
            services: Arc::new(vec![
                service("apid", service::State::Running),
                service("machined", service::State::Running),
            ]),
            orchestrator: orchestrator::Status {
                wanted: true,
                service: service::State::Running,
                pid: 7,
                probes: Some(Probes {
                    ping: Some(Ok(())),
                    ready: Some(Ok(())),
                    kubelet: Ok(()),
                }),
                ..Default::default()
            },
        }
    }

    #[test]
    fn a_good_machine_is_green() {
        let checks = checks(&good());
        let names: Vec<_> = checks.iter().map(|check| check.name.as_str()).collect();
        let wanted = [
            "config",
            "network",
            "time",
            "volumes",
            "services",
            "orchestrator",
            "orchestrator ready",
            "kubelet",
        ];
        assert_eq!(names, wanted);
        assert!(
            checks.iter().all(|check| check.state() == State::Healthy),
            "{checks:?}"
        );
    }

    #[test]
    fn each_fault_shows_in_its_own_check() {
        let set = |change: fn(&mut Seen)| {
            let mut seen = good();
            change(&mut seen);
            checks(&seen)
        };
        type Fault = fn(&mut Seen);
        let cases: [(&str, State, Fault); 13] = [
            ("config", State::Healthy, |s| s.outcome.generation = 4),
            ("config", State::Waiting, |s| s.generation = None),
            ("config", State::Waiting, |s| s.generation = Some(4)),
            ("config", State::Unhealthy, |s| {
                drop(s.outcome.failures.insert("sysctl", "no".into()))
            }),
            ("network", State::Waiting, |s| s.addresses.clear()),
            ("network", State::Unhealthy, |s| {
                s.resources.push(resource("link", Phase::Failed, "no"))
            }),
            ("network", State::Waiting, |s| {
                s.resources.push(resource("route", Phase::Pending, "no"))
            }),
            ("time", State::Waiting, |s| {
                s.resources.retain(|r| r.kind != "time")
            }),
            ("volumes", State::Unhealthy, |s| {
                s.resources.push(resource("volume", Phase::Failed, "full"))
            }),
            ("services", State::Unhealthy, |s| {
                s.services = Arc::new(vec![service("apid", service::State::Backoff)])
            }),
            ("orchestrator", State::Unhealthy, |s| {
                s.orchestrator.service = service::State::Backoff
            }),
            ("orchestrator ready", State::Unhealthy, |s| {
                s.orchestrator.probes = Some(Probes {
                    ping: Some(Ok(())),
                    ready: Some(Err("500".into())),
                    kubelet: Ok(()),
                });
            }),
            ("kubelet", State::Unhealthy, |s| {
                s.orchestrator.probes = Some(Probes {
                    ping: Some(Ok(())),
                    ready: Some(Ok(())),
                    kubelet: Err("refused".into()),
                });
            }),
        ];
        for (name, wanted, change) in cases {
            let checks = set(change);
            assert_eq!(state(&checks, name), Some(wanted), "{name}");
        }
    }

    #[test]
    fn a_silent_time_server_is_no_fault_as_long_as_the_clock_is_right() {
        let mut seen = good();
        seen.resources
            .push(Resource::new("time", "ntp.example", Phase::Pending));
        assert_eq!(state(&checks(&seen), "time"), Some(State::Healthy));
        seen.resources
            .push(Resource::new("time", "clock", Phase::Pending));
        assert_eq!(state(&checks(&seen), "time"), Some(State::Waiting));
    }

    #[test]
    fn a_slow_start_waits_until_it_is_overdue() {
        let mut seen = good();
        seen.orchestrator.service = service::State::Starting;
        seen.orchestrator.probes = None;
        assert_eq!(
            state(&checks(&seen), "orchestrator ready"),
            Some(State::Waiting)
        );
        seen.orchestrator.overdue = true;
        assert_eq!(
            state(&checks(&seen), "orchestrator ready"),
            Some(State::Unhealthy)
        );
    }

    #[test]
    fn without_an_orchestrator_nothing_is_said_of_it() {
        let mut seen = good();
        seen.orchestrator = orchestrator::Status::default();
        assert_eq!(checks(&seen).len(), 5);
    }
}
