//! The noun hostname: the name in the kernel and in `/run/etc/hostname`. The config's
//! name counts; else one from DHCP; else one made of the machine's id. `hosts` is the
//! noun file's.
//!
//! A node's name is its identity in its cluster. Without a name in the config, what was
//! settled on once therefore stays until the machine restarts, whatever later leases say.

use super::file::{self, RenderedFile};
use crate::{
    dhcp::{Leases, Status},
    noun::Noun,
    resource::{Phase, Resource},
};
use anyhow::Context as _;
use keelson_config::Machine;
use std::{collections::BTreeMap, fmt, fs, io, path::PathBuf};
use tokio::sync::watch;

/// Where the file is; `/etc/hostname` links to it.
const FILE: &str = "/run/etc/hostname";

/// What was observed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Have {
    /// The kernel's name.
    kernel: String,
    /// The file's, where there is one: the name that an earlier pass settled on.
    file: Option<String>,
    /// The machine's id; empty where there is none yet.
    machine_id: String,
    leases: BTreeMap<u32, Status>,
}

/// One missing step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Tell the kernel.
    Set(String),
    /// Write the file.
    Write(String),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Set(name) => write!(f, "set the host name to {name}"),
            Step::Write(_) => f.write_str("write /etc/hostname"),
        }
    }
}

/// Where a name comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Config,
    Dhcp,
    MachineId,
    /// Settled on before in this life of the machine.
    Kept,
}

impl Source {
    fn name(self) -> &'static str {
        match self {
            Source::Config => "config",
            Source::Dhcp => "dhcp",
            Source::MachineId => "machine-id",
            Source::Kept => "kept",
        }
    }
}

/// The name of a machine that nobody named; `None` where it has no id yet.
fn made(machine_id: &str) -> Option<String> {
    Some(format!("keelson-{}", machine_id.get(..8)?))
}

/// The name that the machine shall have. `None` where none can be known yet.
fn wanted(have: &Have, fixed: Option<&str>) -> Option<(String, Source)> {
    if let Some(name) = fixed {
        return Some((name.to_owned(), Source::Config));
    }
    let made = made(&have.machine_id);
    // A name that was made is a stopgap: one from DHCP may still come.
    let kept = have
        .file
        .clone()
        .filter(|name| !name.is_empty() && Some(name) != made.as_ref());
    if let Some(name) = kept {
        return Some((name, Source::Kept));
    }
    let mut bound = have.leases.values().filter_map(Status::bound);
    if let Some(name) = bound.find_map(|bound| bound.lease.hostname.clone()) {
        return Some((name, Source::Dhcp));
    }
    Some((made?, Source::MachineId))
}

/// The missing steps.
fn plan(have: &Have, fixed: Option<&str>) -> Vec<Step> {
    let Some((name, _)) = wanted(have, fixed) else {
        return Vec::new();
    };
    let mut steps = Vec::new();
    if have.kernel != name {
        steps.push(Step::Set(name.clone()));
    }
    if have.file.as_ref() != Some(&name) {
        steps.push(Step::Write(name));
    }
    steps
}

/// The noun.
#[derive(Debug)]
pub(crate) struct HostName {
    leases: Leases,
    machine_id: watch::Receiver<String>,
    path: PathBuf,
}

impl HostName {
    /// The noun. Leases may bring a name; `machine_id` is empty until there is one.
    pub(crate) fn new(leases: Leases, machine_id: watch::Receiver<String>) -> HostName {
        HostName {
            leases,
            machine_id,
            path: FILE.into(),
        }
    }
}

fn fixed(want: &Machine) -> Option<&str> {
    want.hostname.as_ref().map(|name| name.as_str())
}

impl Noun for HostName {
    const KIND: &'static str = "hostname";
    type Have = Have;
    type Step = Step;

    async fn observe(&mut self, _: &Machine) -> anyhow::Result<Have> {
        let file = match fs::read_to_string(&self.path) {
            Ok(text) => Some(text.trim().to_owned()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                return Err(error).with_context(|| format!("reading {}", self.path.display()));
            }
        };
        let kernel = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        let machine_id = self.machine_id.borrow_and_update().clone();
        Ok(Have {
            kernel,
            file,
            machine_id,
            leases: self.leases.all(),
        })
    }

    fn plan(&self, have: &Have, want: &Machine) -> Vec<Step> {
        plan(have, fixed(want))
    }

