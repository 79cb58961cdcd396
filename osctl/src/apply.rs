//! Sending a config to a node and telling its answer, for the commands that do; and
//! keeping or calling off one that is tried.

use crate::{
    age, check,
    client::{Session, Target},
    error::{Error, Result},
    output,
};
use clap::{Args, ValueEnum};
use keelson_api::v1::{
    ApplyConfigRequest, ApplyConfigResponse, ConfirmConfigRequest, GetConfigRequest,
    GetConfigResponse, VersionRequest, apply_config_request, diagnostic::Severity,
};
use std::{
    io::{BufRead as _, IsTerminal as _},
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout_at};

/// Storing and the first steps may take the machine this long.
const DEADLINE: Duration = Duration::from_secs(120);

/// How long a config is tried where nothing is said.
const TRY_FOR: Duration = Duration::from_secs(60);

/// How soon a node that does not answer is called again.
const PAUSE: Duration = Duration::from_secs(1);

/// When a config counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// At once; what only a reboot can do waits for the next one
    #[default]
    Auto,
    /// At once; refused if something would have to wait for a reboot
    NoReboot,
    /// From the next boot on
    Staged,
    /// After a reboot in order, which follows
    Reboot,
    /// At once, and not stored: undone after a time unless it is confirmed
    Try,
}

/// When a config that is sent counts.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct When {
    /// When the config counts
    #[arg(long, value_name = "MODE", value_enum, default_value_t)]
    pub(crate) mode: Mode,

    /// With --mode try: how long until it is undone [default: 1m]
    #[arg(long, value_name = "DURATION", value_parser = age::parse)]
    try_for: Option<Duration>,
}

impl When {
    /// Refuses what makes no sense together.
    pub(crate) fn check(&self) -> Result<()> {
        if self.try_for.is_some() && self.mode != Mode::Try {
            return Err(Error::input("--try-for is for --mode try"));
        }
        Ok(())
    }

    /// The request with it.
    pub(crate) fn on(&self, request: ApplyConfigRequest) -> ApplyConfigRequest {
        use apply_config_request::Mode as Word;
        let mode = match self.mode {
            Mode::Auto => Word::Auto,
            Mode::NoReboot => Word::NoReboot,
            Mode::Staged => Word::Staged,
            Mode::Reboot => Word::Reboot,
            Mode::Try => Word::Try,
        };
        let length = prost_types::Duration::try_from(self.length());
        ApplyConfigRequest {
            mode: mode.into(),
            try_for: length.ok().filter(|_| self.mode == Mode::Try),
            ..request
        }
    }

    fn length(&self) -> Duration {
        self.try_for.unwrap_or(TRY_FOR)
    }
}

/// The stored config with its secrets.
pub(crate) async fn stored(session: &Session) -> Result<GetConfigResponse> {
    let request = GetConfigRequest { show_secrets: true };
    let mut machine = session.machine();
    session
        .call("get the config", machine.get_config(request))
        .await
}

/// Sends a config.
pub(crate) async fn send(
    session: &Session,
    request: ApplyConfigRequest,
) -> Result<ApplyConfigResponse> {
    let mut machine = session.machine();
    session
        .call_within(DEADLINE, "apply the config", machine.apply_config(request))
        .await
}

/// Whether the node refuses the config.
pub(crate) fn is_refused(response: &ApplyConfigResponse) -> bool {
    response
        .diagnostics
        .iter()
        .any(|it| it.severity() == Severity::Error)
}

