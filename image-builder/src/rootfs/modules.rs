//! The kernel's modules for the image: the wanted ones and all they depend on, decompressed and
//! otherwise as Debian signed them, with the index files that a module loader reads. What a module
//! needs and what it is known by is read from the module itself (`.modinfo`), so that no `depmod`
//! is run and the same modules give the same index.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::elf;
use super::tree::Tree;
use super::tree::walk;

/// The modules of one kernel package.
#[derive(Debug)]
pub(super) struct Modules {
    folder: PathBuf,
    release: String,
    /// Name (with `_`) to file below `folder`.
    files: BTreeMap<String, String>,
    /// Names of what is built into the kernel.
    builtin: BTreeSet<String>,
    builtin_text: String,
}

/// A module that goes into the image.
#[derive(Clone, Debug)]
struct Module {
    /// Its path below `/lib/modules/<release>`: `kernel/fs/erofs/erofs.ko`.
    path: String,
    bytes: Vec<u8>,
    info: Info,
}

/// What a module says of itself in `.modinfo`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Info {
    depends: Vec<String>,
    aliases: Vec<String>,
    soft: Vec<String>,
}

/// Modules that belong together: a closed set under dependency.
#[derive(Clone, Debug, Default)]
pub(super) struct Selection {
    modules: BTreeMap<String, Module>,
}

impl Modules {
    /// The modules below an unpacked kernel package.
    pub(super) fn open(package: &Path, release: &str) -> anyhow::Result<Modules> {
        let folder = package.join("usr/lib/modules").join(release);
        let mut files = BTreeMap::new();
        for path in walk(&folder)? {
            if let Some(name) = module_name(&path) {
                files.insert(name, path);
            }
        }
        let list = folder.join("modules.builtin");
        let builtin_text =
            fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
        let builtin = builtin_text.lines().filter_map(module_name).collect();
        Ok(Modules {
            folder,
            release: release.to_string(),
            files,
            builtin,
            builtin_text,
        })
    }

    /// The wanted modules and everything they depend on. `seen` keeps what was read already.
    pub(super) fn select(
        &self,
        wanted: &[&str],
        seen: &mut Selection,
    ) -> anyhow::Result<Selection> {
        let mut selected = Selection::default();
        let mut queue: Vec<String> = Vec::new();
        let mut unknown = Vec::new();
        for name in wanted {
            if self.files.contains_key(*name) {
                queue.push(name.to_string());
            } else if !self.builtin.contains(*name) {
                unknown.push(*name);
            }
        }
        if !unknown.is_empty() {
            bail!(
                "kernel {} has no module {}; correct kernel/kernel.yaml, or say there which \
                 variants have it",
                self.release,
                unknown.join(", ")
            );
        }
        while let Some(name) = queue.pop() {
            if selected.modules.contains_key(&name) {
                continue;
            }
            let module = match seen.modules.get(&name) {
                Some(module) => module.clone(),
                None => {
                    let module = self.read(&name)?;
                    seen.modules.insert(name.clone(), module.clone());
                    module
                }
            };
            for needed in &module.info.depends {
                if self.files.contains_key(needed) {
                    queue.push(needed.clone());
                } else if !self.builtin.contains(needed) {
                    bail!(
                        "module {name} depends on {needed}, which kernel {} lacks",
                        self.release
                    );
                }
            }
            // What is loaded before or after it if there: often an alias, so no error if unknown.
            queue.extend(soft_names(&module.info).filter(|soft| self.files.contains_key(soft)));
            selected.modules.insert(name, module);
        }
        Ok(selected)
    }

    fn read(&self, name: &str) -> anyhow::Result<Module> {
        let file = self
            .files
            .get(name)
            .with_context(|| format!("no module {name}"))?;
        let full = self.folder.join(file);
        let context = || format!("cannot read the module {}", full.display());
        let raw = fs::read(&full).with_context(context)?;
        let (path, bytes) = match file.strip_suffix(".xz") {
            Some(path) => {
                let mut bytes = Vec::new();
                lzma_rust2::XzReader::new(raw.as_slice(), true)
                    .read_to_end(&mut bytes)
                    .with_context(context)?;
                (path.to_string(), bytes)
            }
            None => (file.clone(), raw),
        };
        let info = elf::section(&bytes, ".modinfo").with_context(context)?;
        let info = parse_info(info.with_context(context)?);
        Ok(Module { path, bytes, info })
    }

    /// Writes a selection and its index below `lib` (`usr/lib/modules` or `lib/modules`).
    pub(super) fn write(
        &self,
        selection: &Selection,
        tree: &Tree,
        lib: &str,
    ) -> anyhow::Result<()> {
        let base = format!("{lib}/{}", self.release);
        for module in selection.modules.values() {
            tree.write(&format!("{base}/{}", module.path), &module.bytes, 0o644)?;
        }
        for (name, text) in [
            ("modules.dep", selection.dep()),
            ("modules.alias", selection.alias()),
            ("modules.softdep", selection.softdep()),
            ("modules.builtin", self.builtin_text.clone()),
        ] {
            tree.write(&format!("{base}/{name}"), text.as_bytes(), 0o644)?;
        }
        Ok(())
    }
}

