//! Stages a bundle: refuses what may not run here, writes it into the slot that does not
//! run, reads it back, and makes the boot loader try it next. Blocking, and in an order in
//! which power may be cut anywhere: the running slot and its entry are never touched, the
//! other slot has no name while it is not whole, and its entry comes last.

use super::{
    disk::{Disk, Slot, SlotWriter, forget},
    loader::{self, Loader as _},
    memory::Memory,
    record::{Carried, Record, Release, State, Tries},
};
use anyhow::{Context as _, anyhow, bail, ensure};
use keelson_disk::{
    bundle::{self, Bundle, Keys, Manifest},
    layout, uki, verity,
    version::Version,
};
use sha2::{Digest as _, Sha256};
use std::{
    fs::File,
    io::{self, Read, Seek as _, SeekFrom, Write},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// How often progress is told.
const TELL: Duration = Duration::from_millis(250);

/// What runs, as far as a bundle must fit it.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    /// Its version.
    pub version: String,
    /// "amd64" or "arm64".
    pub arch: String,
    /// Which build of the image.
    pub variant: String,
    /// Its root.
    pub root_hash: [u8; 32],
}

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The UKI goes to the boot partition.
    Kernel,
    /// The root goes into its slot.
    Write,
    /// The slot is read back.
    Verify,
}

impl Step {
    /// For a person.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Step::Kernel => "kernel",
            Step::Write => "write",
            Step::Verify => "verify",
        }
    }
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The version that is staged.
    pub version: String,
    /// What is being done.
    pub step: Step,
    /// How much of it is done, in bytes.
    pub done: u64,
    /// How much there is.
    pub total: u64,
    /// How long each finished step took.
    pub took: Vec<(Step, Duration)>,
}

/// What staging stands on.
pub(crate) struct Ground<'a> {
    /// The disk that holds the running root.
    pub disk: &'a Disk,
    /// What runs.
    pub running: &'a Running,
    /// Whose signatures count.
    pub keys: &'a Keys,
    /// The record in META.
    pub memory: &'a Memory,
    /// Take a version that failed here before.
    pub force: bool,
    /// It waits for a reboot that somebody else asks for.
    pub waits: bool,
    /// Where it is fetched from, if the machine does that.
    pub url: Option<String>,
    /// Which boot this is.
    pub boot: String,
    /// Where progress is told.
    pub progress: &'a watch::Sender<Option<Progress>>,
    /// Set when it shall end.
    pub cancelled: &'a AtomicBool,
}

/// Stages the bundle that `source` holds; the release that is tried next. On an error the
/// record says what became of it, and the machine boots what it runs now.
pub(crate) fn stage(source: impl Read, ground: &Ground<'_>) -> anyhow::Result<Release> {
    let source = Cancellable {
        source,
        cancelled: ground.cancelled,
    };
    let bundle = Bundle::open(source, ground.keys).map_err(plain)?;
    let manifest = bundle.manifest().clone();
    let other = ground.disk.other(&ground.running.root_hash)?;
    if let Some(why) = refusal(
        &manifest,
        ground.running,
        &ground.memory.read(),
        other.bytes,
        ground.force,
    ) {
        bail!(why);
    }
    look(ground, &manifest)?;
    let release = release(&manifest);
    ground.memory.change(|record| {
        record.state = State::Writing {
            release: release.clone(),
            url: ground.url.clone(),
            stage: ground.waits,
            boot: ground.boot.clone(),
        }
    })?;
    let mut work = Work {
        ground,
        manifest: &manifest,
        other,
        teller: Teller::new(ground.progress, manifest.version.to_string()),
    };
    match work.run(bundle, &release) {
        Ok(()) => Ok(release),
        Err(error) => {
            let why = format!("{error:#}");
            work.undo();
            ground
                .memory
                .change(|record| record.fail(&release.version, why, super::now()))?;
            Err(error)
        }
    }
}

