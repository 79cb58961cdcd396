//! The data folders `kernel/` and `rootfs/` as types: which packages and files, which modules,
//! which folders and links. Parsing only; an unknown key is an error.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::arch::Arch;
use crate::inputs::Variant;

/// `rootfs/packages.yaml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Packages {
    /// Debian's release.
    pub(super) release: String,
    /// The components of its archive.
    pub(super) components: Vec<String>,
    /// Packages that files are taken from.
    pub(super) packages: Vec<Taken>,
    /// Packages that hold libraries the files need.
    pub(super) libraries: Vec<Library>,
    /// Packages that the builder itself needs.
    pub(super) tools: Vec<Tool>,
}

/// A package that files are taken from.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Taken {
    pub(super) name: String,
    /// For the reader of the list.
    #[serde(rename = "why")]
    pub(super) _why: String,
    /// Paths, with `*` and `{triplet}`.
    #[serde(default)]
    pub(super) files: Vec<String>,
    /// Links to make: path to target.
    #[serde(default)]
    pub(super) links: BTreeMap<String, String>,
    /// Files to join into one.
    pub(super) bundle: Option<Bundle>,
}

/// Files of a package that are joined into one, in the order of their names.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Bundle {
    pub(super) from: String,
    pub(super) to: String,
}

/// A package that may be asked for libraries.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Library {
    pub(super) name: String,
    #[serde(rename = "why")]
    pub(super) _why: String,
}

/// A package that the builder uses.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tool {
    pub(super) name: String,
    #[serde(rename = "why")]
    pub(super) _why: String,
    /// Packages of the libraries it needs; such a tool runs on the machine that builds.
    #[serde(default)]
    pub(super) libraries: Vec<String>,
}

/// `rootfs/layout.yaml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Layout {
    pub(super) directories: Vec<Directory>,
    pub(super) links: Vec<Link>,
}

/// A folder of the root.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Directory {
    pub(super) path: String,
    /// Octal.
    pub(super) mode: String,
    #[serde(rename = "why")]
    pub(super) _why: String,
}

/// A symbolic link of the root.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Link {
    pub(super) path: String,
    pub(super) to: String,
    #[serde(default)]
    pub(super) architectures: Vec<Arch>,
    #[serde(rename = "why")]
    pub(super) _why: String,
}

/// `kernel/kernel.yaml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Kernel {
    /// Variant to architecture to the package that depends on the newest kernel.
    packages: BTreeMap<String, BTreeMap<Arch, String>>,
    command_line: Vec<KernelOption>,
    /// Modules of the boot path.
    initramfs: Vec<ModuleGroup>,
    /// Modules of the running system.
    root: Vec<ModuleGroup>,
}

/// A word of the kernel's command line.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct KernelOption {
    option: String,
    #[serde(default)]
    architectures: Vec<Arch>,
    #[serde(default)]
    variants: Vec<Variant>,
    #[serde(rename = "why")]
    _why: String,
}

/// Modules that are wanted for one reason.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ModuleGroup {
    #[serde(rename = "why")]
    _why: String,
    modules: Vec<String>,
    #[serde(default)]
    architectures: Vec<Arch>,
    #[serde(default)]
    variants: Vec<Variant>,
}

impl Kernel {
    /// The package that depends on the newest kernel of this kind.
    pub(super) fn package(&self, variant: Variant, arch: Arch) -> anyhow::Result<&str> {
        let package = self
            .packages
            .get(variant.name())
            .and_then(|by_arch| by_arch.get(&arch));
        package.map(String::as_str).with_context(|| {
            format!(
                "kernel/kernel.yaml names no package for {} on {}",
                variant.name(),
                arch.name()
            )
        })
    }

    /// The plain options, in their order, parted by blanks.
    pub(super) fn options(&self, variant: Variant, arch: Arch) -> String {
        let words: Vec<&str> = self
            .command_line
            .iter()
            .filter(|option| {
                applies(&option.architectures, arch) && applies(&option.variants, variant)
            })
            .map(|option| option.option.as_str())
            .collect();
        words.join(" ")
    }

    /// The modules named for the initramfs.
    pub(super) fn initramfs_modules(&self, variant: Variant, arch: Arch) -> Vec<&str> {
        wanted(&self.initramfs, variant, arch)
    }

    /// The modules named for the root. Those of the initramfs are in it too: a disk that is
    /// plugged in later needs its driver as well.
    pub(super) fn root_modules(&self, variant: Variant, arch: Arch) -> Vec<&str> {
        let mut names = self.initramfs_modules(variant, arch);
        names.extend(wanted(&self.root, variant, arch));
        names
    }
}

/// An empty list of architectures or variants means all of them.
pub(super) fn applies<T: PartialEq>(list: &[T], one: T) -> bool {
    list.is_empty() || list.contains(&one)
}

fn wanted(groups: &[ModuleGroup], variant: Variant, arch: Arch) -> Vec<&str> {
    groups
        .iter()
        .filter(|group| applies(&group.architectures, arch) && applies(&group.variants, variant))
        .flat_map(|group| group.modules.iter().map(String::as_str))
        .collect()
}

/// Reads a data file of the source tree.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> anyhow::Result<T> {
    let text =
        fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text).with_context(|| format!("{} is wrong", path.display()))
}

/// Reads the text of a data file.
pub(crate) fn parse<T: DeserializeOwned>(text: &str) -> anyhow::Result<T> {
    Ok(serde_saphyr::from_str(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
    }

    #[test]
    fn the_projects_own_lists_are_right() {
        let kernel: Kernel = read(&source("kernel/kernel.yaml")).expect("kernel.yaml");
        let packages: Packages = read(&source("rootfs/packages.yaml")).expect("packages.yaml");
        let layout: Layout = read(&source("rootfs/layout.yaml")).expect("layout.yaml");
        assert_eq!(packages.release, "trixie");
        assert!(layout.directories.iter().any(|d| d.path == "system/state"));
        for variant in [Variant::Cloud, Variant::Metal] {
            for arch in [Arch::Amd64, Arch::Arm64] {
                assert!(kernel.package(variant, arch).is_ok());
                assert!(kernel.initramfs_modules(variant, arch).contains(&"erofs"));
                assert!(kernel.root_modules(variant, arch).contains(&"overlay"));
            }
        }
        let has = |variant, arch, option: &str| kernel.options(variant, arch).contains(option);
        assert!(has(Variant::Cloud, Arch::Amd64, "console=ttyS0"));
        assert!(!has(Variant::Cloud, Arch::Arm64, "console=ttyS0"));
        assert!(has(Variant::Cloud, Arch::Amd64, "no_timer_check"));
        assert!(!has(Variant::Metal, Arch::Amd64, "no_timer_check"));
    }

    #[test]
    fn no_option_weakens_the_kernel() {
        let kernel: Kernel = read(&source("kernel/kernel.yaml")).expect("kernel.yaml");
        let variants = [Variant::Cloud, Variant::Metal];
        let kinds = variants.map(|variant| [Arch::Amd64, Arch::Arm64].map(|arch| (variant, arch)));
        for (variant, arch) in kinds.into_iter().flatten() {
            let options = kernel.options(variant, arch);
            for weak in [
                "mitigations=",
                "nokaslr",
                "nopti",
                "nosmep",
                "lockdown=none",
                "init=",
            ] {
                assert!(!options.contains(weak), "{weak} in {options}");
            }
        }
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        let text = "directories: []\nlinks: [{path: a, to: b, why: c, mode: 1}]\n";
        assert!(parse::<Layout>(text).is_err());
    }
}