impl Selection {
    /// `modules.dep` (modules.dep(5)): each module and all it needs, nearest first, so that
    /// loading from the end of the line to its beginning works.
    fn dep(&self) -> String {
        let mut lines: Vec<String> = self
            .modules
            .iter()
            .map(|(name, module)| {
                let needs = self.needs(name);
                let paths: Vec<&str> = needs
                    .iter()
                    .filter_map(|name| self.modules.get(name))
                    .map(|module| module.path.as_str())
                    .collect();
                let gap = if paths.is_empty() { "" } else { " " };
                format!("{}:{gap}{}\n", module.path, paths.join(" "))
            })
            .collect();
        lines.sort();
        lines.concat()
    }

    /// All that a module needs, each before what it needs itself.
    fn needs(&self, name: &str) -> Vec<String> {
        fn visit(selection: &Selection, name: &str, done: &mut Vec<String>) {
            let Some(module) = selection.modules.get(name) else {
                return;
            };
            for needed in &module.info.depends {
                if selection.modules.contains_key(needed) && !done.contains(needed) {
                    visit(selection, needed, done);
                    if !done.contains(needed) {
                        done.push(needed.clone());
                    }
                }
            }
        }
        let mut done = Vec::new();
        visit(self, name, &mut done);
        done.reverse();
        done
    }

    /// `modules.alias`: what a device or a request calls a module.
    fn alias(&self) -> String {
        let mut lines: Vec<String> = self
            .modules
            .iter()
            .flat_map(|(name, module)| {
                module
                    .info
                    .aliases
                    .iter()
                    .map(move |alias| format!("alias {alias} {name}\n"))
            })
            .collect();
        lines.sort();
        lines.dedup();
        lines.concat()
    }

    /// `modules.softdep`: what is loaded before or after a module if it is there.
    fn softdep(&self) -> String {
        let mut lines: Vec<String> = self
            .modules
            .iter()
            .flat_map(|(name, module)| {
                module
                    .info
                    .soft
                    .iter()
                    .map(move |soft| format!("softdep {name} {soft}\n"))
            })
            .collect();
        lines.sort();
        lines.concat()
    }
}

/// The name of the module at a path: `kernel/fs/nls/nls-utf8.ko.xz` is `nls_utf8`.
fn module_name(path: &str) -> Option<String> {
    let file = path.rsplit('/').next()?;
    let stem = file
        .strip_suffix(".ko.xz")
        .or_else(|| file.strip_suffix(".ko"))?;
    Some(stem.replace('-', "_"))
}

fn parse_info(section: &[u8]) -> Info {
    let mut info = Info::default();
    for entry in section.split(|byte| *byte == 0) {
        let text = String::from_utf8_lossy(entry);
        let Some((key, value)) = text.split_once('=') else {
            continue;
        };
        match key {
            "depends" => info.depends.extend(
                value
                    .split(',')
                    .filter(|name| !name.is_empty())
                    .map(|name| name.replace('-', "_")),
            ),
            "alias" => info.aliases.push(value.to_string()),
            "softdep" => info.soft.push(value.to_string()),
            _ => {}
        }
    }
    info
}

/// The names in the soft dependencies of a module, without the words `pre:` and `post:`.
fn soft_names(info: &Info) -> impl Iterator<Item = String> {
    info.soft
        .iter()
        .flat_map(|soft| soft.split_whitespace())
        .filter(|word| !word.ends_with(':'))
        .map(|word| word.replace('-', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(path: &str, depends: &[&str], aliases: &[&str]) -> Module {
        Module {
            path: path.to_string(),
            bytes: Vec::new(),
            info: Info {
                depends: depends.iter().map(|d| d.to_string()).collect(),
                aliases: aliases.iter().map(|a| a.to_string()).collect(),
                soft: Vec::new(),
            },
        }
    }

    fn selection() -> Selection {
        let modules = [
            (
                "a",
                module("kernel/a.ko", &["b", "c", "builtin"], &["pci:x*"]),
            ),
            ("b", module("kernel/b.ko", &["c"], &[])),
            ("c", module("kernel/c.ko", &["d"], &["fs-c", "c-also"])),
            ("d", module("kernel/d.ko", &[], &[])),
        ];
        Selection {
            modules: modules
                .into_iter()
                .map(|(name, module)| (name.to_string(), module))
                .collect(),
        }
    }

    #[test]
    fn a_line_can_be_loaded_from_its_end() {
        assert_eq!(
            selection().dep(),
            "kernel/a.ko: kernel/b.ko kernel/c.ko kernel/d.ko\n\
             kernel/b.ko: kernel/c.ko kernel/d.ko\n\
             kernel/c.ko: kernel/d.ko\n\
             kernel/d.ko:\n"
        );
    }

    #[test]
    fn aliases_are_sorted() {
        assert_eq!(
            selection().alias(),
            "alias c-also c\nalias fs-c c\nalias pci:x* a\n"
        );
    }

    #[test]
    fn what_a_module_says_of_itself() {
        let section = b"license=GPL\0depends=dm-mod,dm-bufio\0alias=fs-erofs\0\
                        softdep=pre: crypto-sha256 post: x-y\0\0name=dm_verity\0";
        let info = parse_info(section);
        assert_eq!(info.depends, ["dm_mod", "dm_bufio"]);
        assert_eq!(info.aliases, ["fs-erofs"]);
        let soft: Vec<String> = soft_names(&info).collect();
        assert_eq!(soft, ["crypto_sha256", "x_y"]);
    }

    #[test]
    fn names_of_files() {
        for (path, want) in [
            ("kernel/fs/nls/nls-utf8.ko.xz", Some("nls_utf8")),
            ("kernel/fs/erofs/erofs.ko", Some("erofs")),
            ("modules.order", None),
        ] {
            assert_eq!(module_name(path).as_deref(), want);
        }
    }
}