    async fn apply(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Set(name) => rustix::system::sethostname(name.as_bytes())?,
            Step::Write(name) => {
                file::ensure(&[RenderedFile::file(&self.path, 0o644, format!("{name}\n"))])?;
            }
        }
        Ok(())
    }

    fn publish(&self, have: &Have, want: &Machine) -> Vec<Resource> {
        vec![publish(have, fixed(want))]
    }
}

fn publish(have: &Have, fixed: Option<&str>) -> Resource {
    let wanted = wanted(have, fixed);
    let settled = !matches!(wanted, Some((_, Source::MachineId)));
    let asking = have.leases.values().any(|status| *status == Status::Asking);
    let (phase, message) = match &wanted {
        None => (Phase::Pending, "the machine has no id yet"),
        Some(_) if !settled && asking => (Phase::Pending, "a DHCP server may know a name"),
        Some((name, _)) if *name != have.kernel => (Phase::Pending, "the kernel has another name"),
        Some(_) => (Phase::Ready, ""),
    };
    let resource = Resource::new(HostName::KIND, "hostname", phase)
        .message(message)
        .field("hostname", have.kernel.as_str());
    match wanted {
        Some((_, source)) => resource.field("source", source.name()),
        None => resource,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::tests::bound;

    const ID: &str = "0123456789abcdef0123456789abcdef";

    fn have(kernel: &str, file: Option<&str>, lease: Option<Status>) -> Have {
        Have {
            kernel: kernel.into(),
            file: file.map(Into::into),
            machine_id: ID.into(),
            leases: lease.map(|status| (2, status)).into_iter().collect(),
        }
    }

    /// Shows: machine.hostname
    #[test]
    fn each_case_has_its_steps_and_its_phase() {
        let leased = || Some(bound(|lease| lease.hostname = Some("leased".into())));
        let nameless = || Some(bound(|_| ()));
        let made = "keelson-01234567";
        let (ready, pending) = (Phase::Ready, Phase::Pending);
        type Case = (
            &'static str,
            Have,
            Option<&'static str>,
            Option<&'static str>,
            Phase,
        );
        let cases: [Case; 9] = [
            (
                "the config's",
                have("(none)", None, leased()),
                Some("server-1"),
                Some("server-1"),
                ready,
            ),
            (
                "the lease's",
                have("(none)", None, leased()),
                None,
                Some("leased"),
                ready,
            ),
            (
                "nobody's",
                have("(none)", None, None),
                None,
                Some(made),
                ready,
            ),
            (
                "nobody's yet",
                have("(none)", None, Some(Status::Asking)),
                None,
                Some(made),
                pending,
            ),
            (
                "nobody answers",
                have("(none)", None, Some(Status::Unanswered)),
                None,
                Some(made),
                ready,
            ),
            (
                "a lease without a name",
                have("(none)", None, nameless()),
                None,
                Some(made),
                ready,
            ),
            (
                "the lease's, later",
                have(made, Some(made), leased()),
                None,
                Some("leased"),
                ready,
            ),
            (
                "what was settled on stays",
                have("old", Some("old"), leased()),
                None,
                None,
                ready,
            ),
            (
                "so for a new machined",
                have("old", Some("old"), Some(Status::Asking)),
                None,
                None,
                ready,
            ),
        ];
        for (rule, mut have, fixed, want, phase) in cases {
            let steps = plan(&have, fixed);
            let expected = want.map(|name| [Step::Set(name.into()), Step::Write(name.into())]);
            assert_eq!(
                steps,
                Vec::from_iter(expected.into_iter().flatten()),
                "{rule}"
            );
            for step in steps {
                match step {
                    Step::Set(name) => have.kernel = name,
                    Step::Write(name) => have.file = Some(name),
                }
            }
            assert_eq!(plan(&have, fixed), [], "{rule}: again");
            assert_eq!(publish(&have, fixed).phase, phase, "{rule}");
        }
    }

    #[test]
    fn without_an_id_there_is_no_name_yet() {
        let mut have = have("(none)", None, None);
        have.machine_id = String::new();
        assert_eq!(plan(&have, None), []);
        assert_eq!(publish(&have, None).phase, Phase::Pending);
        assert_eq!(
            plan(&have, Some("server-1")).len(),
            2,
            "but for a fixed one"
        );
    }
}
