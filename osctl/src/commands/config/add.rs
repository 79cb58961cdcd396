//! `osctl config add`.

use crate::{
    app::App,
    certs,
    client::Endpoint,
    contexts::Context,
    error::{Error, Result},
    file, output,
    secrets::Secrets,
};
use clap::{Args, ValueEnum};
use std::path::{Path, PathBuf};
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

/// What the holder of a certificate may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Everything
    #[value(name = "os:admin", alias = "admin")]
    Admin,
    /// Reading, and restarting services and machines
    #[value(name = "os:operator", alias = "operator")]
    Operator,
    /// Reading, but no secrets
    #[value(name = "os:reader", alias = "reader")]
    Reader,
}

impl Role {
    fn organisation(self) -> &'static str {
        match self {
            Role::Admin => "os:admin",
            Role::Operator => "os:operator",
            Role::Reader => "os:reader",
        }
    }
}

/// Add a context, with a new certificate or with one that you were given
///
/// With --secrets, a certificate is issued from the cluster's root CA. The first
/// context becomes the current one.
#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("from").required(true).args(["secrets", "cert"])))]
pub(crate) struct Add {
    /// The context's name
    name: String,

    /// The nodes' addresses; several are separated by commas
    #[arg(
        long = "endpoint",
        required = true,
        value_name = "HOST[:PORT]",
        value_delimiter = ','
    )]
    endpoints: Vec<Endpoint>,

    /// Issue a certificate from these secrets
    #[arg(long, value_name = "FILE")]
    secrets: Option<PathBuf>,

    /// The role in the certificate
    #[arg(long, value_enum, default_value_t = Role::Admin, conflicts_with = "cert")]
    role: Role,

    /// How many days the certificate is valid
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u16).range(1..=3650), conflicts_with = "cert")]
    days: u16,

    /// The CA of the nodes' certificates, a PEM file
    #[arg(
        long,
        value_name = "FILE",
        requires = "cert",
        conflicts_with = "secrets"
    )]
    ca: Option<PathBuf>,

    /// Your certificate, a PEM file
    #[arg(long, value_name = "FILE", requires_all = ["ca", "key"])]
    cert: Option<PathBuf>,

    /// Its key, a PEM file
    #[arg(
        long,
        value_name = "FILE",
        requires = "cert",
        conflicts_with = "secrets"
    )]
    key: Option<PathBuf>,

    /// Replace the context if it exists
    #[arg(long)]
    force: bool,
}

impl Add {
    /// Does it.
    pub(crate) fn run(self, app: &App) -> Result<()> {
        let path = app.contexts_path()?;
        let mut contexts = app.contexts()?;
        if contexts.all.contains_key(&self.name) && !self.force {
            return Err(
                Error::input(format!("there is a context {:?} already", self.name))
                    .hint("use another name, or --force to replace it"),
            );
        }
        let context = match (&self.secrets, &self.ca, &self.cert, &self.key) {
            (Some(secrets), ..) => self.issue(secrets)?,
            (None, Some(ca), Some(cert), Some(key)) => self.load(ca, cert, key)?,
            _ => {
                return Err(Error::input(
                    "give --secrets, or all of --ca, --cert and --key",
                ));
            }
        };
        let facts = certs::read(&context.cert)?;
        contexts.all.insert(self.name.clone(), context);
        let current = contexts.current.get_or_insert_with(|| self.name.clone()) == &self.name;
        contexts.save(&path)?;
        output::note(format!(
            "added context {:?} to {}: role {}, valid until {}",
            self.name,
            path.display(),
            facts.organisation,
            facts.not_after.date()
        ));
        if !current {
            output::note(format!(
                "use it with --context, or always: osctl config use {}",
                self.name
            ));
        }
        Ok(())
    }

    fn issue(&self, secrets: &Path) -> Result<Context> {
        let secrets = Secrets::read(secrets)?;
        let pair = certs::client(
            &secrets.root,
            &self.name,
            self.role.organisation(),
            Duration::days(self.days.into()),
            OffsetDateTime::now_utc(),
        )?;
        Ok(Context {
            endpoints: self.endpoints.clone(),
            ca: secrets.root.cert,
            cert: pair.cert,
            key: pair.key,
        })
    }

    fn load(&self, ca: &Path, cert: &Path, key: &Path) -> Result<Context> {
        let read = |path: &Path| file::read_text(path, 1 << 20);
        let context = Context {
            endpoints: self.endpoints.clone(),
            ca: read(ca)?,
            cert: read(cert)?,
            key: Zeroizing::new(read(key)?),
        };
        certs::read(&context.ca).map_err(|error| error.cause(ca.display()))?;
        certs::read(&context.cert).map_err(|error| error.cause(cert.display()))?;
        if !certs::belongs(&context.cert, &context.key) {
            return Err(Error::input(format!(
                "{} is not the key of {}",
                key.display(),
                cert.display()
            )));
        }
        Ok(context)
    }
}
