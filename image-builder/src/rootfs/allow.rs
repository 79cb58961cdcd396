//! What may be in the image: the list of `rootfs/allow.yaml` and the rules that hold everywhere.
//! Looks at a tree and says what is wrong with it; changes nothing. Run on every tree that is
//! assembled, and by the test of the built image on what it unpacks.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::Context;
use serde::Deserialize;

use super::elf;
use super::pattern;
use super::resolve::{self, End};
use super::tree::walk;

/// The list: path patterns for each kind of file, and what is forbidden by name.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AllowList {
    programs: Vec<String>,
    libraries: Vec<String>,
    modules: Vec<String>,
    data: Vec<String>,
    links: Vec<String>,
    dangling: Vec<String>,
    forbidden: Vec<Vec<String>>,
}

/// One thing that is wrong with a tree.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// The path, with a leading slash.
    pub path: String,
    /// The rule that it breaks.
    pub rule: Rule,
}

/// The rules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// The list has no place for such a file there.
    NotListed(Kind),
    /// A shell, an interpreter or another program that may not be there under any name of these.
    Forbidden,
    /// The file starts with `#!`.
    Script,
    /// It has a setuid or setgid bit.
    Setuid,
    /// Its group or others may write it.
    Writable,
    /// It carries a file capability.
    Capability,
    /// It is a device node, a pipe or a socket.
    Special,
    /// A link that leads to nothing.
    Dangling(String),
    /// A file of this kind that is damaged.
    Damaged,
}

/// The kinds of files that the list tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An ELF file that can be started, or any other file with an executable bit.
    Program,
    /// An ELF file that is loaded by programs.
    Library,
    /// A kernel module.
    Module,
    /// Everything else.
    Data,
    /// A symbolic link.
    Link,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Program => "program",
            Kind::Library => "library",
            Kind::Module => "kernel module",
            Kind::Data => "data file",
            Kind::Link => "link",
        }
    }
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: ", self.path)?;
        match &self.rule {
            Rule::NotListed(kind) => write!(f, "no {} is allowed here", kind.name()),
            Rule::Forbidden => write!(f, "a program of this name is never allowed"),
            Rule::Script => write!(f, "starts with #!"),
            Rule::Setuid => write!(f, "has a setuid or setgid bit"),
            Rule::Writable => write!(f, "its group or others may write it"),
            Rule::Capability => write!(f, "carries a file capability"),
            Rule::Special => write!(f, "is neither a file nor a folder nor a link"),
            Rule::Dangling(target) => write!(f, "leads to /{target}, which is not there"),
            Rule::Damaged => write!(f, "is a damaged ELF file"),
        }
    }
}

/// Everything that is wrong with the tree at `root`, sorted by path.
pub fn check(root: &Path, list: &AllowList) -> anyhow::Result<Vec<Violation>> {
    let mut found = Vec::new();
    for path in walk(root)? {
        let rules = check_one(root, &path, list)
            .with_context(|| format!("cannot look at {}", root.join(&path).display()))?;
        found.extend(rules.into_iter().map(|rule| Violation {
            path: format!("/{path}"),
            rule,
        }));
    }
    found.sort();
    Ok(found)
}

fn check_one(root: &Path, path: &str, list: &AllowList) -> anyhow::Result<Vec<Rule>> {
    let full = root.join(path);
    let meta = full.symlink_metadata()?;
    let kind = meta.file_type();
    let mut rules = Vec::new();
    if kind.is_symlink() {
        rules.extend(check_link(root, path, list));
        return Ok(rules);
    }
    if kind.is_block_device() || kind.is_char_device() || kind.is_fifo() || kind.is_socket() {
        return Ok(vec![Rule::Special]);
    }
    let mode = meta.permissions().mode();
    if mode & 0o6000 != 0 {
        rules.push(Rule::Setuid);
    }
    if mode & 0o022 != 0 {
        rules.push(Rule::Writable);
    }
    if kind.is_dir() {
        return Ok(rules);
    }
    if has_capability(&full)? {
        rules.push(Rule::Capability);
    }
    let bytes = fs::read(&full)?;
    if bytes.starts_with(b"#!") {
        rules.push(Rule::Script);
    }
    let executable = mode & 0o111 != 0;
    let kind = match elf::read(&bytes) {
        Err(_) => {
            rules.push(Rule::Damaged);
            return Ok(rules);
        }
        Ok(Some(elf)) if elf.relocatable => Kind::Module,
        Ok(Some(_)) if !executable || is_library(path) => Kind::Library,
        Ok(None) if !executable => Kind::Data,
        Ok(_) => Kind::Program,
    };
    if !list.allows(kind, path) {
        rules.push(Rule::NotListed(kind));
    }
    if kind == Kind::Program && list.forbids(path) {
        rules.push(Rule::Forbidden);
    }
    Ok(rules)
}

fn check_link(root: &Path, path: &str, list: &AllowList) -> Vec<Rule> {
    let mut rules = Vec::new();
    if !list.allows(Kind::Link, path) {
        rules.push(Rule::NotListed(Kind::Link));
    }
    if list.forbids(path) {
        rules.push(Rule::Forbidden);
    }
    match resolve::follow(root, path) {
        End::Found(_) => {}
        End::Missing(target) => {
            let slashed = format!("/{target}");
            if !list.dangling.iter().any(|p| pattern::matches(p, &slashed)) {
                rules.push(Rule::Dangling(target));
            }
        }
        End::Circle => rules.push(Rule::Dangling(path.to_string())),
    }
    rules
}

/// Debian sets the executable bit on a few libraries; they are libraries by their name.
fn is_library(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    pattern::name_matches("*.so", name) || pattern::name_matches("*.so.*", name)
}

