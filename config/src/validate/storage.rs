//! The rules of `storage`.

use super::{checked, first_of, items};
use crate::{
    DiskSelector, Pattern, SizeBound, Swap, SwapSize, Volume, ZramAlgorithm,
    document::{DiskSection, StorageSection, SwapSection, VolumeSection, ZramAlgorithmWord},
    read::{Given, Located, Reader},
    tree::quote,
    value::{self, Wrong},
};
use std::collections::BTreeMap;

/// The most that can be swapped out, in hundredths of the memory: what is compressed to
/// half (kernel: admin-guide/blockdev/zram.rst) would fill all of it.
const MOST_PERCENT: u32 = 200;

/// The least size of swap.
const LEAST_BYTES: u64 = 16 << 20;

pub(super) fn swap(reader: &mut Reader<'_>, written: &Given<StorageSection>) -> Option<Swap> {
    let StorageSection { swap, volumes: _ } = &written.is()?.value;
    let SwapSection { zram, pods } = &swap.is()?.value;
    let zram = &zram.is()?.value;
    let size = match zram.size.is() {
        Some(size) => checked(reader, size, |text| swap_size(text))?,
        None => SwapSize::Percent(25),
    };
    let algorithm = match zram.algorithm.is().map(|word| word.value) {
        Some(ZramAlgorithmWord::Zstd) | None => ZramAlgorithm::Zstd,
        Some(ZramAlgorithmWord::Lz4) => ZramAlgorithm::Lz4,
    };
    Some(Swap {
        size,
        algorithm,
        pods: pods.is().is_some_and(|pods| pods.value),
    })
}

fn swap_size(text: &str) -> Result<SwapSize, Wrong> {
    let Some(digits) = text.strip_suffix('%') else {
        let bytes = value::size(text).map_err(|wrong| {
            match text.starts_with(|c: char| c.is_ascii_digit()) {
                true => wrong,
                false => wrong.hint("write a share of the memory or a size, as in 25% or 512Mi"),
            }
        })?;
        if bytes < LEAST_BYTES {
            return Err(Wrong::new(format!("{} is less than 16Mi", quote(text)))
                .hint("remove storage.swap to have none"));
        }
        return Ok(SwapSize::Bytes(bytes));
    };
    let percent = digits.parse().ok().filter(|_| !digits.starts_with('+'));
    match percent {
        Some(percent @ 1..=MOST_PERCENT) => Ok(SwapSize::Percent(percent)),
        _ => Err(Wrong::new(format!(
            "{} is not a share between 1% and {MOST_PERCENT}%",
            quote(text)
        ))),
    }
}

/// The longest name of a volume: an ext4's label has 16 bytes.
const LONGEST_NAME: usize = 16;

/// The least size of a volume: what is smaller has little room beside its own journal.
const LEAST_VOLUME: u64 = 64 << 20;

pub(super) fn volumes(reader: &mut Reader<'_>, written: &Given<StorageSection>) -> Vec<Volume> {
    let Some(section) = written.is() else {
        return Vec::new();
    };
    let mut seen = BTreeMap::new();
    let mut volumes = Vec::new();
    for volume in items(&section.value.volumes) {
        let VolumeSection { name, disk, size } = &volume.value;
        let disk = disk.is().map(|disk| selector(reader, disk));
        let size = match size.is() {
            Some(size) => checked(reader, size, |text| volume_size(text)).map(Some),
            None => Some(None),
        };
        let Some(written) = name.is() else { continue };
        let name = checked(reader, written, |text| volume_name(text));
        let Some(name) = name else { continue };
        if first_of(reader, &mut seen, name.clone(), written.at)
            && let (Some(disk), Some(size)) = (disk, size)
        {
            volumes.push(Volume { name, disk, size });
        }
    }
    volumes
}

fn volume_name(text: &str) -> Result<String, Wrong> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if text.is_empty()
        || text.len() > LONGEST_NAME
        || !text.chars().all(plain)
        || text.starts_with('-')
        || text.ends_with('-')
    {
        return Err(
            Wrong::new(format!("{} is not a name for a volume", quote(text))).hint(format!(
                "use at most {LONGEST_NAME} of a to z, 0 to 9 and -, with no - at either end"
            )),
        );
    }
    if matches!(text, "state" | "data") {
        return Err(
            Wrong::new(format!("{} is a volume of the machine's own", quote(text)))
                .hint("give it another name"),
        );
    }
    Ok(text.to_owned())
}

fn volume_size(text: &str) -> Result<u64, Wrong> {
    let bytes = value::size(text)?;
    match bytes >= LEAST_VOLUME {
        true => Ok(bytes),
        false => Err(Wrong::new(format!("{} is less than 64Mi", quote(text)))),
    }
}

fn selector(reader: &mut Reader<'_>, written: &Located<DiskSection>) -> DiskSelector {
    let DiskSection {
        model,
        serial,
        wwid,
        transport,
        size,
    } = &written.value;
    let absent = [model, serial, wwid, size]
        .iter()
        .all(|text| text.is_absent());
    if absent && transport.is_absent() {
        let hint = "say what tells it from others, as in {serial: S64DNL0T712345}";
        reader.error(written.at, "any disk would match", hint);
    }
    let mut text =
        |written: &Given<String>| {
            checked(reader, written.is()?, |text| match text.trim() {
                // The kernel's blanks are one each; a text of stars alone says nothing.
                "" => Err(Wrong::new("it is empty")
                    .hint("remove it, or write what `osctl get disks` shows")),
                text => Ok(Pattern(
                    text.split_whitespace().collect::<Vec<_>>().join(" "),
                )),
            })
        };
    let (model, serial, wwid) = (text(model), text(serial), text(wwid));
    DiskSelector {
        model,
        serial,
        wwid,
        transport: transport.is().map(|word| word.value.word()),
        size: size
            .is()
            .and_then(|size| checked(reader, size, |text| size_bound(text))),
    }
}

fn size_bound(text: &str) -> Result<SizeBound, Wrong> {
    let bound: (fn(u64) -> SizeBound, &str) = match text.split_at_checked(2) {
        Some((">=", rest)) => (SizeBound::AtLeast, rest),
        Some(("<=", rest)) => (SizeBound::AtMost, rest),
        _ => {
            return Err(
                Wrong::new(format!("{} does not say at least or at most", quote(text)))
                    .hint("disks have no round sizes: write \">= 100Gi\" or \"<= 2T\""),
            );
        }
    };
    value::size(bound.1.trim()).map(bound.0)
}
