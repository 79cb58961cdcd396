//! Volumes for workloads, as wanted.

/// A file system on a partition of a disk that is not the system's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its name: a DNS label of at most 16 letters, so that it fits as an ext4's label.
    pub name: String,
    /// The disk that it is on.
    pub disk: DiskSelector,
    /// How large its partition is made, in bytes; `None` for all that is free in one piece.
    pub size: Option<u64>,
}

/// What a disk is told from others by; all that is given must be so, and something is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskSelector {
    /// What its maker calls it.
    pub model: Option<Pattern>,
    /// Its serial number.
    pub serial: Option<Pattern>,
    /// Its World Wide Identifier.
    pub wwid: Option<Pattern>,
    /// How it is connected: "nvme".
    pub transport: Option<&'static str>,
    /// How large it is.
    pub size: Option<SizeBound>,
}

/// A text in which `*` stands for any letters, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(pub String);

/// How large something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeBound {
    /// So many bytes or more.
    AtLeast(u64),
    /// So many bytes or fewer.
    AtMost(u64),
}

impl Pattern {
    /// Whether a text is so.
    pub fn matches(&self, text: &str) -> bool {
        let Some((first, rest)) = self.0.split_once('*') else {
            return self.0 == text;
        };
        let Some(mut text) = text.strip_prefix(first) else {
            return false;
        };
        let mut parts: Vec<&str> = rest.split('*').collect();
        let last = parts.pop().unwrap_or_default();
        for part in parts {
            match text.split_once(part) {
                Some((_, after)) => text = after,
                None => return false,
            }
        }
        text.ends_with(last)
    }
}

impl SizeBound {
    /// Whether so many bytes are within it.
    pub fn holds(self, bytes: u64) -> bool {
        match self {
            SizeBound::AtLeast(least) => bytes >= least,
            SizeBound::AtMost(most) => bytes <= most,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_letters_or_none() {
        for (pattern, text, want) in [
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("*", "", true),
            ("a*", "a", true),
            ("a*", "ba", false),
            ("*c", "abc", true),
            ("a*c", "abc", true),
            ("a*c", "ab", false),
            ("a*a", "a", false),
            ("a*b*c", "a-b-c", true),
            ("a*b*c", "acb", false),
            ("a**c", "ac", true),
        ] {
            assert_eq!(
                Pattern(pattern.into()).matches(text),
                want,
                "{pattern} {text}"
            );
        }
    }
}
