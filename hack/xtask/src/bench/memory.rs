//! Reads what a machine says of its memory: proc(5)'s meminfo and smaps_rollup,
//! and the lines of the stand-in that wrap them. Text in, numbers out.

use anyhow::{Context, Result};
use serde::Serialize;
use std::collections::BTreeMap;

const KIB: u64 = 1024;

/// A machine on which nothing happens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Idle {
    /// The kernel's own account, meminfo in bytes.
    pub(super) meminfo: Meminfo,
    /// What of it belongs to whoever looked (proportional set size).
    pub(super) observer_bytes: u64,
    /// The processes with memory of their own, where they were asked for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) processes: BTreeMap<String, Process>,
}

/// The lines of meminfo that are sizes, in bytes.
pub(super) type Meminfo = BTreeMap<String, u64>;

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Process {
    /// Its resident pages.
    pub(super) rss_bytes: u64,
    /// The same, with shared pages divided among those who share them.
    pub(super) pss_bytes: u64,
}

impl Idle {
    /// MemTotal − MemAvailable, less what the observer holds: what no new program can have.
    pub(super) fn used(&self) -> Result<u64> {
        let total = self.of("MemTotal")?;
        self.less(total, &["MemAvailable"])
    }

    /// What is neither free nor a cache, less what the observer holds. The free pages
    /// that the kernel keeps for itself count as free here, and as used above.
    pub(super) fn occupied(&self) -> Result<u64> {
        let total = self.of("MemTotal")?;
        self.less(total, &["MemFree", "Buffers", "Cached", "SReclaimable"])
    }

    fn of(&self, name: &str) -> Result<u64> {
        let bytes = self.meminfo.get(name).copied();
        bytes.with_context(|| format!("meminfo has no {name}"))
    }

    fn less(&self, total: u64, names: &[&str]) -> Result<u64> {
        let mut left = total.checked_sub(self.observer_bytes);
        for name in names {
            let bytes = self.of(name)?;
            left = left.and_then(|left| left.checked_sub(bytes));
        }
        left.context("meminfo tells of more memory than there is")
    }
}

/// Reads the stand-in's report from its log.
pub(super) fn of_standin(log: &str) -> Result<Idle> {
    let lines = || {
        log.lines()
            .filter_map(|line| Some(line.split_once("idle: ")?.1))
    };
    let meminfo: Meminfo = lines()
        .filter_map(|line| size(line.strip_prefix("meminfo ")?))
        .collect();
    let processes: BTreeMap<String, Process> = lines()
        .filter_map(|line| process(line.strip_prefix("process ")?))
        .collect();
    let observer = processes
        .get("standin")
        .context("the stand-in does not see itself")?;
    Ok(Idle {
        meminfo,
        observer_bytes: observer.pss_bytes,
        processes,
    })
}

/// Reads meminfo, and behind an empty line the smaps_rollup of each observer.
pub(super) fn of_shell(text: &str) -> Result<Idle> {
    let (meminfo, observers) = text
        .split_once("\n\n")
        .context("the answer is not in two parts")?;
    let observers = observers
        .lines()
        .filter_map(|line| kib(line.strip_prefix("Pss:")?));
    Ok(Idle {
        meminfo: meminfo.lines().filter_map(size).collect(),
        observer_bytes: observers.sum::<u64>() * KIB,
        processes: BTreeMap::new(),
    })
}

/// `MemTotal:     1234 kB`; what is a count has no unit.
fn size(line: &str) -> Option<(String, u64)> {
    let (name, value) = line.split_once(':')?;
    value.ends_with(" kB").then_some(())?;
    Some((name.to_owned(), kib(value)? * KIB))
}

/// `init pid 1 rss 1234 pss 1200`.
fn process(line: &str) -> Option<(String, Process)> {
    let (name, rest) = line.rsplit_once(" pid ")?;
    let mut words = rest.split_whitespace().skip(1);
    let mut number = |key: &str| {
        (words.next()? == key)
            .then(|| words.next()?.parse::<u64>().ok())
            .flatten()
    };
    let (rss, pss) = (number("rss")?, number("pss")?);
    Some((
        name.to_owned(),
        Process {
            rss_bytes: rss * KIB,
            pss_bytes: pss * KIB,
        },
    ))
}

/// `   1234 kB`.
fn kib(text: &str) -> Option<u64> {
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: [&str; 7] = [
        "MemTotal: 1000 kB",
        "MemFree: 850 kB",
        "MemAvailable: 800 kB",
        "Buffers: 10 kB",
        "Cached: 20 kB",
        "SReclaimable: 5 kB",
        "HugePages_Total: 7",
    ];

    #[test]
    fn the_stand_ins_log_is_read() {
        let lines = MEMINFO
            .map(|line| format!("idle: meminfo {line}\n"))
            .concat();
        let log = format!(
            "standin is ready\n{lines}idle: process init pid 1 rss 9 pss 8\n\
             idle: process standin pid 77 rss 30 pss 20\nidle: done\n"
        );
        let idle = of_standin(&log).unwrap();
        assert_eq!(idle.used().unwrap(), (1000 - 800 - 20) * KIB);
        assert_eq!(idle.occupied().unwrap(), (1000 - 885 - 20) * KIB);
        assert_eq!(idle.processes["init"].rss_bytes, 9 * KIB);
        assert_eq!(idle.processes["init"].pss_bytes, 8 * KIB);
        assert!(!idle.meminfo.contains_key("HugePages_Total"));
    }

    #[test]
    fn a_log_without_the_observer_is_refused() {
        let log = "idle: meminfo MemTotal: 9 kB\nidle: meminfo MemAvailable: 1 kB\n";
        assert!(of_standin(log).is_err());
    }

    #[test]
    fn both_observers_of_a_shell_are_counted() {
        let observers = "Rss: 50 kB\nPss: 30 kB\nPss_Anon: 3 kB\nPss: 12 kB\n";
        let idle = of_shell(&format!("{}\n\n{observers}", MEMINFO.join("\n"))).unwrap();
        assert_eq!(idle.used().unwrap(), (1000 - 800 - 42) * KIB);
    }

    #[test]
    fn meminfo_without_memavailable_is_refused() {
        assert!(of_shell("MemTotal: 1000 kB\n\n").unwrap().used().is_err());
    }
}
