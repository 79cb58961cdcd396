//! The init protocol's messages (`keelson.init.v1`) turned into checked values, and
//! back. machined is trusted, but a mistake there must not become a mistake here: what
//! a request names is validated once, in this file.

use crate::clock::Ms;
use keelson_api::init as pb;
use keelson_sys::spawn::{Identity, Limit, LogFile};
use rustix::process::Resource;
use std::{
    ffi::CString,
    path::{Component, Path, PathBuf},
};
use thiserror::Error;

/// The most services that init knows at a time, so that a list fits into a datagram.
pub const MOST_SERVICES: usize = 64;

const LONGEST_NAME: usize = 32;
const LONGEST_PATH: usize = 200;

/// Why a request is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Refusal {
    /// The name is not one.
    #[error("{0:?} is no service name: lower-case letters, digits and '-', at most 32")]
    Name(String),
    /// The program is missing or relative.
    #[error("argv must begin with the program's absolute path")]
    Argv,
    /// A string holds a zero byte, or an environment name holds '='.
    #[error("{0} cannot be handed to a program")]
    Text(&'static str),
    /// The control group's path is not a plain one.
    #[error("{0:?} is no control group path")]
    Cgroup(String),
    /// The log file is outside of the log directories.
    #[error("the log file {0:?} is not below a log directory")]
    LogFile(String),
    /// The working directory is relative.
    #[error("the directory {0:?} is not absolute")]
    Directory(String),
    /// A number is out of its range.
    #[error("{0} is out of range")]
    Range(&'static str),
}

/// A service to start, checked.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its name.
    pub name: String,
    /// The program and its arguments.
    pub argv: Vec<CString>,
    /// The whole environment as `NAME=value`.
    pub env: Vec<CString>,
    /// The control group below the root.
    pub cgroup: String,
    /// Where its output goes, and the path as it was given.
    pub log: Option<(LogFile, String)>,
    /// Resource limits.
    pub limits: Vec<Limit>,
    /// oom_score_adj; 0 leaves it.
    pub oom_score_adj: i32,
    /// The user; nothing means root.
    pub identity: Option<Identity>,
    /// Without any privilege.
    pub unprivileged: bool,
    /// It gets a notify socket.
    pub notify: bool,
    /// The working directory.
    pub directory: CString,
}

impl Spec {
    /// Checks a Start. `log_roots` are the directories that may hold log files.
    pub fn check(start: pb::Start, log_roots: &[PathBuf]) -> Result<Self, Refusal> {
        if !is_name(&start.name) {
            return Err(Refusal::Name(start.name));
        }
        if !start
            .argv
            .first()
            .is_some_and(|program| program.starts_with('/'))
        {
            return Err(Refusal::Argv);
        }
        if !is_cgroup(&start.cgroup) {
            return Err(Refusal::Cgroup(start.cgroup));
        }
        let directory = if start.directory.is_empty() {
            "/".to_owned()
        } else {
            start.directory
        };
        if !directory.starts_with('/') {
            return Err(Refusal::Directory(directory));
        }
        let env = start.env.into_iter().map(|(name, value)| {
            match name.is_empty() || name.contains('=') {
                true => Err(Refusal::Text("a name in the environment")),
                false => text(format!("{name}={value}"), "the environment"),
            }
        });
        let limits = start.limits.unwrap_or_default();
        if !(-1000..=1000).contains(&limits.oom_score_adj) {
            return Err(Refusal::Range("oom_score_adj"));
        }
        Ok(Self {
            argv: start
                .argv
                .into_iter()
                .map(|word| text(word, "an argument"))
                .collect::<Result<_, _>>()?,
            env: env.collect::<Result<_, _>>()?,
            log: log_file(start.log_file, log_roots)?,
            oom_score_adj: limits.oom_score_adj,
            limits: check_limits(&limits),
            identity: match start.user {
                Some(user) if user.uid == u32::MAX || user.gid == u32::MAX => {
                    return Err(Refusal::Range("the user"));
                }
                user => user.map(|user| Identity {
                    uid: user.uid,
                    gid: user.gid,
                }),
            },
            unprivileged: start.sandbox.is_some_and(|sandbox| sandbox.unprivileged),
            notify: start.notify,
            directory: text(directory, "the directory")?,
            name: start.name,
            cgroup: start.cgroup,
        })
    }
}

