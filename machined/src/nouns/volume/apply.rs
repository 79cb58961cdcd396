//! Takes the steps. Each looks again before it writes: between the plan and the step
//! the disk may have changed, or the step before may have failed.

use super::{
    Form, Places, Step, Which,
    content::{Content, Left},
    observe::{self, Found, Mounted},
    table,
};
use anyhow::{Context as _, bail};
use keelson_sys::partition;
use rustix::{
    fs::CWD,
    mount::{MountFlags, MountPropagationFlags},
};
use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink},
    path::Path,
    process::Stdio,
    sync::Arc,
};
use tokio::process::Command;

/// Takes one step.
pub(crate) async fn apply(places: &Arc<Places>, step: &Step) -> anyhow::Result<()> {
    let found = look(places, step.which()).await?;
    match step {
        Step::Format(which) => format(&found, *which).await,
        Step::Check(_) => check(&found).await,
        _ => {
            let (places, step) = (places.clone(), step.clone());
            tokio::task::spawn_blocking(move || match step {
                Step::GrowPartition(_) => grow_partition(&places, &found),
                Step::Mount(which) => mount(&places, &found, which),
                Step::Share(which) => share(&places.mount_point(which)),
                Step::GrowFilesystem(which) => grow_filesystem(&places, &found, which),
                Step::MakeDirectories(which) => make_directories(&places, &found, which),
                Step::Format(_) | Step::Check(_) => Ok(()), // taken above
            })
            .await?
        }
    }
}

async fn look(places: &Arc<Places>, which: Which) -> anyhow::Result<Found> {
    let places = places.clone();
    let all = tokio::task::spawn_blocking(move || observe::observe(&places)).await??;
    let found = all.into_iter().find(|found| found.which == which);
    found.with_context(|| format!("the partition {} is gone", which.label()))
}

/// "none" first: nothing comes from a mke2fs.conf.
const FEATURES: &str = "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,\
    sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum";

async fn format(found: &Found, which: Which) -> anyhow::Result<()> {
    if found.content != Content::Empty || found.mounted != Mounted::No {
        bail!("{} is not empty any more", found.device.display());
    }
    mke2fs(&found.device, which.label()).await
}

/// Makes an ext4 of this label. That nothing is there the caller has seen.
pub(super) async fn mke2fs(device: &Path, label: &str) -> anyhow::Result<()> {
    // The features are named, not left to the tool's defaults: the kernel that has to mount
    // this later may be an older one of ours. Blocks of 4 KiB and inodes of 256 bytes also
    // on STATE, where small is mke2fs's own choice. Lazy initialisation lets the first boot
    // go on; the kernel does the rest when it has time.
    let mut mke2fs = Command::new("/usr/sbin/mke2fs");
    mke2fs.args(["-q", "-t", "ext4", "-b", "4096", "-I", "256", "-m", "1"]);
    mke2fs.args(["-L", label, "-e", "remount-ro"]);
    mke2fs.args(["-O", FEATURES]);
    mke2fs.args(["-E", "lazy_itable_init=1,lazy_journal_init=1"]);
    let (code, said) = run(mke2fs.arg(device)).await?;
    if code != 0 {
        bail!("mke2fs ended with {code}: {said}");
    }
    tracing::info!("{} is formatted as {label}", device.display());
    Ok(())
}

async fn check(found: &Found) -> anyhow::Result<()> {
    if !matches!(found.mounted, Mounted::No) {
        bail!("{} is mounted", found.device.display());
    }
    e2fsck(&found.device).await
}

/// Puts an ext4 in order that is not mounted, as far as that goes without asking.
pub(super) async fn e2fsck(device: &Path) -> anyhow::Result<()> {
    let (code, said) = run(Command::new("/usr/sbin/e2fsck").arg("-p").arg(device)).await?;
    tracing::info!("e2fsck {} ended with {code}: {said}", device.display());
    // e2fsck(8): 1 is corrected, 2 is corrected and in use by the kernel; more is not repaired.
    if code > 2 {
        bail!(
            "e2fsck could not repair {} by itself (exit code {code}: {said}); \
             check it with another system, or restore the machine",
            device.display()
        );
    }
    Ok(())
}

/// Runs a tool that ends by itself; what it said is for a person.
async fn run(command: &mut Command) -> anyhow::Result<(i32, String)> {
    command.stdin(Stdio::null()).kill_on_drop(true).env_clear();
    let name = command.as_std().get_program().to_owned();
    let output = command
        .output()
        .await
        .with_context(|| format!("starting {}", name.display()))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let code = output
        .status
        .code()
        .with_context(|| format!("{}: {}", name.display(), output.status))?;
    Ok((code, said))
}

