//! The cluster as its API server tells it: who this node is to it, which pods it has
//! here, and how the node is taken out of service and put back. It starts and stops
//! nothing on the machine itself.

pub(crate) mod access;
pub(crate) mod client;
pub(crate) mod drain;
#[cfg(test)]
pub(crate) mod fake;
pub(crate) mod http;
pub(crate) mod node;
pub(crate) mod pod;
pub(crate) mod share;

use crate::{
    events::Events,
    orchestrator::{Member, Orchestrator},
};
use client::Failure;
use keelson_api::v1::service::State;
use std::{sync::Arc, time::Duration};
use tokio::time::sleep;

/// The first pause after a failure; it doubles …
const FIRST_PAUSE: Duration = Duration::from_secs(5);

/// … up to this.
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// Puts the node back into service each time the orchestrator gets ready, if it was
/// this machine that took it out. Runs until it is aborted.
pub(crate) async fn keep_in_service(orchestrator: Orchestrator, events: Arc<Events>) {
    let mut status = orchestrator.status();
    loop {
        let ready = status.wait_for(|status| status.service == State::Running);
        let member = match ready.await {
            Ok(status) => status.member.clone(),
            // The image carries no orchestrator.
            Err(_) => return,
        };
        if let (Some(payload), Some(member)) = (orchestrator.payload(), member) {
            let left = status.clone();
            let left = async move {
                let mut left = left;
                // An error ends the outer loop as well.
                drop(
                    left.wait_for(|status| status.service != State::Running)
                        .await,
                );
            };
            tokio::select! {
                () = left => continue,
                () = put_back(&payload.data_dir, &member, &events) => {}
            }
        }
        if status
            .wait_for(|status| status.service != State::Running)
            .await
            .is_err()
        {
            return;
        }
    }
}

/// Tries until the API server has answered.
async fn put_back(data_dir: &std::path::Path, member: &Member, events: &Events) {
    let (mut pause, mut told) = (FIRST_PAUSE, false);
    loop {
        let outcome = match access::client(data_dir, member.role) {
            Ok(client) => node::uncordon(&client, &member.name).await,
            Err(error) => Err(Failure::Away(format!("{error:#}"))),
        };
        match outcome {
            Ok(true) => {
                events.say("node", "it takes pods again");
                return;
            }
            Ok(false) => return,
            Err(error) if !told => {
                events.say(
                    "node",
                    format!("whether it must be put back into service is not known: {error}; tried again"),
                );
                told = true;
            }
            Err(error) => tracing::debug!("putting the node back into service: {error}"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}
