//! Files, directories and links that are rendered from what is wanted, all on
//! tmpfs: they are written whole under a temporary name and renamed, so that no
//! reader sees half of one; nothing is flushed. The noun keeps those that hang on no
//! other noun; whoever renders more calls [`ensure`]. Contents are never shown.

use crate::{
    noun::Noun,
    resource::{Phase, Resource},
};
use anyhow::{Context as _, bail};
use keelson_config::{Machine, Network};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use std::{
    fmt, fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink},
    path::{Path, PathBuf},
};
use tokio::sync::watch;
use zeroize::Zeroizing;

/// Something that must be at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RenderedFile {
    /// Where; absolute.
    pub path: PathBuf,
    /// What.
    pub form: Form,
}

/// What must be at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A file with this mode and these bytes.
    File {
        /// The permission bits.
        mode: u32,
        /// All of it.
        contents: Contents,
    },
    /// A directory with this mode; what is in it is left alone.
    Directory {
        /// The permission bits.
        mode: u32,
    },
    /// A symbolic link to this path.
    Link {
        /// Where it points; need not be there.
        target: PathBuf,
    },
}

/// What a file holds. May be a secret, so it is cleared on drop and `Debug` shows its length.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Contents(Zeroizing<Vec<u8>>);

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl RenderedFile {
    /// A file.
    pub(crate) fn file(path: impl Into<PathBuf>, mode: u32, contents: impl Into<Vec<u8>>) -> Self {
        let contents = Contents(Zeroizing::new(contents.into()));
        RenderedFile {
            path: path.into(),
            form: Form::File { mode, contents },
        }
    }

    /// A directory.
    pub(crate) fn directory(path: impl Into<PathBuf>, mode: u32) -> Self {
        RenderedFile {
            path: path.into(),
            form: Form::Directory { mode },
        }
    }

    /// A symbolic link.
    pub(crate) fn link(path: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        RenderedFile {
            path: path.into(),
            form: Form::Link {
                target: target.into(),
            },
        }
    }
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing.
    Absent,
    /// As in [`RenderedFile`]. Of a longer file than wanted, only that much and one byte more.
    Is(Form),
    /// A device, a socket or a pipe.
    Other,
}

/// One missing step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Make a file or a link, or replace it.
    Put(RenderedFile),
    /// Make a directory and those above it.
    MakeDirectory(PathBuf, u32),
    /// Set the permission bits.
    SetMode(PathBuf, u32),
    /// Say that something else is there, which is not ours to remove.
    Obstructed(PathBuf, &'static str),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Put(RenderedFile {
                path,
                form: Form::Link { target },
            }) => {
                write!(f, "link {} to {}", path.display(), target.display())
            }
            Step::Put(RenderedFile { path, .. }) => write!(f, "write {}", path.display()),
            Step::MakeDirectory(path, _) => write!(f, "make the directory {}", path.display()),
            Step::SetMode(path, mode) => {
                write!(f, "set the mode of {} to {mode:04o}", path.display())
            }
            Step::Obstructed(path, _) => write!(f, "make {}", path.display()),
        }
    }
}

/// What is missing. `found` goes with `wanted`, one for one.
pub(crate) fn plan(found: &[Found], wanted: &[RenderedFile]) -> Vec<Step> {
    found
        .iter()
        .zip(wanted)
        .filter_map(|(found, wanted)| {
            let path = || wanted.path.clone();
            match (found, &wanted.form) {
                (Found::Is(there), form) if there == form => None,
                (Found::Is(Form::Directory { .. }), Form::Directory { mode }) => {
                    Some(Step::SetMode(path(), *mode))
                }
                (
                    Found::Is(Form::File {
                        contents: there, ..
                    }),
                    Form::File { mode, contents },
                ) if there == contents => Some(Step::SetMode(path(), *mode)),
                (Found::Absent, Form::Directory { mode }) => {
                    Some(Step::MakeDirectory(path(), *mode))
                }
                (Found::Is(Form::File { .. } | Form::Link { .. }), Form::Directory { .. }) => {
                    Some(Step::Obstructed(path(), "a file is there, no directory"))
                }
                (Found::Is(Form::Directory { .. }), _) => {
                    Some(Step::Obstructed(path(), "a directory is there"))
                }
                (Found::Other, _) => {
                    Some(Step::Obstructed(path(), "a device or a socket is there"))
                }
                (Found::Absent | Found::Is(_), Form::File { .. } | Form::Link { .. }) => {
                    Some(Step::Put(wanted.clone()))
                }
            }
        })
        .collect()
}

