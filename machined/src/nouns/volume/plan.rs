//! Which steps bring the volumes from what was found to what is wanted. Pure.
//!
//! ```text
//!             empty ── Format ──┐
//!   [GrowPartition]             ├── Mount ── [GrowFilesystem] ── MakeDirectories
//!             ext4 ── [Check] ──┘
//!             anything else: no step, ever
//! ```

use super::{
    Which,
    content::{Content, Left},
    observe::{Found, Mounted},
};
use std::fmt;

/// What is smaller is not worth growing: it may be too little for a block group.
const LEAST_GROWTH: u64 = 16 << 20;

/// One missing step.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// Extend the partition into the free space behind it.
    GrowPartition(Which),
    /// Make a file system. Only ever on a partition that is empty; looked at again
    /// before anything is written.
    Format(Which),
    /// Put a file system in order that was not unmounted in order.
    Check(Which),
    /// Mount it.
    Mount(Which),
    /// Let what is mounted below it be seen everywhere.
    Share(Which),
    /// Let the mounted file system fill its partition.
    GrowFilesystem(Which),
    /// Make the directories that others expect.
    MakeDirectories(Which),
}

impl Step {
    /// The volume it is for.
    pub(crate) fn which(&self) -> Which {
        match *self {
            Step::GrowPartition(which)
            | Step::Format(which)
            | Step::Check(which)
            | Step::Mount(which)
            | Step::Share(which)
            | Step::GrowFilesystem(which)
            | Step::MakeDirectories(which) => which,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let which = self.which();
        let (label, point) = (which.label(), which.mount_point());
        match self {
            Step::GrowPartition(_) => write!(f, "grow the partition {label}"),
            Step::Format(_) => write!(f, "format the empty partition {label}"),
            Step::Check(_) => write!(f, "check the file system {label}"),
            Step::Mount(_) => write!(f, "mount {label} at {point}"),
            Step::Share(_) => write!(f, "share the mounts below {point}"),
            Step::GrowFilesystem(_) => write!(f, "grow the file system {label}"),
            Step::MakeDirectories(_) => write!(f, "make the directories of {point}"),
        }
    }
}

/// Why a volume is left alone and what to do about it; `None` where it can be used.
pub(crate) fn refused(found: &Found) -> Option<String> {
    let (which, device) = (found.which, found.device.display());
    if let Mounted::Other(source) = &found.mounted {
        return Some(format!(
            "{} is taken by {source}, which is not {device}; restart the machine",
            which.mount_point()
        ));
    }
    if let Mounted::Here {
        read_only: true, ..
    } = &found.mounted
    {
        return Some(format!(
            "the kernel found an error in the file system on {device} and made it read-only; \
             restart the machine, which checks it",
        ));
    }
    let holds = match &found.content {
        Content::Ext4(ext4) if ext4.label == which.label() => return None,
        Content::Empty => return None,
        other => other,
    };
    Some(format!(
        "{device} holds {holds}, which is not Keelson's; it is left as it is: save what you need, \
         overwrite the partition's first MiB with zeros, and restart the machine",
    ))
}

/// The missing steps, in order.
pub(crate) fn plan(found: &[Found]) -> Vec<Step> {
    found.iter().flat_map(plan_one).collect()
}

fn plan_one(found: &Found) -> Vec<Step> {
    if refused(found).is_some() {
        return Vec::new();
    }
    let which = found.which;
    let mut steps = Vec::new();
    let grow = which == Which::Data && found.room >= LEAST_GROWTH;
    if grow {
        steps.push(Step::GrowPartition(which));
    }
    let partition = found.size + if grow { found.room } else { 0 };
    let too_small = match &found.content {
        Content::Ext4(ext4) => {
            which == Which::Data && partition.saturating_sub(ext4.bytes()) >= LEAST_GROWTH
        }
        _ => false,
    };
    match (&found.mounted, &found.content) {
        (
            Mounted::Here {
                shared, missing, ..
            },
            _,
        ) => {
            if which == Which::Data && !shared {
                steps.push(Step::Share(which));
            }
            if too_small {
                steps.push(Step::GrowFilesystem(which));
            }
            if *missing {
                steps.push(Step::MakeDirectories(which));
            }
        }
        (_, content) => {
            match content {
                Content::Ext4(ext4) if ext4.state != Left::Clean => steps.push(Step::Check(which)),
                Content::Empty => steps.push(Step::Format(which)),
                _ => {}
            }
            steps.push(Step::Mount(which));
            if too_small {
                steps.push(Step::GrowFilesystem(which));
            }
            steps.push(Step::MakeDirectories(which));
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::{super::content::Ext4, *};
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn ext4(which: Which, size: u64, state: Left) -> Content {
        Content::Ext4(Ext4 {
            label: which.label().into(),
            block_size: 4096,
            blocks: size / 4096,
            state,
        })
    }

    fn here(shared: bool, missing: bool) -> Mounted {
        Mounted::Here {
            shared,
            read_only: false,
            missing,
            total: 200 * MIB,
            available: 190 * MIB,
        }
    }

    fn found(which: Which, content: Content, mounted: Mounted, room: u64) -> Found {
        let number = match which {
            Which::State => 6,
            Which::Data => 7,
        };
        Found {
            which,
            device: format!("/dev/vda{number}").into(),
            number,
            start: 5000 * MIB,
            size: 256 * MIB,
            room,
            content,
            mounted,
        }
    }

    #[test]
    fn each_case_has_its_steps() {
        use Step::*;
        use Which::*;
        let other = || Content::Other("a LUKS container".into());
        let foreign = {
            let mut content = ext4(Data, 256 * MIB, Left::Clean);
            if let Content::Ext4(ext4) = &mut content {
                ext4.label = "backup".into();
            }
            content
        };
        let cases: Vec<(&str, Found, Vec<Step>)> = vec![
            (
                "first boot: empty, on a disk of the image's size",
                found(Data, Content::Empty, Mounted::No, 0),
                vec![Format(Data), Mount(Data), MakeDirectories(Data)],
            ),
            (
                "first boot on a larger disk: the new file system takes all of it",
                found(Data, Content::Empty, Mounted::No, 4096 * MIB),
                vec![
                    GrowPartition(Data),
                    Format(Data),
                    Mount(Data),
                    MakeDirectories(Data),
                ],
            ),
            (
                "STATE keeps its size",
                found(State, Content::Empty, Mounted::No, 4096 * MIB),
                vec![Format(State), Mount(State), MakeDirectories(State)],
            ),
            (
                "a later boot, shut down in order",
                found(Data, ext4(Data, 256 * MIB, Left::Clean), Mounted::No, 0),
                vec![Mount(Data), MakeDirectories(Data)],
            ),
            (
                "after a power cut",
                found(Data, ext4(Data, 256 * MIB, Left::Dirty), Mounted::No, 0),
                vec![Check(Data), Mount(Data), MakeDirectories(Data)],
            ),
            (
                "the file system has errors",
                found(State, ext4(State, 256 * MIB, Left::Broken), Mounted::No, 0),
                vec![Check(State), Mount(State), MakeDirectories(State)],
            ),
            (
                "the disk was made larger",
                found(
                    Data,
                    ext4(Data, 256 * MIB, Left::Clean),
                    Mounted::No,
                    4096 * MIB,
                ),
                vec![
                    GrowPartition(Data),
                    Mount(Data),
                    GrowFilesystem(Data),
                    MakeDirectories(Data),
                ],
            ),
            (
                "power was cut between growing the partition and the file system",
                found(Data, ext4(Data, 64 * MIB, Left::Clean), Mounted::No, 0),
                vec![Mount(Data), GrowFilesystem(Data), MakeDirectories(Data)],
            ),
            (
                "the disk grows while the machine runs",
                found(
                    Data,
                    ext4(Data, 256 * MIB, Left::Dirty),
                    here(true, false),
                    64 * MIB,
                ),
                vec![GrowPartition(Data), GrowFilesystem(Data)],
            ),
            (
                "a little room is not worth it",
                found(
                    Data,
                    ext4(Data, 256 * MIB, Left::Clean),
                    here(true, false),
                    15 * MIB,
                ),
                vec![],
            ),
            (
                "mounted by somebody else's hand",
                found(
                    Data,
                    ext4(Data, 256 * MIB, Left::Dirty),
                    here(false, true),
                    0,
                ),
                vec![Share(Data), MakeDirectories(Data)],
            ),
            (
                "all as wanted",
                found(
                    Data,
                    ext4(Data, 256 * MIB, Left::Dirty),
                    here(true, false),
                    0,
                ),
                vec![],
            ),
            (
                "unknown data is never touched",
                found(Data, other(), Mounted::No, 4096 * MIB),
                vec![],
            ),
            (
                "another's ext4 is never touched",
                found(Data, foreign, Mounted::No, 4096 * MIB),
                vec![],
            ),
            (
                "the mount point is taken",
                found(Data, Content::Empty, Mounted::Other("tmpfs".into()), 0),
                vec![],
            ),
        ];
        for (rule, found, want) in cases {
            assert_eq!(plan(&[found]), want, "{rule}");
        }
    }

    #[test]
    fn who_is_refused_is_told_why_and_what_to_do() {
        let mut luks = found(
            Which::Data,
            Content::Other("a LUKS container".into()),
            Mounted::No,
            0,
        );
        let message = refused(&luks).unwrap();
        assert!(
            message.contains("/dev/vda7 holds a LUKS container"),
            "{message}"
        );
        assert!(message.contains("zeros"), "{message}");
        luks.mounted = Mounted::Other("tmpfs".into());
        assert!(refused(&luks).unwrap().contains("taken by tmpfs"));
        let mut broken = found(
            Which::Data,
            ext4(Which::Data, 256 * MIB, Left::Broken),
            here(true, true),
            MIB,
        );
        assert_eq!(refused(&broken), None);
        if let Mounted::Here { read_only, .. } = &mut broken.mounted {
            *read_only = true;
        }
        assert!(refused(&broken).unwrap().contains("read-only"));
        assert_eq!(plan(&[broken]), [], "nothing can be written");
    }

    /// What each step does, where everything works.
    fn take(found: &mut Found, step: &Step) {
        match step {
            Step::GrowPartition(_) => {
                found.size += found.room;
                found.room = 0;
            }
            Step::Format(which) => {
                assert_eq!(found.content, Content::Empty, "formats only what is empty");
                assert_eq!(found.mounted, Mounted::No, "never formats what is mounted");
                found.content = ext4(*which, found.size, Left::Clean);
            }
            Step::Check(_) => {
                let Content::Ext4(ext4) = &mut found.content else {
                    panic!("checks only ext4")
                };
                ext4.state = Left::Clean;
            }
            Step::Mount(which) => {
                assert!(matches!(&found.content, Content::Ext4(ext4) if ext4.state == Left::Clean));
                found.mounted = here(*which == Which::Data, true);
                if let Content::Ext4(ext4) = &mut found.content {
                    ext4.state = Left::Dirty;
                }
            }
            Step::Share(_) | Step::MakeDirectories(_) => {
                let Mounted::Here {
                    shared, missing, ..
                } = &mut found.mounted
                else {
                    panic!("not mounted")
                };
                match step {
                    Step::Share(_) => *shared = true,
                    _ => *missing = false,
                }
            }
            Step::GrowFilesystem(which) => {
                assert!(
                    matches!(found.mounted, Mounted::Here { .. }),
                    "grows only when mounted"
                );
                found.content = ext4(*which, found.size, Left::Dirty);
            }
        }
    }

    fn any_found() -> impl Strategy<Value = Found> {
        let which = prop_oneof![Just(Which::State), Just(Which::Data)];
        let state = prop_oneof![Just(Left::Clean), Just(Left::Dirty), Just(Left::Broken)];
        let mounted = prop_oneof![
            Just(Mounted::No),
            (any::<bool>(), any::<bool>()).prop_map(|(shared, missing)| here(shared, missing)),
            Just(Mounted::Other("tmpfs".into())),
        ];
        (which, state, mounted, 0..3u8, 0..512u64, 1..256u64).prop_map(
            |(which, state, mounted, kind, room, size)| {
                let content = match kind {
                    _ if matches!(mounted, Mounted::Here { .. }) => ext4(which, size * MIB, state),
                    0 => Content::Empty,
                    1 => ext4(which, size * MIB, state),
                    _ => Content::Other("unknown data".into()),
                };
                found(which, content, mounted, room * MIB)
            },
        )
    }

    proptest! {
        #[test]
        fn after_all_steps_none_is_missing(mut found in any_found()) {
            let before = found.clone();
            for step in plan_one(&found) {
                take(&mut found, &step);
            }
            prop_assert_eq!(plan_one(&found), vec![]);
            if matches!(before.content, Content::Other(_)) {
                prop_assert_eq!(before, found);
            }
        }
    }
}
