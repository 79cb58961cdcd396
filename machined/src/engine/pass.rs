//! Keeps the machine as wanted: goes over the nouns in their fixed order, again and
//! again, and tells what came of it. Wakes on a new config, a kernel event, a noun's
//! own task or a timer. It owns the nouns; it does not know what they do.

use crate::{
    engine::Wake,
    events::Events,
    noun::{Pass, Reconcile},
    power::ANSWER,
    resource::Store,
};
use keelson_api::v1;
use keelson_config::Machine;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{sleep, sleep_until, timeout},
};

/// The longest time between two looks at the machine.
const TIMER: Duration = Duration::from_secs(60);

/// What a burst of wakes is gathered for, and the least time between two passes.
const GATHER: Duration = Duration::from_millis(100);

/// More steps than these are not told one by one.
const MANY: usize = 6;

/// What takes longer than this is told.
const SLOW: Duration = Duration::from_secs(30);

/// A noun that failed is tried again after this, then after twice as long, …
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// … up to this.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Asks which steps a config would take.
pub(super) struct Question {
    /// The config.
    pub machine: Arc<Machine>,
    /// Where the steps go.
    pub reply: oneshot::Sender<Vec<v1::PlannedStep>>,
}

/// What came of the last pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// How many passes there have been.
    pub passes: u64,
    /// The generation of the config that it was for; 0 in maintenance.
    pub generation: u64,
    /// The nouns that are not as wanted, each with what failed.
    pub failures: BTreeMap<&'static str, String>,
}

/// What the nouns are kept to.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The generation of the config; 0 in maintenance.
    pub generation: u64,
    /// What it means.
    pub machine: Arc<Machine>,
}

/// The loop over the nouns.
pub(super) struct Passes {
    /// In the order to go over them.
    pub nouns: Vec<Box<dyn Reconcile>>,
    pub wanted: watch::Receiver<Wanted>,
    pub wake: Wake,
    pub questions: mpsc::Receiver<Question>,
    pub resources: Arc<Store>,
    pub events: Arc<Events>,
    pub outcome: watch::Sender<Outcome>,
}

impl Passes {
    /// Goes over the nouns until nobody wants anything any more.
    pub(super) async fn run(mut self) {
        let mut retries = Retries::default();
        let mut before: Option<Arc<Machine>> = None;
        loop {
            let mut wanted = self.wanted.borrow_and_update().clone();
            let fresh = before
                .as_ref()
                .is_none_or(|before| !Arc::ptr_eq(before, &wanted.machine));
            if fresh && before.is_some() {
                // It may cut off the one who sent it, who is answered first.
                self.answer_for(ANSWER).await;
                wanted = self.wanted.borrow_and_update().clone();
            }
            before = Some(wanted.machine.clone());
            self.pass(&wanted, &mut retries, fresh).await;
            let deadline = self.deadline(&retries, Instant::now());
            // Gathers what wakes together, and bounds how often a noun that wakes itself runs.
            self.answer_for(GATHER).await;
            loop {
                tokio::select! {
                    () = self.wake.notified() => break,
                    changed = self.wanted.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return,
                    },
                    () = sleep_until(deadline.into()) => break,
                    question = self.questions.recv() => match question {
                        Some(question) => self.answer(question).await,
                        None => return,
                    },
                }
            }
        }
    }

    /// One pass. Questions are answered between two nouns, not after the last. For a config
    /// that is fresh nothing waits for its next try.
    async fn pass(&mut self, wanted: &Wanted, retries: &mut Retries, fresh: bool) {
        let mut failures = self.outcome.borrow().failures.clone();
        for index in 0..self.nouns.len() {
            while let Ok(question) = self.questions.try_recv() {
                self.answer(question).await;
            }
            let noun = &mut self.nouns[index];
            let kind = noun.kind();
            if !fresh && !retries.due(kind, Instant::now()) {
                continue;
            }
            let Pass { taken, failed } = {
                let work = noun.reconcile(&wanted.machine, &self.resources);
                patiently(work, kind, &self.events).await
            };
            tell(&self.events, kind, &taken);
            let failure = failed
                .first()
                .map(|(step, error)| format!("could not {step}: {error:#}"));
            match failure {
                Some(failure) => {
                    retries.failed(kind, Instant::now());
                    if failures.get(kind) != Some(&failure) {
                        self.events.say(kind, failure.as_str());
                    }
                    failures.insert(kind, failure);
                }
                None => {
                    retries.succeeded(kind);
                    if failures.remove(kind).is_some() {
                        self.events.say(kind, "as wanted again");
                    }
                }
            }
        }
        self.outcome.send_modify(|outcome| {
            outcome.passes += 1;
            outcome.generation = wanted.generation;
            outcome.failures = failures;
        });
    }

    /// Answers questions for a while.
    async fn answer_for(&mut self, while_: Duration) {
        let end = sleep(while_);
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => return,
                Some(question) = self.questions.recv() => self.answer(question).await,
            }
        }
    }

    async fn answer(&mut self, question: Question) {
        let mut steps = Vec::new();
        for noun in &mut self.nouns {
            let kind = noun.kind();
            match noun.dry_run(&question.machine).await {
                Ok(missing) => {
                    steps.extend(missing.into_iter().map(|step| v1::PlannedStep {
                        noun: kind.to_owned(),
                        step,
                    }));
                }
                Err(error) => tracing::warn!("planning {kind}: {error:#}"),
            }
        }
        // An error only says that the asker does not wait any more.
        drop(question.reply.send(steps));
    }

    fn deadline(&self, retries: &Retries, now: Instant) -> Instant {
        let nouns = self.nouns.iter().filter_map(|noun| noun.deadline());
        nouns.chain(retries.next()).fold(now + TIMER, Instant::min)
    }
}

