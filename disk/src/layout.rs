//! The partitions of a Keelson disk as data: labels, sizes, kinds, and the names of slots.
//!
//! A partition is found by its label and, for a root, by its UUID; never by its number and never
//! by its kind. The kinds are therefore the plain ones: every tool knows "Linux filesystem data"
//! and leaves it alone, whereas the kinds of the Discoverable Partitions Specification would
//! invite another system on the machine to mount, grow or adopt them, and kinds of our own would
//! be shown as unknown and offered for formatting.

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::gpt::{ALIGNMENT, Entry, Error, Geometry, Table};

/// EFI system partition.
pub const KIND_ESP: Uuid = Uuid::from_u128(0xc12a7328_f81f_11d2_ba4b_00a0c93ec93b);
/// Where a BIOS boot loader keeps its core.
pub const KIND_BIOS: Uuid = Uuid::from_u128(0x21686148_6449_6e6f_744e_656564454649);
/// Linux filesystem data.
pub const KIND_LINUX: Uuid = Uuid::from_u128(0x0fc63daf_8483_4772_8e79_3d69d8477de4);

const MIB: u64 = 1 << 20;

/// The least that DATA may have; an image has just this, and it grows at boot.
pub const DATA_MIN: u64 = 256 * MIB;

/// What a partition is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Boot loader and UKIs.
    Esp,
    /// The BIOS boot loader's core.
    Bios,
    /// The first slot.
    RootA,
    /// The second slot.
    RootB,
    /// The record log, see [`crate::meta`].
    Meta,
    /// Config and identity.
    State,
    /// `/var`.
    Data,
}

impl Role {
    /// All of them, in their order on the disk.
    pub const ALL: [Role; 7] = [
        Role::Esp,
        Role::Bios,
        Role::RootA,
        Role::RootB,
        Role::Meta,
        Role::State,
        Role::Data,
    ];

    /// The partition's label; both slots have the same.
    pub fn label(self) -> &'static str {
        match self {
            Role::Esp => "KEELSON-ESP",
            Role::Bios => "KEELSON-BIOS",
            Role::RootA | Role::RootB => "KEELSON-ROOT",
            Role::Meta => "KEELSON-META",
            Role::State => "KEELSON-STATE",
            Role::Data => "KEELSON-DATA",
        }
    }

    /// The partition's number in an image that we made.
    pub fn number(self) -> u32 {
        self as u32 + 1
    }

    fn kind(self) -> Uuid {
        match self {
            Role::Esp => KIND_ESP,
            Role::Bios => KIND_BIOS,
            _ => KIND_LINUX,
        }
    }
}

/// How the space of a disk is divided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// For disks of 8 GB and more.
    #[default]
    Standard,
    /// For devices of 4 GB: slots and ESP are half as large.
    Compact,
}

impl Layout {
    /// The size in bytes of a partition; of DATA, the least.
    pub fn size(self, role: Role) -> u64 {
        let half = match self {
            Layout::Standard => 1,
            Layout::Compact => 2,
        };
        match role {
            Role::Esp => 1024 * MIB / half,
            Role::RootA | Role::RootB => 2048 * MIB / half,
            Role::Bios | Role::Meta => MIB,
            Role::State => 128 * MIB,
            Role::Data => DATA_MIN,
        }
    }

    /// The size in bytes of the smallest disk, which is the size of an image: the partitions and
    /// 1 MiB at each end for the tables.
    pub fn image_bytes(self, bios: bool) -> u64 {
        let parts: u64 = roles(bios).map(|role| self.size(role)).sum();
        parts + 2 * ALIGNMENT
    }

    /// A whole table for a disk. `seed` decides the UUIDs of disk and partitions; slot A is named
    /// for `root_hash`, slot B is empty; `bios` adds the BIOS partition (amd64).
    pub fn table(
        self,
        geometry: Geometry,
        seed: &[u8],
        root_hash: &[u8; 32],
        bios: bool,
    ) -> Result<Table, Error> {
        let unit = ALIGNMENT / geometry.block.max(1);
        let mut first = unit;
        let mut table = Table {
            disk: derived_uuid(seed, "disk"),
            geometry,
            entries: Vec::new(),
        };
        for role in roles(bios) {
            let blocks = self.size(role) / ALIGNMENT * unit;
            table.entries.push(Entry {
                number: role.number(),
                kind: role.kind(),
                uuid: match role {
                    Role::RootA => slot_uuid(root_hash),
                    Role::RootB => EMPTY_SLOT,
                    _ => derived_uuid(seed, role.label()),
                },
                first,
                last: first + blocks - 1,
                attributes: 0,
                name: role.label().to_string(),
            });
            first += blocks;
        }
        table.grow(Role::Data.number(), geometry.blocks)?;
        Ok(table)
    }
}

fn roles(bios: bool) -> impl Iterator<Item = Role> {
    Role::ALL
        .into_iter()
        .filter(move |role| bios || *role != Role::Bios)
}

/// The UUID of a slot that holds nothing to boot: never written, or half written.
pub const EMPTY_SLOT: Uuid = Uuid::nil();

