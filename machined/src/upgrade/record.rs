//! What the machine remembers of its upgrades, in META: it survives everything but the
//! loss of the disk. Pure: what the record becomes when a machine starts is decided here,
//! what is done about it is not.
//!
//! ```text
//! Idle ─> Writing ─> Staged ──the loader tries it──> Trying ─healthy─> Idle, good
//!            │          │                               │
//!            │          └─ the entry is gone ─> Idle    └─ back on the old one ─> Idle, bad
//!            └─ error, power cut ─> Idle
//! ```

use serde::{Deserialize, Serialize};

/// The version of this form. Fields are added without a new one: an older release passes over
/// what it does not know.
const FORMAT: u32 = 1;

/// How many versions that failed are remembered.
const REMEMBERED: usize = 16;

/// How many of a failed boot's last lines are remembered.
pub(crate) const LAST_LINES: usize = 40;

/// The longest of them, in bytes; a record has 64 KiB in all.
const LONGEST_LINE: usize = 400;

/// All that is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    /// The version of this form: [`FORMAT`].
    pub format_version: u32,
    /// Where the upgrade stands.
    pub state: State,
    /// The release that was marked good last; nothing before the first upgrade.
    #[serde(default)]
    pub good: Option<Release>,
    /// The release that ran when the last one was staged: what a rollback goes to.
    #[serde(default)]
    pub previous: Option<Release>,
    /// What became of the last upgrade.
    #[serde(default)]
    pub last: Option<Past>,
    /// The lowest version that may be installed; empty for any.
    #[serde(default)]
    pub floor: String,
    /// The versions that failed here, the newest last.
    #[serde(default)]
    pub bad: Vec<Bad>,
}

/// Where an upgrade stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "name")]
pub(crate) enum State {
    /// Nothing is under way.
    #[default]
    Idle,
    /// A slot is being written: it has no name yet, and nothing boots it.
    #[serde(rename_all = "camelCase")]
    Writing {
        /// What is written.
        release: Release,
        /// Where the machine fetches it from, if it does.
        #[serde(default)]
        url: Option<String>,
        /// Wait for a reboot that somebody else asks for.
        #[serde(default)]
        stage: bool,
        /// The boot during which it was begun.
        boot: String,
    },
    /// The next boot tries it.
    #[serde(rename_all = "camelCase")]
    Staged {
        /// What is staged.
        release: Release,
    },
    /// It is tried.
    #[serde(rename_all = "camelCase")]
    Trying {
        /// What is tried.
        release: Release,
        /// How many boots got as far as machined.
        boots: u32,
        /// The boot during which this was written.
        boot: String,
        /// Why it is not good, as far as it could say so itself.
        #[serde(default)]
        reason: Option<String>,
        /// The last lines of its logs then.
        #[serde(default)]
        log: Vec<String>,
    },
    /// A later release wrote something that this one does not know.
    #[serde(other)]
    Unknown,
}

/// One release, as its bundle or its image says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Release {
    /// Its version.
    pub version: String,
    /// Its verity root hash, 64 hexadecimal digits.
    pub root_hash: String,
    /// The orchestrator in it: its name and version.
    pub orchestrator: Option<Carried>,
    /// The lowest version that may be installed once this one is good; empty for any.
    pub floor: String,
    /// When it was staged, in seconds since 1970.
    pub staged: u64,
}

/// The orchestrator in a release.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Carried {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

/// What became of an upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Past {
    /// To which version.
    pub version: String,
    /// How it ended.
    pub end: End,
    /// Why, in words; empty where it went well.
    #[serde(default)]
    pub reason: String,
    /// The last lines of the logs of a boot that failed.
    #[serde(default)]
    pub log: Vec<String>,
    /// When, in seconds since 1970.
    pub at: u64,
}

/// How an upgrade ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum End {
    /// It runs and is good.
    Good,
    /// It was tried, and the machine came back.
    FellBack,
    /// It was not staged.
    Failed,
    /// A person went back.
    RolledBack,
    /// Something that only a later release knows.
    #[serde(other)]
    Unknown,
}

/// A version that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Bad {
    /// The version.
    pub version: String,
    /// Its root hash: another build of the version may be good.
    pub root_hash: String,
    /// Why.
    pub reason: String,
    /// When, in seconds since 1970.
    pub at: u64,
}

