//! The logs that are read: the kernel's and the services'. How far is kept below `/run`, so
//! that a machined that is started again goes on where this one was.

use super::{
    destination::{Destination, State},
    line::{self, Entry, LONGEST},
};
use crate::{
    kmsg, logs,
    nouns::file::{RenderedFile, ensure},
    orchestrator::moment,
};
use futures_util::{StreamExt as _, pin_mut};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout_at},
};

/// Where the positions are kept: a boot begins anew.
pub(super) const POSITIONS: &str = "/run/keelson/forward.json";

/// How long a log waits for a server to take what was read of it. It is kept by itself
/// meanwhile; after that, what a server cannot take is dropped for that one.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many lines are handed out before it is asked whether there is room for more.
const SOME: usize = 256;

/// How long before a log that could not be read is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// A line without an end is a line once nothing was added to it for so long.
const UNENDED: Duration = Duration::from_secs(2);

/// How far every log was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Reached {
    /// The last record of the kernel's log.
    kernel: Option<u64>,
    /// The offset behind the last whole line, by source.
    services: BTreeMap<String, u64>,
}

/// How far every log was read, and where that is kept.
#[derive(Debug)]
pub(super) struct Positions {
    path: PathBuf,
    reached: Mutex<Reached>,
    saved: Mutex<Reached>,
}