/// Why a release may not be staged here, if it may not.
pub(crate) fn refusal(
    manifest: &Manifest,
    running: &Running,
    record: &Record,
    slot_bytes: u64,
    force: bool,
) -> Option<String> {
    let version = &manifest.version;
    if manifest.arch != running.arch {
        return Some(format!(
            "the bundle is for {}, this machine is {}",
            manifest.arch, running.arch
        ));
    }
    if manifest.variant != running.variant {
        return Some(format!(
            "the bundle is the variant {}, this machine runs {}",
            manifest.variant, running.variant
        ));
    }
    if record.is_trying() {
        return Some(format!(
            "{} is on trial and not known to be good: the slot of the release before it is kept until then",
            running.version
        ));
    }
    if let Ok(floor) = record.floor.parse::<Version>()
        && *version < floor
    {
        return Some(format!(
            "{version} is below the security floor {floor} of this machine"
        ));
    }
    if manifest.root.root_hash == running.root_hash {
        return Some(format!("{version} runs already"));
    }
    if let Ok(current) = running.version.parse::<Version>() {
        if *version == current {
            return Some(format!(
                "this is another build of {version}, which runs: the boot loader tells releases apart \
                 by their version; give the build one of its own"
            ));
        }
        if *version < current {
            return Some(format!(
                "{version} is older than {current}, which runs; `osctl rollback` boots the release before it"
            ));
        }
    }
    let hash = verity::hex(&manifest.root.root_hash);
    if !force && let Some(bad) = record.failed(&version.to_string(), &hash) {
        return Some(format!(
            "{version} has failed here: {}; --force tries it again",
            bad.reason
        ));
    }
    let needed = manifest.root.image_blocks().saturating_mul(verity::BLOCK);
    if needed.max(manifest.image.unpacked_bytes) > slot_bytes {
        return Some(format!(
            "the root image needs {} MiB, a slot of this machine has {}",
            needed.max(manifest.image.unpacked_bytes).div_ceil(1 << 20),
            slot_bytes >> 20
        ));
    }
    None
}

/// Looks whether the boot loader can take it. Nothing is changed, so that what is refused
/// here costs nothing: not the release before either.
fn look(ground: &Ground<'_>, manifest: &Manifest) -> anyhow::Result<()> {
    let running = &ground.running.root_hash;
    ground.disk.with_loader(|loader| {
        loader.clean()?;
        let entries = loader.entries()?;
        let own = loader::find(&entries, running)
            .context("the running release has no entry in the boot loader: nothing is written")?;
        ensure!(
            own.tries == Tries::Uncounted,
            "the running release is not marked good: its predecessor is kept until then"
        );
        let others: Vec<_> = entries.iter().filter(|it| !it.opens(running)).collect();
        loader.room(manifest.uki.bytes, &others)
    })
}

fn release(manifest: &Manifest) -> Release {
    Release {
        version: manifest.version.to_string(),
        root_hash: verity::hex(&manifest.root.root_hash),
        orchestrator: manifest.orchestrator.as_ref().map(|it| Carried {
            name: it.name.clone(),
            version: it.version.clone(),
        }),
        floor: manifest.security_floor.to_string(),
        staged: super::now(),
    }
}

struct Work<'a, 'g> {
    ground: &'a Ground<'g>,
    manifest: &'a Manifest,
    other: Slot,
    teller: Teller<'a>,
}

impl Work<'_, '_> {
    fn run<R: Read>(&mut self, bundle: Bundle<R>, release: &Release) -> anyhow::Result<()> {
        let (ground, manifest, other) = (self.ground, self.manifest, self.other);
        self.teller.begin(Step::Kernel, manifest.uki.bytes);
        let bundle = ground.disk.with_loader(|loader| {
            // None of the others opens a root that will still be there.
            let running = &ground.running.root_hash;
            for entry in loader.entries()?.iter().filter(|it| !it.opens(running)) {
                loader.remove(entry)?;
            }
            let version = manifest.version.to_string();
            let mut file = loader.partial(&version, manifest.uki.bytes)?;
            let bundle = bundle
                .uki(&mut self.teller.counting(&mut file))
                .map_err(plain)?;
            file.sync_all().context("flushing the UKI")?;
            check_uki(&mut file, manifest)?;
            Ok(bundle)
        })?;

        let kept = ground.disk.held(other)? == Some(layout::slot_uuid(&manifest.root.root_hash));
        if kept && ground.disk.verify(other, &manifest.root).is_ok() {
            tracing::info!(
                "partition {} holds {} already",
                other.number,
                manifest.version
            );
        } else {
            ground.disk.empty(other)?;
            self.teller
                .begin(Step::Write, manifest.image.unpacked_bytes);
            let mut slot: SlotWriter = ground.disk.writer(other)?;
            let bundle = bundle
                .image(&mut self.teller.counting(&mut slot))
                .map_err(plain)?;
            bundle.finish().map_err(plain)?;
            slot.flush().context("flushing the slot")?;
            drop(slot);
            self.teller
                .begin(Step::Verify, manifest.image.unpacked_bytes);
            ground.disk.verify(other, &manifest.root)?;
            ground.disk.name(other, &manifest.root.root_hash)?;
        }
        ensure!(
            !ground.cancelled.load(Ordering::Relaxed),
            "it was cancelled"
        );
        ground.memory.change(|record| {
            record.state = State::Staged {
                release: release.clone(),
            }
        })?;
        ground
            .disk
            .with_loader(|loader| loader.stage(&manifest.version.to_string()))?;
        self.teller.end();
        Ok(())
    }

