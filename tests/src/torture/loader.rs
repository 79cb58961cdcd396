//! Which entry systemd-boot 257 starts: its names, its order, its counters (the UAPI group's "Boot
//! Loader Specification" and "Version Format Specification"; systemd-boot(7)). Only what depends on the
//! disk is here: variables of the firmware may override the order, and none of ours does.

use std::cmp::Ordering;

/// What a loader knows of a UKI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The file's name as it is now.
    pub file: String,
    /// The counters in the name, if there are.
    pub tries: Option<Tries>,
    /// What groups entries: the system's ID.
    pub sort_key: Option<String>,
    /// The version in the UKI.
    pub version: String,
}

/// Counters in a file's name: `+LEFT-DONE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tries {
    /// So many more starts.
    pub left: u32,
    /// So many starts so far.
    pub done: u32,
}

impl Entry {
    /// An entry for a file with this content of its `.osrel`; nothing where that names no system,
    /// which the loader then does not show.
    pub fn new(file: &str, os_release: &str) -> Option<Entry> {
        let value = |key: &str| {
            let lines = os_release.lines().map(str::trim);
            // Of a key that is there twice, the last one counts.
            lines
                .filter(|line| !line.starts_with('#'))
                .filter_map(|line| line.split_once('='))
                .filter(|(name, _)| name.trim() == key)
                .map(|(_, value)| unquoted(value.trim()))
                .next_back()
        };
        let any = |keys: &[&str]| keys.iter().find_map(|key| value(key));
        any(&["PRETTY_NAME", "IMAGE_ID", "NAME", "ID"])?;
        Some(Entry {
            file: file.to_string(),
            tries: counters(file).map(|(_, tries)| tries),
            sort_key: any(&["IMAGE_ID", "ID"]),
            version: any(&["IMAGE_VERSION", "VERSION", "VERSION_ID", "BUILD_ID"])
                .unwrap_or_default(),
        })
    }

    /// Counts a start, as the loader does before it starts an entry. An entry without counters
    /// keeps its name.
    pub fn count(&mut self) {
        if let Some((stem, tries)) = counters(&self.file) {
            let tries = Tries {
                left: tries.left.saturating_sub(1),
                done: tries.done.saturating_add(1),
            };
            self.file = format!("{stem}+{}-{}.efi", tries.left, tries.done);
            self.tries = Some(tries);
        }
    }

    /// The name without counters, which a loader knows the entry by.
    fn id(&self) -> String {
        let name = match counters(&self.file) {
            Some((stem, _)) => format!("{stem}.efi"),
            None => self.file.clone(),
        };
        name.to_lowercase()
    }
}

/// Whether the loader looks at a file in `EFI/Linux` at all.
pub fn is_shown(file: &str) -> bool {
    let name = file.to_ascii_lowercase();
    name.ends_with(".efi") && !name.starts_with('.') && !name.starts_with("auto-")
}

/// The name before its counters, and these.
pub fn counters(file: &str) -> Option<(&str, Tries)> {
    let end = file.len().checked_sub(4)?;
    let suffix = file.get(end..)?;
    if !suffix.eq_ignore_ascii_case(".efi") {
        return None;
    }
    let (stem, counters) = file[..end].rsplit_once('+')?;
    let (left, done) = match counters.split_once('-') {
        Some((left, done)) => (number(left)?, number(done)?),
        None => (number(counters)?, 0),
    };
    Some((stem, Tries { left, done }))
}

fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let number = text.parse().ok().filter(|n| *n <= i32::MAX as u32);
    number.filter(|_| digits)
}

/// The order of the menu; the first entry is the one that starts.
pub fn order(a: &Entry, b: &Entry) -> Ordering {
    let exhausted = |entry: &Entry| entry.tries.is_some_and(|tries| tries.left == 0);
    let newest = |a: &str, b: &str| compare_versions(b, a);
    exhausted(a)
        .cmp(&exhausted(b))
        .then(a.sort_key.is_none().cmp(&b.sort_key.is_none()))
        .then_with(|| match (&a.sort_key, &b.sort_key) {
            (Some(x), Some(y)) => x.cmp(y).then_with(|| newest(&a.version, &b.version)),
            _ => Ordering::Equal,
        })
        .then_with(|| newest(&a.id(), &b.id()))
        .then_with(|| match (a.tries, b.tries) {
            (Some(x), Some(y)) => y.left.cmp(&x.left).then(x.done.cmp(&y.done)),
            _ => Ordering::Equal,
        })
}

/// Compares two versions: segment by segment, digits as numbers, `~` before everything, and what
/// is longer is newer.
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    let known = |c: &u8| c.is_ascii_alphanumeric() || b"~-^.".contains(c);
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        a = &a[a.iter().take_while(|c| !known(c)).count()..];
        b = &b[b.iter().take_while(|c| !known(c)).count()..];
        if let Some(older) = step(&mut a, &mut b, b'~') {
            return older;
        }
        if a.is_empty() || b.is_empty() {
            return b.is_empty().cmp(&a.is_empty());
        }
        for separator in *b"-^." {
            if let Some(older) = step(&mut a, &mut b, separator) {
                return older;
            }
        }
        let digit = |s: &[u8]| s.first().is_some_and(u8::is_ascii_digit);
        let digits = digit(a) || digit(b);
        let length = |s: &[u8]| match digits {
            true => s.iter().take_while(|c| c.is_ascii_digit()).count(),
            false => s.iter().take_while(|c| c.is_ascii_alphabetic()).count(),
        };
        let (x, rest_a) = a.split_at(length(a));
        let (y, rest_b) = b.split_at(length(b));
        let segment = match digits {
            true => {
                let value = |s: &[u8]| {
                    let zeros = s.iter().take_while(|c| **c == b'0').count();
                    s[zeros..].to_vec()
                };
                let (m, n) = (value(x), value(y));
                // A number is newer than letters.
                let there = (!x.is_empty()).cmp(&!y.is_empty());
                there.then(m.len().cmp(&n.len())).then(m.cmp(&n))
            }
            false => x.cmp(y),
        };
        if segment != Ordering::Equal {
            return segment;
        }
        (a, b) = (rest_a, rest_b);
    }
}

