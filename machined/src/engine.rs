//! The one task that owns the config and what follows from it. Others send it
//! messages through a [`Handle`] and read what it publishes.
//!
//! ```text
//! start ─> mount STATE ─> stored config? ─ yes ──────────────> configured
//!                              │ no                               ^
//!                              v                                  │ stored
//!                         the platform offers one? ─ valid ───────┤
//!                              │ no                               │
//!                              v                                  │
//!                         maintenance ─ ApplyConfig, or a volume ─┘
//! ```
//!
//! Nothing slow is waited for here: the nouns are kept by `pass.rs`, the orchestrator
//! by `orchestrator.rs`, the end of the machine's run by `power.rs`, each a task.

mod check;
mod handle;
mod pass;
mod uevent;
mod views;

pub(crate) use handle::{Applied, Apply, Error, Handle, Power};
pub(crate) use pass::{Outcome, Wanted};

use crate::{
    acquire::{Found, Platform},
    console,
    events::Events,
    facts::Facts,
    health,
    identity::{self, Credentials, Identity, Names},
    initclient::{Init, InitEvent},
    noun::{Noun as _, Reconcile},
    nouns::volume::{Availability, Volume, Which},
    orchestrator::{self, Orchestrator, payload::Payload},
    power,
    resource::{Change, Store},
    service,
    store::{Configs, Stored},
};
use handle::{Command, Shared};
use keelson_api::{
    init::{self as proto, power::Action},
    v1,
};
use keelson_config::{Machine, Role};
use pass::{Passes, Question};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    sync::{Notify, broadcast, mpsc, oneshot, watch},
    time::{interval, sleep, timeout},
};

/// Wakes the loop: whoever sees that the machine may have changed calls
/// `notify_one`. Many wakes before a pass are one pass.
pub(crate) type Wake = Arc<Notify>;

/// Where STATE is mounted.
const STATE: &str = "/system/state";

/// How long the partition of STATE is waited for.
const DISK_PATIENCE: Duration = Duration::from_secs(10);

/// How long a caller waits for the steps of a plan.
const PLAN_PATIENCE: Duration = Duration::from_secs(4);

/// How often the owner looks at what tells nobody: the clock, STATE.
const EVERY: Duration = Duration::from_secs(10);

/// How long changes of names and addresses are gathered.
const GATHER: Duration = Duration::from_millis(200);

/// The nouns, in the order to go over them.
pub(crate) struct Nouns {
    /// Before the volumes.
    pub before: Vec<Box<dyn Reconcile>>,
    /// The volumes: STATE is mounted before anything else.
    pub volume: Volume,
    /// After the volumes.
    pub after: Vec<Box<dyn Reconcile>>,
}

/// What the engine is made of.
pub(crate) struct Setup {
    /// What the machine and its image are.
    pub facts: Facts,
    /// The connection to init.
    pub init: Init,
    /// Wakes the loop over the nouns.
    pub wake: Wake,
    /// Where the nouns publish.
    pub resources: Arc<Store>,
    /// Where all that happens is told.
    pub events: Arc<Events>,
    /// The nouns.
    pub nouns: Nouns,
}

/// Starts the engine; it runs until machined ends.
pub(crate) fn start(setup: Setup) -> anyhow::Result<Handle> {
    let Setup {
        facts,
        init,
        wake,
        resources,
        events,
        mut nouns,
    } = setup;
    let payload =
        Payload::read(Path::new(orchestrator::payload::DIRECTORY)).unwrap_or_else(|error| {
            events.say(
                "orchestrator",
                format!("the image's payload cannot be used: {error}"),
            );
            None
        });
    let (handle, mut engine, inbox) =
        Engine::new(facts, init, resources, events, payload.map(Arc::new))?;
    tokio::spawn(async move {
        let state = mount_state(&mut nouns.volume).await;
        engine.open(state);
        engine.look_at_platform().await;
        let running = engine.start_tasks(nouns, wake);
        engine.run(inbox, running).await;
    });
    Ok(handle)
}

