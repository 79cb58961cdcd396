//! osctl: the person's command line for Keelson machines. It runs at the desk, on
//! Linux and macOS, never needs root, and does offline what can be done offline.
//!
//! One file per command in `commands`; what they share lies beside it.

mod age;
mod app;
mod apply;
mod board;
mod certs;
mod check;
mod cli;
mod client;
mod commands;
mod contexts;
mod convert;
mod draft;
mod error;
mod file;
mod kubeconfig;
mod lines;
mod machine_config;
mod output;
mod resource;
mod secrets;
mod yaml;

use clap::Parser;
use error::Error;
use std::{io::Write, process::ExitCode};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = error.render(output::colour_stderr());
            // Where stderr is gone the exit code still tells.
            std::io::stderr().write_all(text.as_bytes()).ok();
            error.exit_code()
        }
    }
}

fn run() -> error::Result<()> {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(help_or_usage) => {
            // Help goes to stdout, which may be closed; usage errors go to stderr.
            help_or_usage.print().ok();
            return match help_or_usage.exit_code() {
                0 => Ok(()),
                _ => Err(Error::told(error::Kind::Input)),
            };
        }
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::failed("cannot start").cause(error))?
        .block_on(cli.run())
}
