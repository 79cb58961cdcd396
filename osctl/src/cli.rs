//! The command line as a whole: the global options and the list of commands.

use crate::{
    app::{App, Global},
    commands::{
        apply_config::ApplyConfig, bundle::Bundle, completion::Completion, config::Config,
        convert::Convert, dmesg::Dmesg, edit::Edit, events::Events, exit_codes::ExitCodes,
        explain::Explain, generate::Generate, get::Get, health::Health,
        internal_docs::InternalDocs, kubeconfig::Kubeconfig, logs::Logs, patch::Patch,
        reboot::Reboot, rollback::Rollback, schema::Schema, service::Service, shutdown::Shutdown,
        upgrade::Upgrade, validate::Validate, version::Version,
    },
    error::{EXIT_CODES, Result},
};
use clap::{Parser, Subcommand};

/// Manage Keelson machines from the desk
///
/// A new cluster in five steps:
///   osctl gen secrets
///   osctl gen config --secrets secrets.yaml --hostname server-1
///   osctl apply-config -f machine.yaml --insecure --endpoint HOST --cert-fingerprint FP
///   osctl config add demo --secrets secrets.yaml --endpoint HOST
///   osctl health
#[derive(Debug, Parser)]
#[command(name = "osctl", version, verbatim_doc_comment, after_long_help = EXIT_CODES)]
#[command(
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    global: Global,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(subcommand, name = "gen")]
    Generate(Generate),
    Validate(Validate),
    Explain(Explain),
    Schema(Schema),
    Convert(Convert),
    ApplyConfig(ApplyConfig),
    Patch(Patch),
    Edit(Edit),
    #[command(subcommand)]
    Config(Config),
    Version(Version),
    Get(Get),
    Health(Health),
    Logs(Logs),
    Dmesg(Dmesg),
    Events(Events),
    Service(Service),
    Kubeconfig(Kubeconfig),
    Upgrade(Upgrade),
    Rollback(Rollback),
    Reboot(Reboot),
    Shutdown(Shutdown),
    #[command(subcommand)]
    Bundle(Bundle),
    Completion(Completion),
    #[command(hide = true)]
    ExitCodes(ExitCodes),
    #[command(hide = true)]
    InternalDocs(InternalDocs),
}

impl Cli {
    /// Does what the command line says.
    pub(crate) async fn run(self) -> Result<()> {
        let app = App::new(self.global);
        match self.command {
            Command::Generate(command) => command.run(),
            Command::Validate(command) => command.run(),
            Command::Explain(command) => command.run(),
            Command::Schema(command) => command.run(),
            Command::Convert(command) => command.run(),
            Command::ApplyConfig(command) => command.run(&app).await,
            Command::Patch(command) => command.run(&app).await,
            Command::Edit(command) => command.run(&app).await,
            Command::Config(command) => command.run(&app),
            Command::Version(command) => command.run(&app).await,
            Command::Get(command) => command.run(&app).await,
            Command::Health(command) => command.run(&app).await,
            Command::Logs(command) => command.run(&app).await,
            Command::Dmesg(command) => command.run(&app).await,
            Command::Events(command) => command.run(&app).await,
            Command::Service(command) => command.run(&app).await,
            Command::Kubeconfig(command) => command.run(&app).await,
            Command::Upgrade(command) => command.run(&app).await,
            Command::Rollback(command) => command.run(&app).await,
            Command::Reboot(command) => command.run(&app).await,
            Command::Shutdown(command) => command.run(&app).await,
            Command::Bundle(command) => command.run(),
            Command::Completion(command) => command.run(),
            Command::ExitCodes(command) => command.run(),
            Command::InternalDocs(command) => command.run(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_fit_together() {
        Cli::command().debug_assert();
    }
}
