//! What every command needs to know: the global options, and from them the
//! contexts and the nodes to call.

use crate::{
    client::{Endpoint, Fingerprint, Identity, Session, Target, Trust},
    contexts::{self, Contexts},
    error::{Error, Result},
    output,
};
use clap::Args;
use std::{path::PathBuf, sync::Arc};

/// The options of every command.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Global {
    /// The node to call; several are separated by commas [default: those of the context]
    #[arg(
        short,
        long,
        global = true,
        value_name = "HOST[:PORT]",
        value_delimiter = ',',
        help_heading = "Global options"
    )]
    pub(crate) node: Vec<Endpoint>,

    /// The context to use [default: the current one]
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        help_heading = "Global options"
    )]
    pub(crate) context: Option<String>,

    /// The file of contexts [default: ~/.config/osctl/config.yaml]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "OSCTL_CONFIG",
        hide_env_values = true,
        help_heading = "Global options"
    )]
    pub(crate) config: Option<PathBuf>,
}

/// The options of commands that a node without config answers.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Maintenance {
    /// Call a node that has no config yet, recognised by its fingerprint alone
    #[arg(long)]
    pub(crate) insecure: bool,

    /// The fingerprint of the node's certificate, as its console shows it
    #[arg(long, value_name = "FINGERPRINT", requires = "insecure")]
    pub(crate) cert_fingerprint: Option<Fingerprint>,

    /// The node to call: the same as --node
    #[arg(long, value_name = "HOST[:PORT]", value_delimiter = ',')]
    pub(crate) endpoint: Vec<Endpoint>,
}

/// What the commands are given.
pub(crate) struct App {
    global: Global,
}

impl App {
    /// From the command line.
    pub(crate) fn new(global: Global) -> App {
        App { global }
    }

    /// Where the contexts are.
    pub(crate) fn contexts_path(&self) -> Result<PathBuf> {
        self.global
            .config
            .clone()
            .map_or_else(contexts::default_path, Ok)
    }

    /// All contexts.
    pub(crate) fn contexts(&self) -> Result<Contexts> {
        Contexts::load(&self.contexts_path()?)
    }

    /// The name of the context that would be used.
    pub(crate) fn context_name(&self) -> Result<String> {
        let contexts = self.contexts()?;
        let (name, _) = contexts.pick(self.global.context.as_deref())?;
        Ok(name.to_owned())
    }

    /// The nodes to call, at least one.
    pub(crate) fn targets(&self) -> Result<Vec<Target>> {
        self.targets_or_insecure(&Maintenance::default())
    }

    /// The nodes to call, of which one may have no config yet.
    pub(crate) fn targets_or_insecure(&self, maintenance: &Maintenance) -> Result<Vec<Target>> {
        let mut named = self.global.node.clone();
        named.extend(maintenance.endpoint.iter().cloned());
        if maintenance.insecure {
            let [endpoint] = <[Endpoint; 1]>::try_from(named).map_err(|named| {
                Error::input(match named.len() {
                    0 => "--insecure needs the address of a node",
                    _ => "--insecure is for one node at a time",
                })
                .hint("the node's console shows its address; give it with --endpoint")
            })?;
            let trust = maintenance
                .cert_fingerprint
                .map_or(Trust::Nobody, Trust::Pinned);
            return Ok(vec![Target {
                endpoint,
                trust: Arc::new(trust),
            }]);
        }
        let contexts = self.contexts()?;
        let (name, context) = contexts.pick(self.global.context.as_deref())?;
        let identity = Identity::new(name, &context.ca, &context.cert, &context.key)?;
        let trust = Arc::new(Trust::Context(identity));
        let endpoints = if named.is_empty() {
            context.endpoints.clone()
        } else {
            named
        };
        Ok(endpoints
            .into_iter()
            .map(|endpoint| Target {
                endpoint,
                trust: trust.clone(),
            })
            .collect())
    }

    /// The nodes to change: where the context has several they must have been named.
    pub(crate) fn named_targets(&self, maintenance: &Maintenance) -> Result<Vec<Target>> {
        let targets = self.targets_or_insecure(maintenance)?;
        if targets.len() > 1 && self.global.node.is_empty() && maintenance.endpoint.is_empty() {
            return Err(which_node(&targets));
        }
        Ok(targets)
    }

    /// The one node to call.
    pub(crate) fn target(&self, maintenance: &Maintenance) -> Result<Target> {
        let targets = self.targets_or_insecure(maintenance)?;
        match <[Target; 1]>::try_from(targets) {
            Ok([target]) => Ok(target),
            Err(targets) => Err(which_node(&targets)),
        }
    }

    /// A connection to the one node to call.
    pub(crate) async fn session(&self) -> Result<Session> {
        Session::open(&self.target(&Maintenance::default())?).await
    }
}

fn which_node(targets: &[Target]) -> Error {
    let names: Vec<_> = targets
        .iter()
        .map(|target| target.endpoint.to_string())
        .collect();
    Error::input("this is done on one node, and there are several")
        .hint(format!("pick with --node: {}", names.join(", ")))
}

/// Does the same on each node, one after the other. One that fails does not keep
/// the others from their turn: what was done is returned beside the worst error;
/// the other errors are told here.
pub(crate) async fn each<T>(
    targets: &[Target],
    action: impl AsyncFn(Session) -> Result<T>,
) -> (Vec<(Endpoint, T)>, Result<()>) {
    let mut done = Vec::new();
    let mut errors = Vec::new();
    for target in targets {
        let result = match Session::open(target).await {
            Ok(session) => action(session).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(value) => done.push((target.endpoint.clone(), value)),
            Err(error) => errors.push(error),
        }
    }
    errors.sort_by_key(Error::kind);
    let worst = errors.pop();
    for error in errors {
        output::note(error.render(output::colour_stderr()).trim_end());
    }
    (done, worst.map_or(Ok(()), Err))
}
