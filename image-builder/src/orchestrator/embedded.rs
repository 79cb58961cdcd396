//! Finds the archive that a K3s executable carries. The release embeds one file named
//! `<sha256 of the file>.tar.zst`; both the name and the bytes are in the executable as they are.
//! So: look at every zstd frame (RFC 8878), and take the one whose digest is such a name. Pure.

use std::ops::Range;

use crate::packages::bytes_sha256;

/// The first bytes of a zstd frame.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The largest block that a frame may hold.
const LARGEST_BLOCK: usize = 128 << 10;

/// The archive in an executable: where it lies, and its name without `.tar.zst`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Embedded {
    pub(super) bytes: Range<usize>,
    /// The digest of the bytes: also the name of K3s's data folder.
    pub(super) sha256: String,
}

/// The archive of an executable, `None` if there is none whose name fits its bytes.
pub(super) fn find(executable: &[u8]) -> Option<Embedded> {
    let names = names(executable);
    if names.is_empty() {
        return None;
    }
    let mut at = 0;
    while let Some(found) = position(&executable[at..], &MAGIC) {
        let start = at + found;
        // Several frames one after the other are one file too.
        let mut end = start;
        while let Some(length) = frame_length(&executable[end..]) {
            end += length;
            let sha256 = bytes_sha256(&executable[start..end]);
            if names.contains(&sha256) {
                return Some(Embedded {
                    bytes: start..end,
                    sha256,
                });
            }
        }
        at = start + MAGIC.len();
    }
    None
}

/// Every 64 hex digits in front of `.tar.zst`.
fn names(executable: &[u8]) -> Vec<String> {
    let suffix = b".tar.zst";
    let mut names = Vec::new();
    let mut at = 0;
    while let Some(found) = position(&executable[at..], suffix) {
        let end = at + found;
        if let Some(digits) = end.checked_sub(64).map(|start| &executable[start..end])
            && digits
                .iter()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        {
            names.push(String::from_utf8_lossy(digits).into_owned());
        }
        at = end + suffix.len();
    }
    names.sort();
    names.dedup();
    names
}

/// Where `needle` begins in `bytes`.
pub(super) fn position(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    let first = *needle.first()?;
    let mut at = 0;
    while let Some(found) = bytes[at..].iter().position(|byte| *byte == first) {
        let start = at + found;
        if bytes[start..].starts_with(needle) {
            return Some(start);
        }
        at = start + 1;
    }
    None
}

/// The length of the frame that `bytes` begins with; `None` if that is no whole frame.
/// Walks over the block headers; nothing is decompressed.
fn frame_length(bytes: &[u8]) -> Option<usize> {
    if !bytes.starts_with(&MAGIC) {
        return None;
    }
    let descriptor = *bytes.get(4)?;
    // Bit 3 is reserved and must be zero.
    if descriptor & 0x08 != 0 {
        return None;
    }
    let single_segment = descriptor & 0x20 != 0;
    let checksum = descriptor & 0x04 != 0;
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let content_size = match descriptor >> 6 {
        0 => usize::from(single_segment),
        1 => 2,
        2 => 4,
        _ => 8,
    };
    let mut at = 5 + usize::from(!single_segment) + dictionary + content_size;
    loop {
        let header = bytes.get(at..at + 3)?;
        let header = u32::from_le_bytes([header[0], header[1], header[2], 0]);
        let size = (header >> 3) as usize;
        at += 3;
        at += match (header >> 1) & 3 {
            0 | 2 if size <= LARGEST_BLOCK => size,
            1 => 1,
            _ => return None,
        };
        if header & 1 != 0 {
            break;
        }
    }
    if checksum {
        at += 4;
    }
    (at <= bytes.len()).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn compress(bytes: &[u8]) -> Vec<u8> {
        zstd::encode_all(bytes, 3).expect("compresses")
    }

    /// An executable of the release's form.
    fn executable(archive: &[u8], name: &str) -> Vec<u8> {
        let mut bytes = b"\x7fELF code and data ".to_vec();
        bytes.extend(MAGIC);
        bytes.extend(b"no frame at all");
        bytes.extend(compress(b"another frame that is not the archive"));
        bytes.extend(format!("build/data/{name}.tar.zst").as_bytes());
        bytes.extend(archive);
        bytes.extend(b" and what follows");
        bytes
    }

    #[test]
    fn the_frame_that_fits_its_name_is_found() {
        let archive = compress(&vec![7; 400_000]);
        let name = bytes_sha256(&archive);
        let executable = executable(&archive, &name);
        let found = find(&executable).expect("found");
        assert_eq!(found.sha256, name);
        assert_eq!(&executable[found.bytes], archive.as_slice());
    }

    #[test]
    fn two_frames_can_be_one_archive() {
        let mut archive = compress(b"first");
        archive.extend(compress(b"second"));
        let name = bytes_sha256(&archive);
        let executable = executable(&archive, &name);
        assert_eq!(find(&executable).expect("found").bytes.len(), archive.len());
    }

    #[test]
    fn nothing_is_found_where_name_or_bytes_are_wrong() {
        let archive = compress(&vec![7; 400_000]);
        let name = bytes_sha256(&archive);
        assert_eq!(find(&executable(&archive, &"0".repeat(64))), None);
        assert_eq!(find(&executable(&archive, "short")), None);
        let mut flipped = archive.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        assert_eq!(find(&executable(&flipped, &name)), None);
        let cut = executable(&archive, &name);
        let short = &cut[..cut.len() - b" and what follows".len() - 1];
        assert_eq!(find(short), None);
    }

    proptest! {
        #[test]
        fn the_length_of_a_frame_is_that_of_the_library(
            content in proptest::collection::vec(any::<u8>(), 0..300_000), level in 1..6i32
        ) {
            let mut bytes = zstd::encode_all(content.as_slice(), level).expect("compresses");
            let length = bytes.len();
            bytes.extend(b"more");
            prop_assert_eq!(frame_length(&bytes), Some(length));
            prop_assert_eq!(frame_length(&bytes[..length - 1]), None);
        }

        #[test]
        fn damage_never_panics(tail in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut bytes = MAGIC.to_vec();
            bytes.extend(tail);
            let length = frame_length(&bytes);
            prop_assert!(length.is_none_or(|length| length <= bytes.len()));
        }
    }
}