/// Makes everything as wanted, in this order, and returns the steps that it took.
/// For tmpfs: it does not wait for any disk.
pub(crate) fn ensure(wanted: &[RenderedFile]) -> anyhow::Result<Vec<Step>> {
    let steps = plan(&look_at_all(wanted)?, wanted);
    for step in &steps {
        take(step).with_context(|| format!("cannot {step}"))?;
    }
    Ok(steps)
}

fn look_at_all(wanted: &[RenderedFile]) -> anyhow::Result<Vec<Found>> {
    wanted
        .iter()
        .map(|wanted| look(wanted).with_context(|| format!("reading {}", wanted.path.display())))
        .collect()
}

/// What is at the path of what is wanted. Links are not followed.
fn look(wanted: &RenderedFile) -> io::Result<Found> {
    let path = &wanted.path;
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Absent),
        Err(error) => return Err(error),
    };
    let mode = metadata.mode() & 0o7777;
    let kind = metadata.file_type();
    Ok(if kind.is_symlink() {
        Found::Is(Form::Link {
            target: fs::read_link(path)?,
        })
    } else if kind.is_dir() {
        Found::Is(Form::Directory { mode })
    } else if kind.is_file() {
        let most = match &wanted.form {
            Form::File { contents, .. } => contents.0.len() as u64 + 1,
            Form::Directory { .. } | Form::Link { .. } => 0,
        };
        let mut contents = Zeroizing::new(Vec::new());
        fs::File::open(path)?
            .take(most)
            .read_to_end(&mut contents)?;
        Found::Is(Form::File {
            mode,
            contents: Contents(contents),
        })
    } else {
        debug_assert!(
            kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device()
        );
        Found::Other
    })
}

fn take(step: &Step) -> anyhow::Result<()> {
    match step {
        Step::Put(RenderedFile { path, form }) => put(path, form),
        Step::MakeDirectory(path, mode) => {
            fs::create_dir_all(path)?;
            Ok(rustix::fs::chmod(path, Mode::from_raw_mode(*mode))?)
        }
        Step::SetMode(path, mode) => Ok(rustix::fs::chmod(path, Mode::from_raw_mode(*mode))?),
        Step::Obstructed(_, why) => bail!("{why}"),
    }
}

fn put(path: &Path, form: &Form) -> anyhow::Result<()> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        bail!("{} is no place for a file", path.display());
    };
    fs::create_dir_all(folder)?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".new");
    let temporary = folder.join(hidden);
    // Left over from a run that was cut short.
    match rustix::fs::unlinkat(CWD, &temporary, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match form {
        Form::File { mode, contents } => {
            // Nobody may read it before its mode is right.
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let mut file = fs::File::from(rustix::fs::open(
                &temporary,
                flags,
                Mode::from_raw_mode(0o600),
            )?);
            file.write_all(&contents.0)?;
            rustix::fs::fchmod(&file, Mode::from_raw_mode(*mode))?;
        }
        Form::Link { target } => symlink(target, &temporary)?,
        Form::Directory { .. } => bail!("a directory is not written"),
    }
    Ok(fs::rename(&temporary, path)?)
}

/// The files that hang on no other noun: hosts, machine-id, the orchestrator's
/// directory in `/etc` and the link to the node's password.
pub(crate) struct Files {
    root: PathBuf,
    machine_id: watch::Receiver<String>,
}

/// The node's password: without it a node cannot join its cluster again, so that it
/// is kept on the DATA partition.
const NODE: &str = "/var/lib/rancher/node";

