//! A payload folder and its `orchestrator.json`: what machined is told about how to run an
//! orchestrator. Checks that the description fits the folder; runs nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::packages::{bytes_sha256, file_sha256};
use crate::rootfs::tree::{self, Tree};

/// The description's file name in the payload folder.
pub const FILE_NAME: &str = "orchestrator.json";

/// What is wrong with a payload folder.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no description.
    #[error("{0} is not a payload: it holds no {FILE_NAME}")]
    NoDescription(PathBuf),
    /// The description cannot be understood.
    #[error("{path} is wrong")]
    Description {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: serde_json::Error,
    },
    /// The description is of a later format.
    #[error("{path} has format version {version}; this builder knows {known}")]
    Format {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
        /// Ours.
        known: u32,
    },
    /// The description and the folder do not fit.
    #[error("{path}: {key} {what}")]
    Misfit {
        /// The description.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong with it.
        what: String,
    },
}

/// The format that this builder writes and reads.
pub const FORMAT_VERSION: u32 = 1;

/// `orchestrator.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Description {
    /// The version of this format.
    pub format_version: u32,
    /// The orchestrator's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The executable, relative to the payload; run as `<exec> server` or `<exec> agent`.
    pub exec: String,
    /// Folders that go in front of PATH, relative to the payload.
    pub path: Vec<String>,
    /// Environment variables that it needs.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Where it keeps its data.
    pub data_dir: String,
    /// Where it reads its configuration.
    pub config: String,
    /// Where it writes the administrator's kubeconfig.
    pub kubeconfig: String,
    /// Where its container runtime listens, if not where K3s has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_runtime: Option<String>,
    /// Folders of the payload that are to be seen elsewhere, read-only.
    #[serde(default)]
    pub binds: Vec<Bind>,
    /// Folders that must exist before it starts.
    #[serde(default)]
    pub directories: Vec<String>,
}

/// A folder of the payload that is to be seen elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bind {
    /// Relative to the payload.
    pub from: String,
    /// Absolute, below `/var`.
    pub to: String,
}

/// Reads the description in a payload folder and checks that it fits the folder.
pub fn read(folder: &Path) -> Result<Description, Error> {
    let path = folder.join(FILE_NAME);
    let text = fs::read_to_string(&path).map_err(|_| Error::NoDescription(folder.to_path_buf()))?;
    let description: Description =
        serde_json::from_str(&text).map_err(|source| Error::Description {
            path: path.clone(),
            source,
        })?;
    if description.format_version != FORMAT_VERSION {
        return Err(Error::Format {
            path,
            version: description.format_version,
            known: FORMAT_VERSION,
        });
    }
    match misfit(folder, &description) {
        None => Ok(description),
        Some((key, what)) => Err(Error::Misfit { path, key, what }),
    }
}

/// The first key that does not fit the folder, and why.
fn misfit(folder: &Path, description: &Description) -> Option<(String, String)> {
    let wrong = |key: &str, what: String| Some((key.to_string(), what));
    for (key, value) in [
        ("name", &description.name),
        ("version", &description.version),
    ] {
        if value.is_empty() {
            return wrong(key, "is empty".to_string());
        }
    }
    let exec = &description.exec;
    if !is_inside(exec) {
        return wrong("exec", format!("leads out of the payload: {exec}"));
    }
    let program = fs::metadata(folder.join(exec));
    if !program.is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o100 != 0) {
        return wrong("exec", format!("is no executable file: {exec}"));
    }
    let folders = description.path.iter().map(|path| ("path", path));
    let binds = description.binds.iter().map(|bind| ("binds", &bind.from));
    for (key, path) in folders.chain(binds) {
        if !is_inside(path) {
            return wrong(key, format!("leads out of the payload: {path}"));
        }
        if !folder.join(path).is_dir() {
            return wrong(key, format!("is no folder of the payload: {path}"));
        }
    }
    let targets = description.binds.iter().map(|bind| ("binds", &bind.to));
    let directories = description.directories.iter().map(|d| ("directories", d));
    for (key, path) in targets.chain(directories) {
        let inside = path.strip_prefix("/var/").is_some_and(is_inside);
        if !inside {
            return wrong(key, format!("must be below /var: {path}"));
        }
    }
    let socket = description.container_runtime.iter();
    let own = [
        ("dataDir", &description.data_dir),
        ("config", &description.config),
        ("kubeconfig", &description.kubeconfig),
    ];
    for (key, path) in own
        .into_iter()
        .chain(socket.map(|path| ("containerRuntime", path)))
    {
        if !path.strip_prefix('/').is_some_and(is_inside) {
            return wrong(key, format!("must be an absolute path: {path}"));
        }
    }
    None
}

/// True for a relative path of plain names.
fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && Path::new(path)
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
}

