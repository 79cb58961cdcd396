//! `image-builder bundle`.

use std::path::PathBuf;

use keelson_disk::version::Version;

use super::key;
use crate::image::bundle::{self, Options};
use crate::image::manifest::Manifest;
use crate::report::Report;

/// Sign a built image and pack it into one file, an upgrade for machines that run already
///
/// The image and its UKI are checked before they are signed. The same image and keys give the
/// same bytes. A machine takes the bundle if it trusts one of the keys (`build --trust`), so a
/// bundle that is signed with the old and the new key brings machines from one to the other.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  image-builder bundle --key release.key
  image-builder bundle target/image/k3s --key old.key --key new.key --output k3s.bundle")]
pub struct Arguments {
    /// The folder that `image-builder build` has built into
    #[arg(value_name = "DIR", default_value = "build/image")]
    image: PathBuf,

    /// A private key to sign with; may be repeated
    #[arg(long, value_name = "FILE.key", required = true)]
    key: Vec<PathBuf>,

    /// The file to write [default: keelson-VERSION-ARCH-VARIANT.bundle in the image's folder]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// The lowest version that a machine takes again once this one has run well on it
    /// [default: the one that the image was built with]
    #[arg(long, value_name = "VERSION")]
    security_floor: Option<Version>,

    /// zstd's level: the root image is compressed already, so more takes long and gains little
    #[arg(long, value_name = "1-19", default_value_t = 3,
        value_parser = clap::value_parser!(i32).range(1..=19))]
    level: i32,
}

impl Arguments {
    pub(super) fn run(self, report: &Report) -> anyhow::Result<()> {
        let image = Manifest::read(&self.image)?;
        let options = Options {
            keys: key::read_private(&self.key)?,
            security_floor: self.security_floor,
            level: self.level,
        };
        let output = self.output.unwrap_or_else(|| {
            let variant = image.release.as_ref().map(|release| release.variant.name());
            let name = [&image.version, &image.arch, variant.unwrap_or("unknown")].join("-");
            self.image.join(format!("keelson-{name}.bundle"))
        });
        bundle::build(&self.image, &image, &options, &output, report)?;
        for key in &options.keys {
            report.note("Signed by", &key.public().id().to_string());
        }
        report.note("Output", &output.display().to_string());
        Ok(())
    }
}
