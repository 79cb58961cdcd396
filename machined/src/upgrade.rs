//! Upgrades of the machine: one task owns what is under way. It stages a bundle, judges the
//! release that is on trial, and goes back on request. A client only begins something and
//! watches the resource `upgrade`.

mod disk;
mod gate;
mod loader;
mod memory;
mod publish;
mod record;
mod rollback;
mod source;
mod stage;
mod task;
mod trial;

pub(crate) use disk::table_lock;
pub(crate) use publish::staged;
pub(crate) use source::Upload;

use crate::{
    engine::{Error, Handle},
    facts::Facts,
};
use anyhow::{Context as _, ensure};
use disk::Disk;
use keelson_disk::{bundle::Keys, verity};
use memory::Memory;
use record::{Carried, Release};
use source::Source;
use stage::Running;
use std::{path::Path, sync::Arc, time::SystemTime};
use task::Task;
use tokio::{
    sync::{mpsc, oneshot},
    task::spawn_blocking,
};

/// Where the image has the keys that bundles are signed with.
const KEYS: &str = "/usr/share/keelson/keys";

/// What resources and events are named for.
const SUBJECT: &str = "upgrade";

/// How an upgrade is to go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Wait for a reboot that somebody else asks for.
    pub stage: bool,
    /// Take a version that failed before; do not wait for pods.
    pub force: bool,
}

/// How to go back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Back {
    /// Do not wait for pods.
    pub force: bool,
    /// Restore the snapshot that was taken before the upgrade.
    pub restore_snapshot: bool,
}

/// Asks the task. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Upgrades {
    asks: mpsc::Sender<Ask>,
}

type Reply<T> = oneshot::Sender<Result<T, Error>>;

enum Ask {
    Stage {
        options: Options,
        source: Source,
        by: String,
        /// Told when it is staged where the bytes are sent, else when it has begun.
        reply: Reply<String>,
    },
    Cancel(Reply<()>),
    Rollback {
        back: Back,
        by: String,
        reply: Reply<String>,
    },
    Forgive(String, Reply<()>),
}

impl Upgrades {
    /// Stages a bundle that is sent; the version, once it is staged.
    pub(crate) async fn upload(
        &self,
        options: Options,
        upload: Upload,
        by: String,
    ) -> Result<String, Error> {
        let source = Source::Upload(upload);
        self.ask(|reply| Ask::Stage {
            options,
            source,
            by,
            reply,
        })
        .await
    }

    /// Begins to fetch a bundle.
    pub(crate) async fn pull(
        &self,
        options: Options,
        url: String,
        by: String,
    ) -> Result<(), Error> {
        let source = Source::Url(url);
        self.ask(|reply| Ask::Stage {
            options,
            source,
            by,
            reply,
        })
        .await
        .map(drop)
    }

    /// Ends what is being fetched or written.
    pub(crate) async fn cancel(&self) -> Result<(), Error> {
        self.ask(Ask::Cancel).await
    }

    /// Boots the release in the other slot; its version.
    pub(crate) async fn rollback(&self, back: Back, by: String) -> Result<String, Error> {
        self.ask(|reply| Ask::Rollback { back, by, reply }).await
    }

    /// Forgets that a version failed here.
    pub(crate) async fn forgive(&self, version: String) -> Result<(), Error> {
        self.ask(|reply| Ask::Forgive(version, reply)).await
    }

    async fn ask<T>(&self, ask: impl FnOnce(Reply<T>) -> Ask) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        let gone = || Error::Unavailable("machined is stopping".into());
        self.asks.send(ask(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// Starts the task; it runs until machined ends.
pub(crate) fn start(handle: Handle) -> Upgrades {
    let (asks, inbox) = mpsc::channel(8);
    tokio::spawn(run(handle, inbox));
    Upgrades { asks }
}

async fn run(handle: Handle, mut inbox: mpsc::Receiver<Ask>) {
    match prepare(handle.facts().clone()).await {
        Ok((ground, problem)) => {
            if let Some(problem) = problem {
                handle.journal().say(SUBJECT, problem);
            }
            Task::new(handle, Arc::new(ground)).run(inbox).await;
        }
        Err(error) => {
            let why = format!("this machine cannot be upgraded: {error:#}");
            publish::unable(handle.resources(), &why);
            tracing::info!("{why}");
            while let Some(ask) = inbox.recv().await {
                ask.refuse(Error::FailedPrecondition(why.clone()));
            }
        }
    }
}

impl Ask {
    /// An error only says that the asker does not wait any more.
    fn refuse(self, error: Error) {
        match self {
            Ask::Stage { reply, .. } | Ask::Rollback { reply, .. } => drop(reply.send(Err(error))),
            Ask::Cancel(reply) | Ask::Forgive(_, reply) => drop(reply.send(Err(error))),
        }
    }
}

/// What every upgrade of this machine stands on.
struct Base {
    disk: Disk,
    running: Running,
    /// The running release, as its image says.
    release: Release,
    memory: Memory,
    keys: Keys,
    boot: String,
}

async fn prepare(facts: Facts) -> anyhow::Result<(Base, Option<String>)> {
    spawn_blocking(move || {
        let root_hash = verity::parse_hash(&facts.root_hash)
            .context("the running root is not one that was booted from a slot")?;
        let disk = Disk::new(Path::new(&facts.boot.disk))?;
        let (memory, problem) = Memory::load(disk.clone())?;
        ensure!(
            !facts.boot_id.is_empty(),
            "which boot this is cannot be read"
        );
        let release = &facts.release;
        let base = Base {
            disk,
            running: Running {
                version: release.version.clone(),
                arch: release.arch.clone(),
                variant: release.variant.clone(),
                root_hash,
            },
            release: Release {
                version: release.version.clone(),
                root_hash: facts.root_hash.clone(),
                orchestrator: release.orchestrator.as_ref().map(|it| Carried {
                    name: it.name.clone(),
                    version: it.version.clone(),
                }),
                floor: release.security_floor.clone(),
                staged: 0,
            },
            memory,
            keys: source::keys(Path::new(KEYS))?,
            boot: facts.boot_id.clone(),
        };
        Ok((base, problem))
    })
    .await?
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
