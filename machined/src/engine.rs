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
//! by `orchestrator.rs`, the end of the machine's run by `ending.rs` and `power.rs`, each
//! a task.

mod apply;
mod certify;
mod check;
mod ending;
mod handle;
mod pass;
mod pending;
#[cfg(test)]
mod tests;
mod uevent;
mod views;

pub(crate) use handle::{Apply, End, Error, Handle, Power};
pub(crate) use pass::{Outcome, Wanted};
pub(crate) use pending::{DEFAULT_TRY, Mode};

use crate::{
    acquire::Platform,
    cluster,
    console::Console,
    crashlog,
    events::Events,
    facts::Facts,
    forward, health,
    identity::{self, Credentials, Identity},
    initclient::{Init, InitEvent},
    noun::{Noun as _, Reconcile},
    nouns::{
        module,
        volume::{Availability, Volume},
    },
    orchestrator::{self, Orchestrator, payload::Payload},
    resource::{Change, Store},
    service,
    store::{Configs, Stored},
};
use handle::{Command, Shared};
use keelson_api::{init as proto, v1};
use keelson_config::Machine;
use pass::{Passes, Question};
use pending::Pending;
use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    sync::{Notify, broadcast, mpsc, watch},
    task::AbortHandle,
    time::{MissedTickBehavior, interval, sleep},
};

/// Wakes the loop: whoever sees that the machine may have changed calls
/// `notify_one`. Many wakes before a pass are one pass.
pub(crate) type Wake = Arc<Notify>;

/// Where STATE is mounted.
const STATE: &str = "/system/state";

/// How long the partition of STATE is waited for: without it a configured machine cannot be
/// told from one that waits for its first config.
const DISK_PATIENCE: Duration = Duration::from_secs(60);

/// How often the owner looks at what tells nobody: the clock, STATE.
const EVERY: Duration = Duration::from_secs(10);

/// How often init is told that this loop goes round. After a minute without a word init
/// starts machined again.
const ALIVE: Duration = Duration::from_secs(5);

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
    /// Where the machine's id goes: the nouns read it there.
    pub machine_id: watch::Sender<String>,
    /// The orchestrator in the image.
    pub payload: Option<Arc<Payload>>,
    /// Who has the address that the servers share.
    pub shared: cluster::share::Shared,
    /// Where the person at the machine is told what it waits for.
    pub console: Console,
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
        console,
        machine_id,
        payload,
        shared,
        mut nouns,
    } = setup;
    let (handle, mut engine, inbox) = Engine::new(Ground {
        facts,
        init,
        resources,
        events,
        console,
        machine_id,
        payload,
    })?;
    engine.platform = Some(Platform::default());
    tokio::spawn(async move {
        // Without a boot record nobody knows which disk to wait for.
        let known = !engine.facts.boot.disk.is_empty();
        let patience = if known { DISK_PATIENCE } else { Duration::ZERO };
        let state = mount_state(&mut nouns.volume, patience).await;
        engine.open(state);
        // Before the network: what the platform offers wins over whoever calls first.
        if engine.config.borrow().is_none() {
            module::coldplug().await;
        }
        engine.look_at_platform().await;
        let running = engine.start_tasks(nouns, wake, shared);
        engine.go_on_ending(&running);
        engine.run(inbox, running).await;
    });
    Ok(handle)
}

/// Mounts STATE, and formats it if it is empty; its place, or why it is not there.
async fn mount_state(volume: &mut Volume, patience: Duration) -> Result<PathBuf, String> {
    let end = Instant::now() + patience;
    loop {
        let problem = match try_state(volume).await {
            Ok(()) => return Ok(STATE.into()),
            Err(problem) => problem,
        };
        if Instant::now() >= end {
            return Err(problem);
        }
        sleep(Duration::from_millis(250)).await;
    }
}

/// Takes every step that STATE needs; why it is not mounted afterwards.
async fn try_state(volume: &mut Volume) -> Result<(), String> {
    let anything = Machine::maintenance();
    // A step may make others possible: format, then mount, then make its folders.
    for _ in 0..4 {
        let have = volume
            .observe(&anything)
            .await
            .map_err(|error| format!("{error:#}"))?;
        let steps = volume.plan(&have, &anything);
        let mut taken = false;
        for step in steps.iter().filter(|step| step.is_of_state()) {
            taken = true;
            volume
                .apply(step)
                .await
                .map_err(|error| format!("could not {step}: {error:#}"))?;
        }
        if !taken {
            break;
        }
    }
    match &volume.volumes().borrow().state {
        Availability::Mounted => Ok(()),
        Availability::Unavailable(why) => Err(why.clone()),
        Availability::Unknown => Err("nobody has looked for it".into()),
    }
}

