//! Fetches one archive: into a file beside its place, which gets its name once its digest is
//! right. It ends with whoever holds it.

use crate::{engine::Wake, fetch::Download};
use anyhow::{Context as _, bail};
use keelson_config::{Egress, ImageArchive};
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

/// How the names of files end that are not whole yet: nothing that would be imported.
pub(super) const PART: &str = ".part";

/// What must stay free, for all else that is kept there.
const RESERVE: u64 = 512 << 20;

/// How much is read at a time.
const PIECE: usize = 1 << 20;

/// How often the room is looked at, and the loop told how far it is.
const EVERY: Duration = Duration::from_secs(10);

/// How it stands.
#[derive(Clone, Debug)]
pub(super) enum Stand {
    /// It is under way.
    Under {
        /// How many bytes have come.
        read: u64,
        /// How many there are, where it is known.
        length: Option<u64>,
    },
    /// It failed: why, and when.
    Failed(String, Instant),
}

/// One that is fetched.
#[derive(Debug)]
pub(super) struct Fetch {
    stand: Arc<Mutex<Stand>>,
    /// Nobody wants it any more.
    dropped: Arc<AtomicBool>,
}

impl Fetch {
    /// Begins it; the loop is woken when it is there, or has failed.
    pub(super) fn begin(
        archive: &ImageArchive,
        egress: Egress,
        target: PathBuf,
        wake: Wake,
    ) -> Fetch {
        let stand = Arc::new(Mutex::new(Stand::Under {
            read: 0,
            length: None,
        }));
        let dropped = Arc::new(AtomicBool::new(false));
        let work = Work {
            archive: archive.clone(),
            egress,
            part: target.with_file_name(part(&archive.sha256)),
            target,
            stand: stand.clone(),
            dropped: dropped.clone(),
            wake,
        };
        tokio::task::spawn_blocking(move || work.run());
        Fetch { stand, dropped }
    }

    /// How it stands.
    pub(super) fn stand(&self) -> Stand {
        let stand = self.stand.lock().unwrap_or_else(PoisonError::into_inner);
        stand.clone()
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.dropped.store(true, Ordering::Relaxed);
    }
}

/// A name that no other has: one that is not wanted any more may still be ending.
fn part(sha256: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!(".{sha256}.{number}{PART}")
}

struct Work {
    archive: ImageArchive,
    egress: Egress,
    part: PathBuf,
    target: PathBuf,
    stand: Arc<Mutex<Stand>>,
    dropped: Arc<AtomicBool>,
    wake: Wake,
}

impl Work {
    fn run(self) {
        if let Err(error) = self.fetch() {
            // It may not be there at all.
            drop(fs::remove_file(&self.part));
            let why = format!("{error:#}");
            tracing::warn!("{}: {why}", self.archive.url);
            self.say(Stand::Failed(why, Instant::now()));
        }
        self.wake.notify_one();
    }

    fn say(&self, stand: Stand) {
        *self.stand.lock().unwrap_or_else(PoisonError::into_inner) = stand;
    }

    fn fetch(&self) -> anyhow::Result<()> {
        let writing = || format!("writing {}", self.part.display());
        let folder = self.part.parent().unwrap_or(Path::new("/"));
        let mut file = fs::File::create(&self.part).with_context(writing)?;
        let mut source = Download::begin("images", self.archive.url.clone(), &self.egress)?;
        let (length, mut read) = (source.length(), 0);
        room(folder, length.unwrap_or(0))?;
        let mut hash = Sha256::new();
        let mut piece = vec![0; PIECE];
        let mut looked = Instant::now();
        loop {
            let count = source.read(&mut piece).context("fetching the images")?;
            if self.dropped.load(Ordering::Relaxed) {
                bail!("it is not wanted any more");
            }
            if count == 0 {
                break;
            }
            hash.update(&piece[..count]);
            file.write_all(&piece[..count]).with_context(writing)?;
            read += count as u64;
            self.say(Stand::Under { read, length });
            if looked.elapsed() >= EVERY {
                looked = Instant::now();
                room(folder, 0)?;
                self.wake.notify_one();
            }
        }
        let found = hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>();
        if found != self.archive.sha256 {
            bail!("its SHA-256 is {found}, another than the config says");
        }
        file.sync_all().with_context(writing)?;
        fs::rename(&self.part, &self.target)
            .with_context(|| format!("renaming {}", self.part.display()))
    }
}

/// Whether there is room for so many bytes more.
fn room(folder: &Path, bytes: u64) -> anyhow::Result<()> {
    let status = rustix::fs::statvfs(folder)
        .with_context(|| format!("asking how much is free in {}", folder.display()))?;
    let free = status.f_bavail * status.f_frsize;
    if free < RESERVE + bytes {
        let mebibytes = |bytes: u64| bytes / (1 << 20);
        bail!(
            "{} MiB are free in {}, and {} are needed and kept free",
            mebibytes(free),
            folder.display(),
            mebibytes(RESERVE + bytes)
        );
    }
    Ok(())
}
