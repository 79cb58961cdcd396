//! Several nodes: servers one by one, then agents a few at a time. Each must be good and
//! healthy before the next is touched; the first that comes back ends it.

use super::Begin;
use crate::{
    client::{CALL_DEADLINE, Session, Target},
    error::{Error, Kind, Result},
    output, resource,
};
use futures_util::{StreamExt as _, stream};
use keelson_api::v1::{HealthRequest, ListRequest};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a node that is good may take until all its checks are healthy.
const HEALTHY: Duration = Duration::from_secs(600);

/// How often it is asked.
const PAUSE: Duration = Duration::from_secs(2);

/// A node and what it is in its cluster.
struct Member<'a> {
    target: &'a Target,
    server: bool,
}

/// Upgrades them all.
pub(super) async fn run(begin: &Begin, targets: &[Target]) -> Result<()> {
    if begin.no_wait {
        return Err(
            Error::input("several nodes are upgraded one after the other")
                .hint("leave --no-wait out, or name one node"),
        );
    }
    let mut members = Vec::new();
    for target in targets {
        let server = is_server(target).await?;
        members.push(Member { target, server });
    }
    let (servers, agents): (Vec<_>, Vec<_>) = members.into_iter().partition(|it| it.server);
    let many = targets.len();
    let mut done = 0;
    for server in &servers {
        // While one server is away the others must hold the quorum.
        let others = servers
            .iter()
            .filter(|other| other.target.endpoint != server.target.endpoint);
        for other in others {
            healthy(other.target).await.map_err(|why| {
                Error::failed(format!("{} is not upgraded", server.target.endpoint))
                    .cause(format!(
                        "the server {} is not healthy: {why}",
                        other.target.endpoint
                    ))
                    .cause("with two servers away the cluster may lose its quorum")
                    .hint(format!(
                        "{done} of {many} nodes are upgraded; look after that server first"
                    ))
            })?;
        }
        node(begin, server.target)
            .await
            .map_err(|error| stopped(error, done, many))?;
        done += 1;
    }
    let at_once = usize::try_from(begin.max_unavailable.max(1)).unwrap_or(usize::MAX);
    let mut running = stream::iter(&agents)
        .map(|agent| node(begin, agent.target))
        .buffer_unordered(at_once);
    while let Some(outcome) = running.next().await {
        outcome.map_err(|error| stopped(error, done, many))?;
        done += 1;
    }
    output::note(format!("{done} nodes are upgraded"));
    Ok(())
}

fn stopped(error: Error, done: usize, many: usize) -> Error {
    error.hint(format!(
        "{done} of {many} nodes are upgraded; the rest was left as it is"
    ))
}

async fn node(begin: &Begin, target: &Target) -> Result<()> {
    begin
        .one(target, Some(&target.endpoint.to_string()))
        .await?;
    if begin.stage {
        return Ok(());
    }
    let deadline = Instant::now() + HEALTHY;
    loop {
        let why = match healthy(target).await {
            Ok(()) => return Ok(()),
            Err(why) => why,
        };
        if Instant::now() >= deadline {
            let message = format!("{} is upgraded, and not healthy", target.endpoint);
            return Err(Error::new(Kind::Timeout, message).cause(why));
        }
        sleep(PAUSE).await;
    }
}

/// Whether a node is healthy; why not, in words.
async fn healthy(target: &Target) -> Result<(), String> {
    let ask = async {
        let session = Session::open(target).await?;
        let mut machine = session.machine();
        let call = machine.health(HealthRequest { watch: false });
        let mut stream = session.call("ask for the health", call).await?;
        session
            .next("ask for the health", &mut stream, Some(CALL_DEADLINE))
            .await
    };
    match ask.await {
        Ok(Some(health)) if health.healthy => Ok(()),
        Ok(Some(health)) => {
            let unwell = health
                .checks
                .iter()
                .find(|check| check.state() != keelson_api::v1::health_check::State::Healthy);
            Err(unwell.map_or_else(
                || "it does not say why".to_owned(),
                |check| format!("{}: {}", check.name, check.message),
            ))
        }
        Ok(None) => Err("it told nothing".to_owned()),
        Err(error) => Err(error.line()),
    }
}

async fn is_server(target: &Target) -> Result<bool> {
    let session = Session::open(target).await?;
    let mut resources = session.resources();
    let kind = "orchestrator".to_owned();
    let listed = session
        .call("ask for the role", resources.list(ListRequest { kind }))
        .await?;
    let mode = |it| resource::json_of(it)["spec"]["mode"] == "server";
    Ok(listed.resources.iter().any(mode))
}
