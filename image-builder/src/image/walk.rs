//! Walking a tree in one fixed order: a folder before what is in it, names by their bytes.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// What a node is. Devices, sockets and the like are in no image: the kernel makes its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    File,
    Link(PathBuf),
}

/// Something below the root of the tree.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// Where it is on this machine.
    pub(super) path: PathBuf,
    /// Its path below the root, without a leading slash.
    pub(super) name: PathBuf,
    pub(super) kind: Kind,
    /// Of the node itself, not of what a link names.
    pub(super) metadata: Metadata,
}

/// Everything below `root`, without `root` itself.
pub(super) fn walk(root: &Path) -> anyhow::Result<Vec<Node>> {
    let mut nodes = Vec::new();
    descend(root, Path::new(""), &mut nodes)?;
    Ok(nodes)
}

fn descend(root: &Path, below: &Path, nodes: &mut Vec<Node>) -> anyhow::Result<()> {
    let folder = root.join(below);
    let read = || -> std::io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder)? {
            names.push(entry?.file_name());
        }
        names.sort();
        Ok(names)
    };
    let names = read().with_context(|| format!("cannot read the folder {}", folder.display()))?;
    for name in names {
        let name = below.join(name);
        let path = root.join(&name);
        let node = node(path, name)?;
        let deeper = (node.kind == Kind::Folder).then(|| node.name.clone());
        nodes.push(node);
        if let Some(name) = deeper {
            descend(root, &name, nodes)?;
        }
    }
    Ok(())
}

fn node(path: PathBuf, name: PathBuf) -> anyhow::Result<Node> {
    let unreadable = || format!("cannot read {}", path.display());
    let metadata = fs::symlink_metadata(&path).with_context(unreadable)?;
    let kind = if metadata.is_dir() {
        Kind::Folder
    } else if metadata.is_file() {
        Kind::File
    } else if metadata.is_symlink() {
        Kind::Link(fs::read_link(&path).with_context(unreadable)?)
    } else {
        bail!(
            "{} is neither a file, a folder nor a link; an image holds nothing else",
            path.display()
        );
    };
    Ok(Node {
        path,
        name,
        kind,
        metadata,
    })
}
