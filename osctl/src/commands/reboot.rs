//! `osctl reboot`.

use super::ending;
use crate::{
    age,
    app::{App, Maintenance},
    client::{Session, Target},
    error::{Error, Kind, Result},
    output,
};
use clap::Args;
use keelson_api::v1::{RebootRequest, VersionRequest};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often a node is asked whether it is back.
const PAUSE: Duration = Duration::from_secs(1);

/// Reboot a node, in order
#[derive(Debug, Args)]
pub(crate) struct Reboot {
    /// Do not evict pods and do not wait for them to stop
    #[arg(long)]
    force: bool,

    /// Wait until the node answers again
    #[arg(long)]
    wait: bool,

    /// How long to wait
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = age::parse, requires = "wait")]
    timeout: Duration,
}

impl Reboot {
    /// Does it.
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        for target in app.named_targets(&Maintenance::default())? {
            let session = Session::open(&target).await?;
            let mut machine = session.machine();
            let request = RebootRequest { force: self.force };
            let begin = Instant::now();
            let taken = format!("{} reboots", target.endpoint);
            let call = session.call("reboot", machine.reboot(request));
            ending::begin(&session, &taken, call).await?;
            if self.wait {
                wait(&session, &target, self.timeout).await?;
                output::note(format!(
                    "{} is back after {}",
                    target.endpoint,
                    age::short(begin.elapsed())
                ));
            }
        }
        Ok(())
    }
}

/// Waits until the node has been away and answers again.
async fn wait(session: &Session, target: &Target, timeout: Duration) -> Result<()> {
    let deadline = Instant::now() + timeout;
    let late = |what: &str| {
        Error::new(
            Kind::Timeout,
            format!("{} has not rebooted in time", target.endpoint),
        )
        .cause(what)
        .hint("its console tells more")
    };
    // The old connection ends with the old run of the machine; a new one to a
    // machine that is still going down would prove nothing.
    while answers(session).await {
        if Instant::now() >= deadline {
            return Err(late("it has not gone down"));
        }
        sleep(PAUSE).await;
    }
    loop {
        let last = match Session::open(target).await {
            Ok(session) if answers(&session).await => return Ok(()),
            Ok(_) => "it does not answer calls".to_owned(),
            Err(error) => error.line(),
        };
        if Instant::now() >= deadline {
            return Err(late(&last));
        }
        sleep(PAUSE).await;
    }
}

async fn answers(session: &Session) -> bool {
    let mut machine = session.machine();
    session
        .call("ask for the version", machine.version(VersionRequest {}))
        .await
        .is_ok()
}
