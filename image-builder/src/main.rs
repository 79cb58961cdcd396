//! The `image-builder` program: reads the command line, runs the command, prints the error.

use std::process::ExitCode;

use clap::Parser;
use keelson_image_builder::command::Arguments;

/// The exit code that tells a script that the orchestrator cannot be downloaded, and nothing else
/// is wrong: it may build with another one.
const UNREACHABLE: u8 = 4;

fn main() -> ExitCode {
    match Arguments::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            if keelson_image_builder::orchestrator::is_unreachable(&error) {
                ExitCode::from(UNREACHABLE)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}
