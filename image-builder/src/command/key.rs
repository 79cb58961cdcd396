//! `image-builder key`, and how the other commands read key files.

use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use keelson_disk::bundle::key::{self, Error};
use keelson_disk::bundle::{PublicKey, SigningKey};

use crate::report::Report;

/// Make the keys that upgrade bundles are signed with
#[derive(Debug, clap::Subcommand)]
pub enum Arguments {
    /// Make a new key: NAME.key signs bundles and is secret, NAME.pub goes into images
    ///
    /// Both are Ed25519 in PEM files, which openssl reads too. Whoever has NAME.key can replace
    /// the system of every machine that trusts it: keep it off the machines, and keep a copy.
    #[command(after_help = "Example:
  image-builder key new release
  image-builder build --trust release.pub
  image-builder bundle --key release.key")]
    New {
        /// The name of both files, which may have a folder in front
        name: PathBuf,
    },
}

impl Arguments {
    pub(super) fn run(self, report: &Report) -> anyhow::Result<()> {
        let Arguments::New { name } = self;
        let id = new(&name)?;
        report.note("Key", &id.to_string());
        report.note("Secret", &with(&name, ".key").display().to_string());
        report.note("Public", &with(&name, ".pub").display().to_string());
        Ok(())
    }
}

/// Writes both files, or none.
fn new(name: &Path) -> anyhow::Result<key::KeyId> {
    let text = SigningKey::generate()?;
    let public = SigningKey::from_pem(&text)?.public();
    let (secret_path, public_path) = (with(name, ".key"), with(name, ".pub"));
    create(&secret_path, &text, 0o600)?;
    if let Err(error) = create(&public_path, &public.to_pem(), 0o644) {
        std::fs::remove_file(&secret_path)
            .with_context(|| format!("cannot remove {}", secret_path.display()))?;
        return Err(error);
    }
    Ok(public.id())
}

/// Appends to the last name of a path, whatever dots it has.
fn with(name: &Path, suffix: &str) -> PathBuf {
    let mut name = name.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Writes a file that is not there yet: a key that is replaced is lost.
fn create(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .with_context(|| {
            format!(
                "cannot write {} (a key that exists is never replaced)",
                path.display()
            )
        })
}

/// Reads `.pub` files.
pub(super) fn read_public(paths: &[PathBuf]) -> anyhow::Result<Vec<PublicKey>> {
    read(paths, PublicKey::from_pem)
}

/// Reads `.key` files.
pub(super) fn read_private(paths: &[PathBuf]) -> anyhow::Result<Vec<SigningKey>> {
    read(paths, SigningKey::from_pem)
}

fn read<T>(paths: &[PathBuf], parse: impl Fn(&str) -> Result<T, Error>) -> anyhow::Result<Vec<T>> {
    let one = |path: &PathBuf| {
        let mut text = String::new();
        std::fs::File::open(path)?
            .take(key::MAX_FILE)
            .read_to_string(&mut text)?;
        anyhow::Ok(parse(&text)?)
    };
    paths
        .iter()
        .map(|path| one(path).with_context(|| format!("cannot read the key {}", path.display())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_key_is_two_files_and_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("release.2026");
        let (secret, public) = (with(&name, ".key"), with(&name, ".pub"));
        let id = new(&name).unwrap();
        let mode = std::fs::metadata(&secret).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(secret.ends_with("release.2026.key"));
        let private = read_private(std::slice::from_ref(&secret)).unwrap();
        let trusted = read_public(std::slice::from_ref(&public)).unwrap();
        assert_eq!((private[0].public(), trusted[0].id()), (trusted[0], id));

        let before = std::fs::read(&secret).unwrap();
        assert!(new(&name).is_err());
        assert_eq!(std::fs::read(&secret).unwrap(), before);
        std::fs::remove_file(&secret).unwrap();
        assert!(new(&name).is_err(), "the public half is in the way");
        assert!(!secret.exists());
    }

    #[test]
    fn the_wrong_half_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let name = dir.path().join("k");
        new(&name).unwrap();
        let error = read_private(&[with(&name, ".pub")]).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("k.pub"), "{text}");
        assert!(text.contains("a PRIVATE KEY is needed"), "{text}");
    }
}
