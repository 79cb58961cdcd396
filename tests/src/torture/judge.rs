//! Says of a disk, without booting it, what a machine that has it would do: as the firmware, then
//! the boot loader, then the kernel and init would read it.
//!
//! ```text
//! ESP ─> boot loader, as it was ─> the first entry ─> a UKI of a known version, byte for byte
//!                                        ▲                └─> a slot with its root hash, whole ─> it runs
//!                                        └── not: the machine restarts, the loader has counted ──┘
//! ```
//!
//! It trusts nothing that only looks right: a UKI that begins as one and is not a known one would
//! run bytes that nobody knows, which may hang as well as restart.

use anyhow::{Context as _, Result, ensure};
use keelson_disk::{
    cmdline::Options,
    fat::{self, Volume},
    gpt::{self, Geometry, Table},
    layout::{self, Role},
    meta, uki, verity,
    verity::RootSpec,
};
use sha2::{Digest as _, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    io::{self, Cursor, Read, Seek, SeekFrom},
};

use super::{
    disk::Disk,
    loader::{self, Entry},
};

type Sum = [u8; 32];

/// Where the firmware finds the boot loader.
const LOADER: &str = "EFI/BOOT/BOOTX64.EFI";
/// Where the loader finds its settings.
const SETTINGS: &str = "loader/loader.conf";
/// Where the loader finds UKIs.
const UKIS: &str = "EFI/Linux";
/// After so many starts in vain nobody waits on.
const STARTS: usize = 16;
/// No file on the ESP is larger.
const LARGEST: u32 = 512 << 20;

/// A version that may run on the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its name.
    pub name: String,
    /// The SHA-256 of its UKI.
    pub uki: Sum,
    /// Its root.
    pub root: RootSpec,
    /// The kernel takes the second partition table where the first is damaged.
    pub second_table: bool,
}

impl Version {
    /// Reads a UKI.
    pub fn read(uki: &[u8]) -> Result<Version> {
        let text =
            |name| uki::text(&mut Cursor::new(uki), name)?.with_context(|| format!("no {name}"));
        let line = text(".cmdline")?;
        let entry = Entry::new("", &text(".osrel")?).context("its .osrel names no system")?;
        Ok(Version {
            name: entry.version,
            uki: Sha256::digest(uki).into(),
            root: Options::parse(&line)?.root,
            second_table: line.split_whitespace().any(|word| word == "gpt"),
        })
    }
}

/// What a machine would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It runs this version.
    Boots(String),
    /// It tries others first, restarts after each, and runs this version.
    FallsBack {
        /// What stopped the others, in order.
        tried: Vec<String>,
        /// The version.
        to: String,
    },
    /// It does not come up by itself.
    Stuck(String),
}

/// Something worth to know that stops nothing by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// Two names on the ESP share clusters: who deletes one destroys the other.
    SharedClusters,
    /// Only the short name of a UKI is there: its counter is lost.
    LongNameLost,
    /// A UKI that holds nothing.
    EmptyFile,
    /// A UKI that no loader shows, because it cannot be read.
    Unreadable,
    /// Two files have the same name.
    SameName,
    /// No entry is without a counter: there is no known good one.
    NothingGood,
    /// The first partition table is damaged; the kernel does not look at the second by itself.
    FirstTable,
    /// The second partition table is damaged.
    SecondTable,
}

impl Finding {
    /// What it means, for a report.
    pub fn meaning(self) -> &'static str {
        match self {
            Finding::SharedClusters => "two names share clusters; deleting one destroys the other",
            Finding::LongNameLost => "a UKI has only its short name; its counter is lost",
            Finding::EmptyFile => "a UKI is empty",
            Finding::Unreadable => "a file in EFI/Linux is no UKI that a loader would show",
            Finding::SameName => "two files have the same name",
            Finding::NothingGood => "every entry has a counter; none is known to be good",
            Finding::FirstTable => {
                "the first partition table is damaged; only the firmware can mend it"
            }
            Finding::SecondTable => "the second partition table is damaged",
        }
    }
}

