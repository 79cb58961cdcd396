//! `image-builder completion`.

use clap::CommandFactory;
use clap_complete::Shell;

/// Print a script that completes commands and options in a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  image-builder completion bash > ~/.local/share/bash-completion/completions/image-builder")]
pub struct Arguments {
    /// Which shell
    shell: Shell,
}

impl Arguments {
    pub(super) fn run(self) -> anyhow::Result<()> {
        let mut command = super::Arguments::command();
        clap_complete::generate(
            self.shell,
            &mut command,
            "image-builder",
            &mut std::io::stdout(),
        );
        Ok(())
    }
}