/// A Stop, checked: signal, grace and whether the cgroup is killed.
pub fn check_stop(stop: &pb::Stop) -> Result<(i32, Ms, bool), Refusal> {
    let signal = match stop.signal {
        0 => 15,
        signal @ 1..=31 => signal.cast_signed(),
        _ => return Err(Refusal::Range("the signal")),
    };
    Ok((signal, stop.grace_ms.into(), stop.kill_cgroup))
}

fn text(value: String, what: &'static str) -> Result<CString, Refusal> {
    CString::new(value).map_err(|_| Refusal::Text(what))
}

fn is_name(name: &str) -> bool {
    (1..=LONGEST_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

/// Plain names between slashes, outside of PID 1's own group, none that the kernel
/// uses for its files.
fn is_cgroup(path: &str) -> bool {
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && !part.starts_with("cgroup.")
            && part
                .bytes()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'))
    };
    path.len() <= LONGEST_PATH
        && path.split('/').all(plain)
        && path.split('/').next() != Some(crate::cgroup::OWN)
}

fn log_file(path: String, roots: &[PathBuf]) -> Result<Option<(LogFile, String)>, Refusal> {
    if path.is_empty() {
        return Ok(None);
    }
    let refuse = || Refusal::LogFile(path.clone());
    if path.len() > LONGEST_PATH {
        return Err(refuse());
    }
    let (base, below) = roots
        .iter()
        .find_map(|root| Some((root, Path::new(&path).strip_prefix(root).ok()?)))
        .ok_or_else(refuse)?;
    let mut names = vec![];
    for part in below.components() {
        match part {
            Component::Normal(name) => {
                let name = name.to_str().ok_or_else(refuse)?;
                names.push(text(name.to_owned(), "the log file")?);
            }
            _ => return Err(refuse()),
        }
    }
    let name = names.pop().ok_or_else(refuse)?;
    let base = base.to_str().ok_or_else(refuse)?;
    let base = text(base.to_owned(), "the log directory")?;
    Ok(Some((
        LogFile {
            base,
            directories: names,
            name,
        },
        path,
    )))
}

fn check_limits(limits: &pb::Limits) -> Vec<Limit> {
    // The kernel refuses more descriptors than fs.nr_open, even to root.
    let most_files = std::fs::read_to_string("/proc/sys/fs/nr_open")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1_048_576);
    let limit = |resource, value: u64| Limit {
        resource,
        value: (value != u64::MAX).then_some(value),
    };
    [
        (
            limits.open_files,
            Limit {
                resource: Resource::Nofile,
                value: Some(limits.open_files.min(most_files)),
            },
        ),
        (limits.processes, limit(Resource::Nproc, limits.processes)),
        (limits.core_bytes, limit(Resource::Core, limits.core_bytes)),
    ]
    .into_iter()
    .filter_map(|(value, limit)| (value != 0).then_some(limit))
    .collect()
}

