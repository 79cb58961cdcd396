//! The task that owns what is under way: it takes what is asked one after the other, runs
//! one job beside itself at most, and says at a boot what became of the one before.

use super::{
    Ask, Back, Base, Options, Reply, SUBJECT,
    loader::{self, Loader as _},
    now, publish,
    record::{self, Arrival, Release, Start, State, Tries, Words},
    rollback,
    source::Source,
    stage::{self, Ground, Progress},
    trial,
};
use crate::{
    cluster::{access, node},
    crashlog,
    engine::{End, Error, Handle, Power},
    events::Events,
};
use keelson_config::Egress;
use keelson_disk::verity;
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::spawn_blocking,
    time::sleep,
};

/// A release that nobody remembers to have staged is looked for this long after the start:
/// by then nothing waits for the disk any more.
const SECOND_LOOK: Duration = Duration::from_secs(45);

/// How long the logs of crashes may take to be collected: DATA is mounted before that.
const WORDS: Duration = Duration::from_secs(30);

/// What is staged at the moment.
struct Job {
    options: Options,
    by: String,
    cancelled: Arc<AtomicBool>,
}

pub(super) struct Task {
    handle: Handle,
    base: Arc<Base>,
    progress: watch::Sender<Option<Progress>>,
    job: Option<Job>,
    /// Ended jobs: the job's own reply, if it waits for the end, and what came of it.
    done: mpsc::Sender<(Option<Reply<String>>, anyhow::Result<Release>)>,
    ended: mpsc::Receiver<(Option<Reply<String>>, anyhow::Result<Release>)>,
}

impl Task {
    pub(super) fn new(handle: Handle, base: Arc<Base>) -> Self {
        let (done, ended) = mpsc::channel(2);
        Task {
            handle,
            base,
            progress: watch::Sender::new(None),
            job: None,
            done,
            ended,
        }
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Ask>) {
        publish::keep(
            self.handle.resources().clone(),
            self.base.clone(),
            self.progress.subscribe(),
        );
        self.arrive().await;
        loop {
            tokio::select! {
                ask = inbox.recv() => match ask {
                    Some(ask) => self.asked(ask).await,
                    None => return,
                },
                Some((reply, outcome)) = self.ended.recv() => self.finished(reply, outcome).await,
            }
        }
    }

    /// What the boot that has just happened says of what was under way.
    async fn arrive(&mut self) {
        let (base, events) = (self.base.clone(), self.events());
        let interrupted = self.base.memory.read().state;
        let words = self.last_words(&interrupted).await;
        let arrived = spawn_blocking(move || arrive(&base, &words)).await;
        match arrived.map_err(anyhow::Error::from).flatten() {
            Ok(Arrival::OnTrial) => self.try_it(),
            Ok(Arrival::Ended) => {
                if let Some(last) = self.base.memory.read().last {
                    let version = &last.version;
                    events.say(
                        SUBJECT,
                        format!("{version} is not what runs: {}", last.reason),
                    );
                }
            }
            Ok(Arrival::Waits) => events.say(SUBJECT, "what is staged waits for a reboot"),
            Ok(Arrival::Nothing) => self.look_again(),
            Err(error) => events.say(
                SUBJECT,
                format!("what was under way is not known: {error:#}"),
            ),
        }
        // machined alone was started again: what it fetched itself it can fetch again.
        if let State::Writing {
            url: Some(url),
            stage,
            boot,
            ..
        } = interrupted
            && boot == self.base.boot
        {
            let options = Options {
                stage,
                force: false,
            };
            let by = "machined, which was started again".to_owned();
            self.stage(options, Source::Url(url), by, oneshot::channel().0);
        }
    }

    /// What a release that should have been tried, and does not run, left of its crash.
    async fn last_words(&self, state: &State) -> Words {
        let release = match state {
            State::Staged { release } | State::Trying { release, .. } => release,
            State::Idle | State::Writing { .. } | State::Unknown => return Words::default(),
        };
        if release.root_hash == verity::hex(&self.base.running.root_hash) {
            return Words::default();
        }
        let patience = Instant::now() + WORDS;
        while !crashlog::is_collected() && Instant::now() < patience {
            sleep(Duration::from_millis(250)).await;
        }
        let staged = release.staged;
        let newest = spawn_blocking(move || {
            let kept = crashlog::kept(Path::new(crashlog::KEPT));
            let since = SystemTime::UNIX_EPOCH + Duration::from_secs(staged);
            kept.into_iter().find(|crash| crash.time >= since)
        });
        match newest.await {
            Ok(Some(crash)) => Words {
                summary: crash.summary().to_owned(),
                lines: crash.last_lines(record::LAST_LINES),
            },
            Ok(None) => Words::default(),
            Err(error) => {
                tracing::error!("reading the logs of crashes: {error}");
                Words::default()
            }
        }
    }

