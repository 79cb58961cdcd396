//! Finds the root's partition by its UUID on the partition table of any whole disk.
//! Where several disks hold it, the one that the boot loader came from wins; it is
//! waited for a little when another one shows up first.

use crate::clock::Ms;
use keelson_disk::{
    Uuid,
    gpt::{Entry, Geometry, Table},
    layout,
};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// How long the loader's own disk is waited for when another has the root.
const LOADER_PATIENCE: Ms = 5_000;

/// A partition that may be the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    /// The whole disk's node.
    pub(super) disk: PathBuf,
    /// The partition's node.
    pub(super) node: PathBuf,
    /// Whether the boot loader came from this disk.
    pub(super) loader: bool,
}

/// The search and what it has seen so far.
pub(super) struct Search {
    hash: [u8; 32],
    loader: Option<Uuid>,
    seen: BTreeSet<String>,
    first_found: Option<Ms>,
}

impl Search {
    pub(super) fn new(hash: [u8; 32], loader: Option<Uuid>) -> Self {
        Self {
            hash,
            loader,
            seen: BTreeSet::new(),
            first_found: None,
        }
    }

    /// The UUID that is looked for.
    pub(super) fn uuid(&self) -> Uuid {
        layout::slot_uuid(&self.hash)
    }

    /// The disks that were looked at, for a person.
    pub(super) fn seen(&self) -> String {
        match self.seen.is_empty() {
            true => "none".to_owned(),
            false => self.seen.iter().cloned().collect::<Vec<_>>().join(", "),
        }
    }

    /// Looks at every disk once.
    pub(super) fn look(&mut self, now: Ms) -> Option<Candidate> {
        let mut found = vec![];
        for disk in disks(Path::new("/sys/class/block")) {
            if let Some(candidate) = self.look_at(&disk) {
                found.push(candidate);
            }
            self.seen.insert(disk);
        }
        if found.is_empty() {
            return None;
        }
        let waited = now - *self.first_found.get_or_insert(now);
        choose(&found, self.loader.is_some(), waited).cloned()
    }

    fn look_at(&self, disk: &str) -> Option<Candidate> {
        let sys = Path::new("/sys/class/block").join(disk);
        let block = number(&sys.join("queue/logical_block_size"))?;
        let blocks = number(&sys.join("size"))?
            .checked_mul(512)?
            .checked_div(block)?;
        let node = Path::new("/dev").join(disk);
        // A disk that cannot be read, or has no table, is none of ours.
        let mut file = fs::File::open(&node).ok()?;
        let (table, _) = Table::read(&mut file, Geometry { block, blocks }).ok()?;
        let entry = layout::find_slot(&table, &self.hash)?;
        Some(Candidate {
            node: Path::new("/dev").join(partition(&sys, entry, block)?),
            disk: node,
            loader: self
                .loader
                .is_some_and(|uuid| table.entries.iter().any(|e| e.uuid == uuid)),
        })
    }
}

/// The one to boot from, if it can be told yet.
fn choose(found: &[Candidate], loader_known: bool, waited: Ms) -> Option<&Candidate> {
    match found.iter().find(|candidate| candidate.loader) {
        Some(candidate) => Some(candidate),
        None if loader_known && waited < LOADER_PATIENCE => None,
        None => found.first(),
    }
}

/// The whole disks, by name; not those that are made of others, or of memory.
fn disks(class: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(class)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| !entry.path().join("partition").exists())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            !["loop", "ram", "zram", "dm-", "md", "sr", "fd"]
                .iter()
                .any(|kind| is_kind(name, kind))
        })
        .collect();
    names.sort();
    names
}

/// Whether the name is this kind and a number.
fn is_kind(name: &str, kind: &str) -> bool {
    name.strip_prefix(kind)
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|c| c.is_ascii_digit()))
}

/// The kernel's name of the partition with this number, if it is where the table says;
/// nothing while the kernel has not read the table yet.
fn partition(disk: &Path, entry: &Entry, block: u64) -> Option<String> {
    let start = entry.first.checked_mul(block)?.checked_div(512)?;
    fs::read_dir(disk).ok()?.flatten().find_map(|child| {
        let path = child.path();
        (number(&path.join("partition"))? == u64::from(entry.number)
            && number(&path.join("start"))? == start)
            .then(|| child.file_name().into_string().ok())?
    })
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(disk: &str, loader: bool) -> Candidate {
        Candidate {
            disk: disk.into(),
            node: format!("{disk}3").into(),
            loader,
        }
    }

    #[test]
    fn the_loaders_disk_wins_and_is_waited_for() {
        let (other, own) = (candidate("/dev/sda", false), candidate("/dev/sdb", true));
        let both = [other.clone(), own.clone()];
        let one = [other.clone()];
        for (what, found, known, waited, want) in [
            ("the loader's own", &both[..], true, 0, Some(&own)),
            ("another is not taken at once", &one[..], true, 4_999, None),
            ("but at last", &one[..], true, 5_000, Some(&other)),
            (
                "without a word from the loader the first",
                &one[..],
                false,
                0,
                Some(&other),
            ),
            ("nothing", &[][..], false, 9_999, None),
        ] {
            assert_eq!(choose(found, known, waited), want, "{what}");
        }
    }

    #[test]
    fn only_whole_real_disks_are_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        for name in [
            "vda", "vda1", "sda", "nvme0n1", "loop0", "dm-0", "ram3", "md127", "sr0", "mmcblk0",
            "fd0",
        ] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("vda1/partition"), "1\n").unwrap();
        assert_eq!(disks(dir.path()), ["mmcblk0", "nvme0n1", "sda", "vda"]);
    }

    #[test]
    fn a_partition_is_taken_where_the_table_says_only() {
        let dir = tempfile::tempdir().unwrap();
        let part = dir.path().join("nvme0n1p3");
        fs::create_dir(&part).unwrap();
        fs::write(part.join("partition"), "3\n").unwrap();
        fs::write(part.join("start"), "2048\n").unwrap();
        let entry = Entry {
            number: 3,
            kind: Uuid::nil(),
            uuid: Uuid::nil(),
            first: 256,
            last: 999,
            attributes: 0,
            name: String::new(),
        };
        assert_eq!(
            partition(dir.path(), &entry, 4096).as_deref(),
            Some("nvme0n1p3")
        );
        assert_eq!(partition(dir.path(), &entry, 512), None);
        assert_eq!(
            partition(dir.path(), &Entry { number: 4, ..entry }, 4096),
            None
        );
    }
}
