//! The `keelson.*` words of the kernel command line. The UKI carries them; init reads them.
//!
//! ```text
//! keelson.root=<64 hex: root hash> keelson.verity=<data blocks>,<64 hex: salt> [keelson.debug]
//! [keelson.watchdog=off]
//! ```
//!
//! Every other word belongs to someone else and is passed over. A word of ours that is there
//! twice is an error: something that was appended must not replace what was signed.

use std::fmt;

use crate::verity::{self, RootSpec};

const ROOT: &str = "keelson.root";
const VERITY: &str = "keelson.verity";
const DEBUG: &str = "keelson.debug";
const WATCHDOG: &str = "keelson.watchdog";

/// What the command line asks of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The root image to open.
    pub root: RootSpec,
    /// Say more on the console and in the logs.
    pub debug: bool,
    /// Watch over the machine. Switched off only to look into one that hangs.
    pub watchdog: bool,
}

/// What is wrong with a command line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A word that must be there is not.
    #[error("the kernel command line has no {0}=")]
    Missing(&'static str),
    /// A word is there more than once.
    #[error("the kernel command line has {0} more than once")]
    Twice(&'static str),
    /// A word's value cannot be read.
    #[error("the kernel command line's {0} is not {1}")]
    Invalid(&'static str, &'static str),
}

impl Options {
    /// Reads a command line as /proc/cmdline shows it.
    pub fn parse(text: &str) -> Result<Options, Error> {
        let hash = value(text, ROOT)?.ok_or(Error::Missing(ROOT))?;
        let tree = value(text, VERITY)?.ok_or(Error::Missing(VERITY))?;
        let root_hash =
            verity::parse_hash(hash).ok_or(Error::Invalid(ROOT, "a root hash of 64 hex digits"))?;
        let (data_blocks, salt) = parse_tree(tree).ok_or(Error::Invalid(
            VERITY,
            "<data blocks>,<salt of 64 hex digits>",
        ))?;
        Ok(Options {
            root: RootSpec {
                root_hash,
                data_blocks,
                salt,
            },
            debug: debug(text),
            watchdog: watchdog(text),
        })
    }
}

/// Whether the machine is watched over: unless `keelson.watchdog=off` is there.
pub fn watchdog(text: &str) -> bool {
    !words(text).any(|word| word.split_once('=') == Some((WATCHDOG, "off")))
}

/// Whether `keelson.debug` is there; for programs that want only that.
pub fn debug(text: &str) -> bool {
    words(text).any(|word| word == DEBUG || word == "keelson.debug=1")
}

/// The words, without a leading or trailing space; [`Options::parse`] reads them back.
impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let root = verity::hex(&self.root.root_hash);
        let salt = verity::hex(&self.root.salt);
        write!(f, "{ROOT}={root} {VERITY}={},{salt}", self.root.data_blocks)?;
        if self.debug {
            write!(f, " {DEBUG}")?;
        }
        if !self.watchdog {
            write!(f, " {WATCHDOG}=off")?;
        }
        Ok(())
    }
}

fn parse_tree(text: &str) -> Option<(u64, [u8; 32])> {
    let (blocks, salt) = text.split_once(',')?;
    // The standard parser takes a plus sign; we write none, so we read none.
    if !blocks.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let blocks = blocks.parse().ok().filter(|blocks| *blocks > 0)?;
    Some((blocks, verity::parse_hash(salt)?))
}

/// The value of the one word `key=value`.
fn value<'a>(text: &'a str, key: &'static str) -> Result<Option<&'a str>, Error> {
    let mut found = words(text).filter_map(|word| match word.split_once('=') {
        Some((name, value)) if name == key => Some(value),
        _ => None,
    });
    match (found.next(), found.next()) {
        (value, None) => Ok(value),
        _ => Err(Error::Twice(key)),
    }
}

/// Splits as the kernel does: at white space, but not inside double quotes.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    text.split(move |c: char| {
        quoted ^= c == '"';
        c.is_ascii_whitespace() && !quoted
    })
    .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(rest: &str) -> String {
        format!(
            "keelson.root={} keelson.verity=77,{} {rest}",
            "ab".repeat(32),
            "cd".repeat(32)
        )
    }

    #[test]
    fn reads_ours_among_the_words_of_others() {
        let text = format!(
            "console=ttyS0 quiet foo=\"a keelson.root=1\" {}",
            line("x -- y")
        );
        let options = Options::parse(&text).unwrap();
        assert_eq!(options.root.root_hash, [0xab; 32]);
        assert_eq!(options.root.salt, [0xcd; 32]);
        assert_eq!(options.root.data_blocks, 77);
        assert!(!options.debug);
        assert!(Options::parse(&line("keelson.debug\n")).unwrap().debug);
        assert!(!debug("keelson.debugger keelson.debug=0"));
        assert!(options.watchdog);
        assert!(
            !Options::parse(&line("keelson.watchdog=off"))
                .unwrap()
                .watchdog
        );
        assert!(watchdog("keelson.watchdog keelson.watchdog=on"));
    }

    #[test]
    fn says_what_is_wrong() {
        let invalid = |key, what| Err(Error::Invalid(key, what));
        let tree = "<data blocks>,<salt of 64 hex digits>";
        let hash = "ab".repeat(32);
        for (text, want) in [
            ("quiet".into(), Err(Error::Missing(ROOT))),
            (format!("{ROOT}={hash}"), Err(Error::Missing(VERITY))),
            (line("keelson.root=00"), Err(Error::Twice(ROOT))),
            (line("keelson.verity="), Err(Error::Twice(VERITY))),
            (
                format!("{ROOT}=abc {VERITY}=1,{hash}"),
                invalid(ROOT, "a root hash of 64 hex digits"),
            ),
            (format!("{ROOT}={hash} {VERITY}=1"), invalid(VERITY, tree)),
            (
                format!("{ROOT}={hash} {VERITY}=0,{hash}"),
                invalid(VERITY, tree),
            ),
            (
                format!("{ROOT}={hash} {VERITY}=+1,{hash}"),
                invalid(VERITY, tree),
            ),
            (
                format!("{ROOT}={hash} {VERITY}=,{hash}"),
                invalid(VERITY, tree),
            ),
            (
                format!("{ROOT}={hash} {VERITY}=1,00"),
                invalid(VERITY, tree),
            ),
            (
                format!("{ROOT}={hash} {VERITY}=99999999999999999999,{hash}"),
                invalid(VERITY, tree),
            ),
        ] {
            assert_eq!(Options::parse(&text), want, "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in any::<String>(), junk in "[keelson.rotvy=\", 0-9a-f-]{0,200}") {
            Options::parse(&text).ok();
            Options::parse(&junk).ok();
            Options::parse(&line(&junk)).ok();
        }

        #[test]
        fn what_was_written_is_read_back(
            root_hash: [u8; 32], salt: [u8; 32], data_blocks in 1u64..,
            debug: bool, watchdog: bool,
            before in "[a-z =.]{0,40}", after in "[a-z =.]{0,40}",
        ) {
            let options = Options { root: RootSpec { root_hash, data_blocks, salt }, debug, watchdog };
            let text = format!("{before} {options} {after}");
            prop_assert_eq!(Options::parse(&text), Ok(options));
        }
    }
}