impl Files {
    /// The noun. `machine_id` is empty until there is one.
    pub(crate) fn new(machine_id: watch::Receiver<String>) -> Self {
        Files {
            root: PathBuf::from("/"),
            machine_id,
        }
    }

    /// With all paths below another directory.
    #[cfg(test)]
    fn below(root: &Path, machine_id: watch::Receiver<String>) -> Self {
        Files {
            root: root.to_owned(),
            machine_id,
        }
    }

    /// Whether the DATA partition is mounted: before, the root there is read-only.
    fn has_data(&self) -> bool {
        let device = |path: &str| fs::metadata(self.root.join(path)).map(|metadata| metadata.dev());
        matches!((device("."), device("var")), (Ok(root), Ok(var)) if root != var)
    }
}

/// The host's own name as it is now, and what hangs on it.
pub(crate) struct Have {
    wanted: Vec<RenderedFile>,
    found: Vec<Found>,
}

/// What the files hold.
fn render(
    root: &Path,
    hostname: &str,
    network: &Network,
    machine_id: &str,
    data: bool,
) -> Vec<RenderedFile> {
    let at = |path: &str| root.join(path.trim_start_matches('/'));
    let mut files = vec![RenderedFile::file(
        at("/run/etc/hosts"),
        0o644,
        hosts(hostname, network),
    )];
    if !machine_id.is_empty() {
        files.push(RenderedFile::file(
            at("/run/etc/machine-id"),
            0o444,
            format!("{machine_id}\n"),
        ));
    }
    files.push(RenderedFile::directory(at("/run/etc/rancher"), 0o700));
    files.push(RenderedFile::link(at("/run/etc/rancher/node"), NODE));
    if data {
        files.push(RenderedFile::directory(at(NODE), 0o700));
    }
    files
}

/// hosts(5). The machine's own name is at an address of its own, so that looking
/// up 127.0.0.1 gives localhost; nothing takes it for an address that others reach.
fn hosts(hostname: &str, network: &Network) -> String {
    let mut text = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n");
    if !hostname.is_empty() && hostname != "localhost" && hostname != "(none)" {
        text.push_str("127.0.1.1 ");
        text.push_str(hostname);
        if let Some((short, _)) = hostname.split_once('.') {
            text.push(' ');
            text.push_str(short);
        }
        text.push('\n');
    }
    for (address, names) in &network.hosts {
        text.push_str(&format!("{address} {}\n", names.join(" ")));
    }
    text
}

impl Noun for Files {
    const KIND: &'static str = "file";
    type Have = Have;
    type Step = Step;

    async fn observe(&mut self, want: &Machine) -> anyhow::Result<Have> {
        let name = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        let machine_id = self.machine_id.borrow().clone();
        let wanted = render(
            &self.root,
            &name,
            &want.network,
            &machine_id,
            self.has_data(),
        );
        let found = look_at_all(&wanted)?;
        Ok(Have { wanted, found })
    }

    fn plan(&self, have: &Have, _: &Machine) -> Vec<Step> {
        plan(&have.found, &have.wanted)
    }

    async fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        take(step)
    }

    fn publish(&self, have: &Have, _: &Machine) -> Vec<Resource> {
        have.wanted
            .iter()
            .zip(&have.found)
            .map(|(wanted, found)| {
                let right = matches!(found, Found::Is(form) if *form == wanted.form);
                let phase = if right { Phase::Ready } else { Phase::Pending };
                let resource = Resource::new(Self::KIND, wanted.path.to_string_lossy(), phase);
                match &wanted.form {
                    Form::File { mode, contents } => resource
                        .field("form", "file")
                        .field("mode", format!("{mode:04o}"))
                        .field("bytes", contents.0.len()),
                    Form::Directory { mode } => resource
                        .field("form", "directory")
                        .field("mode", format!("{mode:04o}")),
                    Form::Link { target } => resource
                        .field("form", "link")
                        .field("target", target.to_string_lossy().into_owned()),
                }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
