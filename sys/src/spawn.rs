//! Starts a program as a supervisor does: everything about the new process is in one
//! plain struct, it is set up between fork and exec, and what fails there comes back
//! by stage. Only the log file is opened, nothing is waited for but the exec itself.
//!
//! Between fork and exec the child calls only system calls and touches no allocator,
//! so that a program with threads may use this too.

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags},
    io::{Errno, FdFlags},
    process::{Pid, Resource, Rlimit},
    thread::{CapabilitySet, CapabilitySets, Gid, Uid},
};
use std::{
    ffi::{CStr, CString, c_char, c_int},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};
use thiserror::Error;

/// How long [`spawn`] waits for the exec before it takes the program to be running:
/// a disk that does not answer must not hold up its caller for ever.
const EXEC_TIMEOUT: Duration = Duration::from_secs(5);

/// The descriptor under which an inherited one is found in the new program.
pub const INHERITED_FD: i32 = 3;

/// A file that the program's output is appended to. It is opened below `base`, one
/// name at a time, following no symbolic link; missing directories are made.
#[derive(Clone, Debug)]
pub struct LogFile {
    /// An absolute directory; it is made if only its last name is missing.
    pub base: CString,
    /// The directories below it.
    pub directories: Vec<CString>,
    /// The file.
    pub name: CString,
}

/// A resource and its limit, soft and hard alike; nothing means no limit.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// The resource.
    pub resource: Resource,
    /// The limit.
    pub value: Option<u64>,
}

/// The user that the program runs as; supplementary groups are emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// A program to start.
#[derive(Debug)]
pub struct Program<'a> {
    /// Its absolute path first.
    pub argv: &'a [CString],
    /// `NAME=value`, the whole environment.
    pub env: &'a [CString],
    /// The working directory.
    pub directory: &'a CStr,
    /// The directory of the cgroup that it is born into.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Where stdout and stderr go; nothing means `/dev/null`.
    pub log: Option<&'a LogFile>,
    /// Becomes [`INHERITED_FD`]; every other descriptor is closed.
    pub inherit: Option<BorrowedFd<'a>>,
    /// Limits to set.
    pub limits: &'a [Limit],
    /// `oom_score_adj` of proc(5); 0 leaves it.
    pub oom_score_adj: i32,
    /// The user; nothing means the caller's.
    pub identity: Option<Identity>,
    /// No capability, none to be had, and no_new_privs.
    pub unprivileged: bool,
}

/// What the new process was doing when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    /// Making the process.
    Fork,
    /// Its own session.
    Session,
    /// Joining the cgroup.
    Cgroup,
    /// `oom_score_adj`.
    OomScore,
    /// Resource limits.
    Limits,
    /// Opening the log file.
    Log,
    /// Handing over descriptors.
    Descriptors,
    /// The working directory.
    Directory,
    /// User and groups.
    Identity,
    /// Giving up privileges.
    Privileges,
    /// Executing the program.
    Exec,
}

impl Stage {
    const ALL: [Self; 11] = [
        Self::Fork,
        Self::Session,
        Self::Cgroup,
        Self::OomScore,
        Self::Limits,
        Self::Log,
        Self::Descriptors,
        Self::Directory,
        Self::Identity,
        Self::Privileges,
        Self::Exec,
    ];

    /// What was being done, to follow "cannot".
    pub fn verb(self) -> &'static str {
        match self {
            Self::Fork => "make a process",
            Self::Session => "make a session",
            Self::Cgroup => "join its cgroup",
            Self::OomScore => "set oom_score_adj",
            Self::Limits => "set its limits",
            Self::Log => "open its log file",
            Self::Descriptors => "hand over descriptors",
            Self::Directory => "enter its working directory",
            Self::Identity => "become its user",
            Self::Privileges => "give up privileges",
            Self::Exec => "execute it",
        }
    }
}

