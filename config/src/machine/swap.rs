//! Swap, as wanted.

/// Swap that is compressed and stays in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swap {
    /// How much can be swapped out, before it is compressed.
    pub size: SwapSize,
    /// What compresses it.
    pub algorithm: ZramAlgorithm,
    /// Pods may be swapped out too.
    pub pods: bool,
}

/// How much can be swapped out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SwapSize {
    /// This much of the memory, in hundredths.
    Percent(u32),
    /// This many bytes.
    Bytes(u64),
}

/// What compresses swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZramAlgorithm {
    /// Small.
    Zstd,
    /// Fast.
    Lz4,
}

impl SwapSize {
    /// In bytes, on a machine with so much memory.
    pub fn bytes(self, memory: u64) -> u64 {
        match self {
            SwapSize::Percent(percent) => (memory / 100).saturating_mul(percent.into()),
            SwapSize::Bytes(bytes) => bytes,
        }
    }
}

impl ZramAlgorithm {
    /// As it is written, and as the kernel calls it.
    pub fn word(self) -> &'static str {
        match self {
            ZramAlgorithm::Zstd => "zstd",
            ZramAlgorithm::Lz4 => "lz4",
        }
    }
}