/// Takes a separator off both; what has it alone is older, and that is the answer.
fn step(a: &mut &[u8], b: &mut &[u8], separator: u8) -> Option<Ordering> {
    let has = |s: &[u8]| s.first() == Some(&separator);
    match (has(a), has(b)) {
        (true, true) => {
            (*a, *b) = (&a[1..], &b[1..]);
            None
        }
        (false, false) => None,
        (x, y) => Some(y.cmp(&x)),
    }
}

fn unquoted(value: &str) -> String {
    let inner = ['"', '\'']
        .iter()
        .find_map(|quote| value.strip_prefix(*quote)?.strip_suffix(*quote));
    inner.unwrap_or(value).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn counters_are_read_and_counted() {
        for (name, want) in [
            ("k.efi", None),
            ("k+3.efi", Some((3, 0))),
            ("k+2-1.EFI", Some((2, 1))),
            ("k+a+0-3.efi", Some((0, 3))),
            ("k+3", None),
            ("k+.efi", None),
            ("k+3-.efi", None),
            ("k+3x.efi", None),
            ("k+99999999999.efi", None),
            ("KEELSO~1.EFI", None),
            ("ä.efi", None),
            ("efi", None),
        ] {
            let found = counters(name).map(|(_, tries)| (tries.left, tries.done));
            assert_eq!(found, want, "{name}");
        }
        let mut entry = Entry::new("k+2.efi", "ID=k").unwrap();
        let mut names = Vec::new();
        for _ in 0..3 {
            entry.count();
            names.push(entry.file.clone());
        }
        assert_eq!(names, ["k+1-1.efi", "k+0-2.efi", "k+0-3.efi"]);
    }

    #[test]
    fn only_programs_are_shown() {
        for (name, shown) in [
            ("a.efi", true),
            ("A.EFI", true),
            (".a.efi", false),
            ("auto-a.efi", false),
            ("a.efi.tmp", false),
        ] {
            assert_eq!(is_shown(name), shown, "{name}");
        }
    }

    #[test]
    fn versions_have_their_order() {
        // From the specification, oldest first.
        let sorted = [
            "122.1",
            "123~rc1-1",
            "123",
            "123-a",
            "123-a.1",
            "123-1",
            "123-1.1",
            "123^post1",
            "123.a-1",
            "123.1-1",
            "123a-1",
            "124-1",
        ];
        for (n, a) in sorted.iter().enumerate() {
            for (m, b) in sorted.iter().enumerate() {
                assert_eq!(compare_versions(a, b), n.cmp(&m), "{a} {b}");
            }
        }
        for (a, b) in [
            ("1.10.0", "1.9.0"),
            ("0.2.0", "0.1.9"),
            ("1.0.0", "1.0.0-rc.1~1"),
        ] {
            let newer = compare_versions(a, b);
            assert_eq!(newer == Ordering::Greater, a != "1.0.0", "{a} {b}");
        }
        assert_eq!(compare_versions("00123", "123"), Ordering::Equal);
    }

    #[test]
    fn the_newest_that_has_tries_left_starts() {
        let first = |files: &[(&str, &str)]| {
            let release = |v: &str| format!("ID=keelson\nVERSION_ID=\"{v}\"\n");
            let mut entries: Vec<Entry> = files
                .iter()
                .map(|(file, version)| Entry::new(file, &release(version)).unwrap())
                .collect();
            entries.sort_by(order);
            entries[0].file.clone()
        };
        for (files, want) in [
            ([("k-1.efi", "1"), ("k-2+3.efi", "2")], "k-2+3.efi"),
            ([("k-1.efi", "1"), ("k-2+0-3.efi", "2")], "k-1.efi"),
            ([("k-9.efi", "9"), ("k-10.efi", "10")], "k-10.efi"),
            ([("k-1+0-1.efi", "1"), ("k-2+0-3.efi", "2")], "k-2+0-3.efi"),
            ([("a.efi", "1"), ("b.efi", "1")], "b.efi"),
            ([("a+1.efi", "1"), ("a+2.efi", "1")], "a+2.efi"),
        ] {
            assert_eq!(first(&files), want);
        }
        assert_eq!(Entry::new("a.efi", "VERSION_ID=1"), None);
    }

    proptest! {
        #[test]
        fn versions_are_in_one_order(
            a in "[0-9a-c.~^-]{0,8}", b in "[0-9a-c.~^-]{0,8}", any in any::<String>(),
        ) {
            prop_assert_eq!(compare_versions(&a, &b), compare_versions(&b, &a).reverse());
            prop_assert_eq!(compare_versions(&any, &any), Ordering::Equal);
            counters(&any);
            Entry::new(&any, &any);
        }
    }
}