/// All that is said of a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// What the machine would do.
    pub verdict: Verdict,
    /// What is lost beyond that: META or STATE.
    pub faults: Vec<String>,
    /// What is odd, and where.
    pub findings: Vec<(Finding, String)>,
    /// The number of the newest record in META; 0 is none.
    pub meta: u64,
    /// STATE has a file system.
    pub state: bool,
}

impl Judgement {
    /// The version that runs, if one does and nothing is lost.
    pub fn boots(&self) -> Option<&str> {
        match &self.verdict {
            Verdict::Boots(version) | Verdict::FallsBack { to: version, .. } => {
                self.faults.is_empty().then_some(version)
            }
            Verdict::Stuck(_) => None,
        }
    }

    /// What is wrong, in a line.
    pub fn problem(&self) -> String {
        let mut told = self.faults.clone();
        if let Verdict::Stuck(why) = &self.verdict {
            told.insert(0, why.clone());
        }
        told.join("; ")
    }
}

/// Knows what was there before, and which versions there are.
pub struct Judge {
    versions: Vec<Version>,
    /// Boot loader and settings as they were.
    constant: BTreeMap<&'static str, Sum>,
    /// STATE had a file system: it must not lose it.
    state: bool,
    /// The newest record that META held for good: it must not fall back behind it.
    meta: u64,
    /// Sums of contents, by where they come from.
    sums: HashMap<Sum, Sum>,
    /// Whether slots are whole, by where their content comes from and the root's hash.
    slots: HashMap<Sum, Result<(), String>>,
}

/// A UKI on the ESP.
struct Candidate {
    entry: Entry,
    file: fat::Entry,
}

/// What came of starting an entry.
enum Start {
    Runs(String),
    Restarts(String),
    Stuck(String),
}

impl Judge {
    /// Learns from a whole disk: its loader, and the versions on its ESP.
    pub fn new(disk: &Disk<'_>) -> Result<Judge> {
        let mut judge = Judge {
            versions: Vec::new(),
            constant: BTreeMap::new(),
            state: false,
            meta: 0,
            sums: HashMap::new(),
            slots: HashMap::new(),
        };
        let (table, _) = Table::read(&mut { *disk }, geometry(disk))?;
        judge.state = formatted(&table, disk)?;
        if let Some(mut meta) = part(&table, disk, Role::Meta) {
            judge.meta = meta::Log::read(&mut meta)?
                .latest()
                .map_or(0, |r| r.sequence);
        }
        let esp = part(&table, disk, Role::Esp).context("no ESP")?;
        let mut volume = Volume::open(esp)?;
        for path in [LOADER, SETTINGS] {
            let file = volume.find(path)?.with_context(|| format!("no {path}"))?;
            let sum = judge.sum(&esp, &mut volume, &file)?;
            judge.constant.insert(path, sum);
        }
        let folder = volume.find(UKIS)?.with_context(|| format!("no {UKIS}"))?;
        for file in volume.list(&folder)? {
            if loader::is_shown(&file.name) {
                judge.know(Version::read(&volume.read(&file, LARGEST)?)?);
            }
        }
        ensure!(!judge.versions.is_empty(), "no version is on the disk");
        Ok(judge)
    }

    /// Learns of another version, such as the one that an upgrade brings.
    pub fn know(&mut self, version: Version) {
        if !self.versions.contains(&version) {
            self.versions.push(version);
        }
    }

    /// The versions that may run.
    pub fn versions(&self) -> &[Version] {
        &self.versions
    }

    /// Takes what a state holds as settled, because it was flushed: no later one may know less.
    pub fn settle(&mut self, judgement: &Judgement) {
        self.meta = self.meta.max(judgement.meta);
        self.state |= judgement.state;
    }

