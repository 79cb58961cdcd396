//! The tree of control groups (kernel: admin-guide/cgroup-v2). All paths are below a
//! root that is given, so that the tree can be tried out on a plain directory. It sets
//! no limits: those are machined's.

use rustix::fs::{Mode, OFlags};
use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// Where the tree is mounted.
pub const ROOT: &str = "/sys/fs/cgroup";

/// Where PID 1 sits; Kubernetes expects it there or in the root.
pub const OWN: &str = "init.scope";

/// The controllers that orchestrators ask for, if the kernel has them.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "memory", "pids", "io", "hugetlb"];

/// The groups that have members below them and no processes of their own.
const PARENTS: [&str; 2] = ["system", "orchestrator"];

/// The tree of control groups below one root.
#[derive(Clone, Debug)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The tree at this directory.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Makes the groups, moves this process into its own and hands the controllers
    /// down. A controller that cannot be handed down is returned with the reason.
    pub fn prepare(&self) -> io::Result<Vec<(String, io::Error)>> {
        for name in PARENTS.into_iter().chain([OWN]) {
            make(&self.root.join(name))?;
        }
        fs::write(self.root.join(OWN).join("cgroup.procs"), "0")?;
        let mut refused = vec![];
        for dir in [self.root.clone()]
            .into_iter()
            .chain(PARENTS.map(|name| self.root.join(name)))
        {
            let there = fs::read_to_string(dir.join("cgroup.controllers"))?;
            for name in wanted(&there) {
                if let Err(error) =
                    fs::write(dir.join("cgroup.subtree_control"), format!("+{name}"))
                {
                    refused.push((name.to_owned(), error));
                }
            }
        }
        Ok(refused)
    }

    /// Opens a group, made with its parents if it is missing.
    pub fn open(&self, path: &str) -> io::Result<OwnedFd> {
        let dir = self.root.join(path);
        fs::create_dir_all(&dir)?;
        Ok(rustix::fs::open(
            dir,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?)
    }

    /// Kills every process in a group and below it; one that is not there is fine.
    pub fn kill(&self, path: &str) -> io::Result<()> {
        match fs::write(self.root.join(path).join("cgroup.kill"), "1") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// The groups right below the root, but not this process's own.
    pub fn others(&self) -> io::Result<Vec<String>> {
        let mut names = vec![];
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            if entry.file_type()?.is_dir()
                && let Ok(name) = entry.file_name().into_string()
                && name != OWN
            {
                names.push(name);
            }
        }
        Ok(names)
    }
}

/// The controllers to hand down, of those that are there.
fn wanted(there: &str) -> Vec<&str> {
    there
        .split_whitespace()
        .filter(|name| CONTROLLERS.contains(name))
        .collect()
}

fn make(dir: &Path) -> io::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_made_and_controllers_are_handed_down() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        for name in ["", "system", "orchestrator"] {
            fs::create_dir_all(at(name)).unwrap();
            fs::write(
                at(name).join("cgroup.controllers"),
                "cpuset cpu rdma pids\n",
            )
            .unwrap();
        }
        let tree = Tree::new(dir.path());
        assert!(tree.prepare().unwrap().is_empty());
        assert_eq!(
            fs::read_to_string(at("init.scope/cgroup.procs")).unwrap(),
            "0"
        );
        // A plain file keeps the last word only.
        assert_eq!(
            fs::read_to_string(at("system/cgroup.subtree_control")).unwrap(),
            "+pids"
        );
        tree.open("orchestrator/main").unwrap();
        fs::write(at("orchestrator/main/cgroup.kill"), "").unwrap();
        tree.kill("orchestrator/main").unwrap();
        assert_eq!(
            fs::read_to_string(at("orchestrator/main/cgroup.kill")).unwrap(),
            "1"
        );
        tree.kill("orchestrator/none").unwrap();
        let mut others = tree.others().unwrap();
        others.sort();
        assert_eq!(others, ["orchestrator", "system"]);
    }

    #[test]
    fn only_known_controllers_are_wanted() {
        assert_eq!(
            wanted("cpuset cpu io memory hugetlb pids rdma misc\n"),
            ["cpuset", "cpu", "io", "memory", "hugetlb", "pids"]
        );
    }
}
