//! What this program is when it is started again: a supervisor outside of PID 1, a
//! stand-in for machined that hands its socket to the test, and services of every kind.

use keelson_api::init as pb;
use keelson_init::{
    alive::Bounds,
    buttons::Buttons,
    cgroup::Tree,
    service::Backoff,
    supervise::{Setup, Speakers, Supervisor},
    watchdog::Guard,
};
use keelson_sys::wait;
use rustix::{
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags},
    process::{Signal, set_parent_process_death_signal},
};
use std::{
    io::{IoSlice, Write},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd},
    os::unix::net::{UnixDatagram, UnixStream},
    path::Path,
    thread,
    time::Duration,
};

/// A machined that has spoken once is replaced after a second of silence, two times.
const BOUNDS: Bounds = Bounds {
    grace: 600_000,
    silence: 1000,
    death: 60_000,
    replacements: 2,
    steady: 600_000,
};

/// Runs the role that the words name; nothing if they name none.
pub(crate) fn run(words: &[String]) -> Option<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    if let ["machined" | "service", ..] = words[..] {
        // A machine's services end with it; these end with their supervisor.
        set_parent_process_death_signal(Some(Signal::KILL)).unwrap();
    }
    match words[..] {
        ["supervisor", dir, first, most, machined] => supervisor(
            dir.as_ref(),
            first.parse().unwrap(),
            most.parse().unwrap(),
            machined,
        ),
        ["machined", dir] => machined(dir.as_ref()),
        ["service", "counts"] => count(),
        ["service", "stubborn"] => {
            let set = nix::sys::signal::SigSet::from_iter([nix::sys::signal::Signal::SIGTERM]);
            set.thread_block().unwrap();
            count()
        }
        ["service", "orphans"] => orphans(),
        ["service", "child-speaks"] => {
            let child = wait::fork_run(|| {
                say("READY=1\nSTATUS=child");
                0
            });
            wait::collect(child.unwrap());
            say("STATUS=main");
            count()
        }
        ["service", "ready"] => {
            say("READY=1\nSTATUS=serving");
            count()
        }
        ["service", "chatters"] => {
            (0..5000).for_each(|n| say(&format!("STATUS={n} {}", "x".repeat(200))));
            count()
        }
        _ => return None,
    }
    Some(())
}

fn supervisor(dir: &Path, first: u64, most: u32, machined: &str) {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let own = std::env::current_exe()
        .unwrap()
        .to_str()
        .unwrap()
        .to_owned();
    let program = if machined == "missing" {
        "/nonexistent/machined".to_owned()
    } else {
        own
    };
    let start = pb::Start {
        name: "machined".into(),
        argv: [&program, "machined", dir.to_str().unwrap()]
            .map(str::to_owned)
            .to_vec(),
        cgroup: "system/machined".into(),
        log_file: dir.join("log/machined.log").to_str().unwrap().into(),
        notify: true,
        ..Default::default()
    };
    let backoff = Backoff {
        first,
        longest: 2000,
        steady: 60_000,
        crash_loop: Some(most),
    };
    let mut supervisor = Supervisor::new(Setup {
        cgroups: Tree::new(dir.join("cgroup")),
        log_roots: vec![dir.join("log")],
        notify_dir: dir.join("notify"),
        speakers: Speakers::Main,
        kept: vec![(start, backoff)],
        alive: Some(BOUNDS),
        watchdog: Guard::none(),
        buttons: Buttons::none(),
    })
    .unwrap();
    let ending = supervisor.run().unwrap();
    std::fs::write(
        dir.join("ending"),
        format!("{:?}: {}", ending.action, ending.reason),
    )
    .unwrap();
}

/// Hands its end of the init protocol to the test, and lives on.
fn machined(dir: &Path) {
    let fd: i32 = std::env::var("KEELSON_INIT_FD").unwrap().parse().unwrap();
    assert_eq!(fd, 3);
    let link = std::fs::File::open("/proc/self/fd/3");
    assert!(link.is_err(), "a socket cannot be opened again");
    let socket = keelson_sys::inherit::take(fd).unwrap();
    let stream = UnixStream::connect(dir.join("control")).unwrap();
    let fds: [BorrowedFd<'_>; 1] = [socket.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    rustix::net::sendmsg(
        &stream,
        &[IoSlice::new(b"x")],
        &mut control,
        SendFlags::empty(),
    )
    .unwrap();
    thread::sleep(Duration::from_secs(600));
}

/// Writes line after line, so that a gap would show.
fn count() {
    for number in 0u64.. {
        println!("{number}");
        std::io::stdout().flush().unwrap();
        thread::sleep(Duration::from_millis(2));
    }
}

/// Ten thousand processes that lose their parent at once.
fn orphans() {
    for _ in 0..10_000 {
        let parent = wait::fork_run(|| match wait::fork_run(|| 7) {
            Ok(_) => 0,
            Err(_) => 1,
        });
        assert_eq!(wait::collect(parent.unwrap()).unwrap().code, 0);
    }
}

fn say(text: &str) {
    let socket = UnixDatagram::unbound().unwrap();
    socket
        .send_to(text.as_bytes(), std::env::var("NOTIFY_SOCKET").unwrap())
        .unwrap();
}
