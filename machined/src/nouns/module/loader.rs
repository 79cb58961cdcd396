//! Loads modules beside the passes, one after the other: some take the kernel seconds
//! on a slow machine, and the network need not wait for them. It does not decide what
//! is loaded.

use crate::engine::Wake;
use keelson_sys::module::Index;
use std::{collections::BTreeSet, sync::Arc};
use tokio::sync::{mpsc, watch};

/// The modules that are yet to be loaded. Empty when nothing is going on.
pub(crate) type Loading = watch::Receiver<BTreeSet<String>>;

/// A module that the kernel refused, and why.
pub(super) type Refusal = (String, String);

/// The loader.
pub(super) struct Loader {
    jobs: mpsc::UnboundedSender<(Arc<Index>, String)>,
    loading: watch::Sender<BTreeSet<String>>,
    refusals: mpsc::UnboundedReceiver<Refusal>,
}

impl Loader {
    /// Starts it. The loop is woken when everything asked for was tried.
    pub(super) fn start(wake: Wake) -> Loader {
        let (jobs, asked) = mpsc::unbounded_channel();
        let (told, refusals) = mpsc::unbounded_channel();
        let loading = watch::Sender::default();
        tokio::spawn(work(asked, loading.clone(), told, wake));
        Loader {
            jobs,
            loading,
            refusals,
        }
    }

    /// Loads this one behind those that were asked for before.
    pub(super) fn load(&self, index: Arc<Index>, name: &str) -> anyhow::Result<()> {
        self.loading.send_modify(|loading| {
            loading.insert(name.to_owned());
        });
        self.jobs
            .send((index, name.to_owned()))
            .map_err(|_| anyhow::anyhow!("the loader of modules has ended"))
    }

    /// What is yet to be loaded.
    pub(super) fn loading(&self) -> Loading {
        self.loading.subscribe()
    }

    /// What was refused since the last call.
    pub(super) fn refusals(&mut self) -> Vec<Refusal> {
        std::iter::from_fn(|| self.refusals.try_recv().ok()).collect()
    }
}

async fn work(
    mut asked: mpsc::UnboundedReceiver<(Arc<Index>, String)>,
    loading: watch::Sender<BTreeSet<String>>,
    told: mpsc::UnboundedSender<Refusal>,
    wake: Wake,
) {
    while let Some((index, name)) = asked.recv().await {
        let module = name.clone();
        let result = tokio::task::spawn_blocking(move || index.load(&module, "")).await;
        let refusal = match result {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(format!("{:#}", anyhow::Error::from(error))),
            Err(error) => Some(error.to_string()),
        };
        // Told before it counts as tried: who looks then finds both.
        if let Some(why) = refusal
            && told.send((name.clone(), why)).is_err()
        {
            return;
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
            loader.load(index.clone(), name).unwrap();
        }
        assert_eq!(loader.loading().borrow().len(), 2);
        wake.notified().await;
        assert!(loader.loading().borrow().is_empty());
        let refusals = loader.refusals();
        let names: Vec<&str> = refusals.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["nowhere"]);
        assert!(refusals[0].1.contains("cannot open"), "{refusals:?}");
    }
}