/// What the owner stands on.
struct Ground {
    facts: Facts,
    init: Init,
    resources: Arc<Store>,
    events: Arc<Events>,
    console: Console,
    machine_id: watch::Sender<String>,
    payload: Option<Arc<Payload>>,
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
    /// What the platform offers; `None` where it is not asked.
    platform: Option<Platform>,
    console: Console,
    config: watch::Sender<Option<Arc<Stored>>>,
    wanted: watch::Sender<Wanted>,
    pending: watch::Sender<Pending>,
    services: watch::Sender<Arc<Vec<v1::Service>>>,
    health: watch::Sender<Arc<Vec<v1::HealthCheck>>>,
    credentials: watch::Sender<Option<Arc<Credentials>>>,
    machine_id: watch::Sender<String>,
    /// What was written to the console last.
    greeting: String,
    /// Why the certificate could not be made, if it was told.
    certificate_problem: Option<String>,
    /// When machined was started.
    started: Instant,
    /// The machine goes down; it may still be called off.
    ending: Arc<AtomicBool>,
}

/// The tasks beside the owner.
struct Running {
    questions: mpsc::Sender<Question>,
    outcome: watch::Receiver<Outcome>,
    orchestrator: Orchestrator,
    volumes: watch::Receiver<crate::nouns::volume::Volumes>,
    /// What puts the node back into service.
    returning: AbortHandle,
}

impl Engine {
    fn new(ground: Ground) -> anyhow::Result<(Handle, Self, mpsc::Receiver<Command>)> {
        let Ground {
            facts,
            init,
            resources,
            events,
            console,
            machine_id,
            payload,
        } = ground;
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
            platform: None,
            console,
            config: watch::Sender::new(None),
            wanted: watch::Sender::new(Wanted {
                generation: 0,
                machine,
            }),
            pending: watch::Sender::default(),
            services: watch::Sender::default(),
            health: watch::Sender::default(),
            credentials: watch::Sender::new(None),
            machine_id,
            greeting: String::new(),
            certificate_problem: None,
            started: Instant::now(),
            ending: Arc::default(),
            facts,
        };
        let shared = Shared {
            facts: engine.facts.clone(),
            resources: engine.resources.clone(),
            events: engine.events.clone(),
            payload: engine.payload.clone(),
            config: engine.config.subscribe(),
            pending: engine.pending.subscribe(),
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
                let configs = Configs::new(dir.join("config"), &self.facts.release.version);
                match configs.switch_to_staged(&self.facts.boot_id) {
                    Ok(None) => {}
                    Ok(Some(generation)) => self.events.say(
                        "config",
                        format!("generation {generation} waited for this boot"),
                    ),
                    Err(why) => self.events.say("config", why),
                }
                let staged = configs.staged();
                self.pending.send_modify(|pending| pending.staged = staged);
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
        self.machine_id.send_replace(id);
        self.certify();
        // A configured machine has nothing to say before it has its name and address.
        if self.config.borrow().is_none() {
            self.greet();
        }
    }

    /// Starts what keeps the nouns, the orchestrator, the services and the checks.
    fn start_tasks(&self, nouns: Nouns, wake: Wake, shared: cluster::share::Shared) -> Running {
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
        tokio::spawn(crashlog::keep(
            volumes.clone(),
            self.resources.clone(),
            self.events.clone(),
        ));
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
        tokio::spawn(forward::keep(
            self.wanted.subscribe(),
            views::logs(self.payload.as_deref()),
            self.resources.clone(),
        ));
        tokio::spawn(cluster::share::keep(cluster::share::Ground {
            shared,
            wanted: self.wanted.subscribe(),
            orchestrator: orchestrator.clone(),
            ending: self.ending.clone(),
            events: self.events.clone(),
        }));
        let returning = cluster::keep_in_service(orchestrator.clone(), self.events.clone());
        Running {
            returning: tokio::spawn(returning).abort_handle(),
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
        let mut alive = interval(ALIVE);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let trial = self.pending.borrow().tried.as_ref().map(|it| it.deadline);
            tokio::select! {
                () = pending::end_of(trial) => {
                    self.end_trial("nobody confirmed the config that was tried");
                }
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
                    self.greet();
                    self.look_at_platform().await;
                }
                Ok(()) = running.volumes.changed() => self.state_again(&mut running.volumes),
                Ok(event) = init.recv() => if let InitEvent::PowerKey(action) = event {
                    self.key_pressed(action, &running);
                },
                _ = timer.tick() => self.certify(),
                // From here and from nowhere else: were this loop stuck, nobody would say so.
                _ = alive.tick() => self.init.alive(),
            }
        }
    }

    async fn command(&mut self, command: Command, running: &Running) {
        // An error only says that the asker does not wait any more.
        match command {
            Command::Apply(apply, reply) => {
                drop(reply.send(self.apply(apply, Some(running)).await))
            }
            Command::Confirm(source, reply) => {
                drop(reply.send(self.confirm(source, running).await))
            }
            Command::Revert(source, reply) => drop(reply.send(self.revert(&source).await)),
            Command::Restart(name, reply) => drop(reply.send(self.restart(&name, running).await)),
            Command::Power { end, source, reply } => self.power(end, &source, reply, running),
        }
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

    /// STATE was not there, and now it may be.
    fn state_again(&mut self, volumes: &mut watch::Receiver<crate::nouns::volume::Volumes>) {
        let mounted = volumes.borrow_and_update().state == Availability::Mounted;
        if mounted && self.configs.is_err() {
            self.open(Ok(STATE.into()));
        }
    }

    fn now(&self) -> SystemTime {
        identity::sane(SystemTime::now(), self.facts.release.build_time)
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