    fn try_it(&self) {
        let text = format!("{} is on trial", self.base.running.version);
        self.events().say(SUBJECT, text);
        tokio::spawn(trial::run(self.handle.clone(), self.base.clone()));
    }

    /// A record can be lost, and the count of tries with it not: then the running release
    /// would be taken away after some boots, though it is well.
    fn look_again(&self) {
        let (handle, base) = (self.handle.clone(), self.base.clone());
        tokio::spawn(async move {
            sleep(SECOND_LOOK).await;
            let look = base.clone();
            let counted = spawn_blocking(move || {
                look.disk.with_loader(|loader| {
                    let entries = loader.entries()?;
                    let own = loader::find(&entries, &look.running.root_hash);
                    Ok(own.is_some_and(|own| own.tries != Tries::Uncounted))
                })
            });
            match counted.await.map_err(anyhow::Error::from).flatten() {
                Ok(true) => trial::run(handle, base).await,
                Ok(false) => {}
                Err(error) => tracing::warn!("looking at the boot loader's entries: {error:#}"),
            }
        });
    }

    fn events(&self) -> Arc<Events> {
        self.handle.journal()
    }

    async fn asked(&mut self, ask: Ask) {
        match ask {
            Ask::Stage {
                options,
                source,
                by,
                reply,
            } => match self.refusal() {
                Some(why) => drop(reply.send(Err(Error::FailedPrecondition(why)))),
                None => self.stage(options, source, by, reply),
            },
            Ask::Cancel(reply) => {
                let answer = match &self.job {
                    Some(job) => {
                        job.cancelled.store(true, Ordering::Relaxed);
                        Ok(())
                    }
                    None => Err(Error::FailedPrecondition(
                        "no upgrade is being written".into(),
                    )),
                };
                drop(reply.send(answer));
            }
            Ask::Rollback { back, by, reply } => {
                let answer = match self.refusal() {
                    Some(why) => Err(Error::FailedPrecondition(why)),
                    None => self.rollback(back, &by).await,
                };
                drop(reply.send(answer));
            }
            Ask::Forgive(version, reply) => drop(reply.send(self.forgive(version).await)),
        }
    }

    /// Why nothing can be begun now.
    fn refusal(&self) -> Option<String> {
        let job = self.job.as_ref()?;
        let progress = self.progress.borrow();
        Some(match &*progress {
            Some(it) => format!(
                "an upgrade to {}, begun by {}, is at it: {} {} of {} MiB; `osctl get upgrade --watch` shows it",
                it.version,
                job.by,
                it.step.word(),
                it.done >> 20,
                it.total >> 20
            ),
            None => format!("an upgrade begun by {} is at it", job.by),
        })
    }

    fn stage(&mut self, options: Options, source: Source, by: String, reply: Reply<String>) {
        let cancelled = Arc::new(AtomicBool::new(false));
        let url = source.url();
        // Where the machine fetches, nobody waits for the end.
        let waiting = match url {
            None => Some(reply),
            Some(_) => {
                drop(reply.send(Ok(String::new())));
                None
            }
        };
        self.events()
            .say(SUBJECT, format!("begun by {by}{}", source.said()));
        self.progress.send_replace(None);
        self.job = Some(Job {
            options,
            by,
            cancelled: cancelled.clone(),
        });
        let (base, progress, done) = (self.base.clone(), self.progress.clone(), self.done.clone());
        let config = self.handle.config();
        let egress = config.map_or_else(Egress::default, |it| it.machine.egress.clone());
        tokio::spawn(async move {
            let staged = spawn_blocking(move || {
                let ground = Ground {
                    disk: &base.disk,
                    running: &base.running,
                    keys: &base.keys,
                    memory: &base.memory,
                    force: options.force,
                    waits: options.stage,
                    url,
                    boot: base.boot.clone(),
                    progress: &progress,
                    cancelled: &cancelled,
                };
                let release = stage::stage(source.open(&egress)?, &ground)?;
                base.memory
                    .change(|record| record.previous = Some(base.release.clone()))?;
                Ok(release)
            });
            let outcome = staged.await.map_err(anyhow::Error::from).flatten();
            // An error says that machined ends.
            drop(done.send((waiting, outcome)).await);
        });
    }

    async fn finished(&mut self, reply: Option<Reply<String>>, outcome: anyhow::Result<Release>) {
        let Some(job) = self.job.take() else { return };
        let answer = match outcome {
            // How long each part took is shown until the machine reboots.
            Ok(release) => self.staged(release.version, &job).await,
            Err(error) => {
                self.progress.send_replace(None);
                self.events().say(SUBJECT, format!("not staged: {error:#}"));
                if reply.is_none() {
                    self.remember(format!("{error:#}")).await;
                }
                Err(Error::FailedPrecondition(format!("{error:#}")))
            }
        };
        if let Some(reply) = reply {
            drop(reply.send(answer));
        }
    }

