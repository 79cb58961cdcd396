//! Ends of child processes: collecting them without blocking, by any parent, with
//! whatever signal ended them; and a child that runs a function of this program.

use rustix::process::Pid;
use std::io;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// The process.
    pub pid: i32,
    /// Its exit code, or -1 if a signal ended it.
    pub code: i32,
    /// The signal that ended it, or 0.
    pub signal: i32,
}

/// Collects one child that has ended; nothing if none has. `ECHILD` means that there
/// is no child at all.
pub fn reap() -> io::Result<Option<Exit>> {
    wait(libc::P_ALL, 0, libc::WNOHANG)
}

/// Waits for one child to end and collects it; nothing if it is not our child.
pub fn collect(pid: Pid) -> Option<Exit> {
    let id = u32::try_from(pid.as_raw_nonzero().get()).ok()?;
    loop {
        match wait(libc::P_PID, id, 0) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return None,
            Ok(exit) => return exit,
        }
    }
}

/// waitid(2) for ends. rustix hides the process id, and nix loses a child that a
/// real-time signal ended: hence by hand.
fn wait(kind: libc::idtype_t, id: libc::id_t, flags: i32) -> io::Result<Option<Exit>> {
    // SAFETY: siginfo_t is plain data; all zero is a valid value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a local of the right type.
    let result = unsafe { libc::waitid(kind, id, &mut info, libc::WEXITED | flags) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: waitid filled the fields of SIGCHLD, or left them zero.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok(match (pid, info.si_code) {
        (0, _) => None,
        (pid, libc::CLD_EXITED) => Some(Exit {
            pid,
            code: status,
            signal: 0,
        }),
        (pid, _) => Some(Exit {
            pid,
            code: -1,
            signal: status,
        }),
    })
}

/// Runs a function in a child of this process, which ends with the code that it
/// returns. Refused while this process has more than one thread: the child would have
/// the memory of all of them, but only one would run.
pub fn fork_run(function: impl FnOnce() -> u8) -> io::Result<Pid> {
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other(
            "a process with threads cannot run a function in a child",
        ));
    }
    // SAFETY: there is only this thread, so the child's memory is consistent and no
    // lock is held by a thread that it lacks.
    match unsafe { libc::fork() } {
        0 => {
            let code = function();
            // SAFETY: ends the child without running what the parent registered.
            unsafe { libc::_exit(code.into()) }
        }
        pid => Pid::from_raw(pid)
            .filter(|_| pid > 0)
            .ok_or_else(io::Error::last_os_error),
    }
}
