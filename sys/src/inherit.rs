//! File descriptors that a program was started with: each is taken over once.

use std::{
    io,
    os::fd::{FromRawFd as _, OwnedFd, RawFd},
    sync::Mutex,
};

/// The descriptors that were taken over already.
static TAKEN: Mutex<Vec<RawFd>> = Mutex::new(Vec::new());

/// Takes over the descriptor with this number, as its parent passed it, and closes
/// it for the programs that this one starts (FD_CLOEXEC). Call it before anything
/// else opens files, so that the number cannot mean something of this program's own.
///
/// # Errors
/// `AlreadyExists` if it was taken over before, `InvalidInput` for stdin, stdout and
/// stderr, `EBADF` if there is none.
pub fn take(number: RawFd) -> io::Result<OwnedFd> {
    if number <= libc::STDERR_FILENO {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut taken = TAKEN.lock().map_err(|_| io::ErrorKind::Deadlock)?;
    if taken.contains(&number) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    // SAFETY: fcntl with F_SETFD reads no memory; a bad number is answered with EBADF.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
        return Err(io::Error::last_os_error());
    }
    taken.push(number);
    // SAFETY: the descriptor is open (fcntl has just said so), and `taken` makes sure
    // that this function gives it out only once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd as _;

    #[test]
    fn a_descriptor_is_taken_once() -> io::Result<()> {
        let number = std::fs::File::open("/dev/null")?.into_raw_fd();
        let owned = take(number)?;
        assert_eq!(
            take(number).err().map(|e| e.kind()),
            Some(io::ErrorKind::AlreadyExists)
        );
        drop(owned);
        assert_eq!(
            take(1).err().map(|e| e.kind()),
            Some(io::ErrorKind::InvalidInput)
        );
        assert_eq!(
            take(9999).err().and_then(|e| e.raw_os_error()),
            Some(libc::EBADF)
        );
        Ok(())
    }
}