impl Default for Record {
    fn default() -> Self {
        Record {
            format_version: FORMAT,
            state: State::Idle,
            good: None,
            previous: None,
            last: None,
            floor: String::new(),
            bad: Vec::new(),
        }
    }
}

/// Why what META holds is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// It is not a record.
    #[error("the record of upgrades cannot be read")]
    Invalid(#[from] serde_json::Error),
    /// A later release wrote it in another form.
    #[error("the record of upgrades has format {0}; this release reads format {FORMAT}")]
    Format(u32),
}

impl Record {
    /// Reads what [`Record::bytes`] wrote.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Record, Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Form {
            format_version: u32,
        }
        let Form { format_version } = serde_json::from_slice(bytes)?;
        if format_version != FORMAT {
            return Err(Error::Format(format_version));
        }
        Ok(serde_json::from_slice(bytes)?)
    }

    /// The record as it is stored.
    pub(crate) fn bytes(&self) -> Result<Vec<u8>, Error> {
        Ok(serde_json::to_vec(self)?)
    }

    /// Why a version failed here, if it did. Another build of it may be tried.
    pub(crate) fn failed(&self, version: &str, root_hash: &str) -> Option<&Bad> {
        self.bad
            .iter()
            .find(|bad| bad.version == version && bad.root_hash == root_hash)
    }

    /// Forgets that a version failed; whether it had.
    pub(crate) fn forgive(&mut self, version: &str) -> bool {
        let before = self.bad.len();
        self.bad.retain(|bad| bad.version != version);
        self.bad.len() != before
    }

    /// Whether the release is tried and not known to be good.
    pub(crate) fn is_trying(&self) -> bool {
        matches!(self.state, State::Trying { .. })
    }

    /// The running release is good.
    pub(crate) fn mark_good(&mut self, running: Release, at: u64) {
        self.bad.retain(|bad| bad.root_hash != running.root_hash);
        self.last = Some(Past {
            version: running.version.clone(),
            end: End::Good,
            reason: String::new(),
            log: Vec::new(),
            at,
        });
        self.good = Some(running);
        self.state = State::Idle;
    }

    /// What is under way ended without a release that could be tried.
    pub(crate) fn fail(&mut self, version: &str, reason: impl Into<String>, at: u64) {
        self.state = State::Idle;
        self.last = Some(Past {
            version: version.to_owned(),
            end: End::Failed,
            reason: reason.into(),
            log: Vec::new(),
            at,
        });
    }

    /// Something was not even begun; what is staged stays so.
    pub(crate) fn refuse(&mut self, reason: impl Into<String>, at: u64) {
        self.last = Some(Past {
            version: String::new(),
            end: End::Failed,
            reason: reason.into(),
            log: Vec::new(),
            at,
        });
    }

    /// A person goes back to the release before.
    pub(crate) fn roll_back(&mut self, from: &str, reason: String, at: u64) {
        self.state = State::Idle;
        self.last = Some(Past {
            version: from.to_owned(),
            end: End::RolledBack,
            reason,
            log: Vec::new(),
            at,
        });
    }

    fn fall_back(&mut self, release: Release, reason: String, log: Vec<String>, at: u64) {
        self.bad.retain(|bad| bad.root_hash != release.root_hash);
        self.bad.push(Bad {
            version: release.version.clone(),
            root_hash: release.root_hash,
            reason: reason.clone(),
            at,
        });
        let excess = self.bad.len().saturating_sub(REMEMBERED);
        self.bad.drain(..excess);
        self.state = State::Idle;
        self.last = Some(Past {
            version: release.version,
            end: End::FellBack,
            reason,
            log,
            at,
        });
    }
}

/// What the boot loader holds of a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tries {
    /// There is no entry for it.
    NoEntry,
    /// Its entry is known to be good: it is not counted.
    Uncounted,
    /// So many are left, so many were made.
    Counted { left: u32, done: u32 },
}

/// The last words of a run that crashed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Words {
    /// The line that says what happened; empty where nothing is known.
    pub summary: String,
    /// The last lines of the kernel's log.
    pub lines: Vec<String>,
}

