//! A version of Keelson: how it is written, and which of two is the newer.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The longest version: it ends in file names on the ESP and in the boot menu.
const MAX_BYTES: usize = 64;

/// A version such as `0.1.0` or `1.2.0-rc.1`, ordered as <https://semver.org> says: a release
/// candidate is older than its release.
///
/// Build metadata (`1.2.0+5`) is refused: it has no order, and the boot loader takes the plus
/// sign in a file name for its count of tries.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version(semver::Version);

/// Why a text is no version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a version such as 1.2.0 or 1.2.0-rc.1: {problem}")]
pub struct Error {
    text: String,
    problem: String,
}

impl Version {
    /// `0.0.0`: as a floor, it lets every version pass.
    pub const LOWEST: Version = Version(semver::Version::new(0, 0, 0));

    /// The version as the boot loader must read it to order it likewise: to it what follows a
    /// hyphen is newer, what follows a tilde older (UAPI group: Version Format Specification).
    pub fn loader(&self) -> String {
        self.to_string().replacen('-', "~", 1)
    }
}

impl FromStr for Version {
    type Err = Error;

    fn from_str(text: &str) -> Result<Version, Error> {
        let refuse = |problem: String| {
            Err(Error {
                text: text.chars().take(MAX_BYTES).collect(),
                problem,
            })
        };
        if text.len() > MAX_BYTES {
            return refuse(format!("it is longer than {MAX_BYTES} letters"));
        }
        match semver::Version::parse(text) {
            Ok(version) if version.build.is_empty() => Ok(Version(version)),
            Ok(_) => refuse("build metadata after a + cannot be ordered".to_string()),
            Err(error) => refuse(error.to_string()),
        }
    }
}

impl TryFrom<String> for Version {
    type Error = Error;

    fn try_from(text: String) -> Result<Version, Error> {
        text.parse()
    }
}

impl From<Version> for String {
    fn from(version: Version) -> String {
        version.to_string()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn versions_are_ordered() {
        let ordered = [
            "0.0.0",
            "0.1.0",
            "0.2.0-rc.1",
            "0.2.0-rc.2",
            "0.2.0-rc.10",
            "0.2.0",
            "0.10.0",
            "1.0.0-alpha",
            "1.0.0",
        ];
        let versions: Vec<Version> = ordered.iter().map(|text| text.parse().unwrap()).collect();
        assert!(versions.is_sorted());
        assert_eq!(versions[0], Version::LOWEST);
        for (text, version) in ordered.iter().zip(&versions) {
            assert_eq!(version.to_string(), *text);
        }
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for text in [
            "", "1", "1.2", "v1.2.3", "1.2.3+4", "01.2.3", "1.2.3-", "1.2.3/x", " 1.2.3",
        ] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
        let long = format!("1.2.3-{}", "a".repeat(MAX_BYTES));
        assert!(long.parse::<Version>().is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text: String) {
            text.parse::<Version>().ok();
        }
    }
}
