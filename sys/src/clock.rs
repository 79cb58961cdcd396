//! The machine's clock: set at once, or slewed until it is right. When and by how
//! much is decided elsewhere.

use rustix::time::{ClockId, Timespec, clock_settime};
use std::{
    io,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The kernel slews by no more than this at a time: MAXPHASE in its ntp.c.
pub const MAX_SLEW: Duration = Duration::from_millis(500);

/// Sets the clock: clock_settime(2).
pub fn set(to: SystemTime) -> io::Result<()> {
    let since = to
        .duration_since(UNIX_EPOCH)
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let seconds =
        i64::try_from(since.as_secs()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let to = Timespec {
        tv_sec: seconds,
        tv_nsec: since.subsec_nanos().into(),
    };
    Ok(clock_settime(ClockId::Realtime, to)?)
}

/// Tells the kernel how far the clock is from the truth: adjtimex(2). It slews
/// towards it, learns the clock's frequency, and from now on holds the clock to be
/// synchronised and copies it to the hardware clock.
///
/// `offset_ns` is what must be added to the clock; it is cut to [`MAX_SLEW`].
/// `error` is how wrong it may be. `poll` is the base-2 logarithm of the seconds
/// between two calls.
pub fn slew(offset_ns: i64, error: Duration, poll: u8) -> io::Result<()> {
    let most = MAX_SLEW.as_nanos() as i64;
    let error = libc::c_long::try_from(error.as_micros()).unwrap_or(libc::c_long::MAX);
    // SAFETY: timex is plain numbers, for which all zeros is a value.
    let mut timex: libc::timex = unsafe { std::mem::zeroed() };
    timex.modes = libc::ADJ_OFFSET
        | libc::ADJ_NANO
        | libc::ADJ_STATUS
        | libc::ADJ_TIMECONST
        | libc::ADJ_MAXERROR
        | libc::ADJ_ESTERROR;
    timex.status = libc::STA_PLL;
    timex.offset = offset_ns.clamp(-most, most) as libc::c_long;
    // The kernel's time constant is 4 less in its nanosecond mode: ntp_update_offset().
    timex.constant = i32::from(poll).saturating_sub(4).max(0).into();
    timex.maxerror = error;
    timex.esterror = error;
    // SAFETY: the kernel reads and writes this one struct, which lives over the call.
    let result = unsafe { libc::adjtimex(&mut timex) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_before_1970_is_refused() {
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(set(before).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
