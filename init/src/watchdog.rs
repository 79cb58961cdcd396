//! The machine's watchdog in PID 1's hands: armed in the initramfs, handed over the
//! switch of roots, fed from then on by whoever has a reason to, disarmed only before
//! the machine goes off. Whether there is a reason is `alive`'s to say.
//!
//! Some seconds before the reset the kernel panics by itself (pretimeout): a reset alone
//! would leave no log behind.

use crate::{
    clock::{Ms, now},
    console::{self, Level},
};
use keelson_api::init as pb;
use keelson_sys::{
    module::{self, Index},
    watchdog::Watchdog,
};
use std::{fs, io, ops::RangeInclusive, path::Path};

/// The device; the first watchdog that was registered.
const DEVICE: &str = "/dev/watchdog";

/// Who decides what the kernel does before the reset.
const GOVERNOR: &str = "/sys/class/watchdog/watchdog0/pretimeout_governor";

/// The word for the second role: the number of the open descriptor.
pub const VARIABLE: &str = "KEELSON_WATCHDOG_FD";

/// How long it waits for food, in seconds, until machined names another time.
const TIMEOUT: u16 = 60;

/// The times that machined may name, in seconds.
const TIMEOUTS: RangeInclusive<u16> = 2 * PRETIMEOUT..=3600;

/// How many seconds before the reset the kernel panics.
const PRETIMEOUT: u16 = 15;

/// What makes the device of a chipset's watchdog appear.
const BRIDGES: [&str; 2] = ["lpc_ich", "i2c_i801"];

/// The watchdogs, the best first: what the firmware describes, what emulators and
/// chipsets have, and the kernel's own timer, which at least sees PID 1 hang.
const DRIVERS: [&str; 7] = [
    "wdat_wdt",
    "i6300esb",
    "iTCO_wdt",
    "sp5100_tco",
    "hpwdt",
    "bcm2835_wdt",
    "softdog",
];

/// An armed watchdog, or the lack of one.
#[derive(Debug)]
pub struct Guard {
    dog: Option<Watchdog>,
    /// How long it waits for food.
    timeout: Ms,
    fed: Ms,
}

impl Guard {
    /// None: feeding does nothing.
    pub fn none() -> Self {
        Self {
            dog: None,
            timeout: Ms::from(TIMEOUT) * 1000,
            fed: 0,
        }
    }

    /// Finds the machine's watchdog, loads its driver and arms it. A machine without one
    /// boots all the same.
    pub fn arm(index: Option<&Index>) -> Self {
        let Some(driver) = load(index) else {
            console::log(Level::Warning, "this machine has no watchdog");
            return Self::none();
        };
        match Watchdog::open(Path::new(DEVICE)) {
            Ok(dog) => Self::new(dog, driver),
            Err(error) => {
                console::log(Level::Warning, &format!("cannot open {DEVICE}: {error}"));
                Self::none()
            }
        }
    }

    fn new(dog: Watchdog, driver: &str) -> Self {
        // One that cannot wait this long says how long it can.
        let seconds = dog
            .set_timeout(TIMEOUT)
            .or_else(|_| dog.timeout())
            .unwrap_or(10);
        let panics = match panic_first(&dog, seconds) {
            Ok(()) => format!("panics after {} s", seconds - u64::from(PRETIMEOUT)),
            Err(error) => format!("no panic before: {error}"),
        };
        let name = dog.identity().unwrap_or_default();
        console::log(
            Level::Info,
            &format!("watchdog {name} ({driver}): resets after {seconds} s, {panics}"),
        );
        if dog.has_reset().unwrap_or(false) {
            console::log(Level::Warning, "the watchdog has reset this machine");
        }
        let mut guard = Self {
            dog: Some(dog),
            timeout: seconds * 1000,
            fed: 0,
        };
        guard.feed_now();
        guard
    }

    /// Takes over what the first role has armed.
    pub fn inherit() -> Self {
        let Ok(number) = std::env::var(VARIABLE) else {
            return Self::none();
        };
        let dog = number
            .parse()
            .map_err(io::Error::other)
            .and_then(Watchdog::inherit);
        match dog {
            Ok(dog) => {
                let seconds = dog.timeout().unwrap_or(10);
                let mut guard = Self {
                    dog: Some(dog),
                    timeout: seconds * 1000,
                    fed: 0,
                };
                guard.feed_now();
                guard
            }
            Err(error) => {
                console::log(Level::Warning, &format!("the watchdog is lost: {error}"));
                Self::none()
            }
        }
    }

    /// Feeds it and leaves it open for the second role; the word for its environment.
    pub fn hand_over(&mut self) -> Option<(&'static str, String)> {
        self.feed_now();
        match self.dog.as_ref()?.hand_over() {
            Ok(number) => Some((VARIABLE, number.to_string())),
            Err(error) => {
                console::log(Level::Warning, &format!("the watchdog is lost: {error}"));
                None
            }
        }
    }

