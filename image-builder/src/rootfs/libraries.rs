//! Makes every dynamic program of the tree whole: the loader and each library it needs, followed
//! to the end, are taken from the packages that may be asked. One that nobody holds stops the
//! build with its name. Decides nothing about which programs there are.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::elf;
use super::tree::{self, Tree};
use crate::arch::Arch;

/// Takes what is missing; returns the names of the packages that something was taken from.
///
/// `packages` maps a package's name to where it is unpacked. `payload` is the folder in the tree
/// where a program may have libraries of its own, and those of `own_path` are searched first for
/// the programs below it.
pub(super) fn complete(
    tree: &Tree,
    arch: Arch,
    packages: &BTreeMap<String, PathBuf>,
    payload: &str,
    own_path: &[String],
) -> anyhow::Result<BTreeSet<String>> {
    let mut used = BTreeSet::new();
    let mut queue: VecDeque<String> = tree::walk(&tree.path(""))?.into();
    let usual = format!("usr/lib/{}", arch.triplet());
    while let Some(path) = queue.pop_front() {
        let full = tree.path(&path);
        if !full.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
            continue;
        }
        let Some(elf) = read(&full)? else { continue };
        if elf.relocatable {
            continue;
        }
        if elf.machine != arch.elf_machine() {
            bail!("/{path} is not a program for {}", arch.name());
        }
        let mut folders = run_path(&path, &elf.run_path);
        if path.starts_with(payload) {
            folders.extend(own_path.iter().cloned());
        }
        folders.push(usual.clone());
        let mut wanted: Vec<(String, Vec<String>)> = elf
            .needed
            .iter()
            .map(|name| (name.clone(), folders.clone()))
            .collect();
        if let Some(loader) = &elf.loader {
            let (folder, name) = loader
                .trim_start_matches('/')
                .rsplit_once('/')
                .with_context(|| format!("/{path} names the odd loader {loader}"))?;
            wanted.push((name.to_string(), vec![merged(folder)]));
        }
        for (name, folders) in wanted {
            if folders
                .iter()
                .any(|folder| tree.path(&format!("{folder}/{name}")).exists())
            {
                continue;
            }
            let place = folders.last().cloned().unwrap_or_default();
            let Some((package, source)) = find(packages, &place, &name) else {
                bail!(
                    "/{path} needs {name}, which no package under `libraries` in \
                     rootfs/packages.yaml holds; add the one that does"
                );
            };
            used.insert(package);
            queue.extend(take(tree, source, &format!("{place}/{name}"))?);
        }
    }
    Ok(used)
}

fn read(path: &Path) -> anyhow::Result<Option<elf::Elf>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    elf::read(&bytes).with_context(|| format!("{} is a damaged ELF file", path.display()))
}

/// `/lib64` in a program is `/usr/lib64` on a merged root.
fn merged(folder: &str) -> String {
    if folder.starts_with("usr/") {
        folder.to_string()
    } else {
        format!("usr/{folder}")
    }
}

/// The folders of a run path, `$ORIGIN` resolved, without a leading slash.
fn run_path(program: &str, entries: &[String]) -> Vec<String> {
    let origin = program.rsplit_once('/').map_or("", |(folder, _)| folder);
    entries
        .iter()
        .map(|entry| {
            entry
                .replace("${ORIGIN}", &format!("/{origin}"))
                .replace("$ORIGIN", &format!("/{origin}"))
        })
        .map(|entry| entry.trim_matches('/').to_string())
        .collect()
}

fn find<'a>(
    packages: &'a BTreeMap<String, PathBuf>,
    place: &str,
    name: &str,
) -> Option<(String, &'a Path)> {
    packages
        .iter()
        .find(|(_, root)| root.join(place).join(name).symlink_metadata().is_ok())
        .map(|(package, root)| (package.clone(), root.as_path()))
}

/// Takes a file, or a link and what it leads to within the package; returns the new paths.
fn take(tree: &Tree, package: &Path, path: &str) -> anyhow::Result<Vec<String>> {
    let mut taken = Vec::new();
    let mut path = path.to_string();
    // A library is a link to a file with the whole version; three steps is one more than Debian uses.
    for _ in 0..4 {
        let source = package.join(&path);
        if tree.path(&path).symlink_metadata().is_ok() {
            return Ok(taken);
        }
        let meta = source
            .symlink_metadata()
            .with_context(|| format!("the package lacks {path}, where a link leads"))?;
        if !meta.file_type().is_symlink() {
            tree.copy(&source, &path)?;
            taken.push(path);
            return Ok(taken);
        }
        let target = fs::read_link(&source)
            .with_context(|| format!("cannot read the link {}", source.display()))?;
        let target = target.to_string_lossy().into_owned();
        tree.link(&path, &target)?;
        taken.push(path.clone());
        path = super::resolve::join(&path, &target);
    }
    bail!("links of the package lead in circles at {path}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_is_where_the_program_lies() {
        let entries = ["$ORIGIN/../lib".to_string(), "/opt/lib/".to_string()];
        assert_eq!(
            run_path("usr/lib/orchestrator/bin/x", &entries),
            ["usr/lib/orchestrator/bin/../lib", "opt/lib"]
        );
    }

    #[test]
    fn the_loaders_folder_is_the_merged_one() {
        assert_eq!(merged("lib64"), "usr/lib64");
        assert_eq!(merged("usr/lib"), "usr/lib");
    }
}
