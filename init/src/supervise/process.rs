//! A service's process and its notify socket: how it is started, and who is heard.

use super::{Link, MACHINED, NOTIFY_LIMIT, Speakers, Supervisor, outbox::Outbox, table::Entry};
use crate::{
    clock::now,
    console::{self, Level},
    notify,
    protocol::Spec,
    service::Input,
    supervise::BATCH,
};
use keelson_sys::{
    packet,
    spawn::{self, Program},
};
use std::{
    ffi::CString,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

impl Supervisor {
    /// Starts a service's process; the error is for a person.
    pub(super) fn start(&mut self, name: &str) -> Result<i32, String> {
        let Some(entry) = self.table.get_mut(name) else {
            return Err("it is not known".into());
        };
        let spec = &entry.spec;
        let fail = |what: &str, error: io::Error| format!("{what}: {error}");
        let cgroup = self.cgroups.open(&spec.cgroup).map_err(|error| {
            fail(
                &format!("cannot make the control group {}", spec.cgroup),
                error,
            )
        })?;
        let mut env = spec.env.clone();
        let mut socket = None;
        if spec.notify {
            let path = self.notify_dir.join(name);
            socket = Some(
                notify_socket(&path, spec)
                    .map_err(|error| fail("cannot make its notify socket", error))?,
            );
            env.push(variable("NOTIFY_SOCKET", &path.to_string_lossy())?);
        }
        let mut pair = None;
        if name == MACHINED {
            env.push(variable(
                "KEELSON_INIT_FD",
                &spawn::INHERITED_FD.to_string(),
            )?);
            pair = Some(packet::pair().map_err(|error| fail("cannot make its socket", error))?);
        }
        let pid = spawn::spawn(&Program {
            argv: &spec.argv,
            env: &env,
            directory: &spec.directory,
            cgroup: Some(cgroup.as_fd()),
            log: spec.log.as_ref().map(|(log, _)| log),
            inherit: pair.as_ref().map(|(_, theirs)| theirs.as_fd()),
            limits: &spec.limits,
            oom_score_adj: spec.oom_score_adj,
            identity: spec.identity,
            unprivileged: spec.unprivileged,
        })
        .map_err(|error| console::chain(&error))?;
        let pid = pid.as_raw_nonzero().get();
        entry.socket = socket;
        if let Some((ours, _)) = pair {
            self.link = Some(Link {
                fd: ours,
                outbox: Outbox::default(),
            });
            if let Some(alive) = &mut self.alive {
                alive.started(now());
            }
        }
        console::log(Level::Info, &format!("{name} was started as process {pid}"));
        self.input(name, Input::Started { pid });
        Ok(pid)
    }

    /// Reads all notify sockets, each for a bounded time.
    pub(super) fn hear(&mut self) {
        for name in self.table.names_with_socket() {
            self.hear_one(&name);
        }
    }

    pub(super) fn hear_one(&mut self, name: &str) {
        for _ in 0..BATCH {
            let Some(entry) = self.table.get_mut(name) else {
                return;
            };
            let Some(socket) = &entry.socket else { return };
            let vouched = match packet::receive_vouched(socket, NOTIFY_LIMIT) {
                Ok(Some(vouched)) => vouched,
                Ok(None) => return,
                Err(error) => {
                    console::log(Level::Warning, &format!("notify socket of {name}: {error}"));
                    entry.socket = None;
                    return;
                }
            };
            if may_speak(self.speakers, entry, vouched.pid) {
                let said = notify::parse(&vouched.bytes);
                self.input(
                    name,
                    Input::Notified {
                        ready: said.ready,
                        status: said.status,
                    },
                );
            } else {
                let pid = vouched.pid;
                console::log(
                    Level::Debug,
                    &format!("process {pid} may not speak for {name}"),
                );
            }
        }
    }
}

fn variable(name: &str, value: &str) -> Result<CString, String> {
    CString::new(format!("{name}={value}")).map_err(|_| format!("{name} holds a zero byte"))
}

/// A fresh socket that only the service's user can reach.
fn notify_socket(path: &Path, spec: &Spec) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = packet::bind_vouched(path)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    if let Some(identity) = spec.identity {
        std::os::unix::fs::chown(path, Some(identity.uid), Some(identity.gid))?;
    }
    Ok(socket)
}

/// A process that has ended already cannot be told to be a member: it is not heard,
/// unless it is the main process, which is known by its id.
fn may_speak(speakers: Speakers, entry: &Entry, pid: i32) -> bool {
    entry.service.life().is_some_and(|life| life.pid == pid)
        || speakers == Speakers::Cgroup
            && std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
                .is_ok_and(|text| notify::is_member(&text, &entry.spec.cgroup))
}
