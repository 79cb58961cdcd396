//! The end of the machine's run: everything is told to end, then killed, filesystems
//! are unmounted, and the machine restarts or goes off. It always gets there: a disk or
//! a server that no longer answers is left behind after a while. The watchdog is fed only
//! while one of these times runs, and is disarmed at the very end if the machine goes off.

use crate::{
    cgroup::{ROOT, Tree},
    console::{self, Level},
    crash,
    supervise::{Cause, Ending, verb},
    watchdog::Guard,
};
use keelson_api::init::power::Action;
use keelson_sys::wait;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rustix::{
    mount::{MountFlags, UnmountFlags, mount_remount, unmount},
    system::{RebootCommand, reboot},
};
use std::{
    fs, io, thread,
    time::{Duration, Instant},
};

/// How long processes may take to end by themselves, and then to die.
const GRACE: Duration = Duration::from_secs(5);

/// How long unmounting and writing out may take.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(60);

/// Ends the run. Only PID 1 may call this.
pub fn end(ending: &Ending, mut watchdog: Guard) -> ! {
    console::say(&format!("{}: {}", verb(ending.action), ending.reason));
    stop_all(&mut watchdog);
    unmount_in_child(&mut watchdog);
    watchdog.feed();
    if ending.cause == Cause::Failed {
        // What happened since is told behind it; the reason shall be near the log's end.
        console::log(Level::Warning, &ending.reason);
        crash::keep_log();
    }
    if ending.action == Action::PowerOff {
        watchdog.disarm();
    }
    finish(ending.action)
}

/// Restarts without anything else; the last resort.
pub fn finish(action: Action) -> ! {
    let command = match action {
        Action::PowerOff => RebootCommand::PowerOff,
        Action::Reboot | Action::Unspecified => RebootCommand::Restart,
    };
    if let Err(errno) = reboot(command) {
        console::say(&format!(
            "{} failed: {errno}; turn the machine off by hand",
            verb(action)
        ));
    }
    // Where a machine cannot power off by itself the kernel halts; if even that fails
    // there is nothing left to do, and an end of PID 1 would only be a panic.
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}

fn stop_all(watchdog: &mut Guard) {
    signal_all(Signal::SIGTERM);
    if gone(GRACE, watchdog) {
        return;
    }
    signal_all(Signal::SIGKILL);
    let tree = Tree::new(ROOT);
    // Frozen and forking groups too, which a signal to all does not surely end.
    for name in tree.others().unwrap_or_default() {
        if let Err(error) = tree.kill(&name) {
            console::log(
                Level::Warning,
                &format!("cannot kill the group {name}: {error}"),
            );
        }
    }
    if !gone(GRACE, watchdog) {
        console::log(Level::Warning, "some processes do not end");
    }
}

fn signal_all(signal: Signal) {
    match kill(Pid::from_raw(-1), signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
        Err(errno) => console::log(Level::Warning, &format!("cannot send {signal}: {errno}")),
    }
}

/// Collects children until there are none: whoever else is left becomes one in time.
fn gone(patience: Duration, watchdog: &mut Guard) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        watchdog.feed();
        match wait::reap() {
            Ok(Some(_)) => continue,
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return true,
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Unmounting may hang in the kernel: a child does it, and is not waited for long.
fn unmount_in_child(watchdog: &mut Guard) {
    let child = match wait::fork_run(|| {
        unmount_all();
        0
    }) {
        Ok(child) => child.as_raw_nonzero().get(),
        Err(error) => {
            console::log(
                Level::Warning,
                &format!("unmounting without a child: {error}"),
            );
            return unmount_all();
        }
    };
    let deadline = Instant::now() + UNMOUNT_PATIENCE;
    while Instant::now() < deadline {
        watchdog.feed();
        match wait::reap() {
            Ok(Some(exit)) if exit.pid == child => return,
            Ok(Some(_)) => {}
            Ok(None) => thread::sleep(Duration::from_millis(10)),
            Err(_) => return,
        }
    }
    console::say("a filesystem does not answer; what was not written yet is lost");
}

fn unmount_all() {
    rustix::fs::sync();
    // What is mounted on or kept busy by another one goes in a later round.
    for _ in 0..8 {
        let targets = targets(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default());
        let left = targets
            .iter()
            .filter(|target| unmount(target.as_str(), UnmountFlags::NOFOLLOW).is_err());
        let left = left.count();
        if left == 0 || left == targets.len() {
            break;
        }
    }
    for target in targets(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()) {
        match mount_remount(&target, MountFlags::RDONLY, c"") {
            Ok(()) => console::log(Level::Info, &format!("{target} stays mounted, read-only")),
            Err(errno) => console::say(&format!("cannot unmount {target}: {errno}")),
        }
    }
    rustix::fs::sync();
}

/// The mount points to unmount, the latest first. The kernel's own filesystems hold
/// nothing that could be lost, and the root is read-only.
fn targets(mountinfo: &str) -> Vec<String> {
    const KEPT: [&str; 12] = [
        "proc",
        "sysfs",
        "devtmpfs",
        "devpts",
        "cgroup2",
        "securityfs",
        "efivarfs",
        "bpf",
        "mqueue",
        "rootfs",
        "pstore",
        "erofs",
    ];
    let mut targets: Vec<String> = mountinfo
        .lines()
        .filter_map(|line| {
            // Source: proc(5); the optional fields in the middle end with a hyphen.
            let (left, right) = line.split_once(" - ")?;
            let target = left.split(' ').nth(4)?;
            let kind = right.split(' ').next()?;
            let stays =
                target == "/" || target == "/run" || target == "/dev/shm" || KEPT.contains(&kind);
            (!stays).then(|| unescape(target))
        })
        .collect();
    targets.reverse();
    targets
}

/// `\040` and its like, as the kernel writes blanks in paths.
fn unescape(text: &str) -> String {
    let mut bytes = vec![];
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal = tail
            .get(..3)
            .filter(|digits| *first == b'\\' && digits.iter().all(|c| (b'0'..=b'7').contains(c)));
        match octal {
            Some(digits) => {
                bytes.push(
                    digits
                        .iter()
                        .fold(0u8, |sum, c| sum.wrapping_mul(8).wrapping_add(c - b'0')),
                );
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_mount_goes_first_and_the_kernels_own_stay() {
        let text = "\
22 1 254:0 / / ro,relatime shared:1 - erofs /dev/dm-0 ro
23 22 0:21 / /proc rw shared:2 - proc proc rw
24 22 0:22 / /run rw shared:3 - tmpfs tmpfs rw
30 22 8:7 / /var rw shared:9 - ext4 /dev/vda7 rw
31 30 8:7 /a\\040b /var/a\\040b rw shared:9 master:2 - ext4 /dev/vda7 rw
32 24 0:50 / /run/k3s/x rw - overlay overlay rw
33 22 8:6 / /system/state rw - ext4 /dev/vda6 rw
";
        assert_eq!(
            targets(text),
            ["/system/state", "/run/k3s/x", "/var/a b", "/var"]
        );
        assert!(targets("garbage\n- - -\n").is_empty());
    }

    #[test]
    fn escapes_are_undone() {
        assert_eq!(unescape("a\\040b\\134c\\0"), "a b\\c\\0");
    }
}
