//! A recording in a folder: `base.raw`, the disk before; `writes.log`, what was written since;
//! `marks`, what was going on when.

use anyhow::{Context as _, Result};
use std::{
    fs::{self, File},
    io::{BufReader, Write as _},
    ops::Range,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    disk::{Disk, Map, Source},
    log::{Log, SECTOR},
    replay,
};
use crate::run;

/// The disk before.
const BASE: &str = "base.raw";
/// What was written since.
pub(crate) const WRITES: &str = "writes.log";
/// Lines of: how long the log was in bytes, and what began then.
const MARKS: &str = "marks";

/// A recording to be replayed.
pub struct Recording {
    folder: PathBuf,
    base: File,
    file: File,
    bytes: u64,
    /// What happened to the disk.
    pub log: Log,
    /// What began, and at which entry of the log.
    pub marks: Vec<(String, usize)>,
}

impl Recording {
    /// Copies a disk, qcow2 or raw, into a folder, before it is written to; makes an empty log.
    pub fn begin(folder: &Path, disk: &Path) -> Result<()> {
        fs::create_dir_all(folder)?;
        let base = folder.join(BASE);
        let mut convert = Command::new("qemu-img");
        convert.args(["convert", "-O", "raw"]).arg(disk).arg(&base);
        run(&mut convert)?;
        File::create(folder.join(WRITES))?;
        File::create(folder.join(MARKS))?;
        Ok(())
    }

    /// Notes in a recording that is being made that something begins.
    pub fn mark(folder: &Path, what: &str) -> Result<()> {
        let at = fs::metadata(folder.join(WRITES))?.len();
        let mut marks = File::options().append(true).open(folder.join(MARKS))?;
        Ok(writeln!(marks, "{at} {what}")?)
    }

    /// Whether there is one in a folder.
    pub fn is_at(folder: &Path) -> bool {
        folder.join(MARKS).exists()
    }

    /// Opens a finished one.
    pub fn open(folder: &Path) -> Result<Recording> {
        let open = |name: &str| {
            let path = folder.join(name);
            File::open(&path).with_context(|| format!("opening {}", path.display()))
        };
        let (base, file) = (open(BASE)?, open(WRITES)?);
        let log = Log::read(&mut BufReader::new(&file)).context("reading the log of writes")?;
        let mut marks = Vec::new();
        for line in fs::read_to_string(folder.join(MARKS))?.lines() {
            let parts = line.split_once(' ');
            let (at, what) = parts
                .and_then(|(at, what)| Some((at.parse::<u64>().ok()?, what)))
                .with_context(|| format!("marks: {line:?}"))?;
            let entry = log.places.partition_point(|place| *place < at);
            marks.push((what.to_owned(), entry));
        }
        Ok(Recording {
            folder: folder.to_owned(),
            bytes: base.metadata()?.len(),
            base,
            file,
            log,
            marks,
        })
    }

    /// The disk in a state.
    pub fn disk<'a>(&'a self, map: &'a Map) -> Disk<'a> {
        Disk::new(&self.base, &self.file, map, self.bytes)
    }

    /// Where its files are.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Entries of the log from where something begins, or from the start.
    pub fn since(&self, mark: Option<&str>) -> Result<Range<usize>> {
        let end = self.log.entries.len();
        let Some(name) = mark else {
            return Ok(0..end);
        };
        let found = self.marks.iter().find(|(what, _)| what == name);
        let (_, at) = found.with_context(|| format!("nothing in the recording is {name:?}"))?;
        Ok(*at..end)
    }

    /// Holds the record against the disk that it was made on: replayed whole, it is the same.
    pub fn check(&self, disk: &Path) -> Result<()> {
        let folder = tempfile::Builder::new()
            .prefix("keelson-state-")
            .tempdir()?;
        let replayed = self.write(&replay::whole(&self.log), folder.path())?;
        run(Command::new("qemu-img")
            .arg("compare")
            .args([replayed.as_path(), disk]))
        .context("the record does not lead to the disk as it is")
    }

    /// What was going on at an entry of the log.
    pub fn during(&self, entry: usize) -> Option<&str> {
        let before = self.marks.iter().rev().find(|(_, at)| *at <= entry);
        before.map(|(what, _)| what.as_str())
    }

    /// Writes a state as a disk that a guest can start on: a raw file and a qcow2 over it.
    pub fn write(&self, map: &Map, folder: &Path) -> Result<PathBuf> {
        fs::create_dir_all(folder)?;
        let (raw, disk) = (folder.join("state.raw"), folder.join("disk.qcow2"));
        run(Command::new("cp")
            .args(["--sparse=always", "--reflink=auto"])
            .arg(self.folder.join(BASE))
            .arg(&raw))?;
        let file = File::options().write(true).open(&raw)?;
        let mut buffer = vec![0; 1 << 20];
        for (sectors, source) in map.extents() {
            let (mut at, end) = (sectors.start * SECTOR, sectors.end * SECTOR);
            while at < end {
                let n = (end - at).min(buffer.len() as u64);
                let bytes = &mut buffer[..n as usize];
                match source {
                    Source::Zeros => bytes.fill(0),
                    Source::Log(data) => {
                        let place = data + at - sectors.start * SECTOR;
                        self.file.read_exact_at(bytes, place)?;
                    }
                }
                file.write_all_at(bytes, at)?;
                at += n;
            }
        }
        run(Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .arg(raw.canonicalize()?)
            .arg(&disk))?;
        Ok(disk)
    }
}
