//! `osctl health`.

use crate::{
    age,
    app::{App, Maintenance, each},
    board::Board,
    client::{CALL_DEADLINE, Session, Target},
    error::{Error, Kind, Result},
    output::{self, FormatArg},
};
use clap::Args;
use keelson_api::v1::{HealthCheck, HealthRequest, HealthResponse, health_check::State};
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// How long to pause before a node that did not answer is called again.
const PAUSE: Duration = Duration::from_secs(1);

/// Wait until a node is healthy, and show each check as it becomes so
///
/// A node that cannot be reached, or restarts on the way, is called again until the
/// time is over; then the exit code is 5. With --no-wait it is asked once, and the
/// exit code is 1 if it is not healthy.
#[derive(Debug, Args)]
pub(crate) struct Health {
    /// Wait until it is healthy: the default
    #[arg(long, overrides_with = "no_wait")]
    wait: bool,

    /// Ask once
    #[arg(long)]
    no_wait: bool,

    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = age::parse)]
    timeout: Duration,

    #[command(flatten)]
    maintenance: Maintenance,

    #[command(flatten)]
    format: FormatArg,
}

impl Health {
    /// Does it.
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        let targets = app.targets_or_insecure(&self.maintenance)?;
        if self.no_wait {
            return self.once(&targets).await;
        }
        let begin = Instant::now();
        let many = targets.len() > 1;
        for target in &targets {
            let mut board = Board::new(many.then(|| target.endpoint.to_string()));
            let healthy = wait(target, begin + self.timeout, &mut board).await;
            board.close();
            healthy.map_err(|error| match error {
                Unhealthy::Lasting(error) => error,
                Unhealthy::Late(causes) => {
                    let limit = age::short(self.timeout);
                    let message = format!("{} is not healthy after {limit}", target.endpoint);
                    causes
                        .iter()
                        .fold(Error::new(Kind::Timeout, message), |error, cause| {
                            error.cause(cause)
                        })
                        .hint("`osctl service` and `osctl logs` tell more; --timeout waits longer")
                }
            })?;
            output::note(format!(
                "{} is healthy ({})",
                target.endpoint,
                age::short(begin.elapsed())
            ));
        }
        Ok(())
    }

    async fn once(&self, targets: &[Target]) -> Result<()> {
        let (nodes, result) = each(targets, async |session| {
            let mut stream = watch(&session, false).await?;
            session
                .next(WHAT, &mut stream, Some(CALL_DEADLINE))
                .await?
                .ok_or_else(silent)
        })
        .await;
        if nodes.is_empty() {
            return result;
        }
        let mut data = Vec::new();
        let mut rows = Vec::new();
        for (node, health) in &nodes {
            for it in &health.checks {
                let state = word(it.state());
                data.push(json!({
                    "node": node.to_string(), "name": it.name, "state": state, "message": it.message,
                }));
                rows.push(vec![
                    node.to_string(),
                    it.name.clone(),
                    state.to_owned(),
                    it.message.clone(),
                ]);
            }
        }
        output::data(self.format.format, &data, || {
            output::node_table(targets.len(), &["node", "check", "state", "message"], &rows)
        })?;
        let sick: Vec<_> = nodes.iter().filter(|(_, it)| !it.healthy).collect();
        match sick.first() {
            Some((node, _)) => Err(Error::failed(format!("{node} is not healthy"))),
            None => result,
        }
    }
}

const WHAT: &str = "watch the health";

/// Why a node is not healthy.
enum Unhealthy {
    /// Waiting longer would not help.
    Lasting(Error),
    /// The time is over; what was not well last.
    Late(Vec<String>),
}

async fn wait(target: &Target, deadline: Instant, board: &mut Board) -> Result<(), Unhealthy> {
    let mut last = vec!["it has not been asked yet".to_owned()];
    loop {
        match timeout_at(deadline, follow(target, board, &mut last)).await {
            Err(_) => return Err(Unhealthy::Late(last)),
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) if !error.is_passing() => return Err(Unhealthy::Lasting(error)),
            Ok(Err(error)) => {
                board.trouble(&error.line());
                last = vec![error.line()];
            }
        }
        if timeout_at(deadline, sleep(PAUSE)).await.is_err() {
            return Err(Unhealthy::Late(last));
        }
    }
}

/// Follows one connection until the node is healthy. `last` is what was not well.
async fn follow(target: &Target, board: &mut Board, last: &mut Vec<String>) -> Result<()> {
    let session = Session::open(target).await?;
    let mut stream = watch(&session, true).await?;
    while let Some(health) = session.next(WHAT, &mut stream, None).await? {
        board.show(&health.checks);
        if health.healthy {
            return Ok(());
        }
        *last = unwell(&health);
    }
    Err(silent())
}

async fn watch(session: &Session, watch: bool) -> Result<tonic::Streaming<HealthResponse>> {
    let mut machine = session.machine();
    session
        .call(WHAT, machine.health(HealthRequest { watch }))
        .await
}

fn silent() -> Error {
    Error::new(Kind::Unreachable, "the node stopped telling its health")
}

fn unwell(health: &HealthResponse) -> Vec<String> {
    let said = |it: &HealthCheck| match it.message.is_empty() {
        true => format!("{}: {}", it.name, word(it.state())),
        false => format!("{}: {}", it.name, it.message),
    };
    let all: Vec<_> = health
        .checks
        .iter()
        .filter(|it| it.state() != State::Healthy)
        .map(said)
        .collect();
    if all.is_empty() {
        vec!["the node says so, without a reason".to_owned()]
    } else {
        all
    }
}

/// A check's state in one word.
pub(crate) fn word(state: State) -> &'static str {
    match state {
        State::Unspecified => "unknown",
        State::Waiting => "waiting",
        State::Healthy => "healthy",
        State::Unhealthy => "unhealthy",
    }
}
