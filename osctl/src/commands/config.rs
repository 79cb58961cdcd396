//! `osctl config`: the contexts of this person; and comparing machine configs.

mod add;
mod diff;
mod list;
mod merge;
mod remove;
mod r#use;

use crate::{app::App, error::Result};
use clap::Subcommand;

/// Manage contexts: which clusters you can call, and with which certificate
///
/// `osctl config diff` compares machine configs.
#[derive(Debug, Subcommand)]
pub(crate) enum Config {
    Add(add::Add),
    Use(r#use::Use),
    List(list::List),
    Merge(merge::Merge),
    Remove(remove::Remove),
    Diff(diff::Diff),
}

impl Config {
    /// Does it.
    pub(crate) fn run(self, app: &App) -> Result<()> {
        match self {
            Config::Add(command) => command.run(app),
            Config::Use(command) => command.run(app),
            Config::List(command) => command.run(app),
            Config::Merge(command) => command.run(app),
            Config::Remove(command) => command.run(app),
            Config::Diff(command) => command.run(),
        }
    }
}
