//! `osctl gen config`.

use crate::{
    check, draft,
    error::Result,
    file::{self, Existing},
    machine_config::{self, Role, Wanted},
    output,
    secrets::Secrets,
};
use clap::Args;
use std::path::{Path, PathBuf};

/// Make the config of one machine
///
/// The same inputs make the same file, byte by byte. It is validated before it is
/// written. Patches are applied to it one after the other. A YAML map is laid over
/// it: maps are merged, links by their name and routes by their destination, other
/// lists replace, `+key` appends to a list, null removes, and `$patch: replace` or
/// `$patch: delete` in a map does that. A list is a JSON patch (RFC 6902).
///
/// Example:
///   osctl gen config --secrets secrets.yaml --hostname server-1 --output machine.yaml
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct GenConfig {
    /// The secrets of the cluster, made by `osctl gen secrets`
    #[arg(long, value_name = "FILE")]
    secrets: PathBuf,

    /// The cluster's name, for people
    #[arg(long, value_name = "NAME", default_value = "keelson")]
    cluster: String,

    /// What the machine is in its cluster
    #[arg(long, value_enum, default_value_t = Role::Server)]
    role: Role,

    /// The machine's name [default: from DHCP, or made from its identity]
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,

    /// The server to join; an agent needs it
    #[arg(long, value_name = "https://HOST:6443")]
    endpoint: Option<String>,

    /// The orchestrator, which must be the one in the image
    #[arg(long, value_name = "NAME", default_value = "k3s")]
    orchestrator: String,

    /// A patch to apply to the config; may be given more than once
    #[arg(long = "patch", value_name = "FILE")]
    patches: Vec<PathBuf>,

    /// The file to write, readable to you alone; `-` is stdout
    #[arg(short, long, value_name = "FILE", default_value = "machine.yaml")]
    output: PathBuf,

    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
}

impl GenConfig {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        let secrets = Secrets::read(&self.secrets)?;
        let patches = self
            .patches
            .iter()
            .map(|path| draft::patch(path))
            .collect::<Result<Vec<_>>>()?;
        let wanted = Wanted {
            cluster: self.cluster,
            role: self.role,
            hostname: self.hostname,
            server: self.endpoint,
            orchestrator: self.orchestrator,
        };
        let text = machine_config::generate(&secrets, &wanted, &patches)?;
        check::check("the generated config", text.as_bytes(), false).map_err(|error| {
            error.hint("nothing was written: look at the options and the patches")
        })?;
        if self.output == Path::new("-") {
            return output::bytes(text.as_bytes());
        }
        let existing = if self.force {
            Existing::Replace
        } else {
            Existing::Refuse
        };
        file::write_secret(&self.output, text.as_bytes(), existing)?;
        output::note(format!("wrote {}", self.output.display()));
        Ok(())
    }
}
