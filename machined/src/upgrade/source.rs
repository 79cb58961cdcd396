//! Where a bundle's bytes come from: a client that sends them, or a web server. Blocking
//! readers; what they read is checked by whoever reads.

use crate::fetch;
use anyhow::{Context as _, bail};
use bytes::{Buf as _, Bytes};
use keelson_config::Egress;
use keelson_disk::bundle::{Keys, PublicKey, key};
use std::{
    fs,
    io::{self, Read},
    path::Path,
};
use tokio::sync::mpsc;

/// The bytes that a client sends, or why no more come.
pub(crate) type Upload = mpsc::Receiver<Result<Bytes, String>>;

/// Where a bundle comes from.
pub(crate) enum Source {
    /// A client sends it.
    Upload(Upload),
    /// The machine fetches it.
    Url(String),
}

impl Source {
    /// The URL, where there is one. It may hold a password, so it is told to nobody.
    pub(crate) fn url(&self) -> Option<String> {
        match self {
            Source::Upload(_) => None,
            Source::Url(url) => Some(url.clone()),
        }
    }

    /// The source in words, to follow who began it.
    pub(crate) fn said(&self) -> String {
        match self {
            Source::Upload(_) => String::new(),
            Source::Url(url) => match fetch::host(url) {
                Some(host) => format!(", from {host}"),
                None => String::new(),
            },
        }
    }

    /// The bytes; `egress` is the way to a web server. Must be called where a runtime is,
    /// and not on one of its workers.
    pub(crate) fn open(self, egress: &Egress) -> anyhow::Result<Box<dyn Read>> {
        match self {
            Source::Upload(pieces) => Ok(Box::new(Pieces {
                pieces,
                piece: Bytes::new(),
            })),
            Source::Url(url) => Ok(Box::new(fetch::Download::begin("bundle", url, egress)?)),
        }
    }
}

/// The keys in the image that bundles may be signed with.
pub(crate) fn keys(folder: &Path) -> anyhow::Result<Keys> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("the image trusts no key: it was built without --trust")
        }
        Err(error) => return Err(error).with_context(|| format!("listing {}", folder.display())),
    };
    let mut keys = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        let key = PublicKey::from_pem(&text)
            .map_err(|error: key::Error| anyhow::anyhow!(error))
            .with_context(|| format!("reading the key {}", path.display()))?;
        keys.push(key);
    }
    Ok(keys.into_iter().collect())
}

/// What a client sends, as a reader.
struct Pieces {
    pieces: Upload,
    piece: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                Some(Ok(piece)) => self.piece = piece,
                Some(Err(why)) => {
                    return Err(io::Error::new(io::ErrorKind::ConnectionAborted, why));
                }
                None => return Ok(0),
            }
        }
        let taken = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..taken]);
        Ok(taken)
    }
}

#[cfg(test)]
mod tests;
