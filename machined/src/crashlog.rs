//! The logs of runs that ended badly: what the kernel left in pstore (kernel:
//! ABI/testing/pstore) is moved to DATA, a few of them are kept, and published. Only
//! the kernel's log is in there, which never holds a secret.
//!
//! It is done here and not by init because it needs DATA, and because reading EFI
//! variables may take seconds: nothing waits for it.

use crate::{
    events::Events,
    mounted,
    nouns::volume::{Availability, Volumes},
    resource::{Phase, Resource, Store},
};
use anyhow::Context as _;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File},
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{sync::watch, task::spawn_blocking};

/// Where they are kept.
pub(crate) const KEPT: &str = "/var/log/keelson/pstore";

/// Where the kernel shows what it has.
const PSTORE: &str = "/sys/fs/pstore";

/// What stores it; `(null)` where nothing does.
const BACKEND: &str = "/sys/module/pstore/parameters/backend";

/// Says that it was looked through in this boot.
const DONE: &str = "/run/keelson/crash-logs-collected";

/// How many are kept.
const MOST: usize = 5;

/// How much of one is kept: its end.
const LARGEST: usize = 256 << 10;

/// How many lines of each are published.
const SHOWN: usize = 20;

/// Parts of one log are written at once; two logs are at least a boot apart.
const PART_GAP: Duration = Duration::from_secs(8);

/// A log that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Crash {
    /// The name of its file, without an ending.
    pub name: String,
    /// When it was written.
    pub time: SystemTime,
    /// Why: `panic`, `oops`, or `given-up` where init has ended the run because something
    /// failed.
    pub reason: String,
    /// The log, without priorities.
    pub text: String,
}

impl Crash {
    /// The last lines.
    pub(crate) fn last_lines(&self, count: usize) -> Vec<String> {
        let lines: Vec<&str> = self.text.lines().collect();
        let last = &lines[lines.len().saturating_sub(count)..];
        last.iter().map(|line| (*line).to_owned()).collect()
    }

    /// The line that says what happened, without its time.
    pub(crate) fn summary(&self) -> &str {
        let telling = |line: &&str| match self.reason.as_str() {
            "panic" => line.contains("Kernel panic"),
            "given-up" => line.contains("] init: "),
            _ => line.contains("BUG:") || line.contains("Oops:"),
        };
        let mut lines = self.text.lines().rev();
        let line = lines.clone().find(telling).or_else(|| lines.next());
        let line = line.unwrap_or_default();
        line.split_once("] ").map_or(line, |(_, text)| text)
    }

    fn resource(&self) -> Resource {
        let time = OffsetDateTime::from(self.time);
        let time = time.format(&Rfc3339);
        Resource::new("crash", self.name.as_str(), Phase::Ready)
            .message(self.summary())
            .field("reason", self.reason.as_str())
            .field("time", time.unwrap_or_default())
            // In an object: it would make a poor column.
            .field("log", serde_json::json!({"lines": self.last_lines(SHOWN)}))
    }
}

/// Collects once DATA is there, and publishes what is kept.
pub(crate) async fn keep(
    mut volumes: watch::Receiver<Volumes>,
    resources: Arc<Store>,
    events: Arc<Events>,
) {
    let mounted = |volumes: &Volumes| volumes.data == Availability::Mounted;
    if volumes.wait_for(mounted).await.is_err() {
        return;
    }
    let work = spawn_blocking(|| {
        let collected = collect();
        (collected, kept(Path::new(KEPT)))
    });
    let Ok((collected, crashes)) = work.await else {
        return events.say("crash", "the logs of earlier runs cannot be collected");
    };
    match collected {
        Ok(0) => {}
        Ok(count) => {
            let last = crashes.first().map_or("", Crash::summary);
            events.say(
                "crash",
                format!("{count} run(s) before this one ended badly, the last: {last}"),
            );
        }
        Err(error) => events.say(
            "crash",
            format!("cannot collect the logs of earlier runs: {error:#}"),
        ),
    }
    resources.replace("crash", crashes.iter().map(Crash::resource).collect());
}

