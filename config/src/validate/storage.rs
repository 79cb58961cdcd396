//! The rules of `storage`.

use super::checked;
use crate::{
    Swap, SwapSize, ZramAlgorithm,
    document::{StorageSection, SwapSection, ZramAlgorithmWord},
    read::{Given, Reader},
    tree::quote,
    value::{self, Wrong},
};

/// The most that can be swapped out, in hundredths of the memory: what is compressed to
/// half (kernel: admin-guide/blockdev/zram.rst) would fill all of it.
const MOST_PERCENT: u32 = 200;

/// The least size of swap.
const LEAST_BYTES: u64 = 16 << 20;

pub(super) fn swap(reader: &mut Reader<'_>, written: &Given<StorageSection>) -> Option<Swap> {
    let StorageSection { swap } = &written.is()?.value;
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