/// Mounts STATE, and formats it if it is empty; its place, or why it is not there.
async fn mount_state(volume: &mut Volume) -> Result<PathBuf, String> {
    let anything = Machine::maintenance();
    let end = Instant::now() + DISK_PATIENCE;
    loop {
        let problem = match volume.observe(&anything).await {
            Ok(have) => {
                let steps = volume
                    .plan(&have, &anything)
                    .into_iter()
                    .filter(|step| step.which() == Which::State);
                let mut failed = None;
                let mut taken = false;
                for step in steps {
                    taken = true;
                    if let Err(error) = volume.apply(&step).await {
                        failed = Some(format!("could not {step}: {error:#}"));
                        break;
                    }
                }
                match (failed, &volume.volumes().borrow().state) {
                    (None, Availability::Mounted) => return Ok(STATE.into()),
                    (None, _) if taken => continue,
                    (Some(failed), _) => failed,
                    (None, Availability::Unavailable(why)) => why.clone(),
                    (None, Availability::Unknown) => "nobody has looked for it".into(),
                }
            }
            Err(error) => format!("{error:#}"),
        };
        if Instant::now() >= end {
            return Err(problem);
        }
        sleep(Duration::from_millis(250)).await;
    }
}

/// The owner.
struct Engine {
    facts: Facts,
    init: Init,
    resources: Arc<Store>,
    events: Arc<Events>,
    payload: Option<Arc<Payload>>,
    /// Where configs are stored, or why none can be.
    configs: Result<Configs, String>,
    identity: Identity,
    platform: Platform,
    config: watch::Sender<Option<Arc<Stored>>>,
    wanted: watch::Sender<Wanted>,
    services: watch::Sender<Arc<Vec<v1::Service>>>,
    health: watch::Sender<Arc<Vec<v1::HealthCheck>>>,
    credentials: watch::Sender<Option<Arc<Credentials>>>,
    machine_id: watch::Sender<String>,
    /// What was written to the console last.
    greeting: String,
    /// Why the certificate could not be made, if it was told.
    certificate_problem: Option<String>,
    /// The machine goes down.
    ending: bool,
}

/// The tasks beside the owner.
struct Running {
    questions: mpsc::Sender<Question>,
    outcome: watch::Receiver<Outcome>,
    orchestrator: Orchestrator,
    volumes: watch::Receiver<crate::nouns::volume::Volumes>,
}

impl Engine {
    fn new(
        facts: Facts,
        init: Init,
        resources: Arc<Store>,
        events: Arc<Events>,
        payload: Option<Arc<Payload>>,
    ) -> anyhow::Result<(Handle, Self, mpsc::Receiver<Command>)> {
        let (commands, inbox) = mpsc::channel(16);
        let machine = Arc::new(Machine::maintenance());
        let now = identity::sane(SystemTime::now(), facts.release.build_time);
        let engine = Engine {
            init,
            resources,
            events,
            payload,
            configs: Err("STATE is not mounted yet".into()),
            identity: Identity::load(None, now)?,
            platform: Platform::default(),
            config: watch::Sender::new(None),
            wanted: watch::Sender::new(Wanted {
                generation: 0,
                machine,
            }),
            services: watch::Sender::default(),
            health: watch::Sender::default(),
            credentials: watch::Sender::new(None),
            machine_id: watch::Sender::default(),
            greeting: String::new(),
            certificate_problem: None,
            ending: false,
            facts,
        };
        let shared = Shared {
            facts: engine.facts.clone(),
            resources: engine.resources.clone(),
            events: engine.events.clone(),
            payload: engine.payload.clone(),
            config: engine.config.subscribe(),
            services: engine.services.subscribe(),
            health: engine.health.subscribe(),
            credentials: engine.credentials.subscribe(),
            machine_id: engine.machine_id.subscribe(),
        };
        Ok((
            Handle {
                commands,
                shared: Arc::new(shared),
            },
            engine,
            inbox,
        ))
    }

    /// Takes over what STATE holds: who this machine is, and its config.
    fn open(&mut self, state: Result<PathBuf, String>) {
        match state {
            Ok(dir) => {
                match Identity::load(Some(dir.join("identity")), self.now()) {
                    Ok(identity) => self.identity = identity,
                    Err(error) => self
                        .events
                        .say("identity", format!("it cannot be kept: {error:#}")),
                }
                let configs = Configs::new(dir.join("config"));
                let loaded = configs.load();
                for problem in loaded.problems {
                    self.events.say("config", problem);
                }
                self.configs = Ok(configs);
                if let Some(stored) = loaded.config {
                    let text = format!(
                        "generation {} is in force, stored by {}",
                        stored.generation, stored.source
                    );
                    self.events.say("config", text);
                    self.publish(stored);
                }
            }
            Err(why) => {
                self.events.say(
                    "volume/state",
                    format!("no config can be read or stored: {why}"),
                );
                self.configs = Err(why);
            }
        }
        let id = self.identity.machine_id().to_owned();
        if let Err(error) = views::write_machine_id(&id) {
            tracing::warn!("writing /run/etc/machine-id: {error}");
        }
        self.machine_id.send_replace(id);
        self.certify();
        self.greet();
    }

