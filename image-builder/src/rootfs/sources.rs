//! The packages of a build: what the lists name, resolved, fetched and unpacked. When the mirror
//! has moved on since the lists were fetched, once more with new lists. Takes nothing out of them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::Recipes;
use crate::arch::Arch;
use crate::inputs::Inputs;
use crate::packages::{self, Archive, Mirror, Package};
use crate::report::Step;

/// The packages of a build, unpacked.
pub(super) struct Sources {
    /// Everything for the image and the tools for its architecture.
    folders: BTreeMap<String, PathBuf>,
    /// What was resolved, the tools included.
    pub(super) packages: Vec<Package>,
    /// The package with the kernel itself.
    pub(super) kernel_package: String,
    /// The kernel's release, as its modules' folder is named.
    pub(super) kernel_release: String,
    /// The words that run `mkfs.erofs` here.
    pub(super) mkfs_erofs: Vec<OsString>,
    /// True if anything was fetched or unpacked.
    pub(super) changed: bool,
}

impl Sources {
    /// Resolves, fetches and unpacks everything that the lists name.
    pub(super) fn gather(
        arch: Arch,
        inputs: &Inputs,
        recipes: &Recipes,
        step: &Step<'_>,
    ) -> anyhow::Result<Sources> {
        let list = &recipes.packages;
        let mirror = Mirror::from_environment(&list.release, &list.components);
        let open = |arch| Archive::open(&inputs.cache, mirror.clone(), arch, inputs.offline, step);
        let archive = open(arch)?;
        // Tools run here and now, so they are of the architecture that builds.
        let host = Arch::host().context("images cannot be built on this architecture")?;
        let other = if host == arch {
            None
        } else {
            Some(open(host)?)
        };
        let archives = Archives {
            target: &archive,
            host: other.as_ref().unwrap_or(&archive),
        };
        match Sources::from_archives(arch, host, &archives, inputs, recipes, step) {
            // The mirror has moved on since the lists were fetched: once more with new lists.
            Err(error) if is_download(&error) && !inputs.offline => {
                archive.refresh(step)?;
                if let Some(other) = &other {
                    other.refresh(step)?;
                }
                Sources::from_archives(arch, host, &archives, inputs, recipes, step)
            }
            other => other,
        }
    }

    fn from_archives(
        arch: Arch,
        host: Arch,
        archives: &Archives<'_>,
        inputs: &Inputs,
        recipes: &Recipes,
        step: &Step<'_>,
    ) -> anyhow::Result<Sources> {
        let list = &recipes.packages;
        let archive = archives.target;
        let meta_name = recipes.kernel.package(inputs.variant, arch)?;
        let kernel_package = kernel_behind(archive, meta_name)?;
        let kernel_release = kernel_package
            .strip_prefix("linux-image-")
            .with_context(|| format!("{kernel_package} is an odd name for a kernel package"))?
            .to_string();

        let taken = list.packages.iter().map(|p| p.name.as_str());
        let libraries = list.libraries.iter().map(|p| p.name.as_str());
        let packed = list.tools.iter().filter(|tool| tool.libraries.is_empty());
        let mut names: Vec<&str> = taken
            .chain(libraries)
            .chain(packed.map(|tool| tool.name.as_str()))
            .collect();
        names.push(&kernel_package);
        let mut packages = archive.resolve(&names)?;
        let folders = archive.unpack(&packages, step)?;

        let mut names = Vec::new();
        for tool in list.tools.iter().filter(|tool| !tool.libraries.is_empty()) {
            names.push(tool.name.as_str());
            names.extend(tool.libraries.iter().map(String::as_str));
        }
        let resolved = archives.host.resolve(&names)?;
        let tool_folders = archives.host.unpack(&resolved, step)?;
        let mkfs_erofs = through_loader(host, &tool_folders, "erofs-utils", "usr/bin/mkfs.erofs")?;
        packages.extend(resolved);
        Ok(Sources {
            folders,
            packages,
            kernel_package,
            kernel_release,
            mkfs_erofs,
            changed: archive.changed() || archives.host.changed(),
        })
    }

    /// Where a package of the image is unpacked.
    pub(super) fn folder(&self, package: &str) -> anyhow::Result<&Path> {
        self.folders
            .get(package)
            .map(PathBuf::as_path)
            .with_context(|| format!("rootfs/packages.yaml does not list {package}"))
    }
}

/// The archives of the image's architecture and of the machine that builds; often one.
struct Archives<'a> {
    target: &'a Archive,
    host: &'a Archive,
}

fn is_download(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(packages::Error::Download { .. }))
}

/// The package with the kernel itself, behind the one that always depends on the newest.
fn kernel_behind(archive: &Archive, meta_name: &str) -> anyhow::Result<String> {
    let meta = archive.resolve(&[meta_name])?;
    let depends = meta.first().map_or("", |package| package.depends.as_str());
    depends
        .split(',')
        .filter_map(|part| part.split_whitespace().next())
        .find(|name| name.starts_with("linux-image-"))
        .map(String::from)
        .with_context(|| format!("{meta_name} depends on no kernel: {depends}"))
}

/// The words that run a program of unpacked packages with exactly their loader and libraries.
fn through_loader(
    host: Arch,
    folders: &BTreeMap<String, PathBuf>,
    package: &str,
    program: &str,
) -> anyhow::Result<Vec<OsString>> {
    let library = format!("usr/lib/{}", host.triplet());
    let find = |name: &str| {
        let folder = folders.get(name).cloned();
        folder.with_context(|| format!("rootfs/packages.yaml does not list {name}"))
    };
    let mut search = OsString::new();
    for folder in folders.values().map(|folder| folder.join(&library)) {
        if folder.is_dir() {
            if !search.is_empty() {
                search.push(":");
            }
            search.push(folder);
        }
    }
    let loader = find("libc6")?.join(&library).join(host.loader());
    let program = find(package)?.join(program);
    Ok(vec![
        loader.into_os_string(),
        "--library-path".into(),
        search,
        program.into_os_string(),
    ])
}