    /// Leaves nothing that could be booted and is not whole. What fails here is told and
    /// does no harm: a slot without a name is found by nobody.
    fn undo(&self) {
        let hash = &self.manifest.root.root_hash;
        let named = self.ground.disk.held(self.other);
        let whole = matches!(named, Ok(Some(uuid)) if uuid == layout::slot_uuid(hash));
        if !whole && let Err(error) = self.ground.disk.empty(self.other) {
            tracing::warn!("emptying partition {}: {error:#}", self.other.number);
        }
        let cleaned = self.ground.disk.with_loader(|loader| {
            for entry in loader.entries()?.iter().filter(|entry| entry.opens(hash)) {
                loader.remove(entry)?;
            }
            loader.clean()
        });
        if let Err(error) = cleaned {
            tracing::warn!("cleaning the boot partition: {error:#}");
        }
    }
}

/// Reads the UKI back from the disk: it must be what was signed, and open this root under
/// this version. The loader does not go on to another entry after one that does not load.
fn check_uki(file: &mut File, manifest: &Manifest) -> anyhow::Result<()> {
    forget(file, 0, manifest.uki.bytes)?;
    file.seek(SeekFrom::Start(0))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).context("reading the UKI back")? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    ensure!(
        <[u8; 32]>::from(hash.finalize()) == manifest.uki.sha256,
        "the UKI is not what was written: the disk is failing"
    );
    ensure!(
        loader::root(file) == Some(manifest.root),
        "the bundle's UKI opens another root than the one beside it"
    );
    let names = uki::text(file, ".osrel")?.unwrap_or_default();
    let wanted = manifest.version.loader();
    let image = names
        .lines()
        .find_map(|line| line.strip_prefix("IMAGE_VERSION="))
        .map(|value| value.trim_matches('"'));
    ensure!(
        image == Some(wanted.as_str()),
        "the bundle's UKI says IMAGE_VERSION={}, the bundle {wanted}: the boot loader would order it wrongly",
        image.unwrap_or("nothing")
    );
    Ok(())
}

/// The error of a bundle, in one line with its causes.
fn plain(error: bundle::Error) -> anyhow::Error {
    anyhow!(error)
}

/// Ends reading when it shall end.
struct Cancellable<'a, R> {
    source: R,
    cancelled: &'a AtomicBool,
}

impl<R: Read> Read for Cancellable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(io::Error::other("it was cancelled"));
        }
        self.source.read(buffer)
    }
}

/// Tells progress, not too often.
struct Teller<'a> {
    sender: &'a watch::Sender<Option<Progress>>,
    now: Progress,
    begun: Option<Instant>,
    told: Instant,
}

impl<'a> Teller<'a> {
    fn new(sender: &'a watch::Sender<Option<Progress>>, version: String) -> Self {
        Teller {
            sender,
            now: Progress {
                version,
                step: Step::Kernel,
                done: 0,
                total: 0,
                took: Vec::new(),
            },
            begun: None,
            told: Instant::now(),
        }
    }

    fn begin(&mut self, step: Step, total: u64) {
        self.end();
        self.begun = Some(Instant::now());
        (self.now.step, self.now.done, self.now.total) = (step, 0, total);
        self.tell();
    }

    fn end(&mut self) {
        if let Some(begun) = self.begun.take() {
            self.now.took.push((self.now.step, begun.elapsed()));
            self.now.done = self.now.total;
            self.tell();
        }
    }

    fn tell(&mut self) {
        self.told = Instant::now();
        self.sender.send_replace(Some(self.now.clone()));
    }

    fn counting<'t, W>(&'t mut self, sink: &'t mut W) -> Counting<'t, 'a, W> {
        Counting { teller: self, sink }
    }
}

/// Counts what is written.
struct Counting<'t, 'a, W> {
    teller: &'t mut Teller<'a>,
    sink: &'t mut W,
}

impl<W: Write> Write for Counting<'_, '_, W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let written = self.sink.write(buffer)?;
        self.teller.now.done += written as u64;
        if self.teller.told.elapsed() >= TELL {
            self.teller.tell();
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

#[cfg(test)]
mod tests;