/// Moves what pstore holds to DATA, once in a boot; how many logs those were.
fn collect() -> anyhow::Result<usize> {
    let backend = fs::read_to_string(BACKEND).unwrap_or_default();
    if Path::new(DONE).exists() || matches!(backend.trim(), "" | "(null)") {
        return Ok(0);
    }
    let pstore = Path::new(PSTORE);
    if !mounted::is_mount_point(pstore)? {
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        mount("pstore", pstore, "pstore", flags, None).context("mounting pstore")?;
    }
    let moved = move_all(pstore, Path::new(KEPT));
    // A log that is written later is shown at the next boot all the same.
    if let Err(errno) = unmount(pstore, UnmountFlags::DETACH) {
        tracing::warn!("unmounting pstore: {errno}");
    }
    fs::write(DONE, "").context("noting that it is done")?;
    moved
}

/// Moves every log; one is deleted only when it is safely on the disk.
fn move_all(pstore: &Path, kept: &Path) -> anyhow::Result<usize> {
    let mut pieces = Vec::new();
    for entry in fs::read_dir(pstore).context("reading pstore")? {
        let path = entry?.path();
        let modified = path.metadata()?.modified()?;
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        pieces.push(Piece::new(path, modified, &String::from_utf8_lossy(&bytes)));
    }
    let logs = join(pieces);
    if logs.is_empty() {
        return Ok(0);
    }
    let count = logs.len();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(kept)
        .with_context(|| format!("making {}", kept.display()))?;
    for log in logs {
        let name = write(kept, &log).with_context(|| format!("writing to {}", kept.display()))?;
        tracing::info!("{name} was found in pstore");
        for path in &log.files {
            fs::remove_file(path).with_context(|| format!("deleting {}", path.display()))?;
        }
    }
    for path in names(kept)?.into_iter().skip(MOST) {
        fs::remove_file(&path).with_context(|| format!("deleting {}", path.display()))?;
    }
    Ok(count)
}

/// One file in pstore: a whole log, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Piece {
    path: PathBuf,
    time: SystemTime,
    /// The reason and its number, as the kernel writes it: `Panic#1`.
    head: String,
    /// The newest part is the first.
    part: u32,
    text: String,
}

impl Piece {
    /// The first line is `Panic#1 Part2` (fs/pstore/platform.c).
    fn new(path: PathBuf, time: SystemTime, text: &str) -> Self {
        let (line, rest) = text.split_once('\n').unwrap_or((text, ""));
        let known = line
            .rsplit_once(" Part")
            .and_then(|(head, part)| Some((head, part.trim().parse().ok()?)))
            .filter(|(head, _)| head.contains('#'));
        let (head, part, text) = match known {
            Some((head, part)) => (head, part, rest),
            None => ("Unknown#0", 1, text),
        };
        Piece {
            path,
            time,
            head: head.to_owned(),
            part,
            text: text.to_owned(),
        }
    }
}

/// A log in one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Log {
    files: Vec<PathBuf>,
    time: SystemTime,
    reason: String,
    text: String,
}

/// Puts the parts of each log together, the oldest log first.
fn join(mut pieces: Vec<Piece>) -> Vec<Log> {
    pieces.sort_by_key(|piece| (piece.time, piece.part));
    let mut groups: Vec<BTreeMap<u32, Piece>> = Vec::new();
    for piece in pieces {
        let group = groups.iter_mut().rev().find(|group| {
            group.values().all(|other| other.head == piece.head)
                && !group.contains_key(&piece.part)
                && group.values().any(|other| {
                    piece.time.duration_since(other.time).unwrap_or_default() <= PART_GAP
                })
        });
        match group {
            Some(group) => drop(group.insert(piece.part, piece)),
            None => groups.push(BTreeMap::from([(piece.part, piece)])),
        }
    }
    let logs = groups.into_iter().map(|group| {
        let text: String = group
            .values()
            .rev()
            .flat_map(|piece| piece.text.lines())
            .map(|line| format!("{}\n", without_priority(line)))
            .collect();
        let head = group
            .values()
            .next()
            .map_or("", |piece| piece.head.as_str());
        Log {
            time: group
                .values()
                .map(|piece| piece.time)
                .max()
                .unwrap_or(SystemTime::UNIX_EPOCH),
            reason: reason(head),
            text: end_of(&text, LARGEST).to_owned(),
            files: group.into_values().map(|piece| piece.path).collect(),
        }
    });
    logs.collect()
}

