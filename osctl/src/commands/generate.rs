//! `osctl gen`: what is made at the desk, before there is a node.

mod config;
mod secrets;

use crate::error::Result;
use clap::Subcommand;

/// Make secrets and machine configs; needs no node
#[derive(Debug, Subcommand)]
pub(crate) enum Generate {
    Secrets(secrets::GenSecrets),
    Config(config::GenConfig),
}

impl Generate {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Generate::Secrets(command) => command.run(),
            Generate::Config(command) => command.run(),
        }
    }
}
