//! What this machine and its image are: read once at start, never changed.

use serde::Deserialize;
use std::{collections::BTreeSet, fs, path::Path};

/// The certificates of the CAs that the image trusts, PEM.
pub(crate) const CAS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What this machine and its image are.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Facts {
    /// What the image says of itself.
    pub release: Release,
    /// What the initramfs left.
    pub boot: Boot,
    /// The running kernel's release, as `uname -r` prints it.
    pub kernel: String,
    /// The running root's verity hash, 64 hexadecimal digits; empty where it is not verified.
    pub root_hash: String,
    /// What tells this boot from others, as /proc/sys/kernel/random/boot_id has it;
    /// empty where it cannot be read, and then no boot is the same as another.
    pub boot_id: String,
}

/// `/usr/lib/keelson/release.json`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Release {
    /// The version of Keelson.
    pub version: String,
    /// "amd64" or "arm64".
    pub arch: String,
    /// Which build of the image, for example "cloud".
    pub variant: String,
    /// When the image was built, in seconds since 1970: no clock is older.
    pub build_time: u64,
    /// The lowest version that may be installed once this one is good; empty for any.
    pub security_floor: String,
    /// The orchestrator in the image.
    pub orchestrator: Option<Carried>,
}

/// The orchestrator that an image carries.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Carried {
    /// Its name, as the config must say it.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// `/run/keelson/boot.json`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Boot {
    /// The disk that holds the running root: "/dev/vda".
    pub disk: String,
    /// The partition that holds it: "/dev/vda3".
    pub slot: String,
    /// Its verity root hash.
    pub root_hash: String,
    /// The modules that were loaded before there was a root.
    pub modules: BTreeSet<String>,
}

impl Facts {
    /// Reads what can be read. What cannot be is left empty and logged: a machine
    /// without these facts still runs.
    pub(crate) fn read() -> Self {
        let mut release: Release = read_json(Path::new("/usr/lib/keelson/release.json"));
        if release.version.is_empty() {
            release.version = env!("CARGO_PKG_VERSION").to_owned();
        }
        if release.arch.is_empty() {
            release.arch = architecture().to_owned();
        }
        let boot: Boot = read_json(Path::new("/run/keelson/boot.json"));
        let kernel = rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned();
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map(|text| text.trim().to_owned())
            .unwrap_or_default();
        Facts {
            boot_id,
            root_hash: boot.root_hash.clone(),
            release,
            boot,
            kernel,
        }
    }
}

fn read_json<T: for<'a> Deserialize<'a> + Default>(path: &Path) -> T {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) => {
            tracing::warn!("reading {}: {error}", path.display());
            return T::default();
        }
    };
    serde_json::from_slice(&text).unwrap_or_else(|error| {
        tracing::warn!("parsing {}: {error}", path.display());
        T::default()
    })
}

/// The CPU architecture in the words of the image.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_facts_as_the_builder_writes_them() {
        let release: Release = serde_json::from_str(
            r#"{"version":"0.1.0","arch":"amd64","variant":"cloud","buildTime":1790000000,
                "kernel":"6.12","orchestrator":{"name":"k3s","version":"v1.36.3","sha256":"00"},
                "securityFloor":"0.1.0"}"#,
        )
        .unwrap();
        assert_eq!(release.build_time, 1_790_000_000);
        assert_eq!(release.orchestrator.unwrap().name, "k3s");
        assert_eq!(release.security_floor, "0.1.0");
        let without: Release =
            serde_json::from_str(r#"{"version":"0.1.0","orchestrator":null}"#).unwrap();
        assert_eq!(without.orchestrator, None);
    }

    #[test]
    fn the_boot_record_as_the_initramfs_writes_it() {
        let boot: Boot = serde_json::from_str(
            r#"{"disk":"/dev/vda","slot":"/dev/vda3","rootHash":"ab","dm":"/dev/dm-0","modules":["erofs"]}"#,
        )
        .unwrap();
        assert_eq!(
            (boot.disk.as_str(), boot.root_hash.as_str()),
            ("/dev/vda", "ab")
        );
        assert!(boot.modules.contains("erofs"));
    }
}