    /// Nobody waits for the answer of a job that fetches: who asks later must find it.
    async fn remember(&self, why: String) {
        let base = self.base.clone();
        let noted = spawn_blocking(move || {
            base.memory.change(|record| {
                let told = |last: &record::Past| last.reason == why;
                if !record.last.as_ref().is_some_and(told) {
                    record.refuse(why.as_str(), now());
                }
            })
        });
        if let Err(error) = noted.await.map_err(anyhow::Error::from).flatten() {
            tracing::warn!("remembering why nothing was staged: {error:#}");
        }
    }

    /// Reboots into what is staged, unless it shall wait.
    async fn staged(&self, version: String, job: &Job) -> Result<String, Error> {
        if job.options.stage {
            let text = format!("{version} is staged: the next reboot tries it");
            self.events().say(SUBJECT, text);
            return Ok(version);
        }
        self.events().say(SUBJECT, format!("{version} is staged"));
        let end = End {
            action: Power::Reboot,
            force: job.options.force,
            snapshot_for: (!job.options.force).then(|| version.clone()),
        };
        let source = format!("the upgrade to {version}, begun by {}", job.by);
        match self.handle.power(end, source).await {
            Ok(()) => Ok(version),
            Err(error) => {
                let text = format!("{version} is staged, and the machine did not reboot: {error}");
                self.events().say(SUBJECT, text.as_str());
                Err(Error::FailedPrecondition(text))
            }
        }
    }

    /// How many servers the cluster has, or why nobody knows.
    async fn servers(&self) -> Result<usize, String> {
        let Some(payload) = self.handle.payload() else {
            return Ok(0);
        };
        let client = access::client(&payload.data_dir, access::Role::Server)
            .map_err(|error| format!("{error:#}"))?;
        node::servers(&client)
            .await
            .map_err(|error| error.to_string())
    }

    async fn rollback(&self, back: Back, by: &str) -> Result<String, Error> {
        if back.restore_snapshot
            && let Some(why) = rollback::not_restorable(self.servers().await, back.force)
        {
            return Err(Error::FailedPrecondition(why));
        }
        let (base, who) = (self.base.clone(), by.to_owned());
        let version = spawn_blocking(move || rollback::prepare(&base, back, &who))
            .await
            .map_err(|error| Error::Internal(error.to_string()))?
            .map_err(|error| Error::FailedPrecondition(format!("{error:#}")))?;
        let reason = format!("the rollback to {version}, asked for by {by}");
        self.events().say(SUBJECT, reason.as_str());
        let end = End {
            action: Power::Reboot,
            force: back.force,
            snapshot_for: None,
        };
        self.handle.power(end, reason).await?;
        Ok(version)
    }

    async fn forgive(&self, version: String) -> Result<(), Error> {
        let base = self.base.clone();
        spawn_blocking(move || {
            let mut known = false;
            base.memory
                .change(|record| known = record.forgive(&version))?;
            Ok::<_, anyhow::Error>(known.then_some(()).ok_or(version))
        })
        .await
        .map_err(anyhow::Error::from)
        .flatten()
        .map_err(|error| Error::Internal(format!("{error:#}")))?
        .map_err(|version| Error::NotFound(format!("the version {version} has not failed here")))
    }
}

/// Brings the record up to date after a boot.
fn arrive(base: &Base, crash: &Words) -> anyhow::Result<Arrival> {
    let record = base.memory.read();
    let of = match &record.state {
        State::Staged { release } | State::Trying { release, .. } => {
            Some(release.root_hash.clone())
        }
        State::Writing { .. } => None,
        State::Idle | State::Unknown => return Ok(Arrival::Nothing),
    };
    let tries = base.disk.with_loader(|loader| {
        // Nobody writes now: what is partial was cut off.
        loader.clean()?;
        let entries = loader.entries()?;
        let hash = of.as_deref().and_then(verity::parse_hash);
        Ok(hash
            .and_then(|hash| loader::find(&entries, &hash).map(|entry| entry.tries))
            .unwrap_or(Tries::NoEntry))
    })?;
    let running = verity::hex(&base.running.root_hash);
    let mut arrival = Arrival::Nothing;
    base.memory.change(|record| {
        arrival = record::arrive(
            record,
            &Start {
                running: &running,
                boot: &base.boot,
                tries,
                crash,
                now: now(),
            },
        );
    })?;
    Ok(arrival)
}
