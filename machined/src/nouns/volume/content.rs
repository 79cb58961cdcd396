//! What a partition holds, told from its first MiB. Nothing here reads or writes;
//! what is not known for certain is never called empty.

use std::fmt;

/// How much of a partition is looked at.
pub(crate) const LOOKED_AT: usize = 1 << 20;

/// What a partition holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// The first MiB is zero: nothing was ever written here.
    Empty,
    /// An ext4 file system.
    Ext4(Ext4),
    /// Something else, by name where it can be told.
    Other(String),
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Content::Empty => f.write_str("nothing"),
            Content::Ext4(ext4) => write!(f, "an ext4 file system labelled {:?}", ext4.label),
            Content::Other(name) => f.write_str(name),
        }
    }
}

/// What an ext4's superblock says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ext4 {
    /// The volume label.
    pub label: String,
    /// Bytes of one block.
    pub block_size: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Whether it was left in order.
    pub state: Left,
}

/// How an ext4 was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// Unmounted in order.
    Clean,
    /// Was in use when the machine stopped: the journal is to be replayed.
    Dirty,
    /// The kernel or a check found errors in it that nobody has repaired.
    Broken,
}

impl Ext4 {
    /// Its size in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.blocks.saturating_mul(self.block_size)
    }
}

/// Tells what begins with these bytes: the partition's first MiB, or all of it where
/// it is shorter.
pub(crate) fn probe(head: &[u8]) -> Content {
    if head.iter().all(|&byte| byte == 0) {
        return Content::Empty;
    }
    if at(head, SUPERBLOCK + 0x38, b"\x53\xef") {
        return match ext4(&head[SUPERBLOCK..]) {
            Some(ext4) => Content::Ext4(ext4),
            None => Content::Other("a damaged ext4 superblock".into()),
        };
    }
    let known = SIGNATURES
        .iter()
        .find(|&&(offset, magic, _)| at(head, offset, magic));
    Content::Other(known.map_or("unknown data", |&(_, _, name)| name).into())
}

/// The ext4 superblock's place.
const SUPERBLOCK: usize = 1024;

/// What else may lie on a disk: offset, magic, name. As `blkid` knows them.
const SIGNATURES: &[(usize, &[u8], &str)] = &[
    (0, b"LUKS\xba\xbe", "a LUKS container"),
    (0, b"XFSB", "an XFS file system"),
    (0, b"hsqs", "a squashfs image"),
    (3, b"NTFS    ", "an NTFS file system"),
    (3, b"EXFAT   ", "an exFAT file system"),
    (0x36, b"FAT", "a FAT file system"),
    (0x52, b"FAT32", "a FAT file system"),
    (0x200, b"LABELONE", "an LVM physical volume"),
    (0x200, b"EFI PART", "a partition table"),
    (0x1000, b"\xfc\x4e\x2b\xa9", "a member of an md array"),
    (0xff6, b"SWAPSPACE2", "swap space"),
    (0x400, b"\xe2\xe1\xf5\xe0", "an EROFS image"),
    (0x400, b"\x10\x20\xf5\xf2", "an F2FS file system"),
    (
        0x1018,
        b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca",
        "a bcache device",
    ),
    (0x8001, b"CD001", "an ISO 9660 file system"),
    (0x10040, b"_BHRfS_M", "a btrfs file system"),
    (0x1fe, b"\x55\xaa", "a boot sector"),
];

fn at(head: &[u8], offset: usize, magic: &[u8]) -> bool {
    head.get(offset..offset + magic.len()) == Some(magic)
}

