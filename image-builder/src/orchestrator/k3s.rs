//! Makes a payload out of a K3s executable: what the release would unpack on the node at every
//! start is unpacked here, once, trimmed, and described so that it is run as the release's own
//! wrapper would run it.

use std::fs;
use std::path::Path;

use super::payload::{Bind, Description, FILE_NAME, FORMAT_VERSION};
use super::unpack::{self, Keep, LIMITS};
use super::{Error, Installed, Source, embedded};
use crate::arch::Arch;
use crate::packages::bytes_sha256;
use crate::rootfs::elf;

/// Where K3s keeps its data.
const DATA_DIR: &str = "/var/lib/rancher/k3s";

/// The payload of an executable, unpacked below `cache` or found there. `version` is that of the
/// lock; of an executable that was given it is read from the executable.
pub(super) fn source(
    executable: &Path,
    version: Option<String>,
    arch: Arch,
    keep: &Keep,
    cache: &Path,
) -> anyhow::Result<Source> {
    let bytes = fs::read(executable).map_err(Error::io(executable))?;
    let refuse = |reason: &str| Error::NotK3s {
        path: executable.to_path_buf(),
        reason: reason.to_string(),
    };
    match elf::read(&bytes) {
        Ok(Some(elf)) if elf.machine == arch.elf_machine() => {}
        Ok(Some(_)) => return Err(refuse(&format!("it is not built for {}", arch.name())).into()),
        _ => return Err(refuse("it is no ELF file").into()),
    }
    let found = embedded::find(&bytes)
        .ok_or_else(|| refuse("it carries no archive whose name is its digest"))?;
    let version = match version.or_else(|| find_version(&bytes)) {
        Some(version) => version,
        None => return Err(refuse("it names no version such as v1.36.4+k3s1").into()),
    };
    let description = describe(&version, &found.sha256);
    let installed = Installed {
        name: description.name.clone(),
        version,
        sha256: bytes_sha256(&bytes),
        description,
    };

    // What is unpacked depends on the archive and on what is kept of it.
    let text = serde_json::to_string_pretty(&installed.description)? + "\n";
    let key = bytes_sha256(format!("{}\n{keep:?}\n{text}", found.sha256).as_bytes());
    let base = cache.join("payloads");
    let folder = base.join(key);
    if !folder.exists() {
        fs::create_dir_all(&base).map_err(Error::io(&base))?;
        let work = tempfile::Builder::new()
            .prefix("unpack-")
            .tempdir_in(&base)
            .map_err(Error::io(&base))?;
        let payload = work.path().join("payload");
        let data = payload.join("data").join(&found.sha256);
        fs::create_dir_all(&data).map_err(Error::io(&data))?;
        unpack::unpack(&bytes[found.bytes.clone()], keep, LIMITS, &data).map_err(Error::from)?;
        let file = payload.join(FILE_NAME);
        fs::write(&file, text).map_err(Error::io(&file))?;
        match fs::rename(&payload, &folder) {
            Err(_) if folder.exists() => {}
            other => other.map_err(Error::io(&folder))?,
        }
    }
    super::payload::read(&folder)?;
    Ok(Source { folder, installed })
}

/// How machined runs it. The wrapper would put `data/cni` and the payload's `bin` in front of
/// PATH; the former is left out, so that nothing executable comes from `/var`. It is made all the
/// same, since network plugins install themselves there.
fn describe(version: &str, sha256: &str) -> Description {
    let data = format!("data/{sha256}");
    Description {
        format_version: FORMAT_VERSION,
        name: "k3s".to_string(),
        version: version.to_string(),
        exec: format!("{data}/bin/k3s"),
        path: vec![format!("{data}/bin")],
        env: Default::default(),
        data_dir: DATA_DIR.to_string(),
        config: "/etc/rancher/k3s/config.yaml".to_string(),
        kubeconfig: "/etc/rancher/k3s/k3s.yaml".to_string(),
        container_runtime: None,
        binds: vec![Bind {
            to: format!("{DATA_DIR}/{data}"),
            from: data,
        }],
        directories: vec![format!("{DATA_DIR}/data/cni")],
    }
}