    /// Looks at a state. An error is of the judge, not of the disk: the recording cannot be read.
    pub fn judge(&mut self, disk: &Disk<'_>) -> Result<Judgement> {
        let mut judgement = Judgement {
            verdict: Verdict::Stuck(String::new()),
            faults: Vec::new(),
            findings: Vec::new(),
            meta: 0,
            state: false,
        };
        let (table, source) = match Table::read(&mut { *disk }, geometry(disk)) {
            Ok(read) => read,
            Err(gpt::Error::Io(error)) => return Err(error.into()),
            Err(error) => {
                judgement.verdict = Verdict::Stuck(error.to_string());
                return Ok(judgement);
            }
        };
        judgement.verdict = match self.boot(&table, source, disk, &mut judgement.findings) {
            Ok(verdict) => verdict,
            Err(error) => Verdict::Stuck(format!("{error:#}")),
        };
        match part(&table, disk, Role::Meta) {
            None => judgement.faults.push("META is gone".into()),
            Some(mut meta) => match meta::Log::read(&mut meta) {
                Ok(log) => judgement.meta = log.latest().map_or(0, |record| record.sequence),
                Err(error) => judgement.faults.push(format!("META: {error}")),
            },
        }
        if judgement.meta < self.meta {
            let (was, is) = (self.meta, judgement.meta);
            let lost = format!("META fell back from record {was} to {is}");
            judgement.faults.push(lost);
        }
        judgement.state = formatted(&table, disk)?;
        if self.state && !judgement.state {
            judgement.faults.push("STATE has no file system".into());
        }
        Ok(judgement)
    }

    /// Follows the machine through its restarts.
    fn boot(
        &mut self,
        table: &Table,
        source: gpt::Source,
        disk: &Disk<'_>,
        findings: &mut Vec<(Finding, String)>,
    ) -> Result<Verdict> {
        if source == gpt::Source::Primary && !second_table_is_whole(table, disk)? {
            findings.push((Finding::SecondTable, String::new()));
        }
        let esp = part(table, disk, Role::Esp).context("the ESP is gone")?;
        let mut volume = Volume::open(esp).context("the firmware cannot read the ESP")?;
        for (path, was) in self.constant.clone() {
            let file = volume
                .find(path)?
                .with_context(|| format!("{path} is gone"))?;
            let sum = self.sum(&esp, &mut volume, &file);
            ensure!(
                sum.with_context(|| path.to_string())? == was,
                "{path} is damaged"
            );
        }
        let mut candidates = self.candidates(&esp, &mut volume, findings)?;
        let mut tried: Vec<String> = Vec::new();
        for _ in 0..STARTS {
            candidates.sort_by(|a, b| loader::order(&a.entry, &b.entry));
            let Some(first) = candidates.first_mut() else {
                return Ok(Verdict::Stuck("the loader has no entry to start".into()));
            };
            first.entry.count();
            let file = first.file.clone();
            match self.start(&file, table, source, &esp, &mut volume, disk, findings)? {
                Start::Runs(to) if tried.is_empty() => return Ok(Verdict::Boots(to)),
                Start::Runs(to) => return Ok(Verdict::FallsBack { tried, to }),
                Start::Stuck(why) => return Ok(Verdict::Stuck(why)),
                Start::Restarts(why) => tried.push(why),
            }
        }
        let last = tried.pop().unwrap_or_default();
        Ok(Verdict::Stuck(format!("it restarts for ever: {last}")))
    }

