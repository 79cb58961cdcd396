//! What every part of the machine that is kept in order has in common: it is
//! observed, a pure plan says which steps are missing, the steps are taken, and
//! what came of it is published. The loop that calls this is `engine.rs`.

use crate::resource::{Phase, Resource, Store};
use keelson_config::Machine;
use std::{fmt, future::Future, pin::Pin, time::Instant};

/// One noun: a part of the machine that follows from the config.
pub(crate) trait Noun: Send + 'static {
    /// What it publishes, lower case and singular: "sysctl", "address".
    const KIND: &'static str;
    /// What it reads from the machine.
    type Have: Send;
    /// One missing step. `Display` says it in words: "set vm.max_map_count to 262144".
    type Step: fmt::Display + Send + Sync;

    /// Reads the machine. Never trusts that an earlier look still holds.
    fn observe(
        &mut self,
        want: &Machine,
    ) -> impl Future<Output = anyhow::Result<Self::Have>> + Send;

    /// Says which steps are missing. No input or output; the noun's own table of
    /// leases or the like may be read.
    fn plan(&self, have: &Self::Have, want: &Machine) -> Vec<Self::Step>;

    /// Takes one step.
    fn apply(&mut self, step: &Self::Step) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// What to publish about what was observed: all resources of [`Noun::KIND`].
    fn publish(&self, have: &Self::Have, want: &Machine) -> Vec<Resource>;

    /// When to look again even if nothing wakes the loop.
    fn deadline(&self) -> Option<Instant> {
        None
    }
}

/// What came of one pass over a noun.
#[derive(Debug, Default)]
pub(crate) struct Pass {
    /// The steps that were taken, in words.
    pub taken: Vec<String>,
    /// The steps that failed, and why.
    pub failed: Vec<(String, anyhow::Error)>,
}

/// A noun with its types erased, so that the engine can hold a list of them.
pub(crate) trait Reconcile: Send {
    /// The noun's kind.
    fn kind(&self) -> &'static str;
    /// Says which steps are missing, and takes none.
    fn dry_run<'a>(&'a mut self, want: &'a Machine) -> Boxed<'a, anyhow::Result<Vec<String>>>;
    /// Observes, plans, takes every step, observes again and publishes.
    fn reconcile<'a>(&'a mut self, want: &'a Machine, store: &'a Store) -> Boxed<'a, Pass>;
    /// When to look again even if nothing wakes the loop.
    fn deadline(&self) -> Option<Instant>;
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl<N: Noun> Reconcile for N {
    fn kind(&self) -> &'static str {
        N::KIND
    }

    fn dry_run<'a>(&'a mut self, want: &'a Machine) -> Boxed<'a, anyhow::Result<Vec<String>>> {
        Box::pin(async move {
            let have = self.observe(want).await?;
            Ok(self
                .plan(&have, want)
                .iter()
                .map(ToString::to_string)
                .collect())
        })
    }

    fn reconcile<'a>(&'a mut self, want: &'a Machine, store: &'a Store) -> Boxed<'a, Pass> {
        Box::pin(async move {
            let mut pass = Pass::default();
            let have = match self.observe(want).await {
                Ok(have) => have,
                Err(error) => {
                    publish_failure(N::KIND, &error, store);
                    pass.failed.push((format!("observe {}", N::KIND), error));
                    return pass;
                }
            };
            let steps = self.plan(&have, want);
            for step in &steps {
                match self.apply(step).await {
                    Ok(()) => pass.taken.push(step.to_string()),
                    Err(error) => pass.failed.push((step.to_string(), error)),
                }
            }
            let after = if steps.is_empty() {
                Ok(have)
            } else {
                self.observe(want).await
            };
            match after {
                Ok(have) => {
                    let mut resources = self.publish(&have, want);
                    if let Some((step, error)) = pass.failed.first() {
                        resources.push(failure(N::KIND, &format!("could not {step}: {error:#}")));
                    }
                    store.replace(N::KIND, resources);
                }
                Err(error) => {
                    publish_failure(N::KIND, &error, store);
                    pass.failed.push((format!("observe {}", N::KIND), error));
                }
            }
            pass
        })
    }

    fn deadline(&self) -> Option<Instant> {
        Noun::deadline(self)
    }
}

/// Keeps what was published before and adds why it could not be read now.
fn publish_failure(kind: &'static str, error: &anyhow::Error, store: &Store) {
    let mut resources = store.list(kind);
    resources.retain(|r| r.name != FAILURE);
    resources.push(failure(kind, &format!("could not be read: {error:#}")));
    store.replace(kind, resources);
}

/// The name of the resource that says why a noun is not as wanted.
const FAILURE: &str = "(error)";

fn failure(kind: &str, message: &str) -> Resource {
    Resource::new(kind, FAILURE, Phase::Failed).message(message)
}
