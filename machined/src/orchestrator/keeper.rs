//! The task that keeps the orchestrator: it looks at what is wanted and what runs, hands
//! both to the life (`state.rs`), does what that says, and publishes how it is.

use super::{
    Member, Parts, Status, boot_time_ms, needs,
    payload::Payload,
    prepare, probe,
    probe::Probes,
    render::{self, Rendered},
    restore,
    state::{Input, Life, Output, State},
};
use crate::{
    cluster::access,
    initclient::InitEvent,
    power,
    resource::{Phase, Resource},
};
use keelson_api::{init as proto, v1};
use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{broadcast, mpsc, watch},
    time::{sleep, sleep_until},
};

/// What the running one was started with, for a machined that comes after this one.
const STARTED_WITH: &str = "/run/keelson/orchestrator.started";

/// How long it may take to stop.
const GRACE: Duration = Duration::from_secs(60);

/// How soon init is asked again what runs.
const RETRY: Duration = Duration::from_secs(1);

/// How often it is asked how it is.
const PROBE_EVERY: Duration = Duration::from_secs(10);

/// How long a start may take before it is called unhealthy. It still runs on.
const SLOW_START: Duration = Duration::from_secs(600);

/// The task's state.
pub(super) struct Keeper {
    parts: Parts,
    payload: Arc<Payload>,
    subject: String,
    life: Life,
    rendered: Option<Rendered>,
    /// What the life was told to want last.
    wanted_digest: Option<String>,
    /// The name of the node as it was rendered last: a host name from DHCP may change, that
    /// of a running node may not.
    node_name: Option<String>,
    unmet: Vec<String>,
    /// Why the image cannot run what is wanted.
    mismatch: Option<String>,
    /// Whether no time server has answered.
    unsynchronised: bool,
    /// Since when the machine has an address.
    connected: Option<Instant>,
    probes: Option<Probes>,
    probed: Option<Instant>,
    status: watch::Sender<Status>,
}

impl Keeper {
    /// One that keeps nothing yet.
    pub(super) fn new(
        parts: Parts,
        payload: Arc<Payload>,
        status: watch::Sender<Status>,
    ) -> Keeper {
        Keeper {
            subject: format!("service/{}", payload.name),
            parts,
            payload,
            life: Life::new(),
            rendered: None,
            wanted_digest: None,
            node_name: None,
            unmet: Vec::new(),
            mismatch: None,
            unsynchronised: false,
            connected: None,
            probes: None,
            probed: None,
            status,
        }
    }

