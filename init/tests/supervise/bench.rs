//! A supervisor in a process of its own and a temporary directory, and machined's end
//! of the init protocol in the hands of the test.

use keelson_api::{INIT_DATAGRAM, init as pb};
use keelson_sys::packet::{self, Received, Sent};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use prost::Message as _;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use std::{
    io::IoSliceMut,
    mem::MaybeUninit,
    os::fd::OwnedFd,
    os::unix::net::UnixListener,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// The supervisor and all that belongs to it.
pub(crate) struct Bench {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) child: Child,
    listener: UnixListener,
    link: Option<OwnedFd>,
    pub(crate) events: Vec<pb::message::Body>,
    next: u64,
}

impl Bench {
    /// Starts one whose machined is started again after `first` milliseconds, and loops
    /// after more than `most` deaths.
    pub(crate) fn new(first: u64, most: usize) -> Self {
        let mut bench = Self::with(first, most, "present");
        bench.connect();
        bench
    }

    pub(crate) fn with(first: u64, most: usize, machined: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["log", "notify"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        for name in ["system/machined", "orchestrator/main"] {
            let group = dir.path().join("cgroup").join(name);
            std::fs::create_dir_all(&group).unwrap();
            std::fs::write(group.join("cgroup.procs"), "").unwrap();
        }
        let listener = UnixListener::bind(dir.path().join("control")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .arg("supervisor")
            .arg(dir.path())
            .args([&first.to_string(), &most.to_string(), machined])
            .spawn()
            .unwrap();
        Self {
            dir,
            child,
            listener,
            link: None,
            events: vec![],
            next: 1,
        }
    }

    /// Takes the socket of the machined that is starting.
    pub(crate) fn connect(&mut self) {
        let (stream, _) = until("machined connects", || self.listener.accept().ok());
        stream.set_nonblocking(false).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let mut parts = [IoSliceMut::new(&mut byte)];
        rustix::net::recvmsg(&stream, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        let mut fds = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        self.link = fds.next();
        self.events.clear();
    }

    pub(crate) fn link(&self) -> &OwnedFd {
        self.link.as_ref().unwrap()
    }

    /// Sends a request without waiting for its answer.
    pub(crate) fn send(&mut self, body: pb::request::Body) -> u64 {
        let id = self.next;
        self.next += 1;
        let bytes = pb::Request {
            id,
            body: Some(body),
        }
        .encode_to_vec();
        assert_eq!(packet::send(self.link(), &bytes).unwrap(), Sent::Whole);
        id
    }

    /// Asks, and keeps the events that come before the answer.
    pub(crate) fn ask(&mut self, body: pb::request::Body) -> pb::Response {
        let id = self.send(body);
        loop {
            match self.message() {
                pb::message::Body::Response(response) if response.id == id => return response,
                event => self.events.push(event),
            }
        }
    }

    /// The next message.
    pub(crate) fn message(&mut self) -> pb::message::Body {
        let bytes = until("a message comes", || {
            match packet::receive(self.link(), INIT_DATAGRAM) {
                Ok(Received::Packet(bytes)) => Some(bytes),
                Ok(Received::Empty) => None,
                other => panic!("{other:?}"),
            }
        });
        pb::Message::decode(&bytes[..]).unwrap().body.unwrap()
    }

    /// The first event, seen already or still to come, that the function takes.
    pub(crate) fn event<T>(&mut self, mut take: impl FnMut(&pb::message::Body) -> Option<T>) -> T {
        loop {
            if let Some(at) = self.events.iter().position(|event| take(event).is_some()) {
                return take(&self.events.remove(at)).unwrap();
            }
            let next = self.message();
            self.events.push(next);
        }
    }

    pub(crate) fn exited(&mut self, name: &str) -> pb::Exited {
        self.event(|event| match event {
            pb::message::Body::Exited(exited) if exited.name == name => Some(exited.clone()),
            _ => None,
        })
    }

    /// A Start of this program in one of its service roles.
    pub(crate) fn role(&self, name: &str, role: &str) -> pb::Start {
        let own = std::env::current_exe()
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        self.program(name, &[&own, "service", role])
    }

    pub(crate) fn program(&self, name: &str, argv: &[&str]) -> pb::Start {
        pb::Start {
            name: name.into(),
            argv: argv.iter().map(|word| (*word).to_owned()).collect(),
            cgroup: "orchestrator/main".into(),
            log_file: self
                .dir
                .path()
                .join(format!("log/sub/{name}.log"))
                .to_str()
                .unwrap()
                .into(),
            notify: true,
            ..Default::default()
        }
    }

    /// Starts it and returns its process id.
    pub(crate) fn start(&mut self, start: pb::Start) -> u32 {
        let response = self.ask(pb::request::Body::Start(start));
        assert_eq!(response.error, "");
        match response.body {
            Some(pb::response::Body::Started(started)) => started.pid,
            other => panic!("{other:?}"),
        }
    }

    /// Starts a service that does not end by SIGTERM, and waits until it is deaf.
    pub(crate) fn start_stubborn(&mut self) -> u32 {
        let start = self.role("stubborn", "stubborn");
        let pid = self.start(start);
        until("it is deaf", || {
            (!self.log("stubborn").is_empty()).then_some(())
        });
        pid
    }

    /// Why it was refused.
    pub(crate) fn refused(&mut self, start: pb::Start) -> String {
        let error = self.ask(pb::request::Body::Start(start)).error;
        assert_ne!(error, "");
        error
    }

    pub(crate) fn stop(&mut self, name: &str, grace_ms: u32) -> String {
        let name = name.to_owned();
        self.ask(pb::request::Body::Stop(pb::Stop {
            name,
            grace_ms,
            ..Default::default()
        }))
        .error
    }

    pub(crate) fn process(&mut self, name: &str) -> pb::Process {
        match self.ask(pb::request::Body::List(pb::List {})).body {
            Some(pb::response::Body::Services(services)) => services
                .processes
                .into_iter()
                .find(|process| process.name == name)
                .unwrap(),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(format!("log/sub/{name}.log"))).unwrap()
    }

    /// How the supervisor's run ended.
    pub(crate) fn ending(&mut self) -> String {
        until("the supervisor ends", || self.child.try_wait().unwrap());
        std::fs::read_to_string(self.dir.path().join("ending")).unwrap()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // What it has started ends with it.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The processes whose parent this is, zombies too.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let ppid: u32 = stat
            .rsplit_once(')')?
            .1
            .split_whitespace()
            .nth(1)?
            .parse()
            .ok()?;
        (ppid == parent).then_some(pid)
    })
    .collect()
}

/// Sends the signal; one that is gone is fine.
pub(crate) fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid.cast_signed()), signal).ok();
}

/// Asks again and again until there is an answer.
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}
