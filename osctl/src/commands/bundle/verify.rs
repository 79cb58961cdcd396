//! `osctl bundle verify`.

use crate::{error::Result, output};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use keelson_disk::bundle::{self, Bundle, Keys};
use std::{
    io::{self, IsTerminal},
    path::PathBuf,
};

/// Prove that a bundle is whole and that a key you trust has signed it
///
/// The bundle is read to its end and unpacked, and nothing of it is kept. One that
/// is damaged, cut off, or not signed by any of the keys ends with exit code 2; a
/// file that cannot be read to its end with 1.
#[derive(Debug, Args)]
#[command(after_help = "Example:
  osctl bundle verify keelson-0.2.0-amd64-cloud.bundle --key release.pub")]
pub(crate) struct Verify {
    /// The bundle; `-` is stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// A public key that you trust; may be repeated, and one that has signed is enough
    #[arg(long, value_name = "FILE.pub", required = true)]
    key: Vec<PathBuf>,
}

impl Verify {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        let keys = self.key.iter().map(|path| super::key(path));
        let keys: Keys = keys.collect::<Result<Vec<_>>>()?.into_iter().collect();
        let bar = bar();
        let source = bar.wrap_read(super::open(&self.file)?);
        let result = self.read(source, &keys, &bar);
        bar.finish_and_clear();
        output::line(result.map_err(|error| super::refused(&self.file, &error))?)
    }

    /// Reads all of it; returns what to say.
    fn read(
        &self,
        source: impl io::Read,
        keys: &Keys,
        bar: &ProgressBar,
    ) -> Result<String, bundle::Error> {
        let bundle = Bundle::open(source, keys)?;
        bar.set_length(bundle.bytes());
        let by: Vec<String> = bundle.signed_by().iter().map(ToString::to_string).collect();
        let mut sink = io::sink();
        let it = bundle.uki(&mut sink)?.image(&mut sink)?.finish()?;
        Ok(format!(
            "{} is whole: version {}, {}, {}, signed by {}",
            self.file.display(),
            it.version,
            it.arch,
            it.variant,
            by.join(", ")
        ))
    }
}

/// A bar on a terminal, nothing elsewhere.
fn bar() -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = "[{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}";
    ProgressBar::new(0).with_style(
        ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> "),
    )
}