/// `<6>[    1.2] text` without what stands in the angle brackets.
fn without_priority(line: &str) -> &str {
    let after = line.strip_prefix('<').and_then(|rest| rest.split_once('>'));
    match after {
        Some((digits, text)) if digits.bytes().all(|b| b.is_ascii_digit()) => text,
        _ => line,
    }
}

/// The kernel's word as a word for a file name. It calls every ordered reboot a
/// shutdown; its log is there only if init wanted that.
fn reason(head: &str) -> String {
    match head.split('#').next().unwrap_or_default() {
        "Shutdown" => "given-up".to_owned(),
        word => word
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .map(|c| c.to_ascii_lowercase())
            .take(16)
            .collect(),
    }
}

/// The end of a text, from the beginning of a line on.
fn end_of(text: &str, bytes: usize) -> &str {
    if text.len() <= bytes {
        return text;
    }
    let cut = text.len() - bytes;
    let start = text.as_bytes()[cut..].iter().position(|b| *b == b'\n');
    start.map_or("", |line| &text[cut + line + 1..])
}

/// Writes a log whole or not at all; its name.
fn write(kept: &Path, log: &Log) -> io::Result<String> {
    let name = format!("{}-{}", stamp(log.time), log.reason);
    let new = kept.join(format!("{name}.new"));
    let mut file = File::create(&new)?;
    file.write_all(log.text.as_bytes())?;
    // The name is for people and for the order; this is read back.
    file.set_modified(log.time)?;
    file.sync_all()?;
    fs::rename(&new, kept.join(format!("{name}.log")))?;
    File::open(kept)?.sync_all()?;
    Ok(name)
}

/// A time as it stands in a name: `20260102T030405Z`.
fn stamp(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    let (year, month, day) = time.to_calendar_date();
    let (hour, minute, second) = time.to_hms();
    format!(
        "{year:04}{:02}{day:02}T{hour:02}{minute:02}{second:02}Z",
        u8::from(month)
    )
}

/// The kept logs' files, the newest first.
fn names(kept: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(kept)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "log") {
            paths.push(path);
        }
    }
    paths.sort_by(|a, b| b.cmp(a));
    Ok(paths)
}

/// Whether the logs of earlier runs were collected in this boot.
pub(crate) fn is_collected() -> bool {
    Path::new(DONE).exists()
}

/// The kept logs, the newest first; what cannot be read is not there.
pub(crate) fn kept(kept: &Path) -> Vec<Crash> {
    let paths = names(kept).unwrap_or_default();
    paths.iter().filter_map(|path| read(path)).collect()
}

