//! Chance, as far as a client needs it: names for exchanges, and pauses that differ
//! between machines that were switched on together (SplitMix64). Both clients', DHCPv4's
//! and DHCPv6's.

use std::time::{Duration, SystemTime};

/// A source of chance; the same seed, the same chance.
#[derive(Clone, Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    /// Begins with this seed.
    pub(crate) fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    /// Any number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// The time, give or take a second.
    pub(crate) fn around(&mut self, time: Duration) -> Duration {
        let millis = self.next() % 2001;
        time + Duration::from_millis(millis) - Duration::from_secs(1)
    }

    /// The time, give or take a tenth of it (RFC 8415, section 15: RAND).
    pub(crate) fn tenth(&mut self, time: Duration) -> Duration {
        time / 10 * 9 + self.below(time / 5)
    }

    /// From nothing up to the time.
    pub(crate) fn below(&mut self, time: Duration) -> Duration {
        let thousandths = (self.next() % 1001) as u32;
        time * thousandths / 1000
    }
}

/// Differs between machines and lives. Where the kernel has no random bytes yet the
/// clock must do: nothing secret hangs on it.
pub(crate) fn seed() -> u64 {
    let mut bytes = [0; 8];
    match rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::NONBLOCK) {
        Ok(_) => u64::from_ne_bytes(bytes),
        Err(_) => SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |time| time.as_nanos() as u64),
    }
}
