//! `osctl completion`.

use crate::{cli::Cli, error::Result, output};
use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Write the completion script of a shell
///
/// Examples:
///   bash: source <(osctl completion bash)
///   zsh:  osctl completion zsh > "${fpath[1]}/_osctl"
///   fish: osctl completion fish > ~/.config/fish/completions/osctl.fish
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Completion {
    /// The shell
    shell: Shell,
}

impl Completion {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "osctl", &mut script);
        output::bytes(&script)
    }
}
