//! Loads modules beside the passes, one after the other: some take the kernel seconds
//! on a slow machine, and the network need not wait for them. It does not decide what
//! is loaded.

use crate::engine::Wake;
use keelson_sys::module::{Index, Parameters};
use std::{collections::BTreeSet, sync::Arc};
use tokio::sync::{mpsc, watch};

/// The modules that are yet to be loaded. Empty when nothing is going on.
pub(crate) type Loading = watch::Receiver<BTreeSet<String>>;

/// What came of loading a module.
#[derive(Debug)]
pub(super) enum Told {
    /// The kernel refused it, and why.
    Refused(String, String),
    /// It was inserted, with what these say.
    Loaded(String, Arc<Parameters>),
}

/// One module to load.
struct Job {
    index: Arc<Index>,
    name: String,
    given: Arc<Parameters>,
}

/// The loader.
pub(super) struct Loader {
    jobs: mpsc::UnboundedSender<Job>,
    loading: watch::Sender<BTreeSet<String>>,
    told: mpsc::UnboundedReceiver<Told>,
}

impl Loader {
    /// Starts it. The loop is woken when everything asked for was tried.
    pub(super) fn start(wake: Wake) -> Loader {
        let (jobs, asked) = mpsc::unbounded_channel();
        let (tell, told) = mpsc::unbounded_channel();
        let loading = watch::Sender::default();
        tokio::spawn(work(asked, loading.clone(), tell, wake));
        Loader {
            jobs,
            loading,
            told,
        }
    }

    /// Loads this one behind those that were asked for before; it and what it needs are
    /// given their parameters.
    pub(super) fn load(
        &self,
        index: Arc<Index>,
        name: &str,
        given: Arc<Parameters>,
    ) -> anyhow::Result<()> {
        self.loading.send_modify(|loading| {
            loading.insert(name.to_owned());
        });
        self.jobs
            .send(Job {
                index,
                name: name.to_owned(),
                given,
            })
            .map_err(|_| anyhow::anyhow!("the loader of modules has ended"))
    }

    /// What is yet to be loaded.
    pub(super) fn loading(&self) -> Loading {
        self.loading.subscribe()
    }

    /// What came of it since the last call.
    pub(super) fn told(&mut self) -> Vec<Told> {
        std::iter::from_fn(|| self.told.try_recv().ok()).collect()
    }
}

async fn work(
    mut asked: mpsc::UnboundedReceiver<Job>,
    loading: watch::Sender<BTreeSet<String>>,
    tell: mpsc::UnboundedSender<Told>,
    wake: Wake,
) {
    while let Some(Job { index, name, given }) = asked.recv().await {
        let (module, with) = (name.clone(), given.clone());
        let work = move || {
            let mut inserted = Vec::new();
            let result = index.load_with(&module, &with, &mut inserted);
            (result, inserted)
        };
        let (refusal, inserted) = match tokio::task::spawn_blocking(work).await {
            Ok((Ok(_), inserted)) => (None, inserted),
            Ok((Err(error), inserted)) => {
                (Some(format!("{:#}", anyhow::Error::from(error))), inserted)
            }
            Err(error) => (Some(error.to_string()), Vec::new()),
        };
        let loaded = inserted
            .into_iter()
            .map(|name| Told::Loaded(name, given.clone()));
        let refused = refusal.map(|why| Told::Refused(name.clone(), why));
        // Told before it counts as tried: who looks then finds both.
        for told in loaded.chain(refused) {
            if tell.send(told).is_err() {
                return;
            }
        }
        loading.send_modify(|loading| {
            loading.remove(&name);
        });
        if loading.borrow().is_empty() {
            wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_asked_hears_what_was_refused_and_the_loop_is_woken() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("modules.dep"), "kernel/net/nowhere.ko:\n").unwrap();
        std::fs::write(dir.path().join("modules.builtin"), "kernel/net/there.ko\n").unwrap();
        let index = Arc::new(Index::open(dir.path()).unwrap());
        let wake = Wake::default();
        let mut loader = Loader::start(wake.clone());
        for name in ["there", "nowhere"] {
            loader.load(index.clone(), name, Arc::default()).unwrap();
        }
        assert_eq!(loader.loading().borrow().len(), 2);
        wake.notified().await;
        assert!(loader.loading().borrow().is_empty());
        let told = loader.told();
        let [Told::Refused(name, why)] = &told[..] else {
            panic!("{told:?}");
        };
        assert_eq!(name, "nowhere");
        assert!(why.contains("cannot open"), "{why}");
    }
}