/// The UUID of the slot that holds the image with this root hash: the hash's first 16 bytes, read
/// as text from left to right.
pub fn slot_uuid(root_hash: &[u8; 32]) -> Uuid {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&root_hash[..16]);
    Uuid::from_bytes(bytes)
}

/// The slot that holds the image with this root hash.
pub fn find_slot<'a>(table: &'a Table, root_hash: &[u8; 32]) -> Option<&'a Entry> {
    let uuid = slot_uuid(root_hash);
    slots(table).find(|entry| entry.uuid == uuid && uuid != EMPTY_SLOT)
}

/// All slots of a disk, in their order.
pub fn slots(table: &Table) -> impl Iterator<Item = &Entry> {
    let label = Role::RootA.label();
    table.entries.iter().filter(move |e| e.name == label)
}

/// The one partition with a role's label. Not for slots: see [`find_slot`]. Of two with the same
/// label neither is taken.
pub fn find(table: &Table, role: Role) -> Option<&Entry> {
    let mut found = table.entries.iter().filter(|e| e.name == role.label());
    match (found.next(), found.next()) {
        (Some(entry), None) => Some(entry),
        _ => None,
    }
}

/// A UUID (version 8: the maker's own) that follows from a seed and a name.
pub fn derived_uuid(seed: &[u8], name: &str) -> Uuid {
    let hash = Sha256::new_with_prefix(b"keelson uuid\0")
        .chain_update(name)
        .chain_update([0])
        .chain_update(seed)
        .finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    bytes[6] = 0x80 | bytes[6] & 0x0f;
    bytes[8] = 0x80 | bytes[8] & 0x3f;
    Uuid::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: [u8; 32] = {
        let mut hash = [0; 32];
        let mut i = 0;
        while i < 32 {
            hash[i] = (i as u8).wrapping_mul(0x11);
            i += 1;
        }
        hash
    };

    fn shown(layout: Layout, bytes: u64, bios: bool) -> String {
        let table = layout
            .table(Geometry::of_image(bytes), b"seed", &HASH, bios)
            .unwrap();
        let mut text = format!("{} {}\n", table.disk, table.geometry.blocks);
        for e in &table.entries {
            let mib = e.blocks() / 2048;
            text += &format!(
                "{} {:<13} {:>8} {:>6} MiB {} {}\n",
                e.number, e.name, e.first, mib, e.kind, e.uuid
            );
        }
        text
    }

    #[test]
    fn the_layouts_are_frozen() {
        let standard = Layout::Standard.image_bytes(true);
        insta::assert_snapshot!("standard", shown(Layout::Standard, standard, true));
        let compact = Layout::Compact.image_bytes(false);
        insta::assert_snapshot!("compact-arm64", shown(Layout::Compact, compact, false));
    }

    #[test]
    fn data_takes_the_rest_of_a_larger_disk() {
        let bytes = Layout::Standard.image_bytes(true);
        let table = |bytes| {
            Layout::Standard
                .table(Geometry::of_image(bytes), b"seed", &HASH, true)
                .unwrap()
        };
        let (small, mut large) = (table(bytes), table(bytes + 1000 * MIB));
        let data = |table: &Table| find(table, Role::Data).unwrap().blocks() * 512;
        assert_eq!(data(&small), DATA_MIN);
        assert_eq!(data(&large), DATA_MIN + 1000 * MIB);
        let blocks = large.geometry.blocks;
        assert!(!large.grow(7, blocks).unwrap(), "it is as large as can be");
        let tiny = Geometry::of_image(bytes - MIB);
        assert!(Layout::Standard.table(tiny, b"", &HASH, true).is_err());
    }

    #[test]
    fn a_compact_disk_fits_into_4_gb() {
        assert!(Layout::Compact.image_bytes(true) < 4_000_000_000);
    }

    #[test]
    fn slots_are_found_by_hash_alone() {
        let bytes = Layout::Standard.image_bytes(true);
        let mut table = Layout::Standard
            .table(Geometry::of_image(bytes), b"", &HASH, true)
            .unwrap();
        assert_eq!(
            slot_uuid(&HASH).to_string(),
            "00112233-4455-6677-8899-aabbccddeeff"
        );
        assert_eq!(find_slot(&table, &HASH).unwrap().number, 3);
        assert_eq!(
            find_slot(&table, &[0; 32]),
            None,
            "an empty slot is no slot"
        );
        let (a, b) = (table.entries[2].uuid, table.entries[3].uuid);
        (table.entries[2].uuid, table.entries[3].uuid) = (b, a);
        assert_eq!(find_slot(&table, &HASH).unwrap().number, 4);
        table.entries[3].name = "OTHER".into();
        assert_eq!(find_slot(&table, &HASH), None);
    }

    #[test]
    fn of_two_partitions_with_a_label_none_is_taken() {
        let bytes = Layout::Compact.image_bytes(true);
        let mut table = Layout::Compact
            .table(Geometry::of_image(bytes), b"", &HASH, true)
            .unwrap();
        assert_eq!(find(&table, Role::State).unwrap().number, 6);
        table.entries[6].name = "KEELSON-STATE".into();
        assert_eq!(find(&table, Role::State), None);
    }
}
