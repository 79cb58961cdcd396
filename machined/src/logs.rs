//! The services' logs: bounds them in place and reads them, tail and follow.
//! Writers only append, so an offset never changes; what is too old is given back
//! to the file system as a hole at the head.

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use rustix::{
    fs::{FallocateFlags, SeekFrom, fallocate, seek},
    io::Errno,
};
use std::{
    fs::File,
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{task::spawn_blocking, time::sleep};

/// How much of a log may be kept.
const LIMIT: u64 = 16 << 20;

/// How much is left when it became more.
const KEEP: u64 = 8 << 20;

/// How often the sizes are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// How often a follower looks for more.
const FOLLOW: Duration = Duration::from_millis(200);

/// How much is read at once.
const PIECE: usize = 64 << 10;

/// A hole must be made of whole blocks; no file system here has larger ones.
const BLOCK: u64 = 4096;

/// Keeps logs within their bound, for ever.
pub(crate) async fn bound(files: Vec<PathBuf>) {
    loop {
        for file in &files {
            match cut(file, LIMIT, KEEP) {
                Ok(true) => tracing::debug!("cut the head off {}", file.display()),
                Ok(false) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!("cutting the head off {}: {error}", file.display()),
            }
        }
        sleep(LOOK).await;
    }
}

/// Cuts the head off a log that takes more than `limit` bytes, so that `keep` are left.
fn cut(path: &Path, limit: u64, keep: u64) -> io::Result<bool> {
    let metadata = path.metadata()?;
    if metadata.blocks() * 512 <= limit {
        return Ok(false);
    }
    let hole = metadata.len().saturating_sub(keep) / BLOCK * BLOCK;
    if hole == 0 {
        return Ok(false);
    }
    let file = File::options().write(true).open(path)?;
    fallocate(
        &file,
        FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        0,
        hole,
    )?;
    Ok(true)
}

/// The last `tail` lines (all that is kept if `None`), then, with `follow`, what is
/// written later. A file that does not exist yet is empty.
pub(crate) fn read(
    path: PathBuf,
    tail: Option<u32>,
    follow: bool,
) -> impl Stream<Item = io::Result<Bytes>> + Send + use<> {
    let reader = Reader {
        path,
        start: Start::Tail(tail),
        follow,
        open: None,
    };
    pieces(reader).map(|piece| piece.map(|piece| piece.bytes))
}

/// Where reading begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// With the last lines; with all that is kept if `None`.
    Tail(Option<u32>),
    /// At an offset; at the beginning of a log that is shorter, which is another one.
    Offset(u64),
    /// With what is written from now on; at the beginning of a log that was begun after this
    /// moment.
    Since(SystemTime),
}

/// A part of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// What is written there.
    pub bytes: Bytes,
    /// Where it begins. Behind the end of the piece before if what was between is not kept.
    pub start: u64,
}

/// What is written to a log, for ever. A file that does not exist yet is empty.
pub(crate) fn follow(
    path: PathBuf,
    start: Start,
) -> impl Stream<Item = io::Result<Piece>> + Send + use<> {
    pieces(Reader {
        path,
        start,
        follow: true,
        open: None,
    })
}

fn pieces(reader: Reader) -> impl Stream<Item = io::Result<Piece>> + Send + use<> {
    stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        match reader.next().await {
            Ok(Some(piece)) => Some((Ok(piece), Some(reader))),
            Ok(None) => None,
            Err(error) => Some((Err(error), None)),
        }
    })
}

struct Reader {
    path: PathBuf,
    start: Start,
    follow: bool,
    /// The file and how far it was read.
    open: Option<(Arc<File>, u64)>,
}