/// The version that an executable names most often: `v1.36.4+k3s1`, `v1.37.0-rc1+k3s1`.
fn find_version(bytes: &[u8]) -> Option<String> {
    let mut counts: std::collections::BTreeMap<String, usize> = Default::default();
    let mark = b"+k3s";
    let mut at = 0;
    while let Some(found) = embedded::position(&bytes[at..], mark) {
        let start = at + found;
        at = start + mark.len();
        let digits = bytes[at..]
            .iter()
            .take_while(|b| b.is_ascii_digit())
            .count();
        let window = &bytes[start.saturating_sub(24)..start];
        if let Some(left) = release_before(window)
            && digits > 0
        {
            let right = String::from_utf8_lossy(&bytes[start..at + digits]).into_owned();
            *counts.entry(left + &right).or_default() += 1;
        }
    }
    let most = counts.values().copied().max()?;
    counts
        .into_iter()
        .find(|(_, count)| *count == most)
        .map(|(version, _)| version)
}

/// The `v1.36.4` or `v1.37.0-rc1` that some bytes end with.
fn release_before(bytes: &[u8]) -> Option<String> {
    let start = bytes.iter().rposition(|byte| *byte == b'v')?;
    let text = std::str::from_utf8(&bytes[start..]).ok()?;
    let (numbers, pre) = match text[1..].split_once('-') {
        Some((numbers, pre)) => (numbers, Some(pre)),
        None => (&text[1..], None),
    };
    let parts: Vec<&str> = numbers.split('.').collect();
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let is_release = parts.len() == 3 && parts.iter().all(is_number);
    let is_pre =
        pre.is_none_or(|pre| !pre.is_empty() && pre.bytes().all(|b| b.is_ascii_alphanumeric()));
    (is_release && is_pre).then(|| text.to_string())
}

#[cfg(test)]
mod tests {
    use super::super::unpack::tests::archive;
    use super::*;
    use crate::rootfs::tree::walk;
    use std::path::PathBuf;
    use tar::EntryType;

    const FILE: EntryType = EntryType::Regular;
    const LINK: EntryType = EntryType::Symlink;

