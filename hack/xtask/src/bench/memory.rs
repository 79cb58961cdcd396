//! What a machine's memory is used for: the account of its kernel, which the balloon driver
//! tells the hypervisor, so that nobody has to look from inside; and what Keelson's programs
//! hold, which the stand-in of an orchestrator writes into its log.

use anyhow::{Context, Result};
use keelson_tests::{Memory, Vm};
use serde::Serialize;
use std::{collections::BTreeMap, thread::sleep, time::Duration};

const KIB: u64 = 1024;

/// How long after the first answer a machine counts as idle: as long as the stand-in waits.
const SETTLED: Duration = Duration::from_secs(30);

/// A machine on which nothing happens, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Idle {
    /// MemTotal − MemAvailable: what no new program can have.
    pub(super) used_bytes: u64,
    /// What is neither free nor a cache of files. The free pages that the kernel keeps for itself
    /// count as free here, and as used above.
    pub(super) occupied_bytes: u64,
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

/// Waits until nothing happens on a machine that has just answered, and looks.
pub(super) fn idle(vm: &Vm) -> Result<Idle> {
    sleep(SETTLED);
    of(&vm.memory()?)
}

fn of(memory: &Memory) -> Result<Idle> {
    let less = |parts: &[u64]| {
        parts
            .iter()
            .try_fold(memory.total, |left, part| left.checked_sub(*part))
            .with_context(|| format!("more memory than there is: {memory:?}"))
    };
    Ok(Idle {
        used_bytes: less(&[memory.available])?,
        occupied_bytes: less(&[memory.free, memory.caches])?,
    })
}

/// Reads the processes from the stand-in's log: those that have memory of their own.
pub(super) fn processes(log: &str) -> BTreeMap<String, Process> {
    log.lines()
        .filter_map(|line| process(line.split_once("idle: process ")?.1))
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_account_is_taken_apart() {
        let memory = Memory {
            total: 1000,
            available: 800,
            free: 850,
            caches: 30,
        };
        let idle = of(&memory).unwrap();
        assert_eq!((idle.used_bytes, idle.occupied_bytes), (200, 120));
        let torn = Memory {
            available: 1001,
            ..memory
        };
        assert!(of(&torn).is_err());
    }

    #[test]
    fn the_stand_ins_log_is_read() {
        let all = processes(
            "standin is ready\nidle: process init pid 1 rss 9 pss 8\n\
             idle: process standin pid 77 rss 30 pss 20\nidle: process cut pid 7\nidle: done\n",
        );
        assert_eq!(all.len(), 2);
        assert_eq!(all["init"].rss_bytes, 9 * KIB);
        assert_eq!(all["init"].pss_bytes, 8 * KIB);
    }
}