/// Why a program was not started.
#[derive(Debug, Error)]
#[error("cannot {}", stage.verb())]
pub struct Error {
    /// What was being done.
    pub stage: Stage,
    /// Why it failed.
    pub source: std::io::Error,
}

impl Error {
    fn new(stage: Stage, errno: Errno) -> Self {
        Self {
            stage,
            source: errno.into(),
        }
    }
}

/// Starts the program and waits until it is executed or has failed; then, or after
/// five seconds, its process id is returned.
pub fn spawn(program: &Program<'_>) -> Result<Pid, Error> {
    let fork_error = |errno| Error::new(Stage::Fork, errno);
    let Some(path) = program.argv.first() else {
        return Err(Error::new(Stage::Exec, Errno::INVAL));
    };
    // Everything that allocates happens before the fork.
    let argv = pointers(program.argv);
    let env = pointers(program.env);
    let (reader, writer) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(fork_error)?;
    // Where the child's own descriptors do not overwrite it.
    let writer = above(writer, INHERITED_FD + 1).map_err(fork_error)?;

    // SAFETY: the child runs `child` only, which makes system calls, reads memory that
    // was set up above and is not shared, and ends in execve or _exit: it neither
    // allocates nor takes locks, so other threads of the parent do not matter.
    let pid = unsafe { libc::fork() };
    match pid {
        0 => {
            let (stage, errno) = child(program, path, &argv, &env);
            report(writer.as_fd(), stage, errno);
            // SAFETY: _exit only ends this process; no destructor or handler runs.
            unsafe { libc::_exit(127) }
        }
        pid => {
            drop(writer);
            let Some(pid) = Pid::from_raw(pid).filter(|_| pid > 0) else {
                let errno = Errno::from_io_error(&std::io::Error::last_os_error());
                return Err(fork_error(errno.unwrap_or(Errno::NOMEM)));
            };
            outcome(&reader, pid)
        }
    }
}

/// Null-terminated pointers to the strings, which must outlive them.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings
        .iter()
        .map(|text| text.as_ptr())
        .chain([std::ptr::null()])
        .collect()
}

/// Reads the child's word: the end of the file means that it was executed.
fn outcome(reader: &OwnedFd, pid: Pid) -> Result<Pid, Error> {
    let mut word = [0u8; 5];
    let deadline = Instant::now() + EXEC_TIMEOUT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = rustix::event::Timespec {
            tv_sec: left.as_secs().cast_signed(),
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut fds = [rustix::event::PollFd::new(
            reader,
            rustix::event::PollFlags::IN,
        )];
        match rustix::event::poll(&mut fds, Some(&timeout)) {
            Ok(0) => return Ok(pid),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(Error::new(Stage::Fork, errno)),
        }
        match rustix::io::read(reader, &mut word) {
            Err(Errno::INTR) => continue,
            Ok(5) => {
                // The child that failed is a zombie or about to be one.
                crate::wait::collect(pid);
                let [stage, errno @ ..] = word;
                let stage = Stage::ALL
                    .get(usize::from(stage))
                    .copied()
                    .unwrap_or(Stage::Fork);
                return Err(Error::new(
                    stage,
                    Errno::from_raw_os_error(i32::from_le_bytes(errno)),
                ));
            }
            _ => return Ok(pid),
        }
    }
}

/// Writes stage and errno into the pipe, five bytes that are never torn.
fn report(writer: BorrowedFd<'_>, stage: Stage, errno: Errno) {
    let number = errno.raw_os_error().to_le_bytes();
    let word = [stage as u8, number[0], number[1], number[2], number[3]];
    // The parent takes an end of file for success; then the exit code 127 tells it.
    while let Err(Errno::INTR) = rustix::io::write(writer, &word) {}
}

/// The child's way to its program; returns only when a step failed.
fn child(
    program: &Program<'_>,
    path: &CStr,
    argv: &[*const c_char],
    env: &[*const c_char],
) -> (Stage, Errno) {
    match prepare(program) {
        Err(failure) => failure,
        Ok(()) => {
            // SAFETY: path and both arrays are null-terminated and live until the exec,
            // which returns only when it failed.
            unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), env.as_ptr()) };
            // SAFETY: the address of this thread's errno is always valid.
            let errno = unsafe { *libc::__errno_location() };
            (Stage::Exec, Errno::from_raw_os_error(errno))
        }
    }
}