    /// The entries that the loader would show.
    fn candidates(
        &mut self,
        esp: &Disk<'_>,
        volume: &mut Volume<Disk<'_>>,
        findings: &mut Vec<(Finding, String)>,
    ) -> Result<Vec<Candidate>> {
        let folder = volume
            .find(UKIS)?
            .with_context(|| format!("{UKIS} is gone"))?;
        let files = volume.list(&folder)?;
        let mut owners: HashMap<u32, &str> = HashMap::new();
        let mut names: Vec<String> = Vec::new();
        let mut candidates = Vec::new();
        for file in &files {
            let name = file.name.as_str();
            for cluster in volume.clusters(file).unwrap_or_default() {
                if let Some(other) = owners.insert(cluster, name) {
                    findings.push((Finding::SharedClusters, format!("{other} and {name}")));
                    break;
                }
            }
            let mut find = |finding| findings.push((finding, name.to_string()));
            if names.contains(&name.to_lowercase()) {
                find(Finding::SameName);
            }
            names.push(name.to_lowercase());
            if file.folder || !loader::is_shown(name) {
                continue;
            }
            if !file.long && name.contains('~') {
                find(Finding::LongNameLost);
            }
            if file.size == 0 {
                find(Finding::EmptyFile);
                continue;
            }
            match shown(esp, volume, file) {
                Some(entry) => candidates.push(Candidate {
                    entry,
                    file: file.clone(),
                }),
                None => find(Finding::Unreadable),
            }
        }
        if !candidates.is_empty() && candidates.iter().all(|c| c.entry.tries.is_some()) {
            findings.push((Finding::NothingGood, String::new()));
        }
        Ok(candidates)
    }

    /// Starts a UKI.
    #[expect(clippy::too_many_arguments)]
    fn start(
        &mut self,
        file: &fat::Entry,
        table: &Table,
        source: gpt::Source,
        esp: &Disk<'_>,
        volume: &mut Volume<Disk<'_>>,
        disk: &Disk<'_>,
        findings: &mut Vec<(Finding, String)>,
    ) -> Result<Start> {
        let name = &file.name;
        let runs = match volume.runs(file) {
            Ok(runs) => runs,
            Err(error) => {
                return Ok(Start::Stuck(format!(
                    "the firmware refuses {name}: {error}"
                )));
            }
        };
        if let Err(error) = uki::sections(&mut Pieces::new(esp, runs, None)) {
            return Ok(Start::Stuck(format!(
                "the firmware refuses {name}: {error}"
            )));
        }
        let sum = self.sum(esp, volume, file)?;
        let Some(version) = self.versions.iter().find(|v| v.uki == sum).cloned() else {
            return Ok(Start::Stuck(format!(
                "{name} holds bytes of no known version"
            )));
        };
        if source == gpt::Source::Backup && !version.second_table {
            findings.push((Finding::FirstTable, String::new()));
        }
        let Some(slot) = layout::find_slot(table, &version.root.root_hash) else {
            return Ok(Start::Restarts(format!("{name}: no slot holds its root")));
        };
        let block = table.geometry.block;
        let slot = disk.part(slot.first * block, slot.blocks() * block);
        Ok(match self.whole(&slot, &version.root) {
            Ok(()) => Start::Runs(version.name),
            Err(why) => Start::Restarts(format!("{name}: its slot: {why}")),
        })
    }

    /// Whether a slot holds a root, whole.
    fn whole(&mut self, slot: &Disk<'_>, root: &RootSpec) -> Result<(), String> {
        let image = slot.part(0, root.image_blocks().saturating_mul(verity::BLOCK));
        let mut key = Sha256::new_with_prefix(root.root_hash);
        image.origin(&mut key);
        let key = key.finalize().into();
        let known = self.slots.entry(key);
        let check = || verity::verify(&mut { image }, root).map_err(|error| error.to_string());
        known.or_insert_with(check).clone()
    }

    /// The sum of a file's content.
    fn sum(
        &mut self,
        esp: &Disk<'_>,
        volume: &mut Volume<Disk<'_>>,
        file: &fat::Entry,
    ) -> Result<Sum> {
        let runs = volume.runs(file)?;
        let mut key = Sha256::new();
        for run in &runs {
            esp.part(run.offset, run.bytes).origin(&mut key);
            key.update(run.bytes.to_le_bytes());
        }
        let key: Sum = key.finalize().into();
        if let Some(sum) = self.sums.get(&key) {
            return Ok(*sum);
        }
        let mut digest = Sha256::new();
        let mut bytes = vec![0; 1 << 20];
        let mut pieces = Pieces::new(esp, runs, None);
        loop {
            match pieces.read(&mut bytes)? {
                0 => break,
                n => digest.update(&bytes[..n]),
            }
        }
        let sum = digest.finalize().into();
        self.sums.insert(key, sum);
        Ok(sum)
    }
}