/// Tells what the node found, and what it does or would do.
pub(crate) fn tell(
    session: &Session,
    response: &ApplyConfigResponse,
    mode: Mode,
    dry_run: bool,
) -> Result<()> {
    for diagnostic in &response.diagnostics {
        output::note(diagnostic.rendered.trim_end());
    }
    if is_refused(response) {
        return Err(check::refused_by_node());
    }
    let (node, generation) = (session.endpoint(), response.generation);
    let nothing = response.steps.is_empty();
    let unknown = nothing && response.steps_unknown;
    let head = match (dry_run, mode) {
        (true, _) if unknown => {
            format!("{node} is too busy to tell what it would do: ask again in a moment")
        }
        (true, _) if nothing => format!("{node} would do nothing: it matches the config already"),
        (true, _) => format!("{node} would do this:"),
        (false, Mode::Try) if unknown => format!("{node} tries the config"),
        (false, Mode::Try) if nothing => format!("{node} tries the config and has nothing to do"),
        (false, Mode::Try) => format!("{node} tries the config and does this:"),
        (false, Mode::Staged) if nothing => {
            format!("{node} stored config {generation} for its next boot")
        }
        (false, Mode::Staged) => {
            format!("{node} stored config {generation} and does this at its next boot:")
        }
        (false, Mode::Reboot) if nothing => {
            format!("{node} stored config {generation} and reboots")
        }
        (false, Mode::Reboot) => {
            format!("{node} stored config {generation}, reboots and does this:")
        }
        (false, Mode::Auto | Mode::NoReboot) if unknown => {
            format!("{node} stored config {generation}")
        }
        (false, Mode::Auto | Mode::NoReboot) if nothing => {
            format!("{node} stored config {generation} and has nothing to do")
        }
        (false, Mode::Auto | Mode::NoReboot) => {
            format!("{node} stored config {generation} and does this:")
        }
    };
    output::line(head)?;
    if !nothing {
        let rows: Vec<_> = response
            .steps
            .iter()
            .map(|step| vec![step.noun.clone(), step.step.clone()])
            .collect();
        output::bytes(output::table(&["noun", "step"], &rows).as_bytes())?;
    }
    if !response.after_reboot.is_empty() && !matches!(mode, Mode::Staged | Mode::Reboot) {
        output::note(format!(
            "only a reboot puts this in force: {}",
            response.after_reboot.join(", ")
        ));
    }
    Ok(())
}

/// After a config is being tried: keeps it if the node still answers and the person
/// wants it.
pub(crate) async fn keep(target: &Target, when: &When, yes: bool) -> Result<()> {
    let deadline = Instant::now() + when.length();
    let node = &target.endpoint;
    let undone = || {
        Error::failed(format!(
            "{node} was not reached under the config within {}: it is back on the stored one",
            age::short(when.length())
        ))
    };
    if !yes {
        answers(target, deadline).await.ok_or_else(undone)?;
        if !std::io::stdin().is_terminal() {
            output::note(format!(
                "{node} answers under it, and undoes it in {}: keep it with\n      osctl apply-config --confirm",
                age::short(deadline - Instant::now())
            ));
            return Ok(());
        }
        output::note(format!(
            "{node} answers under it, and undoes it in {}. Keep it? [y/N]",
            age::short(deadline - Instant::now())
        ));
        // The question must not outlive the trial.
        let answer = tokio::task::spawn_blocking(|| {
            let mut answer = String::new();
            std::io::stdin()
                .lock()
                .read_line(&mut answer)
                .map(|_| answer)
        });
        let answer = timeout_at(deadline, answer).await.map_err(|_| {
            Error::failed(format!(
                "nobody answered: {node} is back on the stored config"
            ))
        })?;
        let answer = answer
            .map_err(|error| Error::failed("cannot read the answer").cause(error))?
            .map_err(|error| Error::failed("cannot read the answer").cause(error))?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            return output::line(format!("{node} goes back to the stored config"));
        }
    }
    loop {
        match confirm(target).await {
            Ok(generation) => {
                return output::line(format!("{node} keeps it: config {generation}"));
            }
            Err(error) if error.is_passing() && Instant::now() + PAUSE < deadline => {
                sleep(PAUSE).await;
            }
            Err(error) if error.is_passing() => return Err(undone()),
            Err(error) => return Err(error),
        }
    }
}

/// Stores the config that the node tries; its generation.
pub(crate) async fn confirm(target: &Target) -> Result<u64> {
    let session = Session::open(target).await?;
    let mut machine = session.machine();
    let confirm = machine.confirm_config(ConfirmConfigRequest {});
    Ok(session.call("keep the config", confirm).await?.generation)
}

/// Waits until the node answers somebody who calls anew; `None` if it does not in time.
async fn answers(target: &Target, deadline: Instant) -> Option<()> {
    let ask = async || {
        let session = Session::open(target).await?;
        let mut machine = session.machine();
        let version = machine.version(VersionRequest {});
        session.call("ask the node", version).await
    };
    let answered = async {
        while ask().await.is_err() {
            sleep(PAUSE).await;
        }
    };
    timeout_at(deadline, answered).await.ok()
}
