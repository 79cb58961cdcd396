//! The second role's loop: it starts and stops services, collects whatever ended, hears
//! notify sockets, and speaks the init protocol with machined. One thread, one poll(2);
//! nothing in here waits for anybody but the kernel.
//!
//! machined may be away, slow or started again at any time. Services do not notice:
//! their output goes to files, their grace timers run here, and what happened in the
//! meantime the next machined learns from List. What it was not told before it died is
//! dropped with its socket.

mod outbox;
mod process;
mod requests;
mod table;

use crate::{
    alive::{self, Alive, Bounds},
    buttons::Buttons,
    cgroup::Tree,
    clock::{self, Ms, now},
    console::{self, Level},
    protocol::Spec,
    service::{Backoff, Exit, Input, Output},
    watchdog::Guard,
};
use keelson_api::init as pb;
use keelson_sys::wait;
use nix::sys::{
    signal::{SigSet, Signal, kill},
    signalfd::{SfdFlags, SignalFd},
};
use outbox::Outbox;
use rustix::event::{PollFd, PollFlags};
use std::{io, os::fd::OwnedFd, path::PathBuf};
pub use table::MACHINED;
use table::Table;

/// How many children are collected, or datagrams read, before others get their turn.
const BATCH: usize = 512;

/// How long machined may take to say what it makes of a key that was pressed at the machine.
const ANSWER_PATIENCE: Ms = 60_000;

/// The longest that it may ask for then.
const ENDING_PATIENCE: Ms = keelson_api::ENDING_PATIENCE.as_secs() * 1000;

/// The longest datagram on a notify socket.
const NOTIFY_LIMIT: usize = 4096;

/// Who may speak on a service's notify socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speakers {
    /// The main process and those in its control group.
    Cgroup,
    /// The main process only.
    Main,
}

/// Where everything is, and what is kept running.
pub struct Setup {
    /// The tree of control groups.
    pub cgroups: Tree,
    /// The directories that may hold log files.
    pub log_roots: Vec<PathBuf>,
    /// Where notify sockets are made.
    pub notify_dir: PathBuf,
    /// Who may speak on them.
    pub speakers: Speakers,
    /// What init starts by itself; the one named `machined` gets the socket.
    pub kept: Vec<(pb::Start, Backoff)>,
    /// How long machined may be silent; for ever if there are no bounds.
    pub alive: Option<Bounds>,
    /// The machine's watchdog.
    pub watchdog: Guard,
    /// The machine's power buttons.
    pub buttons: Buttons,
}

/// Who wants the machine's run to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Somebody asked for it.
    Asked,
    /// Something failed that nothing else helps against.
    Failed,
}

/// Why the machine's run ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// What to do then.
    pub action: pb::power::Action,
    /// Whether it was asked for.
    pub cause: Cause,
    /// Why, in words.
    pub reason: String,
}

/// This end of the pair with machined.
struct Link {
    fd: OwnedFd,
    outbox: Outbox,
}

/// The supervisor.
pub struct Supervisor {
    cgroups: Tree,
    log_roots: Vec<PathBuf>,
    notify_dir: PathBuf,
    speakers: Speakers,
    table: Table,
    signals: SignalFd,
    link: Option<Link>,
    /// When a key press is carried out here if machined did not, and which.
    power_key: Option<(Ms, Ending)>,
    ending: Option<Ending>,
    /// Whether machined answers, if anybody wants to know.
    alive: Option<Alive>,
    watchdog: Guard,
    buttons: Buttons,
    /// More children may have ended than were collected in one turn.
    more: bool,
}

impl Supervisor {
    /// Blocks the signals that it reads from then on, and starts nothing yet.
    pub fn new(setup: Setup) -> io::Result<Self> {
        let mut signals = SigSet::empty();
        for signal in [
            Signal::SIGCHLD,
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGPIPE,
            Signal::SIGUSR1,
            Signal::SIGUSR2,
            Signal::SIGPWR,
        ] {
            signals.add(signal);
        }
        signals.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let mut table = Table::default();
        for (start, backoff) in setup.kept {
            let spec = Spec::check(start, &setup.log_roots).map_err(io::Error::other)?;
            table.keep(spec, backoff);
        }
        Ok(Self {
            signals: SignalFd::with_flags(&signals, flags)?,
            cgroups: setup.cgroups,
            log_roots: setup.log_roots,
            notify_dir: setup.notify_dir,
            speakers: setup.speakers,
            table,
            link: None,
            power_key: None,
            ending: None,
            alive: setup.alive.map(|bounds| Alive::new(now(), bounds)),
            watchdog: setup.watchdog,
            buttons: setup.buttons,
            more: true,
        })
    }