    /// An executable of the release's form: a real ELF file, then what Go embeds.
    fn release(entries: &[super::super::unpack::tests::Entry<'_>]) -> (Vec<u8>, String) {
        let archive = archive(entries);
        let name = bytes_sha256(&archive);
        let mut bytes = fs::read("/proc/self/exe").expect("own program");
        bytes.truncate(4 << 20);
        // Only the headers must be whole; a damaged table of sections would be refused.
        let mut bytes = if elf::read(&bytes).is_ok() {
            bytes
        } else {
            small_elf()
        };
        bytes.extend(b"versionv1.36.4+k3s1flags");
        bytes.extend(format!("build/data/{name}.tar.zst").as_bytes());
        bytes.extend(&archive);
        bytes.extend(b"the rest");
        (bytes, name)
    }

    /// The shortest ELF header that is whole: no segments, no sections.
    fn small_elf() -> Vec<u8> {
        let host = Arch::host().expect("an architecture");
        let mut header = vec![0; 64];
        header[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\x00");
        header[16] = 2;
        header[18..20].copy_from_slice(&host.elf_machine().to_le_bytes());
        header[20] = 1;
        header[52] = 64;
        header
    }

    fn keep() -> Keep {
        Keep {
            needed: vec!["bin/k3s".to_string(), "bin/cni".to_string()],
            optional: Vec::new(),
        }
    }

    fn payload(bytes: &[u8], version: Option<&str>) -> (tempfile::TempDir, anyhow::Result<Source>) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let executable = folder.path().join("k3s");
        fs::write(&executable, bytes).expect("file");
        let arch = Arch::host().expect("an architecture");
        let cache = folder.path().join("cache");
        let version = version.map(String::from);
        let source = source(&executable, version, arch, &keep(), &cache);
        (folder, source)
    }

    #[test]
    fn the_three_traps_are_closed() {
        let (bytes, sha256) = release(&[
            ("./bin/k3s", FILE, "program"),
            ("./bin/cni", FILE, "plugins"),
            ("./bin/busybox", FILE, "a shell"),
            ("./bin/sh", LINK, "busybox"),
            ("./bin/containerd", LINK, "k3s"),
            ("./bin/host-local", LINK, "cni"),
            ("./bin/aux/iptables", LINK, "iptables-detect.sh"),
            ("./bin/aux/iptables-detect.sh", FILE, "#!/bin/sh\n"),
            ("./bin/aux/mount", LINK, "../busybox"),
            ("./bin/check-config", FILE, "#!/bin/sh\n"),
        ]);
        let (_folder, source) = payload(&bytes, None);
        let source = source.expect("a release");
        let data = format!("data/{sha256}");
        // One and two: no script of iptables, no shell, and no link to either.
        let want: Vec<String> = [
            "data".to_string(),
            data.clone(),
            format!("{data}/bin"),
            format!("{data}/bin/cni"),
            format!("{data}/bin/containerd"),
            format!("{data}/bin/host-local"),
            format!("{data}/bin/k3s"),
            FILE_NAME.to_string(),
        ]
        .into();
        assert_eq!(walk(&source.folder).expect("tree"), want);
        // Three: what runs is in the payload, seen read-only where K3s would have unpacked it.
        let description = &source.installed.description;
        assert_eq!(description.exec, format!("{data}/bin/k3s"));
        assert_eq!(
            description.binds[0].to,
            format!("/var/lib/rancher/k3s/{data}")
        );
        assert_eq!(description.directories, ["/var/lib/rancher/k3s/data/cni"]);
        assert!(description.path.iter().all(|path| path.starts_with(&data)));
        assert_eq!(source.installed.version, "v1.36.4+k3s1");
        assert_eq!(source.installed.sha256, bytes_sha256(&bytes));
    }

    #[test]
    fn the_description_stays() {
        let description = describe("v1.36.4+k3s1", "0123abcd");
        let text = serde_json::to_string_pretty(&description).expect("serialises");
        insta::assert_snapshot!(text);
    }

    #[test]
    fn the_second_build_unpacks_nothing() {
        let (bytes, _) = release(&[("./bin/k3s", FILE, "p"), ("./bin/cni", FILE, "p")]);
        let (folder, first) = payload(&bytes, None);
        let first = first.expect("a release");
        let executable = folder.path().join("k3s");
        let arch = Arch::host().expect("an architecture");
        let cache = folder.path().join("cache");
        let marker = first.folder.join("marker");
        fs::write(&marker, "").expect("file");
        let again = source(&executable, None, arch, &keep(), &cache).expect("a release");
        assert_eq!(again.folder, first.folder);
        assert!(marker.exists());
    }

    #[test]
    fn what_is_no_release_is_refused() {
        let (good, _) = release(&[("./bin/k3s", FILE, "p"), ("./bin/cni", FILE, "p")]);
        let (evil, _) = release(&[("./bin/k3s", FILE, "p"), ("../../evil", FILE, "p")]);
        let mut flipped = good.clone();
        let at = flipped.len() - 40;
        flipped[at] ^= 1;
        let mut foreign = good.clone();
        foreign[18..20].copy_from_slice(&0x1234u16.to_le_bytes());
        for (what, bytes, want) in [
            ("text", b"#!/bin/sh\n".to_vec(), "it is no ELF file"),
            ("another architecture", foreign, "it is not built for"),
            (
                "flipped byte",
                flipped,
                "it carries no archive whose name is its digest",
            ),
            (
                "no archive",
                small_elf(),
                "it carries no archive whose name is its digest",
            ),
            ("hostile archive", evil, "leads out of it"),
        ] {
            let (folder, result) = payload(&bytes, None);
            let error = format!("{:#}", result.expect_err(what));
            assert!(error.contains(want), "{what}: {error}");
            let left: Vec<PathBuf> = fs::read_dir(folder.path().join("cache/payloads"))
                .into_iter()
                .flatten()
                .filter_map(|entry| entry.ok().map(|entry| entry.path()))
                .collect();
            assert!(left.is_empty(), "{what} left {left:?}");
        }
    }

    #[test]
    fn versions_in_executables() {
        for (text, want) in [
            ("abcv1.36.4+k3s1xyz", Some("v1.36.4+k3s1")),
            ("v1.37.0-rc1+k3s1", Some("v1.37.0-rc1+k3s1")),
            (
                "v1.2.3+k3s1 v1.36.4+k3s2 v1.36.4+k3s2",
                Some("v1.36.4+k3s2"),
            ),
            ("v1.36+k3s1", None),
            ("v1.36.4+k3s", None),
            ("1.36.4+k3s1", None),
        ] {
            assert_eq!(find_version(text.as_bytes()).as_deref(), want, "{text}");
        }
    }
}