/// The digest of everything in a payload folder: paths, kinds, executable bits, contents.
pub fn digest(folder: &Path) -> anyhow::Result<String> {
    let mut lines = String::new();
    for path in tree::walk(folder)? {
        let full = folder.join(&path);
        let meta = full.symlink_metadata()?;
        let what = if meta.is_dir() {
            "folder".to_string()
        } else if meta.file_type().is_symlink() {
            format!("link {}", fs::read_link(&full)?.display())
        } else {
            let executable = meta.permissions().mode() & 0o100 != 0;
            format!("file {executable} {}", file_sha256(&full)?)
        };
        lines.push_str(&format!("{path} {what}\n"));
    }
    Ok(bytes_sha256(lines.as_bytes()))
}

/// Copies a payload folder into the tree as it is, with plain modes.
pub(crate) fn copy(folder: &Path, tree: &Tree, to: &str) -> anyhow::Result<()> {
    for path in tree::walk(folder)? {
        let full = folder.join(&path);
        let kind = full.symlink_metadata()?.file_type();
        let target = format!("{to}/{path}");
        if kind.is_dir() {
            tree.directory(&target, 0o755)?;
        } else if kind.is_symlink() {
            let link = fs::read_link(&full)?;
            tree.link(&target, &link.to_string_lossy())?;
        } else if kind.is_file() {
            tree.copy(&full, &target)?;
        } else {
            anyhow::bail!(
                "{} is neither a file nor a folder nor a link",
                full.display()
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn description() -> serde_json::Value {
        serde_json::json!({
            "formatVersion": 1, "name": "demo", "version": "v1", "exec": "bin/demo",
            "path": ["bin"], "env": {"A": "b"}, "dataDir": "/var/lib/demo",
            "config": "/etc/rancher/k3s/config.yaml", "kubeconfig": "/etc/rancher/k3s/k3s.yaml",
            "binds": [{"from": "data", "to": "/var/lib/demo/data"}],
            "directories": ["/var/lib/demo/cni"],
        })
    }

    fn folder(description: &serde_json::Value) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path();
        for name in ["bin", "data"] {
            fs::create_dir(path.join(name)).expect("folder");
        }
        fs::write(path.join("bin/demo"), "x").expect("file");
        tree::set_mode(&path.join("bin/demo"), 0o755).expect("mode");
        fs::write(path.join("bin/text"), "x").expect("file");
        fs::write(path.join(FILE_NAME), description.to_string()).expect("file");
        folder
    }

    #[test]
    fn a_good_payload_is_read() {
        let folder = folder(&description());
        let read = read(folder.path()).expect("good");
        assert_eq!(read.name, "demo");
        assert_eq!(read.binds[0].from, "data");
    }

    #[test]
    fn misfits() {
        for (key, value, want) in [
            (
                "exec",
                serde_json::json!("../demo"),
                "exec leads out of the payload: ../demo",
            ),
            (
                "exec",
                serde_json::json!("/bin/demo"),
                "exec leads out of the payload: /bin/demo",
            ),
            (
                "exec",
                serde_json::json!("bin/text"),
                "exec is no executable file: bin/text",
            ),
            (
                "path",
                serde_json::json!(["sbin"]),
                "path is no folder of the payload: sbin",
            ),
            (
                "binds",
                serde_json::json!([{"from": "data", "to": "/etc/x"}]),
                "binds must be below /var: /etc/x",
            ),
            (
                "directories",
                serde_json::json!(["/var/../etc"]),
                "directories must be below /var: /var/../etc",
            ),
            (
                "config",
                serde_json::json!("c.yaml"),
                "config must be an absolute path: c.yaml",
            ),
            ("version", serde_json::json!(""), "version is empty"),
        ] {
            let mut changed = description();
            changed[key] = value;
            let folder = folder(&changed);
            let error = read(folder.path()).expect_err(want).to_string();
            assert!(error.ends_with(want), "{error}");
        }
    }

    #[test]
    fn an_unknown_key_and_a_later_format_are_refused() {
        let mut changed = description();
        changed["surprise"] = serde_json::json!(1);
        assert!(matches!(
            read(folder(&changed).path()),
            Err(Error::Description { .. })
        ));
        let mut changed = description();
        changed["formatVersion"] = serde_json::json!(2);
        assert!(matches!(
            read(folder(&changed).path()),
            Err(Error::Format { version: 2, .. })
        ));
    }

    #[test]
    fn the_digest_sees_contents_modes_and_links() {
        let folder = folder(&description());
        let mut digests = vec![digest(folder.path()).expect("digest")];
        fs::write(folder.path().join("bin/text"), "y").expect("file");
        digests.push(digest(folder.path()).expect("digest"));
        tree::set_mode(&folder.path().join("bin/text"), 0o755).expect("mode");
        digests.push(digest(folder.path()).expect("digest"));
        std::os::unix::fs::symlink("demo", folder.path().join("bin/link")).expect("link");
        digests.push(digest(folder.path()).expect("digest"));
        let count = digests.len();
        digests.sort();
        digests.dedup();
        assert_eq!(digests.len(), count);
    }
}