type Step = Result<(), (Stage, Errno)>;

fn prepare(program: &Program<'_>) -> Step {
    let at = |stage: Stage| move |errno: Errno| (stage, errno);
    reset_signals();
    rustix::process::setsid().map_err(at(Stage::Session))?;
    if let Some(cgroup) = program.cgroup {
        write_file(cgroup, c"cgroup.procs", b"0").map_err(at(Stage::Cgroup))?;
    }
    if program.oom_score_adj != 0 {
        let mut text = [0u8; 12];
        let text = decimal(program.oom_score_adj, &mut text);
        write_file(rustix::fs::CWD, c"/proc/self/oom_score_adj", text)
            .map_err(at(Stage::OomScore))?;
    }
    for limit in program.limits {
        rustix::process::setrlimit(
            limit.resource,
            Rlimit {
                current: limit.value,
                maximum: limit.value,
            },
        )
        .map_err(at(Stage::Limits))?;
    }
    rustix::process::umask(Mode::from_raw_mode(0o022));
    descriptors(program)?;
    rustix::process::chdir(program.directory).map_err(at(Stage::Directory))?;
    privileges(program)
}

/// Standard streams, the inherited descriptor, and nothing else past the exec.
fn descriptors(program: &Program<'_>) -> Step {
    let at = |stage: Stage| move |errno: Errno| (stage, errno);
    let stream = |fd: OwnedFd| above(fd, INHERITED_FD).map_err(at(Stage::Descriptors));
    let null = rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(at(Stage::Descriptors))
        .and_then(stream)?;
    let log = match program.log {
        Some(log) => Some(open_log(log).map_err(at(Stage::Log)).and_then(stream)?),
        None => None,
    };
    let output = log.as_ref().unwrap_or(&null);
    rustix::stdio::dup2_stdin(&null).map_err(at(Stage::Descriptors))?;
    rustix::stdio::dup2_stdout(output).map_err(at(Stage::Descriptors))?;
    rustix::stdio::dup2_stderr(output).map_err(at(Stage::Descriptors))?;
    drop((null, log));
    // SAFETY: marks every descriptor above the streams close-on-exec; none is closed
    // now, so all that is borrowed or owned here stays valid.
    let marked = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            INHERITED_FD,
            c_int::MAX,
            libc::CLOSE_RANGE_CLOEXEC as c_int,
        )
    };
    if marked != 0 {
        return Err((Stage::Descriptors, Errno::NOSYS));
    }
    let Some(inherit) = program.inherit else {
        return Ok(());
    };
    if inherit.as_raw_fd() == INHERITED_FD {
        return rustix::io::fcntl_setfd(inherit, FdFlags::empty()).map_err(at(Stage::Descriptors));
    }
    // SAFETY: whatever has the number 3 in this child is not used again and is closed by
    // no destructor: the streams are done with, the report pipe was put above it, and
    // the descriptors of the caller are only borrowed.
    match unsafe { libc::dup2(inherit.as_raw_fd(), INHERITED_FD) } {
        INHERITED_FD => Ok(()),
        _ => Err((Stage::Descriptors, Errno::BADF)),
    }
}

/// The same open file under a number not below `least`.
fn above(fd: OwnedFd, least: i32) -> Result<OwnedFd, Errno> {
    match fd.as_raw_fd() >= least {
        true => Ok(fd),
        false => rustix::io::fcntl_dupfd_cloexec(&fd, least),
    }
}

