//! The end of a machine's run as a person watches it: the call that begins it, and
//! then what the node tells until it is down.

use crate::{client::Session, error::Result, output};
use keelson_api::v1::{EventsRequest, machine_service_client::MachineServiceClient};
use std::time::Duration;
use tokio::{sync::oneshot, time::timeout};
use tonic::transport::Channel;

/// What the node's events about it are about.
const SUBJECT: &str = "power";

/// The node's last word.
const LAST: &str = "all is down, init goes on";

/// How long a node may take to go down; its own bounds are less.
const PATIENCE: Duration = Duration::from_secs(8 * 60);

/// Makes the call, says that it was taken, then shows what the node does until it is down.
pub(super) async fn begin<T>(
    session: &Session,
    taken: &str,
    call: impl Future<Output = Result<T>>,
) -> Result<T> {
    // Asked for beside the call: nothing that is told after its answer is to be missed.
    let (go, going) = oneshot::channel();
    let telling = tokio::spawn(tell(session.machine(), going));
    let answer = call.await?;
    output::note(taken);
    // An error says that there is nothing to be told; so does the end of the connection.
    if go.send(()).is_ok() {
        drop(timeout(PATIENCE, telling).await);
    }
    Ok(answer)
}

/// Shows the events until the last of them, or until the connection is gone.
async fn tell(mut machine: MachineServiceClient<Channel>, going: oneshot::Receiver<()>) {
    let Ok(response) = machine.events(EventsRequest { replay: false }).await else {
        return;
    };
    let mut stream = response.into_inner();
    if going.await.is_err() {
        return;
    }
    while let Ok(Some(event)) = stream.message().await {
        if event.subject != SUBJECT {
            continue;
        }
        if event.message == LAST {
            return;
        }
        let message = event.message.replace(char::is_control, " ");
        output::note(format!("  {message}"));
    }
}
