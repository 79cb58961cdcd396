//! Reading a unified kernel image: where its sections lie in the file.
//!
//! A UKI is a PE32+ program (Microsoft's PE format; the UAPI group's "Unified Kernel Image") whose
//! sections carry the kernel (`.linux`), the initramfs (`.initrd`), the command line (`.cmdline`)
//! and os-release (`.osrel`). Only what finding them needs is read.

use std::io::{self, Read, Seek, SeekFrom};

/// A section whose content is larger than this is not read into memory by [`text`].
const MAX_TEXT: u64 = 64 << 10;
/// The most headers that a file may have.
const MAX_SECTIONS: u16 = 96;

/// One section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// The name, such as `.linux`.
    pub name: String,
    /// Where its content begins in the file.
    pub offset: u64,
    /// The bytes of its content, without the padding behind.
    pub size: u64,
    /// Where it is loaded, relative to the image.
    pub address: u64,
}

/// Why a file is not a UKI that can be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be read.
    #[error("cannot read the UKI")]
    Io(#[from] io::Error),
    /// It is something else, or damaged.
    #[error("not a UKI: {0}")]
    Invalid(&'static str),
}

/// Lists the sections in the order of their headers.
pub fn sections(file: &mut (impl Read + Seek)) -> Result<Vec<Section>, Error> {
    let invalid = |what| Err(Error::Invalid(what));
    let length = file.seek(SeekFrom::End(0))?;
    let dos: [u8; 64] = read(file, 0)?;
    if dos[..2] != *b"MZ" {
        return invalid("it does not begin as an EFI program");
    }
    let pe = u64::from(u32_at(&dos, 60));
    let coff: [u8; 24] = read(file, pe)?;
    if coff[..4] != *b"PE\0\0" {
        return invalid("it has no PE header");
    }
    let count = u16::from_le_bytes([coff[6], coff[7]]);
    if count > MAX_SECTIONS {
        return invalid("it has too many sections");
    }
    let headers = pe + 24 + u64::from(u16::from_le_bytes([coff[20], coff[21]]));
    let mut sections = Vec::new();
    for n in 0..u64::from(count) {
        let header: [u8; 40] = read(file, headers + n * 40)?;
        let name = header[..8].split(|b| *b == 0).next().unwrap_or(&[]);
        let memory = u64::from(u32_at(&header, 8));
        let stored = u64::from(u32_at(&header, 16));
        let offset = u64::from(u32_at(&header, 20));
        if stored > 0 && offset + stored > length {
            return invalid("a section reaches past its end");
        }
        sections.push(Section {
            name: String::from_utf8_lossy(name).into_owned(),
            offset,
            size: stored.min(memory),
            address: u64::from(u32_at(&header, 12)),
        });
    }
    Ok(sections)
}

/// The content of a small text section such as `.cmdline`, without trailing zeros and newlines;
/// `None` where there is no such section.
pub fn text(file: &mut (impl Read + Seek), name: &str) -> Result<Option<String>, Error> {
    let Some(section) = sections(file)?.into_iter().find(|s| s.name == name) else {
        return Ok(None);
    };
    if section.size > MAX_TEXT {
        return Err(Error::Invalid("a text section is too large"));
    }
    let mut bytes = vec![0; section.size as usize];
    file.seek(SeekFrom::Start(section.offset))?;
    file.read_exact(&mut bytes)?;
    let text =
        String::from_utf8(bytes).map_err(|_| Error::Invalid("a text section is not text"))?;
    Ok(Some(text.trim_end_matches(['\0', '\n']).to_string()))
}

fn read<const N: usize>(file: &mut (impl Read + Seek), at: u64) -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    file.seek(SeekFrom::Start(at))?;
    match file.read_exact(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(Error::Invalid("it ends too early"))
        }
        Err(error) => Err(error.into()),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    /// The smallest file that has sections: headers of 64 + 24 + 0 bytes, then the table.
    fn file(sections: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; 512];
        bytes[..2].copy_from_slice(b"MZ");
        bytes[60] = 64;
        bytes[64..68].copy_from_slice(b"PE\0\0");
        bytes[70] = sections.len() as u8;
        for (n, (name, content)) in sections.iter().enumerate() {
            let offset = bytes.len() as u32;
            let header = &mut bytes[88 + n * 40..88 + (n + 1) * 40];
            header[..name.len()].copy_from_slice(name.as_bytes());
            header[8..12].copy_from_slice(&(content.len() as u32).to_le_bytes());
            header[12..16].copy_from_slice(&(n as u32 * 4096).to_le_bytes());
            header[16..20].copy_from_slice(&512u32.to_le_bytes());
            header[20..24].copy_from_slice(&offset.to_le_bytes());
            bytes.extend_from_slice(content);
            bytes.resize(offset as usize + 512, 0);
        }
        bytes
    }

    #[test]
    fn finds_what_is_there() {
        let bytes = file(&[(".cmdline", b"a b\n\0"), (".linux", b"kernel")]);
        let mut cursor = Cursor::new(&bytes);
        let found = sections(&mut cursor).unwrap();
        assert_eq!(found[1].name, ".linux");
        assert_eq!(
            (found[1].offset, found[1].size, found[1].address),
            (1024, 6, 4096)
        );
        assert_eq!(
            text(&mut cursor, ".cmdline").unwrap().as_deref(),
            Some("a b")
        );
        assert_eq!(text(&mut cursor, ".osrel").unwrap(), None);
    }

    #[test]
    fn other_files_are_refused() {
        let good = file(&[(".linux", b"kernel")]);
        for (what, bytes) in [
            ("empty", Vec::new()),
            ("text", b"#!/bin/sh\n".repeat(20)),
            ("cut in the headers", good[..100].to_vec()),
            ("cut in a section", good[..600].to_vec()),
        ] {
            let error = sections(&mut Cursor::new(bytes)).unwrap_err();
            assert!(matches!(error, Error::Invalid(_)), "{what}: {error}");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(
            patches in prop::collection::vec((0usize..200, any::<u8>()), 0..20), cut in 0usize..2000,
        ) {
            let mut bytes = file(&[(".cmdline", b"a b"), (".linux", b"kernel")]);
            for (at, byte) in patches {
                bytes[at] = byte;
            }
            bytes.truncate(cut);
            sections(&mut Cursor::new(&bytes)).ok();
            text(&mut Cursor::new(&bytes), ".cmdline").ok();
        }
    }
}
