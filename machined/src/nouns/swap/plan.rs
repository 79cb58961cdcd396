//! Which steps swap needs. Pure.

use super::{Have, device::Device};
use keelson_config::{Swap, SwapSize};
use std::fmt;

/// What the labels of the machine's own devices begin with.
pub(super) const OURS: &str = "keelson-";

/// Swap, as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wish {
    /// The label of its device: whose it is, and the share of the memory, if it is one. The
    /// memory of a machine may change a little while it runs, for which nothing is made anew.
    pub label: String,
    /// Its size: whole pages.
    pub bytes: u64,
    /// What compresses it.
    pub algorithm: &'static str,
    /// Whether its size is one of the config, and no share.
    fixed: bool,
}

impl Wish {
    /// What the config says, on a machine with so much memory and pages of this size.
    pub(crate) fn new(swap: &Swap, memory: u64, page: u64) -> Self {
        let (label, fixed) = match swap.size {
            SwapSize::Percent(percent) => (format!("{OURS}{percent}%"), false),
            SwapSize::Bytes(_) => (format!("{OURS}size"), true),
        };
        let bytes = swap.size.bytes(memory);
        Wish {
            label,
            bytes: bytes - bytes % page,
            algorithm: swap.algorithm.word(),
            fixed,
        }
    }

    /// Whether a device is this.
    pub(super) fn is(&self, device: &Device) -> bool {
        device.label == self.label
            && device.algorithm == self.algorithm
            && (device.size == self.bytes || !self.fixed)
    }
}

/// One missing step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Make a device and begin to swap to it.
    Make(Wish),
    /// Begin to swap to a device that was made.
    Begin(String),
    /// Read back what is on a device, and make one that is as wanted in its place.
    Remake(String, Wish),
    /// Read back what is on a device, and give it up.
    Remove(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let as_wanted = |wish: &Wish| {
            let mib = wish.bytes >> 20;
            format!(
                "{mib} MiB of swap in memory, compressed with {}",
                wish.algorithm
            )
        };
        match self {
            Step::Make(wish) => write!(f, "make {}", as_wanted(wish)),
            Step::Begin(name) => write!(f, "swap to {name}"),
            Step::Remake(name, wish) => write!(f, "make {name} anew: {}", as_wanted(wish)),
            Step::Remove(name) => write!(f, "remove the swap {name}"),
        }
    }
}

/// The missing steps.
pub(super) fn plan(have: &Have, wish: Option<&Wish>) -> Vec<Step> {
    let mut others: Vec<&Device> = have.ours.iter().collect();
    let mut steps = Vec::new();
    if let Some(wish) = wish {
        if let Some(at) = others.iter().position(|device| wish.is(device)) {
            let device = others.remove(at);
            if device.used.is_none() {
                steps.push(Step::Begin(device.name.clone()));
            }
        } else if !others.is_empty() {
            // One step, so that there are never two where the first cannot go.
            steps.push(Step::Remake(others.remove(0).name.clone(), wish.clone()));
        } else if !have.loading {
            steps.push(Step::Make(wish.clone()));
        }
    }
    steps.extend(
        others
            .iter()
            .map(|device| Step::Remove(device.name.clone())),
    );
    steps
}

/// Why swap of this size is not made on a machine with so much memory.
pub(crate) fn too_large(bytes: u64, memory: u64) -> Option<String> {
    (bytes / 2 > memory).then(|| {
        format!(
            "{} MiB of swap are more than twice the memory, which is {} MiB: what is compressed \
             has to fit into it",
            bytes >> 20,
            memory >> 20
        )
    })
}

/// Why swap cannot be given up, where so much is swapped out and so much memory is
/// available. The kernel would try, and kill machined when it runs out.
pub(super) fn does_not_fit(used: u64, available: u64, memory: u64) -> Option<String> {
    let spare = memory / 16;
    (used.saturating_add(spare) > available).then(|| {
        format!(
            "{} MiB are swapped out, and only {} MiB of memory are available: the swap stays as \
             it is until there is room, or until the next reboot",
            used >> 20,
            available >> 20
        )
    })
}
