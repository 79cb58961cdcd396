//! `osctl validate`.

use crate::{
    check,
    error::{Error, Kind, Result},
    output,
};
use clap::Args;
use std::path::PathBuf;

/// Say everything that is wrong with a machine config; needs no node
///
/// The same code decides on the machine. Each finding names the file, the line,
/// the column and the path of the value, and what to do about it. With an error in
/// any of the files the exit code is 2.
#[derive(Debug, Args)]
pub(crate) struct Validate {
    /// The files; `-` is stdin
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,

    /// Take warnings for errors
    #[arg(long)]
    strict: bool,
}

impl Validate {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        let mut failed = false;
        for path in &self.files {
            let name = check::name(path);
            match check::read(path).and_then(|config| check::check(&name, &config, self.strict)) {
                Ok(count) => output::line(format!("{name} is valid: {}", count.words()))?,
                Err(error) => {
                    output::note(error.render(output::colour_stderr()).trim_end());
                    failed = true;
                }
            }
        }
        if failed {
            Err(Error::told(Kind::Input))
        } else {
            Ok(())
        }
    }
}