    /// Runs until the machine shall end.
    pub fn run(&mut self) -> io::Result<Ending> {
        loop {
            self.tick();
            if let Some(ending) = self.ending.take() {
                self.flush();
                return Ok(ending);
            }
            self.flush();
            self.wait()?;
            self.read_signals()?;
            self.read_buttons();
            self.reap()?;
            self.hear();
            self.read_requests();
        }
    }

    /// The watchdog, for the end of the machine's run.
    pub fn into_watchdog(self) -> Guard {
        self.watchdog
    }

    /// Sleeps until something happens or is due.
    fn wait(&self) -> io::Result<()> {
        let due = self
            .table
            .deadline()
            .into_iter()
            .chain(self.power_key.as_ref().map(|key| key.0))
            .chain(self.alive.as_ref().and_then(Alive::deadline))
            .chain(self.watchdog.deadline());
        let timeout = match self.more {
            true => Some(0),
            false => due.min().map(|at| at.saturating_sub(now())),
        };
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        if let Some(link) = &self.link {
            // While machined does not take what it was sent it is not heard either.
            let flags = if link.outbox.is_empty() {
                PollFlags::IN
            } else {
                PollFlags::OUT
            };
            fds.push(PollFd::new(&link.fd, flags));
        }
        fds.extend(
            self.table
                .sockets()
                .map(|socket| PollFd::from_borrowed_fd(socket, PollFlags::IN)),
        );
        fds.extend(
            self.buttons
                .fds()
                .map(|button| PollFd::from_borrowed_fd(button, PollFlags::IN)),
        );
        let timeout = timeout.map(clock::timespec);
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    fn read_signals(&mut self) -> io::Result<()> {
        while let Some(info) = self.signals.read_signal()? {
            match i32::try_from(info.ssi_signo).map(Signal::try_from) {
                // A burst of these is one: how many ended is for `reap` to find out.
                Ok(Ok(Signal::SIGCHLD)) => self.more = true,
                Ok(Ok(Signal::SIGINT)) => {
                    self.key_pressed(pb::power::Action::Reboot, "Ctrl-Alt-Del")
                }
                Ok(Ok(Signal::SIGPWR)) => {
                    self.key_pressed(pb::power::Action::PowerOff, "the power fails")
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn read_buttons(&mut self) {
        if self.buttons.read() {
            self.key_pressed(pb::power::Action::PowerOff, "the power button");
        }
    }

    /// A person asked at the machine itself. machined ends things in order, if it can.
    fn key_pressed(&mut self, action: pb::power::Action, why: &str) {
        let ending = Ending {
            action,
            cause: Cause::Asked,
            reason: why.to_owned(),
        };
        console::say(&format!("{why}: {}", verb(action)));
        if self.link.is_none() {
            self.ending = Some(ending);
            return;
        }
        self.event(pb::message::Body::PowerKey(pb::PowerKey {
            action: action.into(),
        }));
        if self.power_key.is_none() {
            self.power_key = Some((now() + ANSWER_PATIENCE, ending));
        }
    }

    /// What machined makes of the key: how long its end may take, or nothing.
    fn key_answered(&mut self, within: Ms) {
        match within {
            0 if self.power_key.take().is_some() => {
                console::say("what the key asked for was called off; the events say why")
            }
            0 => {}
            _ => {
                if let Some((until, _)) = &mut self.power_key {
                    *until = now() + within.min(ENDING_PATIENCE);
                }
            }
        }
    }

    /// Does what is due: starts what waited, kills what took too long.
    fn tick(&mut self) {
        let time = now();
        for name in self.table.due(time) {
            self.input(&name, Input::Tick);
        }
        if let Some((at, ending)) = self.power_key.take() {
            match at <= time {
                true => self.ending = Some(ending),
                false => self.power_key = Some((at, ending)),
            }
        }
        self.watch(time);
    }

    /// Replaces a machined that does not answer, and feeds the watchdog while it answers
    /// or there is time left for it.
    fn watch(&mut self, time: Ms) {
        match self.alive.as_mut().and_then(|alive| alive.tick(time)) {
            Some(alive::Output::Replace(why)) => {
                console::log(Level::Error, &format!("machined is replaced: {why}"));
                self.input(MACHINED, Input::Hung(why));
            }
            Some(alive::Output::Restart(why)) => {
                self.ending = Some(Ending {
                    action: pb::power::Action::Reboot,
                    cause: Cause::Failed,
                    reason: format!("machined does not answer: {why}"),
                });
            }
            None => {}
        }
        if self.alive.as_ref().is_none_or(|alive| alive.is_well(time)) {
            self.watchdog.feed();
        }
    }

    /// Collects what has ended. Orphans, which are most, go without a word.
    fn reap(&mut self) -> io::Result<()> {
        if !std::mem::take(&mut self.more) {
            return Ok(());
        }
        for _ in 0..BATCH {
            let exit = match wait::reap() {
                Ok(Some(exit)) => exit,
                Ok(None) => return Ok(()),
                Err(error) if error.raw_os_error() == Some(nix::libc::ECHILD) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if let Some(name) = self.table.with_pid(exit.pid) {
                let exit = Exit {
                    pid: exit.pid,
                    code: exit.code,
                    signal: exit.signal,
                };
                // What it said last is heard before its end is told.
                self.hear_one(&name);
                self.input(&name, Input::Exited(exit));
            }
        }
        self.more = true;
        Ok(())
    }

    /// Hands an input to a service's state machine and does what comes out.
    fn input(&mut self, name: &str, input: Input) {
        let Some(entry) = self.table.get_mut(name) else {
            return;
        };
        let outputs = entry.service.handle(now(), input);
        for output in outputs {
            self.output(name, output);
        }
    }

    fn output(&mut self, name: &str, output: Output) {
        let named = || name.to_owned();
        match output {
            Output::Spawn => {
                if let Err(why) = self.start(name) {
                    console::log(Level::Error, &format!("cannot start {name}: {why}"));
                    self.input(name, Input::Failed(why));
                }
            }
            Output::Signal { pid, signal } => {
                // The process is not collected yet, so its id is still its own.
                if let Ok(signal) = Signal::try_from(signal)
                    && let Err(errno) = kill(nix::unistd::Pid::from_raw(pid), signal)
                {
                    console::log(Level::Warning, &format!("cannot signal {name}: {errno}"));
                }
            }
            Output::KillCgroup => {
                if let Some(entry) = self.table.get_mut(name)
                    && let Err(error) = self.cgroups.kill(&entry.spec.cgroup)
                {
                    console::log(
                        Level::Warning,
                        &format!("cannot kill the group of {name}: {error}"),
                    );
                }
            }
            Output::Exited(exit) => {
                console::log(Level::Info, &format!("{name} ended: {}", exit.reason()));
                if let Some(entry) = self.table.get_mut(name) {
                    entry.socket = None;
                }
                if name == MACHINED {
                    self.link = None;
                    if let Some(alive) = &mut self.alive {
                        alive.exited(now());
                    }
                }
                self.event(pb::message::Body::Exited(table::exited(name, &exit)));
            }
            Output::Notify { pid, ready, status } => {
                self.event(pb::message::Body::Notify(pb::Notify {
                    name: named(),
                    pid: pid.unsigned_abs(),
                    ready,
                    status: status.unwrap_or_default(),
                }));
            }
            Output::Restarted { pid, reason } => {
                console::log(
                    Level::Warning,
                    &format!("{name} was started again: {reason}"),
                );
                let restarts = self
                    .table
                    .get_mut(name)
                    .map_or(0, |entry| entry.service.restarts);
                self.event(pb::message::Body::Restarted(pb::Restarted {
                    name: named(),
                    pid: pid.unsigned_abs(),
                    restarts,
                    reason,
                }));
            }
            Output::CrashLoop(reason) => {
                let reason = format!("{name} crashes again and again: {reason}");
                self.ending = Some(Ending {
                    action: pb::power::Action::Reboot,
                    cause: Cause::Failed,
                    reason,
                });
            }
            Output::Denied(why) => console::log(Level::Debug, &format!("{name}: {why}")),
        }
    }
}

/// What an action does, for the console.
pub fn verb(action: pb::power::Action) -> &'static str {
    match action {
        pb::power::Action::PowerOff => "powering off",
        pb::power::Action::Reboot | pb::power::Action::Unspecified => "rebooting",
    }
}
