//! Where symbolic links lead, inside a tree that is not the running root. Links are followed as
//! the kernel would with the tree as `/`, never out of it.

use std::fs;
use std::path::Path;

/// How many links may lie on one path, as in the kernel.
const MOST_LINKS: usize = 40;

/// The path that `target` means as written in a link at `path`; both without a leading slash,
/// `..` taken away without asking the disk.
pub(crate) fn join(path: &str, target: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    if !target.starts_with('/') {
        names.extend(path.split('/').filter(|name| !name.is_empty()));
        names.pop();
    }
    for name in target.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    names.join("/")
}

/// Where a path ends once every link on it is followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// At something that is there.
    Found(String),
    /// At something that is not there.
    Missing(String),
    /// Nowhere: the links go in circles.
    Circle,
}

/// Follows `path` inside the tree at `root`.
pub(crate) fn follow(root: &Path, path: &str) -> End {
    let mut rest: Vec<String> = split(path);
    let mut done: Vec<String> = Vec::new();
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name == ".." {
            done.pop();
            continue;
        }
        done.push(name);
        let at = done.join("/");
        let Ok(meta) = root.join(&at).symlink_metadata() else {
            rest.reverse();
            done.extend(rest);
            return End::Missing(done.join("/"));
        };
        if !meta.file_type().is_symlink() {
            continue;
        }
        links += 1;
        if links > MOST_LINKS {
            return End::Circle;
        }
        let Ok(target) = fs::read_link(root.join(&at)) else {
            return End::Missing(at);
        };
        let target = target.to_string_lossy();
        if target.starts_with('/') {
            done.clear();
        } else {
            done.pop();
        }
        rest.extend(split(&target));
    }
    End::Found(done.join("/"))
}

/// The names of a path, last first.
fn split(path: &str) -> Vec<String> {
    path.split('/')
        .rev()
        .filter(|name| !name.is_empty() && *name != ".")
        .map(String::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_as_written() {
        for (path, target, want) in [
            ("usr/lib64/ld.so", "../lib/x/ld.so", "usr/lib/x/ld.so"),
            ("bin", "usr/bin", "usr/bin"),
            ("etc/hosts", "/run/etc/hosts", "run/etc/hosts"),
            ("a", "../../../b", "b"),
        ] {
            assert_eq!(join(path, target), want);
        }
    }

    #[test]
    fn links_are_followed_inside_the_tree() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let root = folder.path();
        fs::create_dir_all(root.join("usr/bin")).expect("folder");
        fs::write(root.join("usr/bin/init"), "x").expect("file");
        symlink("usr/bin", root.join("bin")).expect("link");
        symlink("/bin/init", root.join("start")).expect("link");
        symlink("../../../etc", root.join("usr/out")).expect("link");
        symlink("loop", root.join("loop")).expect("link");
        let found = |path: &str| End::Found(path.to_string());
        let missing = |path: &str| End::Missing(path.to_string());
        assert_eq!(follow(root, "start"), found("usr/bin/init"));
        assert_eq!(follow(root, "bin/init"), found("usr/bin/init"));
        assert_eq!(follow(root, "usr/out"), missing("etc"));
        assert_eq!(follow(root, "bin/none/x"), missing("usr/bin/none/x"));
        assert_eq!(follow(root, "loop"), End::Circle);
    }
}