/// Tells which steps were taken: each, or the first few of many.
fn tell(events: &Events, kind: &str, taken: &[String]) {
    if taken.len() <= MANY {
        return taken
            .iter()
            .for_each(|step| events.say(kind, step.as_str()));
    }
    taken
        .iter()
        .for_each(|step| tracing::debug!("{kind}: {step}"));
    let first = taken
        .iter()
        .take(3)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    events.say(kind, format!("{first}, and {} steps more", taken.len() - 3));
}

/// Waits for a noun however long it takes, and tells when that is long.
async fn patiently(work: impl Future<Output = Pass>, kind: &str, events: &Events) -> Pass {
    tokio::pin!(work);
    loop {
        match timeout(SLOW, &mut work).await {
            Ok(pass) => return pass,
            Err(_) => events.say(kind, format!("still at it after {} s", SLOW.as_secs())),
        }
    }
}

/// When nouns that failed are tried again.
#[derive(Debug, Default)]
struct Retries {
    failed: BTreeMap<&'static str, (Duration, Instant)>,
}

impl Retries {
    fn failed(&mut self, kind: &'static str, now: Instant) {
        let pause = self
            .failed
            .get(kind)
            .map_or(FIRST_RETRY, |(pause, _)| (*pause * 2).min(LAST_RETRY));
        self.failed.insert(kind, (pause, now + pause));
    }

    fn succeeded(&mut self, kind: &'static str) {
        self.failed.remove(kind);
    }

    /// Whether a noun may run: something may have changed, but what has just failed
    /// waits for at least a second.
    fn due(&self, kind: &'static str, now: Instant) -> bool {
        self.failed
            .get(kind)
            .is_none_or(|(pause, at)| now + *pause >= *at + FIRST_RETRY)
    }

    fn next(&self) -> Option<Instant> {
        self.failed.values().map(|(_, at)| *at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::Resource;
    use std::{
        fmt,
        sync::atomic::{AtomicU32, Ordering},
    };

    #[test]
    fn a_noun_that_fails_is_tried_less_and_less_often() {
        let mut retries = Retries::default();
        let mut now = Instant::now();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            retries.failed("link", now);
            let next = retries.next().unwrap();
            pauses.push((next - now).as_secs());
            now = next;
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        retries.succeeded("link");
        assert_eq!(retries.next(), None);
    }

    #[test]
    fn a_wake_runs_a_failed_noun_early_but_not_at_once() {
        let mut retries = Retries::default();
        let now = Instant::now();
        for _ in 0..6 {
            retries.failed("link", now);
        }
        assert!(retries.due("route", now));
        assert!(!retries.due("link", now));
        assert!(!retries.due("link", now + Duration::from_millis(900)));
        assert!(retries.due("link", now + FIRST_RETRY));
    }

    /// A noun with one value; fails as often as it is told.
    struct Number {
        value: u32,
        failures: Arc<AtomicU32>,
        slow: Duration,
    }

    struct Set(u32);

    impl fmt::Display for Set {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "set it to {}", self.0)
        }
    }

    impl crate::noun::Noun for Number {
        const KIND: &'static str = "number";
        type Have = u32;
        type Step = Set;

        async fn observe(&mut self, _: &Machine) -> anyhow::Result<u32> {
            Ok(self.value)
        }

        fn plan(&self, have: &u32, _: &Machine) -> Vec<Set> {
            if *have == 7 { vec![] } else { vec![Set(7)] }
        }