/// True if the file carries the extended attribute that holds file capabilities (capabilities(7)).
fn has_capability(path: &Path) -> anyhow::Result<bool> {
    let mut names = [0u8; 4096];
    let length = match rustix::fs::llistxattr(path, &mut names[..]) {
        Ok(length) => length,
        // A filesystem without extended attributes holds no capabilities.
        Err(rustix::io::Errno::NOTSUP) => 0,
        Err(error) => return Err(error.into()),
    };
    Ok(names[..length]
        .split(|byte| *byte == 0)
        .any(|name| name == b"security.capability"))
}

impl AllowList {
    /// Reads the list from the text of `allow.yaml`.
    pub fn parse(text: &str) -> anyhow::Result<AllowList> {
        super::recipe::parse(text)
    }

    fn allows(&self, kind: Kind, path: &str) -> bool {
        let patterns = match kind {
            Kind::Program => &self.programs,
            Kind::Library => &self.libraries,
            Kind::Module => &self.modules,
            Kind::Data => &self.data,
            Kind::Link => &self.links,
        };
        patterns.iter().any(|p| pattern::matches(p, path))
    }

    fn forbids(&self, path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or(path);
        self.forbidden
            .iter()
            .flatten()
            .any(|p| pattern::name_matches(p, name))
    }
}

#[cfg(test)]
mod tests {
    use super::super::tree::set_mode;
    use super::*;
    use std::os::unix::fs::symlink;

    const LIST: &str = include_str!("../../../rootfs/allow.yaml");

    /// A tree of one file; its violations.
    fn one(path: &str, bytes: &[u8], mode: u32) -> Vec<Rule> {
        let folder = tempfile::tempdir().expect("temporary folder");
        let full = folder.path().join(path);
        fs::create_dir_all(full.parent().expect("a parent")).expect("folder");
        fs::write(&full, bytes).expect("file");
        set_mode(&full, mode).expect("mode");
        rules(folder.path())
    }

    fn rules(root: &Path) -> Vec<Rule> {
        let list = AllowList::parse(LIST).expect("the project's list");
        let found = check(root, &list).expect("readable");
        found.into_iter().map(|violation| violation.rule).collect()
    }

    /// The test's own program, as an ELF file that is whole.
    fn program() -> Vec<u8> {
        fs::read("/proc/self/exe").expect("own program")
    }

    #[test]
    fn what_is_listed_is_allowed() {
        assert_eq!(one("etc/passwd", b"root", 0o644), []);
        assert_eq!(one("usr/bin/init", &program(), 0o755), []);
        assert_eq!(one("usr/lib/orchestrator/bin/any", &program(), 0o755), []);
    }

    #[test]
    fn violations() {
        let elf = program();
        for (path, bytes, mode, want) in [
            (
                "etc/shadow",
                &b"x"[..],
                0o644,
                vec![Rule::NotListed(Kind::Data)],
            ),
            (
                "usr/bin/ls",
                &elf,
                0o755,
                vec![Rule::NotListed(Kind::Program)],
            ),
            (
                "usr/bin/sh",
                &elf,
                0o755,
                vec![Rule::NotListed(Kind::Program), Rule::Forbidden],
            ),
            (
                "usr/lib/orchestrator/bin/busybox",
                &elf,
                0o755,
                vec![Rule::Forbidden],
            ),
            (
                "usr/lib/orchestrator/bin/python3.11",
                &elf,
                0o755,
                vec![Rule::Forbidden],
            ),
            (
                "usr/lib/orchestrator/run.txt",
                b"#!/bin/sh\n",
                0o644,
                vec![Rule::Script],
            ),
            ("usr/bin/mount", &elf, 0o4755, vec![Rule::Setuid]),
            ("usr/bin/mount", &elf, 0o2755, vec![Rule::Setuid]),
            ("etc/group", b"", 0o664, vec![Rule::Writable]),
            ("etc/group", b"", 0o646, vec![Rule::Writable]),
            (
                "etc/group",
                b"",
                0o755,
                vec![Rule::NotListed(Kind::Program)],
            ),
            (
                "usr/bin/apid",
                b"\x7fELF\x02\x01\x01",
                0o755,
                vec![Rule::Damaged],
            ),
        ] {
            assert_eq!(one(path, bytes, mode), want, "{path} {mode:o}");
        }
    }

    #[test]
    fn a_folder_that_all_may_write_is_found() {
        let folder = tempfile::tempdir().expect("temporary folder");
        fs::create_dir(folder.path().join("tmp")).expect("folder");
        set_mode(&folder.path().join("tmp"), 0o1777).expect("mode");
        assert_eq!(rules(folder.path()), [Rule::Writable]);
    }

    #[test]
    fn links() {
        for (path, target, want) in [
            ("etc/hosts", "/run/etc/hosts", vec![]),
            ("etc/mtab", "/proc/self/mounts", vec![]),
            (
                "etc/gone",
                "/nowhere",
                vec![Rule::Dangling("nowhere".to_string())],
            ),
            (
                "usr/lib/orchestrator/up",
                "../../../../../outside",
                vec![Rule::Dangling("outside".to_string())],
            ),
            (
                "usr/bin/bash",
                "/run/x",
                vec![Rule::NotListed(Kind::Link), Rule::Forbidden],
            ),
        ] {
            let folder = tempfile::tempdir().expect("temporary folder");
            let full = folder.path().join(path);
            fs::create_dir_all(full.parent().expect("a parent")).expect("folder");
            symlink(target, &full).expect("link");
            assert_eq!(rules(folder.path()), want, "{path} -> {target}");
        }
    }

    #[test]
    fn a_socket_is_special() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let _socket =
            std::os::unix::net::UnixListener::bind(folder.path().join("s")).expect("socket");
        assert_eq!(rules(folder.path()), [Rule::Special]);
    }
}
