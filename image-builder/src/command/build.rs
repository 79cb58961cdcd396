//! `image-builder build`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::ensure;
use keelson_disk::version::Version;

use super::{Output, key};
use crate::inputs::{Inputs, Orchestrator, Variant};
use crate::report::Report;
use crate::rootfs;

/// Build everything: packages, root tree, UKI and disk image
///
/// Packages and the orchestrator are downloaded once and kept in the cache; what they are is
/// locked, so that a build of the same source always has the same.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  image-builder build                                    for virtual machines, with K3s
  image-builder build --variant metal --layout compact   for a small machine
  image-builder build --orchestrator ./k3s               with a K3s that is at hand
  image-builder build --format qcow2 --offline           only what the cache has, only for QEMU
  image-builder build --trust release.pub                takes upgrades signed with release.key")]
pub struct Arguments {
    /// The source tree, which has the folders rootfs and kernel
    #[arg(long, value_name = "DIR", default_value = ".")]
    source: PathBuf,

    /// The folder with our built programs init, machined and apid
    #[arg(long, value_name = "DIR", default_value = "build/programs")]
    programs: PathBuf,

    /// The kernel flavour and what goes with it
    #[arg(long, value_enum, default_value_t = Variant::Cloud)]
    variant: Variant,

    /// The orchestrator: `k3s`, `none`, a K3s executable, or a payload folder
    #[arg(long, value_name = "WHICH", default_value = "k3s")]
    orchestrator: String,

    /// The image's version
    #[arg(long, value_name = "VERSION", default_value = env!("CARGO_PKG_VERSION"))]
    image_version: Version,

    /// A public key: the image takes upgrades that are signed with it. May be repeated
    #[arg(long, value_name = "FILE.pub")]
    trust: Vec<PathBuf>,

    /// The lowest version that a machine takes again once this one has run well on it
    #[arg(long, value_name = "VERSION", default_value_t = Version::LOWEST)]
    security_floor: Version,

    /// The one clock of the build, in Unix seconds [default: the time of the source's commit]
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH")]
    build_time: Option<u64>,

    /// Where downloads are kept
    #[arg(long, value_name = "DIR", default_value = "build/cache")]
    cache: PathBuf,

    /// Download nothing
    #[arg(long)]
    offline: bool,

    #[command(flatten)]
    output: Output,
}

impl Arguments {
    pub(super) fn run(self, report: &Report) -> anyhow::Result<()> {
        let build_time = match self.build_time {
            Some(time) => time,
            None => commit_time(&self.source).unwrap_or_else(|| now(report)),
        };
        ensure!(
            self.security_floor <= self.image_version,
            "--security-floor {} is above the image's own version {}",
            self.security_floor,
            self.image_version
        );
        if self.trust.is_empty() {
            report.warn("no key is trusted, so the image takes no upgrade; give --trust");
        }
        let inputs = Inputs {
            source: self.source,
            programs: self.programs,
            variant: self.variant,
            version: self.image_version,
            build_time,
            trust: key::read_public(&self.trust)?,
            security_floor: self.security_floor,
            orchestrator: orchestrator(&self.orchestrator)?,
            cache: self.cache,
            offline: self.offline,
        };
        let tree = rootfs::assemble(&inputs, &self.output.output.join("trees"), report)?;
        self.output.build(&tree, report)?;
        Ok(())
    }
}

/// What the word for the orchestrator means.
fn orchestrator(word: &str) -> anyhow::Result<Orchestrator> {
    let path = Path::new(word);
    match word {
        "k3s" => Ok(Orchestrator::K3s),
        "none" => Ok(Orchestrator::None),
        _ if path.is_dir() => Ok(Orchestrator::Payload(path.to_path_buf())),
        _ if path.is_file() => Ok(Orchestrator::Executable(path.to_path_buf())),
        _ => anyhow::bail!(
            "--orchestrator {word}: this is neither `k3s`, `none`, a file nor a folder"
        ),
    }
}

/// The time of the commit that the source is at.
fn commit_time(source: &Path) -> Option<u64> {
    let output = Command::new("git")
        .arg("-C")
        .arg(source)
        .args(["log", "-1", "--format=%ct"])
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

fn now(report: &Report) -> u64 {
    report.warn(
        "the source is in no git repository, so the image carries the time of now and no other build gives the same bytes; give --build-time",
    );
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |now| now.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_orchestrators_word_is_understood() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("k3s");
        std::fs::write(&file, "x").unwrap();
        let word = |path: &Path| orchestrator(&path.to_string_lossy()).ok();
        assert_eq!(orchestrator("k3s").ok(), Some(Orchestrator::K3s));
        assert_eq!(orchestrator("none").ok(), Some(Orchestrator::None));
        let payload = dir.path().to_path_buf();
        assert_eq!(word(dir.path()), Some(Orchestrator::Payload(payload)));
        assert_eq!(word(&file), Some(Orchestrator::Executable(file.clone())));
        assert_eq!(word(&dir.path().join("absent")), None);
    }
}