    /// Gives it another time, in seconds, and says what it took: a watchdog may know fewer
    /// times. One that refuses keeps the time that it has.
    pub fn set_timeout(&mut self, seconds: u32) -> Result<pb::Watchdog, String> {
        let seconds = u16::try_from(seconds)
            .ok()
            .filter(|seconds| TIMEOUTS.contains(seconds))
            .ok_or_else(|| {
                let (least, most) = (TIMEOUTS.start(), TIMEOUTS.end());
                format!("a watchdog is given {least} to {most} seconds, not {seconds}")
            })?;
        let Some(dog) = &self.dog else {
            return Err("this machine has no watchdog".into());
        };
        let set = dog.set_timeout(seconds);
        // Also after a refusal: a driver may have taken a part of it.
        let now = dog.timeout().or(set.as_ref().copied().map_err(|_| ()));
        if let Ok(now) = now {
            self.timeout = now * 1000;
            if let Err(error) = panic_first(dog, now) {
                console::log(
                    Level::Warning,
                    &format!("no panic before the reset: {error}"),
                );
            }
        }
        self.feed_now();
        match set {
            Ok(_) => Ok(self.state()),
            Err(error) => Err(format!("the watchdog does not take {seconds} s: {error}")),
        }
    }

    /// What it is, for machined.
    pub fn state(&self) -> pb::Watchdog {
        let Some(dog) = &self.dog else {
            return pb::Watchdog::default();
        };
        pb::Watchdog {
            identity: dog.identity().unwrap_or_default(),
            timeout_seconds: u32::try_from(self.timeout / 1000).unwrap_or(u32::MAX),
            panics_before_seconds: dog
                .pretimeout()
                .ok()
                .and_then(|seconds| u32::try_from(seconds).ok())
                .unwrap_or(0),
        }
    }

    /// When it is to be fed next.
    pub fn deadline(&self) -> Option<Ms> {
        self.dog.as_ref().map(|_| self.fed + self.timeout / 6)
    }

    /// Feeds it if it is time.
    pub fn feed(&mut self) {
        if self.deadline().is_some_and(|at| at <= now()) {
            self.feed_now();
        }
    }

    fn feed_now(&mut self) {
        self.fed = now();
        if let Some(Err(error)) = self.dog.as_ref().map(Watchdog::feed) {
            console::log(
                Level::Warning,
                &format!("cannot feed the watchdog: {error}"),
            );
        }
    }

    /// Stops it: the machine goes off, and must not be started again.
    pub fn disarm(&mut self) {
        if let Some(Err(error)) = self.dog.take().map(Watchdog::disarm) {
            console::log(
                Level::Warning,
                &format!("cannot stop the watchdog: {error}"),
            );
        }
    }
}

/// Loads drivers until one has found its watchdog; its name.
fn load(index: Option<&Index>) -> Option<&'static str> {
    let there = || Path::new(DEVICE).exists();
    if let Some(index) = index {
        try_load(index, "pretimeout_panic");
    }
    if there() {
        return Some("built in");
    }
    let index = index?;
    let mut bridges = BRIDGES.iter().copied();
    for driver in DRIVERS.into_iter().filter(|driver| index.contains(driver)) {
        // Only where the driver that needs them is in the image.
        if driver == "iTCO_wdt" {
            bridges.by_ref().for_each(|bridge| try_load(index, bridge));
        }
        try_load(index, driver);
        if there() {
            return Some(driver);
        }
    }
    None
}

/// A driver that finds nothing to drive refuses to be loaded: that is no news.
fn try_load(index: &Index, name: &str) {
    match index.load(name, "") {
        Ok(_) | Err(module::Error::Unknown(_)) => {}
        Err(error) => console::log(Level::Debug, &console::chain(&error)),
    }
}

/// Has the kernel panic some seconds before the reset.
fn panic_first(dog: &Watchdog, timeout: u64) -> io::Result<()> {
    if timeout < 2 * u64::from(PRETIMEOUT) {
        return Err(io::Error::other("its time is too short"));
    }
    fs::write(GOVERNOR, "panic")?;
    dog.set_pretimeout(PRETIMEOUT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use tempfile::TempDir;

    /// A watchdog of a minute that is a file, and the file.
    fn of_a_file() -> (TempDir, PathBuf, Guard) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dog");
        fs::write(&path, "").unwrap();
        let guard = Guard {
            dog: Some(Watchdog::open(&path).unwrap()),
            timeout: 60_000,
            fed: 0,
        };
        (dir, path, guard)
    }

    #[test]
    fn without_a_watchdog_nothing_is_due_and_nothing_fails() {
        let mut guard = Guard::none();
        assert_eq!(guard.deadline(), None);
        guard.feed();
        assert_eq!(guard.hand_over(), None);
        guard.disarm();
    }

    #[test]
    fn another_time_is_refused_in_words() {
        let mut none = Guard::none();
        assert!(none.set_timeout(90).unwrap_err().contains("no watchdog"));
        assert_eq!(none.state(), pb::Watchdog::default());
        let (_dir, _path, mut guard) = of_a_file();
        for seconds in [0, 29, 3601, 70_000] {
            let why = guard.set_timeout(seconds).unwrap_err();
            assert!(why.contains("30 to 3600 seconds"), "{why}");
        }
        // A file is no watchdog: what it had stays.
        let why = guard.set_timeout(90).unwrap_err();
        assert!(why.contains("does not take 90 s"), "{why}");
        assert_eq!(guard.state().timeout_seconds, 60);
        assert!(guard.deadline() > Some(10_000), "it was fed");
    }

    #[test]
    fn it_is_fed_in_time_and_disarmed_once() {
        let (_dir, path, mut guard) = of_a_file();
        assert_eq!(guard.deadline(), Some(10_000));
        guard.feed();
        assert!(guard.deadline() > Some(10_000), "six times in its time");
        guard.disarm();
        guard.disarm();
        assert_eq!(fs::read(&path).unwrap(), b"V");
        assert_eq!(guard.deadline(), None);
    }
}
