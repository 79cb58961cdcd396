//! Watches a node's upgrade until it ends, through the reboot on the way.

use crate::{
    age,
    client::{CALL_DEADLINE, Session, Target},
    error::{Error, Kind, Result},
    output, resource,
};
use indicatif::{ProgressBar, ProgressStyle};
use keelson_api::v1::{ListRequest, WatchRequest};
use serde_json::Value;
use std::{io::IsTerminal as _, time::Duration};
use tokio::time::{Instant, sleep, timeout_at};

/// The kind of the resource.
const KIND: &str = "upgrade";

const WHAT: &str = "watch the upgrade";

/// How long to pause before a node that did not answer is called again.
const PAUSE: Duration = Duration::from_secs(1);

/// What is waited for.
pub(super) struct Goal {
    /// How the upgrade before this one ended.
    pub(super) before: Value,
    /// It need not be tried.
    pub(super) staged_is_enough: bool,
}

/// How it ended.
pub(super) enum End {
    /// As it should; in words.
    Good(String),
    /// Not so; in words, and the last lines of the node's logs.
    Bad(String, Vec<String>),
}

/// How the last upgrade of a node ended; null if there was none.
pub(super) async fn last(target: &Target) -> Result<Value> {
    let session = Session::open(target).await?;
    let mut resources = session.resources();
    let call = resources.list(ListRequest { kind: KIND.into() });
    let listed = session.call("ask for the last upgrade", call).await?;
    Ok(listed
        .resources
        .first()
        .map(|it| resource::json_of(it)["spec"]["last"].clone())
        .unwrap_or_default())
}

/// Watches until it ends.
pub(super) async fn follow(
    target: &Target,
    goal: &Goal,
    deadline: Instant,
    shown: &mut Shown,
) -> Result<End> {
    loop {
        match timeout_at(deadline, watch(target, goal, shown)).await {
            Err(_) => return Err(late(target)),
            Ok(Ok(end)) => return Ok(end),
            Ok(Err(error)) if !error.is_passing() => return Err(error),
            Ok(Err(error)) => {
                shown.times.away();
                shown.state(&format!("waiting for the node ({})", error.line()));
            }
        }
        if timeout_at(deadline, sleep(PAUSE)).await.is_err() {
            return Err(late(target));
        }
    }
}

fn late(target: &Target) -> Error {
    let message = format!(
        "the upgrade of {} takes longer than --timeout",
        target.endpoint
    );
    Error::new(Kind::Timeout, message).hint(
        "it goes on: `osctl get upgrade --watch` shows it, `osctl get gate` what it waits for",
    )
}

/// Watches over one connection.
async fn watch(target: &Target, goal: &Goal, shown: &mut Shown) -> Result<End> {
    let session = Session::open(target).await?;
    let mut resources = session.resources();
    let call = resources.watch(WatchRequest { kind: KIND.into() });
    let mut stream = timeout_call(&session, call).await?;
    while let Some(change) = session.next(WHAT, &mut stream, None).await? {
        let Some(now) = change.resource.as_ref().map(resource::json_of) else {
            continue;
        };
        shown.times.tell(&now["spec"]);
        if let Some(end) = judge(&now, goal) {
            return Ok(end);
        }
        shown.state(now["message"].as_str().unwrap_or_default());
    }
    Err(Error::new(Kind::Unreachable, "the node stopped telling"))
}

