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

    /// The test's own program, which is dynamic, and what it needs.
    fn program() -> (Vec<u8>, elf::Elf) {
        let bytes = fs::read("/proc/self/exe").expect("own program");
        let elf = elf::read(&bytes).expect("whole").expect("an ELF");
        (bytes, elf)
    }

    /// A package at `folder` with a file for each name, `libc.so.6` as a link as Debian has it.
    fn package(folder: &Path, names: &[String], arch: Arch) -> BTreeMap<String, PathBuf> {
        let usual = folder.join("usr/lib").join(arch.triplet());
        fs::create_dir_all(&usual).expect("folder");
        for name in names {
            fs::write(usual.join(format!("{name}.real")), "text").expect("file");
            std::os::unix::fs::symlink(format!("{name}.real"), usual.join(name)).expect("link");
        }
        let (_, elf) = program();
        if let Some(loader) = elf.loader {
            let path = folder.join(merged(loader.trim_start_matches('/')));
            fs::create_dir_all(path.parent().expect("a parent")).expect("folder");
            fs::write(path, "text").expect("file");
        }
        [("libc6".to_string(), folder.to_path_buf())].into()
    }

    #[test]
    fn what_a_program_needs_is_taken() {
        let (bytes, elf) = program();
        if elf.loader.is_none() {
            return;
        }
        let arch = Arch::host().expect("an architecture");
        let folder = tempfile::tempdir().expect("temporary folder");
        let packages = package(&folder.path().join("package"), &elf.needed, arch);
        let tree = Tree::create(&folder.path().join("tree")).expect("tree");
        tree.write("usr/bin/program", &bytes, 0o755).expect("file");
        let used = complete(&tree, arch, &packages, "payload", &[]).expect("whole");
        assert!(used.contains("libc6"));
        for name in &elf.needed {
            let path = format!("usr/lib/{}/{name}", arch.triplet());
            assert!(tree.path(&path).exists(), "{path} and what it leads to");
        }
    }

    #[test]
    fn a_library_that_nobody_holds_is_named() {
        let (bytes, elf) = program();
        if elf.loader.is_none() {
            return;
        }
        let arch = Arch::host().expect("an architecture");
        let folder = tempfile::tempdir().expect("temporary folder");
        let packages = package(&folder.path().join("package"), &elf.needed[1..], arch);
        let tree = Tree::create(&folder.path().join("tree")).expect("tree");
        tree.write("usr/bin/program", &bytes, 0o755).expect("file");
        let missing = &elf.needed[0];
        let error = complete(&tree, arch, &packages, "payload", &[]).expect_err("not whole");
        assert!(
            error.to_string().starts_with(&format!(
                "/usr/bin/program needs {missing}, which no package"
            )),
            "{error}"
        );
        // In the payload's own folder it is found, by the payload's programs alone.
        let tree = Tree::create(&folder.path().join("tree")).expect("tree");
        tree.write("payload/bin/program", &bytes, 0o755)
            .expect("file");
        tree.write(&format!("payload/lib/{missing}"), b"text", 0o644)
            .expect("file");
        let own = ["payload/lib".to_string()];
        complete(&tree, arch, &packages, "payload", &own).expect("whole");
    }

    #[test]
    fn a_program_of_another_architecture_is_refused() {
        let (bytes, _) = program();
        let folder = tempfile::tempdir().expect("temporary folder");
        let tree = Tree::create(&folder.path().join("tree")).expect("tree");
        tree.write("usr/bin/program", &bytes, 0o755).expect("file");
        let other = match Arch::host().expect("an architecture") {
            Arch::Amd64 => Arch::Arm64,
            Arch::Arm64 => Arch::Amd64,
        };
        let error = complete(&tree, other, &BTreeMap::new(), "payload", &[]).expect_err("foreign");
        assert!(
            error.to_string().contains("is not a program for"),
            "{error}"
        );
    }

    #[test]
    fn the_loaders_folder_is_the_merged_one() {
        assert_eq!(merged("lib64"), "usr/lib64");
        assert_eq!(merged("usr/lib"), "usr/lib");
    }
}
