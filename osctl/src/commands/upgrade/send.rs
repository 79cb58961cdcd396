//! Sends a bundle to a node, with a bar where somebody watches.

use super::follow::Shown;
use crate::{
    client::Session,
    error::{Error, Result},
};
use keelson_api::v1::{UpgradeOptions, UploadRequest, upload_request::Body};
use keelson_disk::bundle::Head;
use std::{
    fs::File,
    io::{Read, Seek as _, SeekFrom},
    path::Path,
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// How much is sent at once.
const PIECE: usize = 256 << 10;

/// How many pieces may wait for the network.
const WAITING: usize = 4;

/// How long a node may take over a bundle: a slow disk writes gigabytes.
const PATIENCE: Duration = Duration::from_secs(3 * 3600);

/// Sends it; the version that is staged then.
pub(super) async fn send(
    session: &Session,
    path: &Path,
    options: UpgradeOptions,
    shown: &mut Shown,
) -> Result<String> {
    let unreadable = |error: std::io::Error| {
        Error::input(format!("cannot read {}", path.display())).cause(error)
    };
    let mut file = File::open(path).map_err(unreadable)?;
    // What is no bundle is told before anything is sent.
    let head = Head::read(&mut file).map_err(|error| {
        Error::input(format!("{} cannot be sent", path.display())).chain(&error)
    })?;
    let manifest = head.manifest().map_err(|error| {
        Error::input(format!("{} cannot be sent", path.display())).chain(&error)
    })?;
    let length = file.seek(SeekFrom::End(0)).map_err(unreadable)?;
    file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    let bar = shown.bar(length, &format!("sending {}", manifest.version));
    let (pieces, requests) = mpsc::channel(WAITING);
    let counted = bar.clone();
    let reader = tokio::task::spawn_blocking(move || -> std::io::Result<()> {
        let options = Body::Options(options);
        if pieces.blocking_send(request(options)).is_err() {
            return Ok(());
        }
        loop {
            let mut piece = vec![0; PIECE];
            let read = file.read(&mut piece)?;
            if read == 0 {
                return Ok(());
            }
            piece.truncate(read);
            // The node may have all that it needs, or have refused.
            if pieces.blocking_send(request(Body::Data(piece))).is_err() {
                return Ok(());
            }
            counted.inc(read as u64);
        }
    });
    let mut upgrades = session.upgrades();
    let call = upgrades.upload(ReceiverStream::new(requests));
    let answer = session.call_within(PATIENCE, "upgrade it", call).await;
    bar.finish_and_clear();
    let staged = answer?.version;
    match reader.await {
        Ok(Ok(())) => Ok(staged),
        Ok(Err(error)) => Err(unreadable(error)),
        Err(error) => Err(Error::failed("cannot send the bundle").cause(error)),
    }
}

fn request(body: Body) -> UploadRequest {
    UploadRequest { body: Some(body) }
}
