//! Path patterns: `*` for a part of one name, `**` as a whole name for any number of folders.
//! Pure; paths are without a leading slash.

/// True if `path` has the form of `pattern`.
pub(crate) fn matches(pattern: &str, path: &str) -> bool {
    let pattern: Vec<&str> = pattern.split('/').collect();
    let path: Vec<&str> = path.split('/').collect();
    folders(&pattern, &path)
}

fn folders(pattern: &[&str], path: &[&str]) -> bool {
    match pattern.split_first() {
        None => path.is_empty(),
        Some((&"**", rest)) => (0..=path.len()).any(|skip| folders(rest, &path[skip..])),
        Some((first, rest)) => match path.split_first() {
            Some((name, others)) => name_matches(first, name) && folders(rest, others),
            None => false,
        },
    }
}

/// True if one name has the form of one pattern: the literal parts in order, the first at the
/// start, the last at the end.
pub(crate) fn name_matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, path, want) in [
            ("etc/passwd", "etc/passwd", true),
            ("etc/passwd", "etc/passwd-", false),
            ("etc/*", "etc/hosts", true),
            ("etc/*", "etc/ssl/certs", false),
            (
                "usr/lib/*-linux-gnu/*.so*",
                "usr/lib/x86_64-linux-gnu/libc.so.6",
                true,
            ),
            (
                "usr/lib/*-linux-gnu/*.so*",
                "usr/lib/x86_64-linux-gnu/xtables/a.so",
                false,
            ),
            ("run/**", "run", true),
            ("run/**", "run/etc/hosts", true),
            ("**/bin/*", "a/b/bin/c", true),
            ("**/bin/*", "a/b/bin", false),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXc", false),
            ("a*a", "a", false),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, path), want, "{pattern} {path}");
        }
    }
}