/// Reads the superblock (Documentation/filesystems/ext4/super.rst). `None` where it
/// contradicts itself.
fn ext4(superblock: &[u8]) -> Option<Ext4> {
    let u16_at = |offset| {
        Some(u16::from_le_bytes(
            *superblock.get(offset..)?.first_chunk()?,
        ))
    };
    let u32_at = |offset| {
        Some(u32::from_le_bytes(
            *superblock.get(offset..)?.first_chunk()?,
        ))
    };
    let log_block_size = u32_at(0x18)?;
    if log_block_size > 6 {
        return None; // the kernel knows blocks of 1 to 64 KiB
    }
    const INCOMPAT_RECOVER: u32 = 0x4;
    const INCOMPAT_64BIT: u32 = 0x80;
    let incompat = u32_at(0x60)?;
    let high = if incompat & INCOMPAT_64BIT != 0 {
        u32_at(0x150)?
    } else {
        0
    };
    let blocks = (u64::from(high) << 32) | u64::from(u32_at(0x4)?);
    const STATE_VALID: u16 = 1;
    const STATE_ERROR: u16 = 2;
    let state = match u16_at(0x3a)? {
        state if state & STATE_ERROR != 0 => Left::Broken,
        state if state & STATE_VALID == 0 => Left::Dirty,
        _ if incompat & INCOMPAT_RECOVER != 0 => Left::Dirty,
        _ => Left::Clean,
    };
    let label = superblock.get(0x78..0x88)?;
    let label = label.split(|&byte| byte == 0).next().unwrap_or_default();
    Some(Ext4 {
        label: String::from_utf8_lossy(label).into_owned(),
        block_size: 1024 << log_block_size,
        blocks,
        state,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn superblock(label: &[u8], state: u16, incompat: u32) -> Vec<u8> {
        let mut head = vec![0; 4096];
        head[1024 + 0x38..][..2].copy_from_slice(b"\x53\xef");
        head[1024 + 0x4..][..4].copy_from_slice(&65536u32.to_le_bytes());
        head[1024 + 0x18..][..4].copy_from_slice(&2u32.to_le_bytes());
        head[1024 + 0x3a..][..2].copy_from_slice(&state.to_le_bytes());
        head[1024 + 0x60..][..4].copy_from_slice(&incompat.to_le_bytes());
        head[1024 + 0x78..][..label.len()].copy_from_slice(label);
        head
    }

    #[test]
    fn an_ext4_tells_its_label_size_and_state() {
        for (state, incompat, want) in [
            (1, 0x2c2, Left::Clean),
            (1, 0x2c6, Left::Dirty),
            (0, 0x2c2, Left::Dirty),
            (3, 0x2c2, Left::Broken),
            (2, 0x2c6, Left::Broken),
        ] {
            let Content::Ext4(found) = probe(&superblock(b"KEELSON-DATA", state, incompat)) else {
                panic!("not seen as ext4");
            };
            assert_eq!(found.label, "KEELSON-DATA");
            assert_eq!(found.bytes(), 256 << 20);
            assert_eq!(found.state, want, "state {state}, features {incompat:#x}");
        }
    }

    #[test]
    fn a_label_may_fill_its_field() {
        let Content::Ext4(found) = probe(&superblock(b"0123456789abcdef", 1, 0)) else {
            panic!("not seen as ext4");
        };
        assert_eq!(found.label, "0123456789abcdef");
    }

    #[test]
    fn only_zeros_are_empty() {
        assert_eq!(probe(&vec![0; LOOKED_AT]), Content::Empty);
        for place in [0, 511, 1024, 4096, LOOKED_AT - 1] {
            let mut head = vec![0; LOOKED_AT];
            head[place] = 1;
            assert_eq!(
                probe(&head),
                Content::Other("unknown data".into()),
                "byte {place}"
            );
        }
    }

    #[test]
    fn what_is_known_is_named() {
        for &(offset, magic, name) in SIGNATURES {
            let mut head = vec![0; LOOKED_AT];
            head[offset..offset + magic.len()].copy_from_slice(magic);
            assert_eq!(probe(&head), Content::Other(name.into()));
        }
    }

    #[test]
    fn a_superblock_that_contradicts_itself_is_not_trusted() {
        let mut head = superblock(b"KEELSON-DATA", 1, 0);
        head[1024 + 0x18] = 40;
        assert_eq!(
            probe(&head),
            Content::Other("a damaged ext4 superblock".into())
        );
    }

    proptest! {
        #[test]
        fn whatever_there_is_is_looked_at_without_a_panic(
            mut head in prop::collection::vec(any::<u8>(), 0..8192),
            magic: bool,
        ) {
            if magic && head.len() > 1024 + 0x3a {
                head[1024 + 0x38..][..2].copy_from_slice(b"\x53\xef");
            }
            let empty = head.iter().all(|&byte| byte == 0);
            prop_assert_eq!(probe(&head) == Content::Empty, empty);
        }
    }
}
