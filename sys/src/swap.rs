//! Swap: begins and ends the use of a device (swapon(2), swapoff(2)). What is on the
//! device, and whether it should be used, is not decided here.

use std::{
    ffi::{CStr, CString, c_int},
    io,
    os::unix::ffi::OsStrExt as _,
    path::Path,
};

/// Begins to swap to a device that holds a swap header.
pub fn on(device: &Path) -> io::Result<()> {
    // SAFETY: swapon(2) reads the path, which lives and ends with a NUL until the call
    // returns, and keeps nothing of it.
    call(device, |path| unsafe { libc::swapon(path.as_ptr(), 0) })
}

/// Ends it: all that is swapped out to the device is read back, which takes a while, and for
/// which there must be memory. A process that does this is the first to be killed where
/// memory runs out (`set_current_oom_origin` in mm/swapfile.c).
pub fn off(device: &Path) -> io::Result<()> {
    // SAFETY: swapoff(2) reads the path, which lives and ends with a NUL until the call
    // returns, and keeps nothing of it.
    call(device, |path| unsafe { libc::swapoff(path.as_ptr()) })
}

fn call(device: &Path, call: impl FnOnce(&CStr) -> c_int) -> io::Result<()> {
    let path = CString::new(device.as_os_str().as_bytes())?;
    match call(&path) {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_device_is_refused() {
        let nowhere = Path::new("/proc/keelson/nowhere");
        // Whoever may not swap at all hears that first.
        for result in [on(nowhere), off(nowhere)] {
            let error = result.unwrap_err().raw_os_error();
            assert!(
                matches!(error, Some(libc::ENOENT | libc::EPERM)),
                "{error:?}"
            );
        }
        let with_nul = Path::new("/dev/zram\0");
        assert_eq!(
            on(with_nul).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }
}