        async fn apply(&mut self, step: &Set) -> anyhow::Result<()> {
            sleep(self.slow).await;
            if self
                .failures
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                    left.checked_sub(1)
                })
                .is_ok()
            {
                anyhow::bail!("not now");
            }
            self.value = step.0;
            Ok(())
        }

        fn publish(&self, have: &u32, _: &Machine) -> Vec<Resource> {
            vec![Resource::new(
                "number",
                have.to_string(),
                crate::resource::Phase::Ready,
            )]
        }
    }

    struct Running {
        wake: Wake,
        wanted: watch::Sender<Wanted>,
        questions: mpsc::Sender<Question>,
        resources: Arc<Store>,
        events: Arc<Events>,
        outcome: watch::Receiver<Outcome>,
    }

    fn run(number: Number) -> Running {
        let machine = Arc::new(Machine::maintenance());
        let (wanted, wanted_receiver) = watch::channel(Wanted {
            generation: 0,
            machine,
        });
        let (questions, questions_receiver) = mpsc::channel(4);
        let (outcome, outcome_receiver) = watch::channel(Outcome::default());
        let (resources, events) = (Arc::new(Store::new()), Events::new());
        let wake = Wake::default();
        let passes = Passes {
            nouns: vec![Box::new(number)],
            wanted: wanted_receiver,
            wake: wake.clone(),
            questions: questions_receiver,
            resources: resources.clone(),
            events: events.clone(),
            outcome,
        };
        tokio::spawn(passes.run());
        Running {
            wake,
            wanted,
            questions,
            resources,
            events,
            outcome: outcome_receiver,
        }
    }

    #[tokio::test]
    async fn what_fails_is_tried_again_until_it_is_as_wanted() {
        let failures = Arc::new(AtomicU32::new(1));
        let mut running = run(Number {
            value: 0,
            failures,
            slow: Duration::ZERO,
        });
        running
            .outcome
            .wait_for(|outcome| outcome.failures.contains_key("number"))
            .await
            .unwrap();
        running
            .outcome
            .wait_for(|outcome| outcome.failures.is_empty())
            .await
            .unwrap();
        assert_eq!(running.resources.list("number")[0].name, "7");
        use futures_util::StreamExt as _;
        let said: Vec<String> = running
            .events
            .follow(true)
            .take(3)
            .map(|e| e.message)
            .collect()
            .await;
        assert_eq!(
            said,
            [
                "could not set it to 7: not now",
                "set it to 7",
                "as wanted again"
            ]
        );
    }

    #[tokio::test]
    async fn for_a_new_config_nothing_waits_whatever_else_wakes_the_loop() {
        let failures = Arc::new(AtomicU32::new(1));
        let mut running = run(Number {
            value: 0,
            failures,
            slow: Duration::ZERO,
        });
        let failed = |outcome: &Outcome| outcome.failures.contains_key("number");
        running.outcome.wait_for(failed).await.unwrap();
        running.wanted.send_replace(Wanted {
            generation: 1,
            machine: Arc::new(Machine::maintenance()),
        });
        running.wake.notify_one();
        let followed = |outcome: &Outcome| outcome.generation == 1;
        let outcome = running.outcome.wait_for(followed).await.unwrap();
        assert_eq!(outcome.failures, BTreeMap::new());
    }

    #[tokio::test]
    async fn many_steps_are_one_event() {
        use futures_util::StreamExt as _;
        let events = Events::new();
        let steps: Vec<String> = (1..=9).map(|n| format!("step {n}")).collect();
        tell(&events, "module", &steps[..2]);
        tell(&events, "module", &steps);
        let said: Vec<String> = events
            .follow(true)
            .take(3)
            .map(|e| e.message)
            .collect()
            .await;
        assert_eq!(
            said,
            [
                "step 1",
                "step 2",
                "step 1, step 2, step 3, and 6 steps more"
            ]
        );
    }

    #[tokio::test]
    async fn a_question_takes_no_step() {
        let failures = Arc::new(AtomicU32::new(u32::MAX));
        let running = run(Number {
            value: 0,
            failures,
            slow: Duration::ZERO,
        });
        let (reply, answer) = oneshot::channel();
        let machine = running.wanted.borrow().machine.clone();
        running
            .questions
            .send(Question { machine, reply })
            .await
            .unwrap();
        let steps = answer.await.unwrap();
        assert_eq!(
            steps,
            [v1::PlannedStep {
                noun: "number".into(),
                step: "set it to 7".into()
            }]
        );
    }
}