fn read(path: &Path) -> Option<Crash> {
    let name = path.file_stem()?.to_str()?;
    let (_, reason) = name.split_once('-')?;
    Some(Crash {
        name: name.to_owned(),
        time: path.metadata().ok()?.modified().ok()?,
        reason: reason.to_owned(),
        text: String::from_utf8_lossy(&fs::read(path).ok()?).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Timestamps, utimensat};

    /// Writes a file as pstore shows it.
    fn put(dir: &Path, name: &str, second: i64, text: &str) {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        let time = rustix::fs::Timespec {
            tv_sec: second,
            tv_nsec: 0,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        utimensat(rustix::fs::CWD, &path, &times, rustix::fs::AtFlags::empty()).unwrap();
    }

    fn folders() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let (pstore, kept) = (dir.path().join("pstore"), dir.path().join("kept"));
        fs::create_dir(&pstore).unwrap();
        (dir, pstore, kept)
    }

    #[test]
    fn the_parts_of_a_log_are_joined_and_moved() {
        let (_dir, pstore, kept_dir) = folders();
        let panic = "Kernel panic - not syncing: sysrq triggered crash";
        put(
            &pstore,
            "dmesg-efi_pstore-2",
            1_795_650_638,
            "Panic#1 Part2\n<6>[    0.1] one\n<6>[    0.2] two\n",
        );
        put(
            &pstore,
            "dmesg-efi_pstore-1",
            1_795_650_637,
            &format!("Panic#1 Part1\n<0>[    3.3] {panic}\n<4>[    3.4] end\n"),
        );
        // The next boot, and its own panic.
        put(
            &pstore,
            "dmesg-efi_pstore-3",
            1_795_650_670,
            "Panic#1 Part1\n<0>[    9.9] Kernel panic - again\n",
        );
        assert_eq!(move_all(&pstore, &kept_dir).unwrap(), 2);
        assert_eq!(fs::read_dir(&pstore).unwrap().count(), 0);
        let crashes = kept(&kept_dir);
        let names: Vec<_> = crashes.iter().map(|crash| crash.name.as_str()).collect();
        assert_eq!(names, ["20261125T235110Z-panic", "20261125T235038Z-panic"]);
        assert_eq!(
            crashes[1].text,
            format!("[    0.1] one\n[    0.2] two\n[    3.3] {panic}\n[    3.4] end\n")
        );
        assert_eq!(crashes[1].summary(), panic);
        let seconds = crashes[1].time.duration_since(SystemTime::UNIX_EPOCH);
        assert_eq!(seconds.unwrap().as_secs(), 1_795_650_638);
        assert_eq!(crashes[1].last_lines(1), ["[    3.4] end"]);
        assert_eq!(crashes[0].summary(), "Kernel panic - again");
        assert_eq!(move_all(&pstore, &kept_dir).unwrap(), 0, "once");
    }

    #[test]
    fn the_summary_is_what_tells_most() {
        let crash = |reason: &str, text: &str| Crash {
            name: String::new(),
            time: SystemTime::UNIX_EPOCH,
            reason: reason.to_owned(),
            text: text.to_owned(),
        };
        let given_up = "[ 1.0] init: first\n[ 2.0] init: no disk holds the root\n[ 3.0] reboot: Restarting system\n";
        for (reason, text, want) in [
            ("given-up", given_up, "init: no disk holds the root"),
            (
                "oops",
                "[ 1.0] BUG: kernel NULL pointer\n[ 2.0] x\n",
                "BUG: kernel NULL pointer",
            ),
            ("unknown", "no brackets\n", "no brackets"),
            ("panic", "", ""),
        ] {
            assert_eq!(crash(reason, text).summary(), want);
        }
    }

    #[test]
    fn few_are_kept_and_none_is_large() {
        let (_dir, pstore, kept_dir) = folders();
        for boot in 0..8 {
            let log = format!("<6>[    1.0] {}\n", "x".repeat(60)).repeat(6000);
            put(
                &pstore,
                &format!("dmesg-ramoops-{boot}"),
                1000 + 100 * boot,
                &format!("Shutdown#1 Part1\n{log}"),
            );
        }
        assert_eq!(move_all(&pstore, &kept_dir).unwrap(), 8);
        let crashes = kept(&kept_dir);
        assert_eq!(crashes.len(), MOST);
        assert_eq!(
            crashes[0].name, "19700101T002820Z-given-up",
            "the newest first"
        );
        assert!(crashes.iter().all(|crash| crash.text.len() <= LARGEST));
        assert!(
            crashes[0].text.starts_with("[    1.0] x"),
            "from the beginning of a line"
        );
    }

    #[test]
    fn what_nobody_knows_is_kept_as_it_is() {
        for text in ["", "\n", "Panic#1", "Panic#1 PartX\nx", "#1 Part\n"] {
            let piece = Piece::new(PathBuf::new(), SystemTime::UNIX_EPOCH, text);
            assert_eq!(
                (piece.head.as_str(), piece.part),
                ("Unknown#0", 1),
                "{text:?}"
            );
            assert_eq!(piece.text, text);
        }
        assert_eq!(without_priority("<x> y"), "<x> y");
        assert_eq!(reason("Unknown#0"), "unknown");
        assert_eq!(reason("../Emergency#3"), "emergency");
    }
}