/// A message that holds this response.
pub fn response(id: u64, result: Result<Option<pb::response::Body>, String>) -> pb::Message {
    let (body, error) = match result {
        Ok(body) => (body, String::new()),
        Err(error) => (None, error),
    };
    pb::Message {
        body: Some(pb::message::Body::Response(pb::Response {
            id,
            error,
            body,
        })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn start() -> pb::Start {
        pb::Start {
            name: "orchestrator".into(),
            argv: vec!["/bin/true".into()],
            cgroup: "orchestrator/main".into(),
            log_file: "/var/log/keelson/orchestrator.log".into(),
            ..Default::default()
        }
    }

    fn check(start: pb::Start) -> Result<Spec, Refusal> {
        Spec::check(start, &["/var/log".into(), "/run/log".into()])
    }

    #[test]
    fn a_plain_start_is_taken() {
        let spec = check(start()).unwrap();
        let (log, path) = spec.log.unwrap();
        assert_eq!(
            (log.base.as_c_str(), log.name.as_c_str()),
            (c"/var/log", c"orchestrator.log")
        );
        assert_eq!(log.directories, [c"keelson".to_owned()]);
        assert_eq!(path, "/var/log/keelson/orchestrator.log");
        assert_eq!(spec.directory.as_c_str(), c"/");
        assert_eq!(spec.identity, None);
    }

    #[test]
    fn what_leads_astray_is_refused() {
        type Change = fn(&mut pb::Start);
        let cases: [(&str, Change); 16] = [
            ("no name", |s| s.name = String::new()),
            ("a path as name", |s| s.name = "../x".into()),
            ("a long name", |s| s.name = "x".repeat(33)),
            ("no program", |s| s.argv.clear()),
            ("a relative program", |s| s.argv = vec!["true".into()]),
            ("a zero byte", |s| s.argv.push("a\0b".into())),
            ("an environment name with =", |s| {
                s.env.insert("A=B".into(), "c".into());
            }),
            ("a cgroup that climbs", |s| {
                s.cgroup = "orchestrator/../init.scope".into()
            }),
            ("PID 1's cgroup", |s| s.cgroup = "init.scope/x".into()),
            ("no cgroup", |s| s.cgroup = String::new()),
            ("the kernel's own names", |s| {
                s.cgroup = "a/cgroup.procs".into()
            }),
            ("a log elsewhere", |s| s.log_file = "/etc/passwd".into()),
            ("a log that climbs", |s| {
                s.log_file = "/var/log/../passwd".into()
            }),
            ("a log directory", |s| s.log_file = "/var/log".into()),
            ("a relative directory", |s| s.directory = "x".into()),
            ("nobody", |s| {
                s.user = Some(pb::User {
                    uid: u32::MAX,
                    gid: 0,
                })
            }),
        ];
        for (what, change) in cases {
            let mut start = start();
            change(&mut start);
            assert!(check(start).is_err(), "{what}");
        }
    }

    #[test]
    fn limits_of_zero_are_left_alone() {
        assert!(check_limits(&pb::Limits::default()).is_empty());
        let all = check_limits(&pb::Limits {
            open_files: u64::MAX,
            processes: u64::MAX,
            core_bytes: 1,
            oom_score_adj: 0,
        });
        assert!(all[0].value.is_some(), "files are never without limit");
        assert_eq!((all[1].value, all[2].value), (None, Some(1)));
    }

    #[test]
    fn a_signal_is_one_of_thirty_one() {
        assert_eq!(check_stop(&pb::Stop::default()), Ok((15, 0, false)));
        assert_eq!(
            check_stop(&pb::Stop {
                signal: 2,
                grace_ms: 9,
                kill_cgroup: true,
                ..Default::default()
            }),
            Ok((2, 9, true))
        );
        assert!(
            check_stop(&pb::Stop {
                signal: 64,
                ..Default::default()
            })
            .is_err()
        );
    }

    proptest! {
        #[test]
        fn no_path_leaves_its_root(path in "(/var/log)?(/|\\.\\.|\\.|[a-z])*") {
            if let Ok(Some((log, _))) = log_file(path, &["/var/log".into()]) {
                for name in log.directories.iter().chain([&log.name]) {
                    let name = name.to_str().unwrap();
                    prop_assert!(!name.contains('/') && name != ".." && !name.is_empty());
                }
            }
        }

        #[test]
        fn no_cgroup_climbs(path in "(/|\\.\\.|\\.|[a-z]|init.scope){0,8}") {
            if is_cgroup(&path) {
                prop_assert!(!path.starts_with('/') && !path.split('/').any(|part| part == ".." || part.is_empty()));
            }
        }
    }
}
