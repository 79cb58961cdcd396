//! The one clock: milliseconds since the machine started, suspended time included.
//! It is what the init protocol's `started_ms` counts, and never steps.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Milliseconds of CLOCK_BOOTTIME.
pub type Ms = u64;

/// Now.
pub fn now() -> Ms {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec.unsigned_abs() * 1000 + time.tv_nsec.unsigned_abs() / 1_000_000
}

/// A span in milliseconds as poll(2) takes it; rounded up so that nothing fires early.
pub fn timespec(span: Ms) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(span / 1000).unwrap_or(i64::MAX),
        tv_nsec: (span % 1000).cast_signed() * 1_000_000,
    }
}