async fn timeout_call<T>(
    session: &Session,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T> {
    session.call_within(CALL_DEADLINE, WHAT, call).await
}

/// Whether the resource says that it ended.
fn judge(now: &Value, goal: &Goal) -> Option<End> {
    let spec = &now["spec"];
    let message = now["message"].as_str().unwrap_or_default().to_owned();
    let last = &spec["last"];
    match spec["state"].as_str().unwrap_or_default() {
        "unable" => return Some(End::Bad(message, Vec::new())),
        "writing" | "trying" => return None,
        "staged" if *last == goal.before => {
            return goal.staged_is_enough.then_some(End::Good(message));
        }
        _ if *last == goal.before => return None,
        _ => {}
    }
    match last["end"].as_str() {
        Some("good") => Some(End::Good(message)),
        Some(_) => {
            let lines = last["log"].as_array();
            let log = lines
                .into_iter()
                .flatten()
                .filter_map(|line| line.as_str().map(str::to_owned))
                .collect();
            let reason = last["reason"].as_str().unwrap_or_default();
            Some(End::Bad(reason.to_owned(), log))
        }
        None => None,
    }
}

/// How long the parts of an upgrade took, as far as it was seen.
#[derive(Default)]
pub(super) struct Times {
    /// What the node tells of itself, in its order.
    steps: Vec<(String, Duration)>,
    /// When it was told to go down, at the latest.
    staged: Option<Instant>,
    /// When it answered again.
    back: Option<Instant>,
}

impl Times {
    /// The node does not answer: it is going down, or coming up.
    fn away(&mut self) {
        if self.staged.is_some() {
            self.back = None;
        }
    }

    /// Takes over what the resource tells.
    fn tell(&mut self, spec: &Value) {
        for step in ["kernel", "write", "verify"] {
            let known = self.steps.iter().any(|(name, _)| name == step);
            if let Some(seconds) = spec["seconds"][step].as_f64().filter(|_| !known) {
                let took = Duration::try_from_secs_f64(seconds).unwrap_or_default();
                self.steps.push((step.to_owned(), took));
            }
        }
        match spec["state"].as_str() {
            Some("writing") | None => {}
            Some("staged") => {
                self.staged.get_or_insert_with(Instant::now);
            }
            Some(_) if self.staged.is_some() => {
                self.back.get_or_insert_with(Instant::now);
            }
            Some(_) => {}
        }
    }

    /// In words, at the end: `kernel 2s, write 9s, verify 4s, reboot 31s, healthy 12s`.
    pub(super) fn words(&self) -> String {
        let mut parts: Vec<(&str, Duration)> = self
            .steps
            .iter()
            .map(|(step, took)| (step.as_str(), *took))
            .collect();
        if let (Some(staged), Some(back)) = (self.staged, self.back) {
            parts.push(("reboot", back - staged));
            parts.push(("healthy", back.elapsed()));
        }
        parts
            .iter()
            .map(|(part, took)| format!("{part} {}", age::short(*took)))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// What the person sees meanwhile: a line that changes on a terminal, else a line for each
/// change.
pub(super) struct Shown {
    begun: Instant,
    name: Option<String>,
    spinner: Option<ProgressBar>,
    said: String,
    pub(super) times: Times,
}

impl Shown {
    pub(super) fn new(name: Option<String>) -> Shown {
        Shown {
            begun: Instant::now(),
            name,
            spinner: None,
            said: String::new(),
            times: Times::default(),
        }
    }

    /// A line that stays.
    pub(super) fn line(&mut self, text: &str) {
        let text = self.headed(text);
        match &self.spinner {
            Some(spinner) => spinner.suspend(|| output::note(&text)),
            None => output::note(&text),
        }
    }

    /// What is going on. Percentages are for a terminal alone.
    pub(super) fn state(&mut self, text: &str) {
        if std::io::stderr().is_terminal() {
            let text = self.headed(text);
            self.spinner
                .get_or_insert_with(|| {
                    let spinner = ProgressBar::new_spinner();
                    spinner.enable_steady_tick(Duration::from_millis(120));
                    spinner
                })
                .set_message(text);
            return;
        }
        let gist = text.split(':').next().unwrap_or_default();
        if gist != self.said {
            gist.clone_into(&mut self.said);
            self.line(gist);
        }
    }

    /// A bar for so many bytes.
    pub(super) fn bar(&self, length: u64, text: &str) -> ProgressBar {
        let style = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        // The template is ours; one that the library would not take is shown as its default.
        let style = ProgressStyle::with_template(style)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        ProgressBar::new(length)
            .with_style(style)
            .with_message(self.headed(text))
    }

    /// Leaves no moving line behind.
    pub(super) fn close(&mut self) {
        if let Some(spinner) = self.spinner.take() {
            spinner.finish_and_clear();
        }
    }

    fn headed(&self, text: &str) -> String {
        let text = text.replace(char::is_control, " ");
        let elapsed = age::short(self.begun.elapsed());
        match &self.name {
            Some(name) => format!("{name} {elapsed:>6} {text}"),
            None => format!("{elapsed:>6} {text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn goal(staged_is_enough: bool) -> Goal {
        Goal {
            before: json!({"version": "0.1.0", "end": "good"}),
            staged_is_enough,
        }
    }

    fn word(now: &Value, goal: &Goal) -> &'static str {
        match judge(now, goal) {
            None => "goes on",
            Some(End::Good(_)) => "good",
            Some(End::Bad(..)) => "bad",
        }
    }

    #[test]
    fn the_end_is_known_from_the_resource() {
        let old = json!({"version": "0.1.0", "end": "good"});
        let last = |end| json!({"version": "0.2.0", "end": end, "log": ["x"]});
        for (what, state, last, staged, want) in [
            ("it is written", "writing", old.clone(), false, "goes on"),
            ("it is staged", "staged", old.clone(), false, "goes on"),
            ("that is enough", "staged", old.clone(), true, "good"),
            ("on trial", "trying", old.clone(), false, "goes on"),
            ("not begun yet", "good", old.clone(), false, "goes on"),
            ("good", "good", last("good"), false, "good"),
            ("it came back", "fell back", last("fellBack"), false, "bad"),
            ("not staged", "failed", last("failed"), true, "bad"),
            ("cannot", "unable", Value::Null, false, "bad"),
        ] {
            let now = json!({"message": "m", "spec": {"state": state, "last": last}});
            assert_eq!(word(&now, &goal(staged)), want, "{what}");
        }
    }

    #[test]
    fn the_parts_are_told_that_were_seen() {
        let mut times = Times::default();
        times.tell(&json!({"state": "writing", "seconds": {"kernel": 2.2}}));
        times.away();
        times.tell(&json!({"state": "writing", "seconds": {"kernel": 2.2, "write": 9.0}}));
        assert_eq!(times.words(), "kernel 2s, write 9s");
        times.tell(&json!({"state": "staged"}));
        times.away();
        times.tell(&json!({"state": "trying"}));
        times.away();
        assert!(times.back.is_none(), "it went away once more");
        times.tell(&json!({"state": "good"}));
        let words = times.words();
        assert!(
            words.starts_with("kernel 2s, write 9s, reboot 0s, healthy 0s"),
            "{words}"
        );
    }
}