impl Positions {
    /// Those of the machined before, if there was one in this boot.
    pub(super) fn load(path: &Path) -> Self {
        let reached: Reached = fs::read(path)
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok())
            .unwrap_or_default();
        Positions {
            path: path.to_owned(),
            saved: Mutex::new(reached.clone()),
            reached: Mutex::new(reached),
        }
    }

    fn change(&self, change: impl FnOnce(&mut Reached)) {
        change(&mut self.reached.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn reached(&self) -> Reached {
        let reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        reached.clone()
    }

    /// Keeps them, if they have changed.
    pub(super) fn save(&self) -> anyhow::Result<()> {
        let reached = self.reached();
        let mut saved = self.saved.lock().unwrap_or_else(PoisonError::into_inner);
        if *saved != reached {
            let json = serde_json::to_vec(&reached)?;
            ensure(&[RenderedFile::file(&self.path, 0o600, json)])?;
            *saved = reached;
        }
        Ok(())
    }
}

/// The servers that there are now.
pub(super) type Destinations = watch::Receiver<Vec<Arc<Destination>>>;

/// What a source needs to hand out what it reads.
#[derive(Clone)]
pub(super) struct Out {
    /// To whom.
    pub destinations: Destinations,
    /// Told by them when there may be room again.
    pub moved: Arc<Notify>,
    /// How far it was read.
    pub positions: Arc<Positions>,
}

impl Out {
    fn send(&self, entry: Entry) {
        let entry = Arc::new(entry);
        for destination in self.destinations.borrow().iter() {
            destination.queue.push(&entry);
        }
    }

    /// Waits until a server can take more: one that is connected, if there is one. Not for
    /// long.
    async fn room(&self) {
        let end = Instant::now() + PATIENCE;
        while !self.has_room() {
            // Several may wait, and one is told: all look again soon.
            let soon = Instant::now() + Duration::from_millis(100);
            // An error says that it is time to look again.
            drop(timeout_at(soon, self.moved.notified()).await);
            if Instant::now() >= end {
                return;
            }
        }
    }

    fn has_room(&self) -> bool {
        let all = self.destinations.borrow();
        let connected = |it: &&Arc<Destination>| it.state() == State::Connected;
        if all.iter().any(|it| it.state() == State::Connected) {
            return all.iter().filter(connected).any(|it| it.queue.has_room());
        }
        all.iter().any(|it| it.queue.has_room())
    }
}

/// Reads the kernel's log for ever.
pub(super) async fn kernel(out: Out) {
    loop {
        read_kernel(&out).await;
        sleep(AGAIN).await;
    }
}

async fn read_kernel(out: &Out) {
    let Ok(records) = kmsg::read(true) else {
        return;
    };
    pin_mut!(records);
    while let Some(Ok(record)) = records.next().await {
        let last = out.positions.reached().kernel;
        if last.is_some_and(|last| record.sequence <= last) {
            continue;
        }
        // The kernel keeps only so many.
        let lost = last.map_or(0, |last| record.sequence - last - 1);
        if lost > 0 {
            for destination in out.destinations.borrow().iter() {
                destination.queue.lost(lost);
            }
        }
        out.send(of_kernel(&record));
        out.positions
            .change(|reached| reached.kernel = Some(record.sequence));
        out.room().await;
    }
}

fn of_kernel(record: &kmsg::Record) -> Entry {
    let clock = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let since_start = Duration::new(
        u64::try_from(clock.tv_sec).unwrap_or(0),
        u32::try_from(clock.tv_nsec).unwrap_or(0),
    );
    Entry {
        time: line::kernel_time(record.timestamp_us, SystemTime::now(), since_start),
        source: "kernel".to_owned(),
        level: Some(line::priority(record.priority)),
        message: record.message.clone(),
        dropped: None,
    }
}

/// Reads a service's log for ever. Where this boot has not read it yet: from its beginning
/// if it was begun in this boot, or else what comes from now on.
pub(super) async fn service(source: String, path: PathBuf, out: Out) {
    loop {
        let reached = out.positions.reached().services.get(&source).copied();
        let from = match reached {
            Some(offset) => logs::Start::Offset(offset),
            None if path.starts_with("/run") => logs::Start::Offset(0),
            // What the boots before left in it is not sent again.
            None => logs::Start::Since(moment(0)),
        };
        read_service(&source, &path, from, &out).await;
        sleep(AGAIN).await;
    }
}

async fn read_service(source: &str, path: &Path, from: logs::Start, out: &Out) {
    let pieces = logs::follow(path.to_owned(), from);
    pin_mut!(pieces);
    let mut lines = Lines::default();
    // Where the next piece should begin.
    let mut next = match from {
        logs::Start::Offset(offset) if offset > 0 => Some(offset),
        _ => None,
    };
    loop {
        let piece = if lines.rest.is_empty() {
            pieces.next().await
        } else {
            match timeout_at(Instant::now() + UNENDED, pieces.next()).await {
                Ok(piece) => piece,
                Err(_) => {
                    let (line, end) = lines.end();
                    hand_out(source, &line, end, out);
                    continue;
                }
            }
        };
        let Some(Ok(logs::Piece { bytes, start })) = piece else {
            return;
        };
        let cut = next.map_or(0, |next| start.saturating_sub(next));
        if cut > 0 {
            let text = format!("{cut} bytes of this log were cut off before they could be sent");
            let entry = Entry::of_service(source, &text, SystemTime::now());
            out.send(Entry {
                level: Some("warning"),
                ..entry
            });
        }
        next = Some(start + bytes.len() as u64);
        for some in lines.cut(&bytes, start).chunks(SOME) {
            for (line, end) in some {
                hand_out(source, line, *end, out);
            }
            out.room().await;
        }
    }
}

fn hand_out(source: &str, line: &str, end: u64, out: &Out) {
    if !line.trim().is_empty() {
        out.send(Entry::of_service(source, line, SystemTime::now()));
    }
    out.positions.change(|reached| {
        reached.services.insert(source.to_owned(), end);
    });
}

/// Makes lines of pieces.
#[derive(Debug, Default)]
struct Lines {
    /// What has no end yet.
    rest: Vec<u8>,
    /// The offset behind it.
    end: u64,
}

impl Lines {
    /// The lines that a piece ends, each with the offset behind it. A piece that does not go
    /// on where the last one ended begins a line.
    fn cut(&mut self, bytes: &[u8], start: u64) -> Vec<(String, u64)> {
        let mut lines = Vec::new();
        if start != self.end && !self.rest.is_empty() {
            lines.push(self.end());
        }
        self.end = start;
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            for part in part.chunks(LONGEST) {
                if self.rest.len() + part.len() > LONGEST + 1 {
                    lines.push(self.end());
                }
                self.rest.extend_from_slice(part);
                self.end += part.len() as u64;
            }
            if part.ends_with(b"\n") {
                lines.push(self.end());
            }
        }
        lines
    }

    /// What has no end becomes a line.
    fn end(&mut self) -> (String, u64) {
        let line = std::mem::take(&mut self.rest);
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        (String::from_utf8_lossy(line).into_owned(), self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keelson_config::{LogProtocol, LogServer};
    use proptest::prelude::*;

    fn out(dir: &Path) -> (Out, Arc<Destination>, watch::Sender<Vec<Arc<Destination>>>) {
        let moved = Arc::new(Notify::new());
        let to = LogServer {
            protocol: LogProtocol::Tcp,
            host: "192.0.2.1".to_owned(),
            port: 1,
        };
        let destination = Arc::new(Destination::new(to, moved.clone()));
        let all = watch::Sender::new(vec![destination.clone()]);
        let out = Out {
            destinations: all.subscribe(),
            moved,
            positions: Arc::new(Positions::load(&dir.join("positions"))),
        };
        (out, destination, all)
    }

    async fn messages(destination: &Destination, count: usize) -> Vec<String> {
        let mut all = Vec::new();
        while all.len() < count {
            let batch = destination.queue.first(usize::MAX).await;
            all.extend(batch.iter().map(|entry| entry.message.clone()));
            destination.queue.done(batch.len());
        }
        all
    }

    #[tokio::test]
    async fn the_next_machined_goes_on_where_this_one_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "one\r\n\ntwo\nwithout an end").unwrap();
        let (first, destination, _all) = out(dir.path());
        let from = logs::Start::Offset(0);
        let found = tokio::select! {
            () = read_service("k3s", &path, from, &first) => Vec::new(),
            found = messages(&destination, 3) => found,
        };
        assert_eq!(found, ["one", "two", "without an end"]);
        first.positions.save().unwrap();

        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{text}\nthree\n")).unwrap();
        let (second, destination, _all) = out(dir.path());
        assert_eq!(second.positions.reached(), first.positions.reached());
        let found = tokio::select! {
            () = service("k3s".to_owned(), path.clone(), second.clone()) => Vec::new(),
            found = messages(&destination, 1) => found,
        };
        assert_eq!(found, ["three"]);
    }

    #[tokio::test]
    async fn a_log_of_boots_before_is_read_from_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "of the boot before\n").unwrap();
        let (out, destination, _all) = out(dir.path());
        let later = SystemTime::now() + Duration::from_secs(3600);
        let write = async {
            // Again and again: nobody says when it is opened.
            loop {
                sleep(Duration::from_millis(20)).await;
                use std::io::Write as _;
                let mut file = fs::File::options().append(true).open(&path).unwrap();
                file.write_all(b"of this one\n").unwrap();
            }
        };
        let found = tokio::select! {
            () = read_service("k3s", &path, logs::Start::Since(later), &out) => Vec::new(),
            () = write => Vec::new(),
            found = messages(&destination, 1) => found,
        };
        assert_eq!(found[0], "of this one");
    }

    #[tokio::test]
    async fn the_kernels_log_is_sent_once() {
        // Not every place where tests run lets them read it.
        if kmsg::read(false).is_err() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (out, destination, _all) = out(dir.path());
        tokio::select! {
            () = read_kernel(&out) => {}
            _ = messages(&destination, 1) => {}
        }
        let reached = out.positions.reached().kernel.unwrap();
        let (records, before) = (kmsg::read(false).unwrap(), destination.queue.counts());
        let all: Vec<_> = records.map(Result::unwrap).collect().await;
        assert!(all.iter().any(|record| record.sequence == reached));
        assert_eq!(before.dropped, 0);
    }

    #[test]
    fn a_piece_behind_a_hole_begins_a_line() {
        let mut lines = Lines::default();
        assert_eq!(lines.cut(b"a\nb", 0), [("a".to_owned(), 2)]);
        assert_eq!(
            lines.cut(b"c\n", 100),
            [("b".to_owned(), 3), ("c".to_owned(), 102)]
        );
    }

    proptest! {
        #[test]
        fn pieces_are_the_lines_of_the_text(
            text in "([a-zü]{0,9}\n){0,20}",
            long in 0..40_000usize,
            size in 1..50usize,
        ) {
            let text = format!("{text}{}\n", "x".repeat(long));
            let mut lines = Lines::default();
            let mut found = Vec::new();
            let mut start = 0;
            let size = if long > 100 { size * 1000 } else { size };
            for piece in text.as_bytes().chunks(size) {
                found.extend(lines.cut(piece, start));
                start += piece.len() as u64;
            }
            prop_assert!(lines.rest.is_empty());
            prop_assert!(found.iter().all(|(line, _)| line.len() <= LONGEST + 1));
            prop_assert_eq!(found.last().map(|(_, end)| *end), Some(text.len() as u64));
            let joined: String = found.iter().map(|(line, _)| line.as_str()).collect();
            prop_assert_eq!(joined, text.replace('\n', ""));
            if long < LONGEST {
                prop_assert_eq!(found.len(), text.matches('\n').count());
            }
        }
    }
}
