//! The `image-builder` program: reads the command line, runs the command, prints the error.

use std::process::ExitCode;

use clap::Parser;
use keelson_image_builder::command::Arguments;

fn main() -> ExitCode {
    match Arguments::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