    /// Starts what keeps the nouns, the orchestrator, the services and the checks.
    fn start_tasks(&self, nouns: Nouns, wake: Wake) -> Running {
        let (questions, asked) = mpsc::channel(4);
        let (outcome_sender, outcome) = watch::channel(Outcome::default());
        let volumes = nouns.volume.volumes();
        let mut all = nouns.before;
        all.push(Box::new(nouns.volume));
        all.extend(nouns.after);
        let passes = Passes {
            nouns: all,
            wanted: self.wanted.subscribe(),
            wake: wake.clone(),
            questions: asked,
            resources: self.resources.clone(),
            events: self.events.clone(),
            outcome: outcome_sender,
        };
        tokio::spawn(passes.run());
        tokio::spawn(uevent::watch(wake));
        let parts = orchestrator::Parts {
            init: self.init.clone(),
            wanted: self.wanted.subscribe(),
            outcome: outcome.clone(),
            resources: self.resources.clone(),
            events: self.events.clone(),
            build_time: self.facts.release.build_time,
        };
        let orchestrator = orchestrator::start(self.payload.clone(), parts);
        tokio::spawn(service::keep(
            self.init.clone(),
            orchestrator.clone(),
            self.resources.clone(),
            self.services.clone(),
        ));
        let sources = health::Sources {
            config: self.config.subscribe(),
            outcome: outcome.clone(),
            resources: self.resources.clone(),
            services: self.services.subscribe(),
            orchestrator: orchestrator.clone(),
        };
        tokio::spawn(health::keep(sources, self.health.clone()));
        Running {
            questions,
            outcome,
            orchestrator,
            volumes,
        }
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<Command>, mut running: Running) {
        let mut changes = self.resources.watch();
        let mut init = self.init.events();
        let mut timer = interval(EVERY);
        loop {
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(command) => self.command(command, &running).await,
                    None => return,
                },
                change = changes.recv() => if concerns_names(&change) {
                    sleep(GATHER).await;
                    // What was gathered is in the store, not in the changes.
                    changes = changes.resubscribe();
                    self.certify();
                    self.greet();
                },
                Ok(()) = running.outcome.changed() => {
                    running.outcome.borrow_and_update();
                    self.look_at_platform().await;
                }
                Ok(()) = running.volumes.changed() => self.state_again(&mut running.volumes),
                Ok(event) = init.recv() => if let InitEvent::PowerKey(action) = event {
                    let action = if action == Action::PowerOff { Power::Off } else { Power::Reboot };
                    self.power(action, false, "a person at the machine", &running);
                },
                _ = timer.tick() => self.certify(),
            }
        }
    }

    async fn command(&mut self, command: Command, running: &Running) {
        // An error only says that the asker does not wait any more.
        match command {
            Command::Apply(apply, reply) => {
                drop(reply.send(self.apply(apply, Some(running)).await))
            }
            Command::Restart(name, reply) => drop(reply.send(self.restart(&name, running).await)),
            Command::Power {
                action,
                force,
                source,
                reply,
            } => {
                self.power(action, force, &source, running);
                drop(reply.send(Ok(())));
            }
        }
    }

    async fn apply(&mut self, apply: Apply, running: Option<&Running>) -> Result<Applied, Error> {
        if self.ending {
            return Err(Error::FailedPrecondition(
                "the machine is going down".into(),
            ));
        }
        if apply.only_first && self.config.borrow().is_some() {
            let text = "this machine has its first config: further ones need a client certificate of its administrators";
            return Err(Error::FailedPrecondition(text.into()));
        }
        let carried = self.payload.as_ref().map(|payload| payload.name.as_str());
        let (machine, mut diagnostics) = check::check(&apply.file_name, &apply.config, carried)?;
        let machine = Arc::new(machine);
        let have = self.wanted.borrow().machine.clone();
        let mut steps = Vec::new();
        if let Some(running) = running {
            match plan(&running.questions, machine.clone()).await {
                Some(planned) => steps = planned,
                None => diagnostics.push(late(&apply.file_name)),
            }
            steps.extend(running.orchestrator.plan(&have, &machine));
        }
        if apply.dry_run {
            return Ok(Applied {
                diagnostics,
                steps,
                generation: 0,
            });
        }
        if let Some(stored) = self
            .config
            .borrow()
            .as_ref()
            .filter(|stored| stored.bytes == apply.config)
        {
            return Ok(Applied {
                diagnostics,
                steps,
                generation: stored.generation,
            });
        }
        let configs = self.configs.clone().map_err(|why| {
            Error::FailedPrecondition(format!(
                "the config cannot be stored, so it is not applied: {why}"
            ))
        })?;
        let applied = SystemTime::now();
        let (bytes, source) = (apply.config.clone(), apply.source.clone());
        let saved =
            tokio::task::spawn_blocking(move || configs.save(&bytes, &source, applied)).await;
        let generation = match saved {
            Ok(Ok(generation)) => generation,
            Ok(Err(error)) => return Err(Error::Internal(format!("storing the config: {error}"))),
            Err(error) => return Err(Error::Internal(format!("storing the config: {error}"))),
        };
        self.events.say(
            "config",
            format!("generation {generation} stored by {}", apply.source),
        );
        self.publish(Stored {
            generation,
            bytes: apply.config,
            applied,
            source: apply.source,
            machine,
        });
        self.certify();
        self.greet();
        Ok(Applied {
            diagnostics,
            steps,
            generation,
        })
    }

    fn publish(&mut self, stored: Stored) {
        let wanted = Wanted {
            generation: stored.generation,
            machine: stored.machine.clone(),
        };
        self.config.send_replace(Some(Arc::new(stored)));
        self.wanted.send_replace(wanted);
    }

    async fn restart(&mut self, name: &str, running: &Running) -> Result<(), Error> {
        if self
            .payload
            .as_ref()
            .is_some_and(|payload| payload.name == name)
        {
            if self.wanted.borrow().machine.orchestrator.is_none() {
                return Err(Error::FailedPrecondition(format!(
                    "the config does not want {name} to run"
                )));
            }
            running.orchestrator.restart().await;
        } else if matches!(name, "machined" | "apid") {
            // init starts both again by itself. The answer must be out before.
            let (init, name) = (self.init.clone(), name.to_owned());
            tokio::spawn(async move {
                sleep(GATHER).await;
                let stop = proto::Stop {
                    name,
                    signal: 0,
                    grace_ms: 5000,
                    kill_cgroup: false,
                };
                if let Err(error) = init.stop(stop).await {
                    tracing::error!("restarting a service: {error}");
                }
            });
        } else {
            return Err(Error::NotFound(format!("no service is named {name}")));
        }
        self.events
            .say(&format!("service/{name}"), "a restart was asked for");
        Ok(())
    }

    fn power(&mut self, action: Power, force: bool, source: &str, running: &Running) {
        if self.ending && !force {
            return;
        }
        self.ending = true;
        let (action, word) = match action {
            Power::Reboot => (Action::Reboot, "reboot"),
            Power::Off => (Action::PowerOff, "power off"),
        };
        let reason = format!("{word}, asked for by {source}");
        self.events.say("power", reason.as_str());
        tokio::spawn(power::down(
            self.init.clone(),
            running.orchestrator.clone(),
            self.events.clone(),
            action,
            force,
            reason,
        ));
    }

    /// In maintenance: applies a config that the platform offers.
    async fn look_at_platform(&mut self) {
        if self.config.borrow().is_some() || self.configs.is_err() {
            return;
        }
        let mut platform = std::mem::take(&mut self.platform);
        let looked = tokio::task::spawn_blocking(move || {
            let looked = platform.look();
            (platform, looked)
        });
        let (found, problems) = match looked.await {
            Ok((platform, looked)) => {
                self.platform = platform;
                looked
            }
            Err(error) => (Vec::new(), vec![format!("looking for a config: {error}")]),
        };
        for problem in problems {
            self.events.say("config", problem);
        }
        for Found { bytes, source } in found {
            self.events.say("config", format!("found one: {source}"));
            let apply = Apply {
                config: bytes.into(),
                file_name: source.clone(),
                source: source.clone(),
                dry_run: false,
                only_first: true,
            };
            match self.apply(apply, None).await {
                Ok(_) => return,
                Err(Error::InvalidConfig(diagnostics)) => {
                    for diagnostic in diagnostics {
                        console::say(diagnostic.rendered.trim_end());
                        self.events.say("config", diagnostic.rendered);
                    }
                }
                Err(error) => {
                    console::say(&format!("the config from {source} is not used: {error}"));
                    self.events.say(
                        "config",
                        format!("the one from {source} is not used: {error}"),
                    );
                }
            }
        }
    }

    /// STATE was not there, and now it may be.
    fn state_again(&mut self, volumes: &mut watch::Receiver<crate::nouns::volume::Volumes>) {
        let mounted = volumes.borrow_and_update().state == Availability::Mounted;
        if mounted && self.configs.is_err() {
            self.open(Ok(STATE.into()));
        }
    }

    /// Makes what apid serves with, as far as it is not good any more.
    fn certify(&mut self) {
        let machine = self.wanted.borrow().machine.clone();
        let credentials = match &machine.api {
            None => self.identity.maintenance(),
            Some(api) => {
                let mut names = Names::new(self.identity.machine_id());
                names.add(&views::hostname());
                api.sans.iter().for_each(|name| names.add(name));
                orchestrator::needs::addresses(&self.resources)
                    .iter()
                    .for_each(|address| names.add(address));
                match self.identity.serving(api, &names, self.now()) {
                    Ok((credentials, reason)) => {
                        self.certificate_problem = None;
                        if let Some(reason) = reason {
                            self.events
                                .say("certificate", format!("made a new one: {reason}"));
                        }
                        credentials
                    }
                    Err(error) => {
                        let problem = format!("{:#}", anyhow::Error::from(error));
                        if self.certificate_problem.as_ref() != Some(&problem) {
                            self.events.say("certificate", problem.as_str());
                            self.certificate_problem = Some(problem);
                        }
                        return;
                    }
                }
            }
        };
        self.credentials.send_if_modified(|old| {
            let changed = old.as_deref() != Some(&credentials);
            *old = Some(Arc::new(credentials));
            changed
        });
    }

    /// Tells the person at the console where the machine is and what it waits for.
    fn greet(&mut self) {
        let Some(fingerprint) = self.credentials.borrow().as_ref().map(|c| c.fingerprint()) else {
            return;
        };
        let addresses = orchestrator::needs::addresses(&self.resources);
        let machine = self.wanted.borrow().machine.clone();
        let text = match (&*self.config.borrow(), addresses.first()) {
            (None, None) => {
                format!("waiting for a config and for a network address, fingerprint {fingerprint}")
            }
            (None, Some(address)) => {
                let host = if address.contains(':') {
                    format!("[{address}]")
                } else {
                    address.clone()
                };
                format!(
                    "waiting for a config: osctl apply-config --insecure --cert-fingerprint {fingerprint} \
                     --endpoint {host}:{} -f machine.yaml",
                    keelson_api::PORT
                )
            }
            (Some(_), _) => {
                let role = match machine.role {
                    Role::Server => "server",
                    Role::Agent => "agent",
                    Role::None => "no role",
                };
                let at = if addresses.is_empty() {
                    "no address yet".to_owned()
                } else {
                    addresses.join(", ")
                };
                format!("{} ({role}), {at}", views::hostname())
            }
        };
        if text != self.greeting {
            console::say(&text);
            self.greeting = text;
        }
    }

    fn now(&self) -> SystemTime {
        identity::sane(SystemTime::now(), self.facts.release.build_time)
    }
}