/// What a machine that starts knows beside its record.
#[derive(Clone, Debug)]
pub(crate) struct Start<'a> {
    /// The root hash of the release that runs.
    pub running: &'a str,
    /// Which boot this is.
    pub boot: &'a str,
    /// What the loader holds of the release that the record speaks of.
    pub tries: Tries,
    /// What a crash since then left.
    pub crash: &'a Words,
    /// Seconds since 1970.
    pub now: u64,
}

/// What a machine that starts makes of its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Nothing was under way.
    Nothing,
    /// What is staged waits for a reboot.
    Waits,
    /// The running release is on trial.
    OnTrial,
    /// What was under way is not any more.
    Ended,
}

/// Brings the record up to date when machined starts.
pub(crate) fn arrive(record: &mut Record, start: &Start<'_>) -> Arrival {
    let state = std::mem::take(&mut record.state);
    match state {
        State::Idle | State::Unknown => Arrival::Nothing,
        State::Writing { release, .. } => {
            let reason = "it was interrupted while the slot was written; send it again";
            record.fail(&release.version, reason, start.now);
            Arrival::Ended
        }
        State::Staged { release } if release.root_hash == start.running => {
            record.state = State::Trying {
                release,
                boots: 1,
                boot: start.boot.to_owned(),
                reason: None,
                log: Vec::new(),
            };
            Arrival::OnTrial
        }
        State::Trying {
            release,
            boots,
            boot,
            reason,
            log,
        } if release.root_hash == start.running => {
            // machined alone was started again: the boot is still the same one.
            let again = u32::from(boot != start.boot);
            record.state = State::Trying {
                release,
                boots: boots.saturating_add(again),
                boot: start.boot.to_owned(),
                reason,
                log,
            };
            Arrival::OnTrial
        }
        State::Staged { release } => elsewhere(record, release, 0, None, Vec::new(), start),
        State::Trying {
            release,
            boots,
            reason,
            log,
            ..
        } => elsewhere(record, release, boots, reason, log, start),
    }
}

/// The release that should be tried is not the one that runs.
fn elsewhere(
    record: &mut Record,
    release: Release,
    boots: u32,
    reason: Option<String>,
    log: Vec<String>,
    start: &Start<'_>,
) -> Arrival {
    match start.tries {
        Tries::Counted { left: 1.., .. } | Tries::Uncounted => {
            record.state = State::Staged { release };
            Arrival::Waits
        }
        Tries::Counted { left: 0, done } => {
            let told = reason.is_some();
            let reason = reason.unwrap_or_else(|| untold(done, boots, &start.crash.summary));
            let log = if told && !log.is_empty() {
                log
            } else {
                start.crash.lines.clone()
            };
            record.fall_back(release, reason, bounded(log), start.now);
            Arrival::Ended
        }
        // Without a try there is nothing against the release.
        Tries::NoEntry if boots == 0 => {
            let reason = "power was cut before the boot loader knew it, or while it counted a try; \
                          send it again: the slot is kept if it is whole";
            record.fail(&release.version, reason, start.now);
            Arrival::Ended
        }
        Tries::NoEntry => {
            let reason = reason.unwrap_or_else(|| "its entry in the boot loader is gone".into());
            record.fall_back(release, reason, bounded(log), start.now);
            Arrival::Ended
        }
    }
}

fn untold(done: u32, boots: u32, words: &str) -> String {
    let tries = if done == 1 { "try" } else { "tries" };
    let how = match boots {
        0 => format!("it never got as far as machined in {done} {tries}"),
        _ => format!(
            "it ended {done} {tries} without a word: it crashed, hung, or power was cut; machined ran in {boots}"
        ),
    };
    match words {
        "" => how,
        words => format!("{how}; its last words: {words}"),
    }
}

/// The newest lines, each of a bearable length.
pub(crate) fn bounded(lines: Vec<String>) -> Vec<String> {
    let skip = lines.len().saturating_sub(LAST_LINES);
    lines
        .into_iter()
        .skip(skip)
        .map(|mut line| {
            let mut end = line.len().min(LONGEST_LINE);
            while !line.is_char_boundary(end) {
                end -= 1;
            }
            line.truncate(end);
            line
        })
        .collect()
}

#[cfg(test)]
mod tests;
