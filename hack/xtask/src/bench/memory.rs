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
    /// MemTotal − MemAvailable, as the kernel says.
    pub(super) used_bytes: u64,
    /// What of it belongs to whoever looked (proportional set size).
    pub(super) observer_bytes: u64,
    /// The processes with memory of their own, where they were asked for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) processes: BTreeMap<String, Process>,
}

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
    /// What the machine would use if nobody had looked.
    pub(super) fn without_observer(&self) -> u64 {
        self.used_bytes.saturating_sub(self.observer_bytes)
    }
}

/// Reads the stand-in's report from its log.
pub(super) fn of_standin(log: &str) -> Result<Idle> {
    let lines = || {
        log.lines()
            .filter_map(|line| Some(line.split_once("idle: ")?.1))
    };
    let meminfo: Vec<&str> = lines()
        .filter_map(|line| line.strip_prefix("meminfo "))
        .collect();
    let processes: BTreeMap<String, Process> = lines()
        .filter_map(|line| process(line.strip_prefix("process ")?))
        .collect();
    let observer = processes
        .get("standin")
        .context("the stand-in does not see itself")?;
    Ok(Idle {
        used_bytes: used(&meminfo.join("\n"))?,
        observer_bytes: observer.pss_bytes,
        processes,
    })
}

/// Reads meminfo with the smaps_rollup of each observer behind it.
pub(super) fn of_shell(text: &str) -> Result<Idle> {
    let observer: u64 = text
        .lines()
        .filter_map(|line| kib(line.strip_prefix("Pss:")?))
        .sum();
    Ok(Idle {
        used_bytes: used(text)?,
        observer_bytes: observer * KIB,
        processes: BTreeMap::new(),
    })
}

/// MemTotal − MemAvailable of a meminfo, in bytes.
fn used(meminfo: &str) -> Result<u64> {
    let find = |name: &str| {
        meminfo
            .lines()
            .find_map(|line| kib(line.strip_prefix(name)?))
            .with_context(|| format!("no {name} in {meminfo:?}"))
    };
    let (total, available) = (find("MemTotal:")?, find("MemAvailable:")?);
    let used = total
        .checked_sub(available)
        .context("more memory is available than there is")?;
    Ok(used * KIB)
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

    #[test]
    fn the_stand_ins_log_is_read() {
        let log = "standin is ready\nidle: meminfo MemTotal:  1000 kB\nidle: meminfo MemFree: 1 kB\n\
                   idle: meminfo MemAvailable: 900 kB\nidle: process init pid 1 rss 9 pss 8\n\
                   idle: process standin pid 77 rss 30 pss 20\nidle: done\n";
        let idle = of_standin(log).unwrap();
        assert_eq!(idle.used_bytes, 100 * KIB);
        assert_eq!(idle.without_observer(), 80 * KIB);
        assert_eq!(idle.processes["init"].rss_bytes, 9 * KIB);
        assert_eq!(idle.processes["init"].pss_bytes, 8 * KIB);
    }

    #[test]
    fn a_log_without_the_observer_is_refused() {
        let log = "idle: meminfo MemTotal: 9 kB\nidle: meminfo MemAvailable: 1 kB\n";
        assert!(of_standin(log).is_err());
    }

    #[test]
    fn both_observers_of_a_shell_are_counted() {
        let text = "MemTotal: 1000 kB\nMemAvailable: 800 kB\nRss: 50 kB\nPss: 30 kB\nPss_Anon: 3 kB\nPss: 12 kB\n";
        let idle = of_shell(text).unwrap();
        assert_eq!(idle.without_observer(), (200 - 42) * KIB);
    }

    #[test]
    fn meminfo_without_memavailable_is_refused() {
        assert!(of_shell("MemTotal: 1000 kB\n").is_err());
    }
}