/// The steps of the nouns; `None` if they have too much to do to say.
async fn plan(
    questions: &mpsc::Sender<Question>,
    machine: Arc<Machine>,
) -> Option<Vec<v1::PlannedStep>> {
    let (reply, answer) = oneshot::channel();
    let exchange = async {
        questions.send(Question { machine, reply }).await.ok()?;
        answer.await.ok()
    };
    timeout(PLAN_PATIENCE, exchange).await.ok().flatten()
}

fn late(file_name: &str) -> v1::Diagnostic {
    let message = "the machine is busy with a step that takes long: its plan is not known yet";
    v1::Diagnostic {
        severity: v1::diagnostic::Severity::Warning.into(),
        file: file_name.to_owned(),
        message: message.into(),
        rendered: format!("warning: {message}\n"),
        ..Default::default()
    }
}

/// Whether a change may be one of the machine's names or addresses.
fn concerns_names(change: &Result<Change, broadcast::error::RecvError>) -> bool {
    match change {
        Ok(Change::Added(resource) | Change::Updated(resource) | Change::Removed(resource)) => {
            matches!(resource.kind.as_str(), "address" | "hostname")
        }
        Err(broadcast::error::RecvError::Lagged(_)) => true,
        Err(broadcast::error::RecvError::Closed) => false,
    }
}