/// The entry of a file as the loader shows it. The loader reads no more than the headers and two
/// texts, so a file that is cut behind them is shown.
fn shown(esp: &Disk<'_>, volume: &mut Volume<Disk<'_>>, file: &fat::Entry) -> Option<Entry> {
    let runs = volume.runs(file).ok()?;
    let mut longer = Pieces::new(esp, runs, Some(1 << 40));
    let release = uki::text(&mut longer, ".osrel").ok()??;
    Entry::new(&file.name, &release)
}

fn geometry(disk: &Disk<'_>) -> Geometry {
    Geometry::of_image(disk.length())
}

fn part<'a>(table: &Table, disk: &Disk<'a>, role: Role) -> Option<Disk<'a>> {
    let entry = layout::find(table, role)?;
    let block = table.geometry.block;
    Some(disk.part(entry.first * block, entry.blocks() * block))
}

/// Whether STATE has a file system: ext4's magic is in its superblock.
fn formatted(table: &Table, disk: &Disk<'_>) -> Result<bool> {
    let Some(state) = part(table, disk, Role::State) else {
        return Ok(false);
    };
    let mut magic = [0; 2];
    let mut at = state.part(1024 + 56, 2);
    at.read_exact(&mut magic)?;
    Ok(magic == [0x53, 0xef])
}

/// Whether the table at the end of the disk could be used: the first one hidden, it is read.
fn second_table_is_whole(table: &Table, disk: &Disk<'_>) -> Result<bool> {
    let bytes = table.geometry.blocks.saturating_mul(table.geometry.block);
    let mut hidden = HideStart(disk.part(0, bytes));
    match Table::read(&mut hidden, table.geometry) {
        Ok(_) => Ok(true),
        Err(gpt::Error::Io(error)) => Err(error.into()),
        Err(_) => Ok(false),
    }
}

/// A disk whose first table cannot be seen.
struct HideStart<'a>(Disk<'a>);

impl Read for HideStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let at = self.0.stream_position()?;
        let n = self.0.read(buffer)?;
        if at < 34 * 512 {
            buffer[..n].fill(0);
        }
        Ok(n)
    }
}

impl Seek for HideStart<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.0.seek(to)
    }
}

/// A file in pieces, to be read as one.
struct Pieces<'a> {
    esp: &'a Disk<'a>,
    runs: Vec<fat::Run>,
    length: u64,
    position: u64,
}

impl<'a> Pieces<'a> {
    /// With `length`, it is as if zeros came behind.
    fn new(esp: &'a Disk<'a>, runs: Vec<fat::Run>, length: Option<u64>) -> Pieces<'a> {
        let stored: u64 = runs.iter().map(|run| run.bytes).sum();
        Pieces {
            esp,
            runs,
            length: length.unwrap_or(stored),
            position: 0,
        }
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut begin = 0;
        for run in &self.runs {
            if self.position < begin + run.bytes {
                let skip = self.position - begin;
                let n = (run.bytes - skip).min(buffer.len() as u64) as usize;
                let mut part = self.esp.part(run.offset + skip, n as u64);
                part.read_exact(&mut buffer[..n])?;
                self.position += n as u64;
                return Ok(n);
            }
            begin += run.bytes;
        }
        let left = self.length.saturating_sub(self.position);
        let n = left.min(buffer.len() as u64);
        buffer[..n as usize].fill(0);
        self.position += n;
        Ok(n as usize)
    }
}

impl Seek for Pieces<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}
