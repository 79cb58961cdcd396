//! `osctl gen secrets`.

use crate::{
    error::Result,
    file::{self, Existing},
    output,
    secrets::Secrets,
};
use clap::Args;
use std::path::{Path, PathBuf};
use time::OffsetDateTime;

/// Make the secrets of a new cluster
///
/// The file holds the CA that decides who may call the cluster's machines, the
/// issuer of the machines' own certificates, and the tokens that join machines to
/// the orchestrator. Every machine's config and every client certificate of the
/// cluster is made from it: keep it safe, and keep a copy.
#[derive(Debug, Args)]
pub(crate) struct GenSecrets {
    /// The file to write, readable to you alone; `-` is stdout
    #[arg(short, long, value_name = "FILE", default_value = "secrets.yaml")]
    output: PathBuf,

    /// Replace the file if it exists: the old cluster's secrets are lost then
    #[arg(long)]
    force: bool,
}

impl GenSecrets {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        let secrets = Secrets::generate(OffsetDateTime::now_utc())?;
        let text = secrets.to_text()?;
        if self.output == Path::new("-") {
            return output::bytes(text.as_bytes());
        }
        let existing = if self.force {
            Existing::Replace
        } else {
            Existing::Refuse
        };
        file::write_secret(&self.output, text.as_bytes(), existing)?;
        output::note(format!(
            "wrote {}: the secrets of cluster {}\nnext: osctl gen config --secrets {0} --output machine.yaml",
            self.output.display(),
            secrets.cluster_id
        ));
        Ok(())
    }
}
