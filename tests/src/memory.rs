//! A guest's memory as its kernel accounts for it, told to QEMU by the balloon's driver: seen
//! from outside, it is not changed by who looks (virtio 1.2, 5.5.6.3).

use crate::monitor::Monitor;
use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use std::{
    thread::sleep,
    time::{Duration, Instant},
};

/// How long the driver may take to tell: it is asked once a second.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a kernel says of its memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// MemTotal.
    pub total: u64,
    /// MemAvailable.
    pub available: u64,
    /// MemFree.
    pub free: u64,
    /// The cache of files and of block devices.
    pub caches: u64,
}

impl Memory {
    /// Has the driver of this balloon told, and waits for it.
    pub(crate) fn ask(monitor: &Monitor, balloon: &str) -> Result<Memory> {
        let path = format!("/machine/peripheral/{balloon}");
        let every_second =
            json!({"path": path, "property": "guest-stats-polling-interval", "value": 1});
        monitor.execute("qom-set", every_second)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            sleep(Duration::from_secs(1));
            let told =
                monitor.execute("qom-get", json!({"path": path, "property": "guest-stats"}))?;
            if told["last-update"].as_u64().is_some_and(|time| time > 0) {
                return Memory::read(&told["stats"]);
            }
            ensure!(
                Instant::now() < deadline,
                "the balloon's driver has told nothing in {} s",
                PATIENCE.as_secs()
            );
        }
    }

    fn read(stats: &Value) -> Result<Memory> {
        // What the driver does not tell is u64::MAX.
        let of = |name: &str| {
            let bytes = stats[name].as_u64().filter(|bytes| *bytes != u64::MAX);
            bytes.with_context(|| format!("the balloon's driver tells no {name}: {stats}"))
        };
        Ok(Memory {
            total: of("stat-total-memory")?,
            available: of("stat-available-memory")?,
            free: of("stat-free-memory")?,
            caches: of("stat-disk-caches")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_told_is_no_size() {
        let mut stats = json!({
            "stat-total-memory": 1000, "stat-available-memory": 800,
            "stat-free-memory": 850, "stat-disk-caches": 30, "stat-swap-in": 0,
        });
        let memory = Memory::read(&stats).unwrap();
        assert_eq!((memory.total, memory.available), (1000, 800));
        assert_eq!((memory.free, memory.caches), (850, 30));
        stats["stat-disk-caches"] = u64::MAX.into();
        assert!(Memory::read(&stats).is_err());
    }
}
