//! Which steps bring the further volumes from what was found to what is wanted. Pure.
//!
//! ```text
//!   no partition ── Partition ── Format ──┐
//!                    partition: empty ── Format ──┤
//!                    partition: ext4 ── [Check] ──┴── Mount
//!   not wanted, mounted ── Unmount
//!   not mounted, and its folder is open ── Close, before all else
//!   not wanted, and its folder is closed ── Remove
//!   anything else: no step, ever
//! ```

use super::{
    super::content::{Content, Left},
    MOUNTS,
    judge::partition_name,
    look::{Found, Mounted, Stand},
};
use keelson_config::Volume;
use std::fmt;

/// One missing step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Close the folder in its place, so that nobody writes there before it is mounted.
    Close(Volume),
    /// Make its partition on this disk, and a table where there is none; or write again a
    /// table that power cut off, or tell the kernel what it does not know of it.
    Partition(Volume, String),
    /// Make a file system. Only ever on a partition that is empty.
    Format(Volume),
    /// Put a file system in order that was not unmounted in order.
    Check(Volume),
    /// Mount it.
    Mount(Volume),
    /// Let what is mounted below it be seen everywhere.
    Share(Volume),
    /// Unmount the volume of this name, which nobody wants any more. Its partition stays.
    Unmount(String),
    /// Remove the folder of the volume of this name, which nobody wants any more.
    Remove(String),
}

impl Step {
    /// The volume it is for.
    pub(crate) fn name(&self) -> &str {
        match self {
            Step::Close(volume)
            | Step::Partition(volume, _)
            | Step::Format(volume)
            | Step::Check(volume)
            | Step::Mount(volume)
            | Step::Share(volume) => &volume.name,
            Step::Unmount(name) | Step::Remove(name) => name,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, label) = (self.name(), partition_name(self.name()));
        match self {
            Step::Close(_) => write!(f, "close {MOUNTS}/{name} until it is mounted"),
            Step::Partition(_, disk) => write!(f, "make the partition {label} on {disk}"),
            Step::Format(_) => write!(f, "format the empty partition {label}"),
            Step::Check(_) => write!(f, "check the file system {label}"),
            Step::Mount(_) => write!(f, "mount {label} at {MOUNTS}/{name}"),
            Step::Share(_) => write!(f, "share the mounts below {MOUNTS}/{name}"),
            Step::Unmount(_) => write!(f, "unmount {MOUNTS}/{name}"),
            Step::Remove(_) => write!(f, "remove {MOUNTS}/{name}"),
        }
    }
}

/// Why a volume is left alone and what to do about it; `None` where it can be used.
pub(super) fn refused(found: &Found) -> Option<String> {
    let point = format!("{MOUNTS}/{}", found.name);
    match (&found.mounted, &found.stand) {
        (Mounted::Here(space), _) if space.read_only => Some(format!(
            "the kernel found an error in the file system at {point} and made it read-only; \
             restart the machine, which checks it"
        )),
        (Mounted::Here(_), _) => None,
        // Why its partition is not the one that is mounted says more.
        (Mounted::Other(_), Stand::Refused(why)) => Some(why.clone()),
        (Mounted::Other(source), _) => Some(format!(
            "{point} is taken by {source}, which is not this volume; restart the machine"
        )),
        (Mounted::No, Stand::Refused(why)) => Some(why.clone()),
        (Mounted::No, Stand::There(place)) => match &place.content {
            Content::Other(what) => Some(format!(
                "{} is the partition {} and holds {what}; it is left as it is: save what you need, \
                 and overwrite the partition's first MiB with zeros, or choose another disk",
                place.called(),
                partition_name(&found.name)
            )),
            Content::Empty | Content::Ext4(_) => None,
        },
        (Mounted::No, Stand::Absent(_) | Stand::Room(_) | Stand::Unwanted) => None,
    }
}

/// The missing steps, in the order of the config.
pub(super) fn plan(found: &[Found]) -> Vec<Step> {
    found.iter().flat_map(one).collect()
}

fn one(found: &Found) -> Vec<Step> {
    let Some(volume) = &found.wanted else {
        return match found.mounted {
            Mounted::Here(_) => vec![Step::Unmount(found.name.clone())],
            Mounted::No if found.closed => vec![Step::Remove(found.name.clone())],
            Mounted::No | Mounted::Other(_) => Vec::new(),
        };
    };
    let volume = volume.clone();
    let mut steps = Vec::new();
    if found.mounted == Mounted::No && !found.closed {
        steps.push(Step::Close(volume.clone()));
    }
    if refused(found).is_some() {
        return steps;
    }
    if let Mounted::Here(space) = &found.mounted {
        return match space.shared {
            true => Vec::new(),
            false => vec![Step::Share(volume)],
        };
    }
    match &found.stand {
        Stand::Absent(_) | Stand::Refused(_) | Stand::Unwanted => return steps,
        Stand::Room(disk) => {
            steps.push(Step::Partition(volume.clone(), disk.clone()));
            steps.push(Step::Format(volume.clone()));
        }
        Stand::There(place) => {
            if place.torn || place.device.is_none() {
                steps.push(Step::Partition(volume.clone(), place.disk.clone()));
            }
            match &place.content {
                Content::Empty => steps.push(Step::Format(volume.clone())),
                Content::Ext4(ext4) if ext4.state != Left::Clean => {
                    steps.push(Step::Check(volume.clone()));
                }
                Content::Ext4(_) | Content::Other(_) => {}
            }
        }
    }
    steps.push(Step::Mount(volume));
    steps
}

#[cfg(test)]
mod tests;
