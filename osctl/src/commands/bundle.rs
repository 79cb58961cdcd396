//! `osctl bundle`: upgrade bundles at the desk, without any node.

mod inspect;
mod verify;

use crate::{
    error::{Error, Result},
    file,
};
use clap::Subcommand;
use keelson_disk::bundle;
use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

/// Look at upgrade bundles; needs no node
#[derive(Debug, Subcommand)]
pub(crate) enum Bundle {
    Inspect(inspect::Inspect),
    Verify(verify::Verify),
}

impl Bundle {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Bundle::Inspect(command) => command.run(),
            Bundle::Verify(command) => command.run(),
        }
    }
}

/// A bundle's file, or stdin.
fn open(path: &Path) -> Result<Box<dyn Read>> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    match File::open(path) {
        Ok(file) => Ok(Box::new(file)),
        Err(error) => Err(Error::input(format!("cannot read {}", path.display())).cause(error)),
    }
}

/// What is wrong with a bundle, for the person who has it.
fn refused(path: &Path, error: &bundle::Error) -> Error {
    let name = path.display();
    let told = match error {
        bundle::Error::Source(error) => {
            return Error::failed(format!("cannot read {name}")).cause(error);
        }
        bundle::Error::Sink { .. } => Error::failed(format!("cannot unpack {name}")),
        _ => Error::input(format!("{name} is not a bundle to install")),
    }
    .chain(error);
    match error {
        bundle::Error::NotABundle => told.hint("is it the file that you mean?"),
        bundle::Error::NoTrustedKey { .. } => {
            told.hint("give the public key of who made it with --key")
        }
        bundle::Error::Unsigned | bundle::Error::BadSignature(_) => {
            told.hint("do not use it: no node takes it either")
        }
        _ => told,
    }
}

/// The most that a key file has.
const KEY_LIMIT: u64 = bundle::key::MAX_FILE;

/// Reads a public key.
fn key(path: &Path) -> Result<bundle::PublicKey> {
    let text = file::read_text(path, KEY_LIMIT)?;
    bundle::PublicKey::from_pem(&text).map_err(|error| {
        Error::input(format!("{} is not a public key of bundles", path.display()))
            .cause(error)
            .hint("it is the .pub file that `image-builder key new` has made")
    })
}
