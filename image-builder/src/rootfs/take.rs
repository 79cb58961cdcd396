//! Takes single files out of an unpacked package, makes the links beside them, joins files into
//! bundles. A path that the package does not hold stops the build with its name.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};

use super::pattern;
use super::recipe::Taken;
use super::tree::{Tree, walk};
use crate::arch::Arch;

/// Takes what the list says from the package unpacked at `folder`.
pub(super) fn take(package: &Taken, folder: &Path, arch: Arch, tree: &Tree) -> anyhow::Result<()> {
    let held = walk(folder)?;
    for wanted in &package.files {
        let wanted = wanted.replace("{triplet}", arch.triplet());
        for path in find(&held, &wanted, &package.name)? {
            let full = folder.join(path);
            let kind = full.symlink_metadata()?.file_type();
            if kind.is_symlink() {
                tree.link(path, &fs::read_link(&full)?.to_string_lossy())?;
            } else if kind.is_file() {
                tree.copy(&full, path)?;
            } else {
                bail!(
                    "{path} of {} is no file; name the files in it",
                    package.name
                );
            }
        }
    }
    for (path, target) in &package.links {
        tree.link(path, target)?;
    }
    if let Some(bundle) = &package.bundle {
        let mut bytes = Vec::new();
        for path in find(&held, &bundle.from, &package.name)? {
            let full = folder.join(path);
            let text =
                fs::read(&full).with_context(|| format!("cannot read {}", full.display()))?;
            bytes.extend(text);
            if bytes.last().is_some_and(|last| *last != b'\n') {
                bytes.push(b'\n');
            }
        }
        tree.write(&bundle.to, &bytes, 0o644)?;
    }
    Ok(())
}

/// The paths of a package that have a form; none at all is an error.
fn find<'a>(held: &'a [String], form: &str, package: &str) -> anyhow::Result<Vec<&'a str>> {
    let found: Vec<&str> = held
        .iter()
        .filter(|path| pattern::matches(form, path))
        .map(String::as_str)
        .collect();
    if found.is_empty() {
        bail!("the package {package} holds no {form}; correct rootfs/packages.yaml");
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::recipe::Bundle;
    use super::*;

    fn package(files: &[&str]) -> Taken {
        Taken {
            name: "demo".to_string(),
            _why: String::new(),
            files: files.iter().map(|file| file.to_string()).collect(),
            links: [("usr/sbin/also".to_string(), "demo".to_string())].into(),
            bundle: Some(Bundle {
                from: "certs/*.crt".to_string(),
                to: "etc/all.crt".to_string(),
            }),
        }
    }

    fn unpacked() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("temporary folder");
        for (path, text) in [
            ("usr/sbin/demo", "program"),
            ("usr/lib/x86_64-linux-gnu/x/libxt_a.so", "a"),
            ("usr/lib/x86_64-linux-gnu/x/libxt_b.so", "b"),
            ("usr/lib/x86_64-linux-gnu/x/other.so", "c"),
            ("certs/2.crt", "second\n"),
            ("certs/1.crt", "first"),
        ] {
            let full = folder.path().join(path);
            fs::create_dir_all(full.parent().expect("a parent")).expect("folder");
            fs::write(full, text).expect("file");
        }
        folder
    }

    #[test]
    fn files_links_and_bundles() {
        let from = unpacked();
        let to = tempfile::tempdir().expect("temporary folder");
        let tree = Tree::create(&to.path().join("tree")).expect("tree");
        let package = package(&["usr/sbin/demo", "usr/lib/{triplet}/x/libxt_*.so"]);
        take(&package, from.path(), Arch::Amd64, &tree).expect("taken");
        let files: Vec<String> = walk(&tree.path("")).expect("tree");
        assert!(files.contains(&"usr/lib/x86_64-linux-gnu/x/libxt_a.so".to_string()));
        assert!(!files.iter().any(|path| path.ends_with("other.so")));
        let link = fs::read_link(tree.path("usr/sbin/also")).expect("link");
        assert_eq!(link, Path::new("demo"));
        let bundle = fs::read_to_string(tree.path("etc/all.crt")).expect("bundle");
        assert_eq!(bundle, "first\nsecond\n");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let from = unpacked();
        let to = tempfile::tempdir().expect("temporary folder");
        let tree = Tree::create(&to.path().join("tree")).expect("tree");
        let error = take(
            &package(&["usr/sbin/gone"]),
            from.path(),
            Arch::Amd64,
            &tree,
        )
        .expect_err("not there");
        assert_eq!(
            error.to_string(),
            "the package demo holds no usr/sbin/gone; correct rootfs/packages.yaml"
        );
    }
}