fn grow_partition(places: &Places, found: &Found) -> anyhow::Result<()> {
    let disk = places.disk.as_deref().context("the disk is not known")?;
    let end = table::grow(disk, found.number)
        .with_context(|| format!("writing the partition table of {}", disk.display()))?;
    let file = fs::File::open(disk).with_context(|| format!("opening {}", disk.display()))?;
    let length = end.saturating_sub(found.start);
    partition::resize_partition(&file, found.number, found.start, length).with_context(|| {
        format!(
            "telling the kernel the new length of {}",
            found.device.display()
        )
    })
}

fn mount(places: &Places, found: &Found, which: Which) -> anyhow::Result<()> {
    match &found.content {
        Content::Ext4(ext4) if ext4.label != which.label() => {
            bail!("{} is another's", found.device.display())
        }
        Content::Ext4(ext4) if ext4.state == Left::Broken => bail!(
            "{} has errors that are not repaired; check it with another system",
            found.device.display()
        ),
        Content::Ext4(_) => {}
        _ => bail!("{} has no file system", found.device.display()),
    }
    if found.mounted != Mounted::No {
        bail!("{} is mounted already", found.device.display());
    }
    // STATE holds files that machined reads, nothing else. DATA must carry whatever a pod
    // brings: volumes (emptyDir, local-path) are bind mounts of it and inherit its flags, so
    // noexec would stop programs in them, nosuid image builders, nodev what they unpack; and
    // CNI plug-ins that a DaemonSet installs are run from it. It costs no protection: no
    // process on the host is unprivileged and able to execute anything.
    let flags = MountFlags::NOATIME
        | match which {
            Which::State => MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC,
            Which::Data => MountFlags::empty(),
        };
    let point = places.mount_point(which);
    rustix::mount::mount(&found.device, &point, "ext4", flags, None)
        .with_context(|| format!("mounting {} at {}", found.device.display(), point.display()))?;
    match which {
        Which::State => Ok(()),
        Which::Data => share(&point),
    }
}

/// Containers' mounts below it must be seen by the orchestrator and the other way round.
pub(super) fn share(point: &Path) -> anyhow::Result<()> {
    rustix::mount::mount_change(
        point,
        MountPropagationFlags::SHARED | MountPropagationFlags::REC,
    )
    .with_context(|| format!("sharing the mounts below {}", point.display()))
}

fn grow_filesystem(places: &Places, found: &Found, which: Which) -> anyhow::Result<()> {
    let (Content::Ext4(ext4), Mounted::Here { .. }) = (&found.content, &found.mounted) else {
        bail!("{} is not mounted", found.device.display());
    };
    let point = places.mount_point(which);
    let root = fs::File::open(&point).with_context(|| format!("opening {}", point.display()))?;
    let blocks = found.size / ext4.block_size;
    partition::resize_ext4(&root, blocks)
        .with_context(|| format!("growing {} to {blocks} blocks", point.display()))
}

fn make_directories(places: &Places, found: &Found, which: Which) -> anyhow::Result<()> {
    if !matches!(found.mounted, Mounted::Here { .. }) {
        bail!("{} is not mounted", found.device.display());
    }
    let point = places.mount_point(which);
    for directory in which.directories() {
        let path = point.join(directory.path);
        let context = || format!("making {}", path.display());
        match directory.form {
            Form::Directory(mode) => {
                let is_root = directory.path.is_empty();
                if !is_root && path.is_dir() {
                    continue;
                }
                if !is_root {
                    fs::DirBuilder::new()
                        .mode(mode)
                        .create(&path)
                        .with_context(context)?;
                }
                // Again, because the umask took some of it.
                fs::set_permissions(&path, fs::Permissions::from_mode(mode))
                    .with_context(context)?;
            }
            Form::Link(to) => {
                if path.symlink_metadata().is_err() {
                    symlink(to, &path).with_context(context)?;
                }
            }
        }
    }
    let root = rustix::fs::openat(
        CWD,
        &point,
        rustix::fs::OFlags::DIRECTORY,
        rustix::fs::Mode::empty(),
    )
    .with_context(|| format!("opening {}", point.display()))?;
    rustix::fs::syncfs(&root).with_context(|| format!("syncing {}", point.display()))
}