    /// Keeps it until nobody can ask any more.
    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Input>) {
        let mut events = self.parts.init.events();
        let (probes, mut answers) = mpsc::channel(1);
        // What is wanted is known before what runs: else what runs would look unwanted.
        self.want().await;
        while !self.list().await {
            sleep(RETRY).await;
        }
        loop {
            self.consider().await;
            self.publish();
            self.probe(&probes);
            let next_look = self.next_look();
            let input = tokio::select! {
                input = inbox.recv() => match input {
                    Some(input) => Some(input),
                    None => return,
                },
                event = events.recv() => match event {
                    Ok(event) => self.told(event).await,
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        // What cannot be listed now is noticed at the next start.
                        self.list().await;
                        None
                    }
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                changed = self.parts.wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    None
                },
                Some(answer) = answers.recv() => {
                    self.probes = Some(answer);
                    None
                },
                () = sleep_until(next_look.into()) => Some(Input::Tick),
            };
            if let Some(input) = input {
                self.handle(input).await;
            }
        }
    }

    /// Looks at what is wanted, and as long as it does not run, at what it needs.
    async fn consider(&mut self) {
        self.want().await;
        if self.life.is_wanted() && self.life.pid().is_none() {
            self.unmet = self.look();
            self.handle(Input::Needs(self.unmet.is_empty())).await;
        }
    }

    /// Tells the life what is wanted, if it is something else than before.
    async fn want(&mut self) {
        self.render();
        let digest = self.rendered.as_ref().map(Rendered::digest);
        if self.wanted_digest != digest {
            // What it needs was not looked at for this one.
            self.handle(Input::Needs(false)).await;
            self.wanted_digest.clone_from(&digest);
            self.handle(Input::Want(digest)).await;
        }
    }

    /// What is missing before it can be started.
    fn look(&mut self) -> Vec<String> {
        let mut seen = needs::look(&self.parts.resources, self.parts.build_time);
        let (wanted, outcome) = (self.parts.wanted.borrow(), self.parts.outcome.borrow());
        seen.settled = outcome.passes > 0 && outcome.generation == wanted.generation;
        if seen.addresses.is_empty() {
            self.connected = None;
        } else {
            seen.connected_for = self.connected.get_or_insert_with(Instant::now).elapsed();
        }
        let clock = self.parts.resources.get("time", "clock");
        seen.unsynchronised = !wanted.machine.time.servers.is_empty()
            && clock.is_none_or(|clock| clock.phase != Phase::Ready);
        seen.first_sync = wanted.machine.time.boot_timeout;
        self.unsynchronised = seen.unsynchronised;
        let settings = wanted
            .machine
            .orchestrator
            .as_ref()
            .map(|orchestrator| &orchestrator.settings);
        let node_ip = settings.is_some_and(|settings| settings.contains_key("node-ip"));
        needs::unmet(&seen, node_ip)
    }

    /// When to look again if nothing happens.
    fn next_look(&self) -> Instant {
        let pause = match self.life.state() {
            State::Idle if self.life.is_wanted() => Duration::from_millis(500),
            _ => PROBE_EVERY,
        };
        let usual = Instant::now() + pause;
        self.life
            .deadline()
            .map_or(usual, |deadline| deadline.min(usual))
    }

    async fn handle(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            for output in self.life.handle(Instant::now(), input) {
                match output {
                    Output::Say(text) => self.parts.events.say(&self.subject, text),
                    Output::Start => inputs.extend(self.start().await),
                    Output::Stop => self.stop().await,
                    Output::CleanUp => power::kill_orchestrator_cgroups(),
                }
            }
            if self.life.pid().is_none() {
                self.probes = None;
            }
        }
    }

    /// Renders the config anew. Whether it is another one, the life decides.
    fn render(&mut self) {
        let machine = self.parts.wanted.borrow_and_update().machine.clone();
        let host = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        let configured = machine
            .hostname
            .as_ref()
            .map(|name| name.as_str().to_owned());
        let name = match configured {
            Some(name) => name,
            // The name that it runs under stays, whatever DHCP says meanwhile.
            None if self.life.pid().is_some() => self.node_name.take().unwrap_or(host),
            None => host,
        };
        self.node_name = Some(name.clone());
        let wanted = machine.orchestrator.as_ref();
        // A stored config may be older than the image, and want what that one carried.
        self.mismatch = wanted
            .filter(|wanted| wanted.name != self.payload.name)
            .map(|wanted| {
                format!(
                    "the config wants {}: this image does not carry it",
                    wanted.name
                )
            });
        self.rendered = wanted
            .filter(|_| self.mismatch.is_none())
            .and_then(|_| render::render(&self.payload, &machine, &name));
    }

    async fn told(&mut self, event: InitEvent) -> Option<Input> {
        let ours = |name: &str| name == self.payload.name;
        match event {
            InitEvent::Exited(exited) if ours(&exited.name) => {
                Some(Input::Exited(exited.pid, ending(&exited)))
            }
            InitEvent::Notify(notify) if ours(&notify.name) && notify.ready => {
                // What it answered before it was ready says nothing any more.
                self.probes = None;
                self.probed = None;
                Some(Input::Ready(notify.pid))
            }
            InitEvent::Missed(processes) => {
                self.adopt(processes).await;
                None
            }
            _ => None,
        }
    }

    /// Asks init what runs; whether it answered.
    async fn list(&mut self) -> bool {
        match self.parts.init.list().await {
            Ok(processes) => {
                self.adopt(processes).await;
                true
            }
            Err(error) => {
                tracing::warn!("asking init what runs: {error}");
                false
            }
        }
    }

    /// Takes over what init runs already, and notices what it does not run any more.
    async fn adopt(&mut self, processes: Vec<proto::Process>) {
        let running = processes
            .into_iter()
            .find(|process| process.name == self.payload.name);
        let input = match (running, self.life.pid()) {
            (Some(process), Some(pid)) if process.pid == pid => {
                if !process.ready {
                    return;
                }
                Input::Ready(pid)
            }
            (Some(process), Some(pid)) => {
                let how = process
                    .last
                    .as_ref()
                    .filter(|last| last.pid == pid)
                    .map_or("it ended".into(), ending);
                Input::Exited(pid, how)
            }
            (None, Some(pid)) => Input::Exited(pid, "it ended".into()),
            (Some(process), None) if process.pid != 0 => {
                let digest = fs::read_to_string(STARTED_WITH)
                    .ok()
                    .map(|text| text.trim().to_owned());
                let age = boot_time_ms().saturating_sub(process.started_ms);
                let now = Instant::now();
                let started = now.checked_sub(Duration::from_millis(age)).unwrap_or(now);
                self.parts.events.say(
                    &self.subject,
                    format!("runs already, process {}", process.pid),
                );
                Input::Adopted {
                    pid: process.pid,
                    ready: process.ready,
                    started,
                    digest,
                }
            }
            _ => return,
        };
        Box::pin(self.handle(input)).await;
    }

    /// Prepares the machine and has init start it.
    async fn start(&mut self) -> Option<Input> {
        let Some(rendered) = self.rendered.clone() else {
            return Some(Input::Failed("nothing is wanted".into()));
        };
        let start = render::start(&self.payload, &rendered);
        let digest = rendered.digest();
        let (payload, serves) = (self.payload.clone(), rendered.mode == "server");
        let prepared = tokio::task::spawn_blocking(move || {
            prepare::prepare(&payload, &rendered)?;
            prepare::write(Path::new(STARTED_WITH), digest.as_bytes())
        });
        let outcome = match prepared.await {
            Ok(Ok(())) => match self.restore(serves).await {
                Ok(()) => self
                    .parts
                    .init
                    .start(start)
                    .await
                    .map_err(|error| error.to_string()),
                Err(why) => Err(why),
            },
            Ok(Err(error)) => Err(format!("{error:#}")),
            Err(error) => Err(error.to_string()),
        };
        Some(match outcome {
            Ok(pid) => {
                if self.unsynchronised {
                    let text =
                        "started although no time server has answered: the clock may be wrong";
                    self.parts.events.say(&self.subject, text);
                }
                self.probed = None;
                self.parts
                    .events
                    .say(&self.subject, format!("started, process {pid}"));
                Input::Started(pid)
            }
            Err(why) => Input::Failed(why),
        })
    }

    /// Puts a snapshot of the datastore back, if that is wished. What came of half of it
    /// must never be opened, so nothing is started as long as it did not work.
    async fn restore(&self, serves: bool) -> Result<(), String> {
        if !serves {
            return Ok(());
        }
        match restore::fulfil(&self.parts.init, &self.payload).await {
            Ok(None) => Ok(()),
            Ok(Some(snapshot)) => {
                let text = format!(
                    "the datastore is again as it was before {}: {}",
                    snapshot.before,
                    snapshot.place.display()
                );
                self.parts.events.say(&self.subject, text);
                Ok(())
            }
            Err(error) => Err(format!(
                "the datastore's snapshot was not put back: {error}"
            )),
        }
    }

    async fn stop(&mut self) {
        let stop = proto::Stop {
            name: self.payload.name.clone(),
            signal: 0,
            grace_ms: u32::try_from(GRACE.as_millis()).unwrap_or(u32::MAX),
            // What its containers' shims are in: they outlive it.
            kill_cgroup: false,
        };
        if let Err(error) = self.parts.init.stop(stop).await {
            self.parts
                .events
                .say(&self.subject, format!("could not be stopped: {error}"));
        }
    }

    /// Asks the running one how it is, beside everything else.
    fn probe(&mut self, answers: &mpsc::Sender<Probes>) {
        let runs = matches!(
            self.life.state(),
            State::Starting { .. } | State::Ready { .. }
        );
        let due = self
            .probed
            .is_none_or(|probed| probed.elapsed() >= PROBE_EVERY);
        let Some(rendered) = self.rendered.as_ref().filter(|_| runs && due) else {
            return;
        };
        self.probed = Some(Instant::now());
        let (payload, server, answers) = (
            self.payload.clone(),
            rendered.mode == "server",
            answers.clone(),
        );
        tokio::spawn(async move {
            let probes = probe::probe(&payload.data_dir, server).await;
            // An error only says that machined ends.
            drop(answers.send(probes).await);
        });
    }

    fn publish(&mut self) {
        let service = match self.life.state() {
            State::Idle => v1::service::State::Stopped,
            State::Launching | State::Starting { .. } => v1::service::State::Starting,
            State::Ready { .. } => v1::service::State::Running,
            State::Stopping { .. } => v1::service::State::Stopping,
            State::Backoff { .. } => v1::service::State::Backoff,
        };
        let overdue = matches!(self.life.state(), State::Starting { since, .. } if since.elapsed() >= SLOW_START);
        let message = match self.life.state() {
            State::Idle if self.mismatch.is_some() => self.mismatch.clone().unwrap_or_default(),
            State::Idle if self.life.is_wanted() => format!("waits: {}", self.unmet.join("; ")),
            State::Starting { .. } if overdue => {
                format!("not ready after {} s", SLOW_START.as_secs())
            }
            State::Starting { .. } => "has not said that it is ready".into(),
            State::Backoff { why, .. } => why.clone(),
            _ => String::new(),
        };
        let status = Status {
            wanted: self.life.is_wanted() || (self.mismatch.is_some() && !self.life.is_halted()),
            service,
            pid: self.life.pid().unwrap_or(0),
            restarts: self.life.restarts(),
            message,
            overdue,
            probes: self.probes.clone(),
            member: self.member(),
        };
        self.parts
            .resources
            .replace("orchestrator", vec![self.resource(&status)]);
        if overdue && !self.status.borrow().overdue {
            self.parts
                .events
                .say(&self.subject, status.message.as_str());
        }
        self.status.send_if_modified(|old| {
            let changed = *old != status;
            *old = status;
            changed
        });
    }

    /// What the node is under the config that is rendered.
    fn member(&self) -> Option<Member> {
        let role = match self.rendered.as_ref()?.mode {
            "server" => access::Role::Server,
            _ => access::Role::Agent,
        };
        let name = self.node_name.clone()?;
        Some(Member { name, role })
    }

    fn resource(&self, status: &Status) -> Resource {
        use v1::service::State;
        let (phase, state) = match status.service {
            State::Running => (Phase::Ready, "ready"),
            State::Starting if status.overdue => (Phase::Failed, "starting"),
            State::Starting => (Phase::Pending, "starting"),
            State::Stopping => (Phase::Pending, "stopping"),
            State::Backoff => (Phase::Failed, "backoff"),
            State::Stopped | State::Unspecified if self.mismatch.is_some() => {
                (Phase::Failed, "stopped")
            }
            State::Stopped | State::Unspecified if status.wanted => (Phase::Pending, "waiting"),
            State::Stopped | State::Unspecified => (Phase::Ready, "stopped"),
        };
        let mut resource = Resource::new("orchestrator", self.payload.name.as_str(), phase)
            .message(status.message.as_str())
            .field("version", self.payload.version.as_str())
            .field(
                "mode",
                self.rendered
                    .as_ref()
                    .map_or("none", |rendered| rendered.mode),
            )
            .field("state", state)
            .field("pid", status.pid)
            .field("restarts", status.restarts);
        if let Some(probes) = &status.probes {
            let word = |answer: &probe::Answer| {
                answer
                    .as_ref()
                    .map_or_else(String::clone, |()| "ok".to_owned())
            };
            if let Some(answer) = &probes.ping {
                resource = resource.field("ping", word(answer));
            }
            if let Some(answer) = &probes.ready {
                resource = resource.field("readyz", word(answer));
            }
            resource = resource.field("kubelet", word(&probes.kubelet));
        }
        resource
    }
}

fn ending(exited: &proto::Exited) -> String {
    match exited.signal {
        0 => format!("it ended with exit code {}", exited.code),
        signal => format!("signal {signal} ended it"),
    }
}
