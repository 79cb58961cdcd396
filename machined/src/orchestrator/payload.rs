//! What the image says of the orchestrator that it carries: `orchestrator.json`.

use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Component, Path, PathBuf},
};

/// Where the image has it.
pub(crate) const DIRECTORY: &str = "/usr/lib/orchestrator";

/// The version of the manifest that is understood here.
const FORMAT: u32 = 1;

/// An orchestrator in the image.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Payload {
    format_version: u32,
    /// Its name, as the config says it; also the name of its service.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The program, run with `server` or `agent`.
    pub exec: PathBuf,
    /// The directories of its programs.
    pub path: Vec<PathBuf>,
    /// Its environment beside PATH.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Where it keeps what it knows.
    pub data_dir: PathBuf,
    /// The config file that it reads.
    pub config: PathBuf,
    /// The kubeconfig that it writes.
    pub kubeconfig: PathBuf,
    /// Where its container runtime listens.
    #[serde(default = "container_runtime")]
    pub container_runtime: PathBuf,
    /// What of the image must show up elsewhere.
    #[serde(default)]
    pub binds: Vec<Bind>,
    /// The directories that must be there before it starts.
    #[serde(default)]
    pub directories: Vec<PathBuf>,
}

/// Where K3s and what stands in for it have their containerd.
fn container_runtime() -> PathBuf {
    "/run/k3s/containerd/containerd.sock".into()
}

/// A directory of the image that shows up elsewhere, read-only.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Bind {
    /// Where it is.
    pub from: PathBuf,
    /// Where it shows up.
    pub to: PathBuf,
}

/// Why the payload cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PayloadError {
    /// It is there, but cannot be read.
    #[error("reading {path}: {cause}")]
    Read {
        /// The manifest.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// It makes no sense.
    #[error("{path}: {why}")]
    Form {
        /// The manifest.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

impl Payload {
    /// Reads the manifest in a directory; `None` if the image carries no orchestrator.
    /// Paths in it are absolute afterwards.
    pub(crate) fn read(directory: &Path) -> Result<Option<Self>, PayloadError> {
        let path = directory.join("orchestrator.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(PayloadError::Read { path, cause }),
        };
        parse(directory, &text)
            .map(Some)
            .map_err(|why| PayloadError::Form { path, why })
    }
}

fn parse(directory: &Path, text: &[u8]) -> Result<Payload, String> {
    let mut payload: Payload = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    if payload.format_version != FORMAT {
        return Err(format!(
            "its format is {}, this version reads {FORMAT}",
            payload.format_version
        ));
    }
    let name = payload.name.as_bytes();
    if name.is_empty()
        || name.len() > 32
        || !name
            .iter()
            .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    {
        return Err(format!("{:?} cannot be a service's name", payload.name));
    }
    if matches!(payload.name.as_str(), "machined" | "apid" | "init") {
        return Err(format!("{} is the name of another service", payload.name));
    }
    let inside = payload
        .path
        .iter_mut()
        .chain(payload.binds.iter_mut().map(|bind| &mut bind.from));
    for path in inside.chain([&mut payload.exec]) {
        if !path
            .components()
            .all(|part| matches!(part, Component::Normal(_)))
        {
            return Err(format!(
                "{} is not a path inside the payload",
                path.display()
            ));
        }
        *path = directory.join(&path);
    }
    let outside = payload
        .binds
        .iter()
        .map(|bind| &bind.to)
        .chain(&payload.directories);
    let own = [
        &payload.data_dir,
        &payload.config,
        &payload.kubeconfig,
        &payload.container_runtime,
    ];
    for path in outside.chain(own) {
        if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
            return Err(format!("{} is not an absolute path", path.display()));
        }
    }
    Ok(payload)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const MANIFEST: &str = r#"{"formatVersion":1,"name":"kubernetes-standin","version":"v1.20.2",
        "exec":"bin/kubernetes-standin","path":["bin"],
        "env":{"LD_LIBRARY_PATH":"/usr/lib/orchestrator/lib"},"dataDir":"/var/lib/rancher/k3s",
        "config":"/etc/rancher/k3s/config.yaml","kubeconfig":"/etc/rancher/k3s/k3s.yaml",
        "binds":[{"from":"data/abc","to":"/var/lib/rancher/k3s/data/abc"}],
        "directories":["/var/lib/rancher/k3s/data/cni"]}"#;

    /// A payload as an image has it.
    pub(in crate::orchestrator) fn payload() -> Payload {
        parse(Path::new(DIRECTORY), MANIFEST.as_bytes()).unwrap()
    }

    #[test]
    fn a_manifest_with_its_paths_made_absolute() {
        let payload = payload();
        assert_eq!(
            payload.exec,
            Path::new("/usr/lib/orchestrator/bin/kubernetes-standin")
        );
        assert_eq!(payload.path, [Path::new("/usr/lib/orchestrator/bin")]);
        assert_eq!(
            payload.binds[0].from,
            Path::new("/usr/lib/orchestrator/data/abc")
        );
        assert_eq!(
            payload.binds[0].to,
            Path::new("/var/lib/rancher/k3s/data/abc")
        );
        assert_eq!(
            payload.container_runtime,
            Path::new("/run/k3s/containerd/containerd.sock")
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let cases = [
            (
                "a newer format",
                r#""formatVersion":1"#,
                r#""formatVersion":2"#,
                "its format is 2",
            ),
            (
                "a name with a slash",
                r#""kubernetes-standin","version""#,
                r#""a/b","version""#,
                "service's name",
            ),
            (
                "our own name",
                r#""name":"kubernetes-standin""#,
                r#""name":"apid""#,
                "another service",
            ),
            (
                "out of the payload",
                "data/abc\",",
                "../../../etc\",",
                "not a path inside",
            ),
            (
                "an absolute program",
                r#""bin/kubernetes-standin""#,
                r#""/bin/sh""#,
                "not a path inside",
            ),
            (
                "a relative data directory",
                "/var/lib/rancher/k3s\",",
                "k3s\",",
                "not an absolute path",
            ),
            (
                "a relative socket",
                r#""binds""#,
                r#""containerRuntime":"x.sock","binds""#,
                "not an absolute path",
            ),
            (
                "an unknown key",
                r#""exec""#,
                r#""shell":true,"exec""#,
                "unknown field",
            ),
        ];
        for (name, from, to, wanted) in cases {
            assert!(MANIFEST.contains(from), "{name}");
            let error = parse(
                Path::new(DIRECTORY),
                MANIFEST.replacen(from, to, 1).as_bytes(),
            )
            .unwrap_err();
            assert!(error.contains(wanted), "{name}: {error}");
        }
    }

    #[test]
    fn an_image_without_one() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Payload::read(dir.path()).unwrap(), None);
        fs::write(dir.path().join("orchestrator.json"), "{").unwrap();
        assert!(matches!(
            Payload::read(dir.path()),
            Err(PayloadError::Form { .. })
        ));
    }
}