impl Reader {
    /// The next piece; `None` at the end unless following.
    async fn next(&mut self) -> io::Result<Option<Piece>> {
        loop {
            if let Some((file, offset)) = self.open.clone() {
                let (bytes, end) = blocking(move || piece(&file, offset)).await?;
                if let Some(open) = &mut self.open {
                    open.1 = end;
                }
                if !bytes.is_empty() {
                    let start = end - bytes.len() as u64;
                    return Ok(Some(Piece { bytes, start }));
                }
            } else {
                let (path, start) = (self.path.clone(), self.start);
                match blocking(move || open(&path, start)).await {
                    Ok(opened) => {
                        self.open = Some(opened);
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            if !self.follow {
                return Ok(None);
            }
            sleep(FOLLOW).await;
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    spawn_blocking(work).await.map_err(io::Error::other)?
}

/// Opens a log, and finds where to begin.
fn open(path: &Path, start: Start) -> io::Result<(Arc<File>, u64)> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    let start = match start {
        Start::Since(moment) => {
            let begun = file.metadata()?.created();
            if begun.is_ok_and(|begun| begun >= moment) {
                0
            } else {
                size
            }
        }
        Start::Offset(offset) if offset <= size => offset,
        Start::Offset(_) => 0,
        Start::Tail(tail) => {
            let first = whole_line(&file, 0, size)?;
            match tail {
                Some(lines) => last_lines(&file, first, size, lines)?,
                None => first,
            }
        }
    };
    Ok((Arc::new(file), start))
}

/// The next piece from an offset on, and the offset behind it. What became a hole
/// meanwhile is skipped.
fn piece(file: &File, offset: u64) -> io::Result<(Bytes, u64)> {
    let size = file.metadata()?.len();
    let start = whole_line(file, offset, size)?;
    let mut buffer = vec![0; PIECE];
    let length = file.read_at(&mut buffer, start)?;
    buffer.truncate(length);
    Ok((buffer.into(), start + length as u64))
}

/// The offset itself if there is data; if it is in a hole, the first whole line behind
/// the hole; the size if there is none.
fn whole_line(file: &File, offset: u64, size: u64) -> io::Result<u64> {
    if offset >= size {
        return Ok(offset);
    }
    let data = match seek(file, SeekFrom::Data(offset)) {
        Ok(data) => data,
        Err(Errno::NXIO) => return Ok(size),
        Err(error) => return Err(error.into()),
    };
    if data == offset {
        return Ok(offset);
    }
    let mut buffer = vec![0; PIECE];
    let mut at = data;
    loop {
        let length = file.read_at(&mut buffer, at)?;
        if length == 0 {
            return Ok(at);
        }
        if let Some(end) = buffer[..length].iter().position(|byte| *byte == b'\n') {
            return Ok(at + end as u64 + 1);
        }
        at += length as u64;
    }
}

/// Where the last lines begin: never before `first`. A last line that is not ended
/// yet counts.
fn last_lines(file: &File, first: u64, size: u64, lines: u32) -> io::Result<u64> {
    let mut buffer = vec![0; PIECE];
    let (mut end, mut left) = (size, u64::from(lines));
    while end > first {
        let start = end.saturating_sub(PIECE as u64).max(first);
        let length = usize::try_from(end - start).unwrap_or(PIECE);
        file.read_exact_at(&mut buffer[..length], start)?;
        for index in (0..length).rev() {
            // The newline that ends the last line begins no other.
            if buffer[index] == b'\n' && start + index as u64 + 1 != size {
                left = left.saturating_sub(1);
                if left == 0 {
                    return Ok(start + index as u64 + 1);
                }
            }
        }
        end = start;
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{fs, io::Write as _};

    async fn all(path: &Path, tail: Option<u32>) -> String {
        let pieces: Vec<_> = read(path.into(), tail, false)
            .map(Result::unwrap)
            .collect()
            .await;
        String::from_utf8(pieces.concat()).unwrap()
    }

    #[tokio::test]
    async fn tails() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        assert_eq!(all(&path, None).await, "");
        let cases = [
            ("one\ntwo\nthree\n", None, "one\ntwo\nthree\n"),
            ("one\ntwo\nthree\n", Some(1), "three\n"),
            ("one\ntwo\nthree\n", Some(2), "two\nthree\n"),
            ("one\ntwo\nthree\n", Some(9), "one\ntwo\nthree\n"),
            ("one\ntwo\nthr", Some(1), "thr"),
            ("one\ntwo\nthr", Some(2), "two\nthr"),
            ("\n\n\n", Some(2), "\n\n"),
            ("", Some(2), ""),
        ];
        for (text, tail, wanted) in cases {
            fs::write(&path, text).unwrap();
            assert_eq!(all(&path, tail).await, wanted, "{text:?} {tail:?}");
        }
    }

    #[tokio::test]
    async fn a_follower_gets_what_is_written_later_even_to_a_file_that_is_not_there_yet() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut stream = Box::pin(read(path.clone(), Some(1), true));
        let write = async {
            sleep(Duration::from_millis(50)).await;
            fs::write(&path, "first\n").unwrap();
            sleep(FOLLOW * 3).await;
            fs::File::options()
                .append(true)
                .open(&path)
                .unwrap()
                .write_all(b"second\n")
                .unwrap();
        };
        let read = async {
            (
                stream.next().await.unwrap().unwrap(),
                stream.next().await.unwrap().unwrap(),
            )
        };
        let ((), (first, second)) = tokio::join!(write, read);
        assert_eq!(
            (&first[..], &second[..]),
            (&b"first\n"[..], &b"second\n"[..])
        );
    }

    #[tokio::test]
    async fn a_follower_begins_where_it_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        fs::write(&path, "one\ntwo\n").unwrap();
        for (start, bytes, at) in [
            (Start::Offset(0), "one\ntwo\n", 0),
            (Start::Offset(4), "two\n", 4),
            (Start::Offset(100), "one\ntwo\n", 0),
            (Start::Tail(Some(1)), "two\n", 4),
        ] {
            let piece = Box::pin(follow(path.clone(), start)).next().await;
            let wanted = Piece {
                bytes: bytes.into(),
                start: at,
            };
            assert_eq!(piece.unwrap().unwrap(), wanted, "{start:?}");
        }
        let hour = Duration::from_secs(3600);
        for (moment, start) in [(SystemTime::now() + hour, 8), (SystemTime::now() - hour, 0)] {
            let (_, found) = open(&path, Start::Since(moment)).unwrap();
            assert_eq!(found, start);
        }
    }

    /// Lines that say where they begin.
    fn numbered(path: &Path, lines: u64) {
        let text: String = (0..lines).map(|n| format!("line {n:08}\n")).collect();
        fs::File::options()
            .append(true)
            .create(true)
            .open(path)
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
    }

    #[tokio::test]
    async fn a_long_log_loses_its_head_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        numbered(&path, 100_000);
        let size = fs::metadata(&path).unwrap().len();
        let mut early = Box::pin(read(path.clone(), None, false));
        let first = early.next().await.unwrap().unwrap();
        assert!(first.starts_with(b"line 00000000\n"));

        assert!(!cut(&path, 1 << 30, 100_000).unwrap());
        assert!(cut(&path, 1 << 20, 100_000).unwrap());
        let after = fs::metadata(&path).unwrap();
        assert_eq!(after.len(), size);
        assert!(after.blocks() * 512 < 200_000, "{}", after.blocks());

        // Whole lines, without a gap, to the last.
        let text = all(&path, None).await;
        let numbers: Vec<u64> = text
            .lines()
            .map(|line| line[5..].parse().unwrap())
            .collect();
        assert!(
            numbers.len() > 7000 && numbers.len() < 7500,
            "{}",
            numbers.len()
        );
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));
        assert_eq!(numbers.last(), Some(&99_999));
        assert_eq!(all(&path, Some(1)).await, "line 00099999\n");
        assert_eq!(all(&path, Some(1_000_000)).await, text);

        // A slow reader goes on behind the hole, with a whole line.
        let rest: Vec<_> = early.map(Result::unwrap).collect().await;
        let rest = String::from_utf8(rest.concat()).unwrap();
        assert_eq!(rest, text);

        // Writers go on where they were.
        numbered(&path, 1);
        assert_eq!(all(&path, Some(1)).await, "line 00000000\n");
    }

    proptest! {
        #[test]
        fn the_last_lines_are_those_of_the_text(text in "[a\n]{0,200}", lines in 1..20u32) {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(text.as_bytes()).unwrap();
            let start = last_lines(&file, 0, text.len() as u64, lines).unwrap();
            let all: Vec<&str> = text.split_inclusive('\n').collect();
            let wanted: String = all[all.len().saturating_sub(lines as usize)..].concat();
            prop_assert_eq!(&text[usize::try_from(start).unwrap()..], wanted);
        }
    }
}
