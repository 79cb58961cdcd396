//! The lock: what was resolved for one image, written beside it. A record, not an input: Debian's
//! mirrors keep only the newest version of a package, so a build always takes what the signed
//! lists name today, and says here what that was.

use serde::{Deserialize, Serialize};

use super::Package;
use crate::arch::Arch;

/// The lock's file name beside the image.
pub const FILE_NAME: &str = "packages.lock.json";

/// What was resolved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Lock {
    /// The version of this format.
    pub format_version: u32,
    /// Debian's release.
    pub release: String,
    /// The architecture of the image.
    pub architecture: Arch,
    /// Every package of which something is in the image, or that made the image; by name.
    pub packages: Vec<Package>,
}

impl Lock {
    /// The lock of these packages, sorted by name.
    pub fn new(release: &str, architecture: Arch, packages: &[Package]) -> Lock {
        let mut packages: Vec<Package> = packages
            .iter()
            .map(|package| Package {
                depends: String::new(),
                ..package.clone()
            })
            .collect();
        packages.sort_by(|a, b| a.name.cmp(&b.name));
        packages.dedup();
        Lock {
            format_version: 1,
            release: release.to_string(),
            architecture,
            packages,
        }
    }

    /// The text of the lock: JSON, the same for the same packages.
    pub fn text(&self) -> serde_json::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str) -> Package {
        Package {
            name: name.to_string(),
            version: version.to_string(),
            architecture: "amd64".to_string(),
            sha256: "00ff".to_string(),
            filename: format!("pool/main/{name}_{version}_amd64.deb"),
            depends: "libc6".to_string(),
        }
    }

    #[test]
    fn the_format_stays() {
        let packages = [
            package("mount", "2.41.5-0+deb13u1"),
            package("conntrack", "1:1.4.8-2"),
            package("mount", "2.41.5-0+deb13u1"),
        ];
        let text = Lock::new("trixie", Arch::Amd64, &packages)
            .text()
            .expect("serialises");
        insta::assert_snapshot!(text);
        let read: Lock = serde_json::from_str(&text).expect("reads back");
        assert_eq!(read.packages.len(), 2);
    }
}