fn open_log(log: &LogFile) -> Result<OwnedFd, Errno> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open_base = || {
        rustix::fs::openat2(
            rustix::fs::CWD,
            log.base.as_c_str(),
            directory,
            Mode::empty(),
            ResolveFlags::NO_SYMLINKS,
        )
    };
    let mut at = match open_base() {
        // A fresh disk has no such directory yet.
        Err(Errno::NOENT) => {
            rustix::fs::mkdir(log.base.as_c_str(), Mode::from_raw_mode(0o755))?;
            open_base()?
        }
        result => result?,
    };
    let below = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    for name in &log.directories {
        match rustix::fs::mkdirat(&at, name.as_c_str(), Mode::from_raw_mode(0o750)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        at = rustix::fs::openat2(&at, name.as_c_str(), directory, Mode::empty(), below)?;
    }
    let file = rustix::fs::openat2(
        &at,
        log.name.as_c_str(),
        OFlags::WRONLY
            | OFlags::APPEND
            | OFlags::CREATE
            | OFlags::NONBLOCK
            | OFlags::NOCTTY
            | OFlags::CLOEXEC,
        Mode::from_raw_mode(0o640),
        below,
    )?;
    // A pipe or a device planted there is not a log.
    let stat = rustix::fs::statat(&file, c"", AtFlags::EMPTY_PATH)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(file),
        _ => Err(Errno::INVAL),
    }
}

/// User, groups, capabilities, in the only order that works.
fn privileges(program: &Program<'_>) -> Step {
    let at = |stage: Stage| move |errno: Errno| (stage, errno);
    if program.unprivileged {
        rustix::thread::clear_ambient_capability_set().map_err(at(Stage::Privileges))?;
        // The kernel says INVAL for the first number behind its last capability.
        for number in 0..64 {
            let one = CapabilitySet::from_bits_retain(1 << number);
            match rustix::thread::remove_capability_from_bounding_set(one) {
                Ok(()) => {}
                Err(Errno::INVAL) => break,
                Err(errno) => return Err((Stage::Privileges, errno)),
            }
        }
    }
    if let Some(Identity { uid, gid }) = program.identity {
        let at = at(Stage::Identity);
        if uid == u32::MAX || gid == u32::MAX {
            return Err(at(Errno::INVAL));
        }
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::thread::set_thread_groups(&[]).map_err(at)?;
        rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(at)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(at)?;
    }
    if program.unprivileged {
        let none = CapabilitySets {
            effective: CapabilitySet::empty(),
            permitted: CapabilitySet::empty(),
            inheritable: CapabilitySet::empty(),
        };
        rustix::thread::set_capabilities(None, none).map_err(at(Stage::Privileges))?;
        rustix::thread::set_no_new_privs(true).map_err(at(Stage::Privileges))?;
    }
    Ok(())
}

/// Every signal to its default, none blocked: an ignored or blocked signal would be
/// inherited through the exec.
fn reset_signals() {
    for signal in 1..=64 {
        // The kernel's own struct sigaction: SIG_DFL, no flags, no restorer, no mask. Not
        // through libc, which keeps two signals to itself and would leave them ignored.
        let default = [0u64; 4];
        // SAFETY: the pointer is to a local of the size that the kernel reads, with a
        // mask of 8 bytes. It fails for SIGKILL and SIGSTOP, which cannot be changed.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                8usize,
            )
        };
    }
    // SAFETY: the set is a local that sigemptyset initialises.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
}

fn write_file(at: BorrowedFd<'_>, name: &CStr, bytes: &[u8]) -> Result<(), Errno> {
    let file = rustix::fs::openat(at, name, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, bytes).map(|_| ())
}

/// A number as text, without an allocation.
fn decimal(number: i32, buffer: &mut [u8; 12]) -> &[u8] {
    let mut left = number.unsigned_abs();
    let mut at = buffer.len();
    loop {
        at -= 1;
        buffer[at] = b'0' + (left % 10) as u8;
        left /= 10;
        if left == 0 {
            break;
        }
    }
    if number < 0 {
        at -= 1;
        buffer[at] = b'-';
    }
    &buffer[at..]
}

#[cfg(test)]
mod tests;
