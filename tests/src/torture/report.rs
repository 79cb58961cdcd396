//! Judges many states of a recording and counts.

use anyhow::{Context as _, Result};
use std::{collections::BTreeMap, fmt};

use super::{
    Recording,
    disk::Map,
    judge::{Finding, Judge, Verdict, Version},
    replay::{Number, Plan, State},
};

/// Which states to look at.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many between flushes; those behind a flush are all looked at.
    pub cuts: u64,
    /// Decides where between flushes.
    pub seed: u64,
    /// From what began with this mark on; from the start of the recording where there is none.
    pub since: Option<String>,
    /// Only this state.
    pub only: Option<Number>,
}

/// How many states of a kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Were looked at.
    pub tried: u64,
    /// Boot a whole version by themselves, some after tries in vain.
    pub booted: u64,
    /// Boot after tries in vain.
    pub fell_back: u64,
}

/// What came out.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// States behind a flush.
    pub flushes: Tally,
    /// States between flushes.
    pub cuts: Tally,
    /// How many states boot each version.
    pub versions: BTreeMap<String, u64>,
    /// The states that do not boot, or lose something, and why.
    pub bad: Vec<(Number, String)>,
    /// What is odd: how often, the first state, and where.
    pub findings: BTreeMap<Finding, (u64, Number, String)>,
    /// States that boot, for a sample: each with what is said to run.
    pub good: Vec<(Number, String)>,
}

/// Judges the states of a recording. `more` are versions that are not on the disk at first.
pub fn try_states(recording: &Recording, more: &[Version], options: &Options) -> Result<Report> {
    let before = Map::default();
    let mut judge = Judge::new(&recording.disk(&before))?;
    more.iter().for_each(|version| judge.know(version.clone()));
    let plan = options.plan(recording)?;
    let mut report = Report {
        seed: options.seed,
        ..Report::default()
    };
    plan.each(&recording.log, |state| {
        let judgement = judge.judge(&recording.disk(&state.map))?;
        if matches!(state.number, Number::Flush(_)) {
            judge.settle(&judgement);
        }
        let tally = match state.number {
            Number::Flush(_) => &mut report.flushes,
            Number::Cut(_) => &mut report.cuts,
        };
        tally.tried += 1;
        match judgement.boots() {
            Some(version) => {
                tally.booted += 1;
                if matches!(judgement.verdict, Verdict::FallsBack { .. }) {
                    tally.fell_back += 1;
                }
                *report.versions.entry(version.to_owned()).or_default() += 1;
                report.good.push((state.number, version.to_owned()));
            }
            None => {
                let told = format!("{}; {}", judgement.problem(), place(recording, state));
                report.bad.push((state.number, told));
            }
        }
        for (finding, detail) in judgement.findings {
            let found = report.findings.entry(finding);
            found.or_insert((0, state.number, detail)).0 += 1;
        }
        anyhow::Ok(())
    })?;
    Ok(report)
}

/// Makes one state of a recording again.
pub fn find(recording: &Recording, options: &Options, number: Number) -> Result<State> {
    let mut found = None;
    let plan = options.plan(recording)?.only(number);
    plan.each(&recording.log, |state| {
        found = Some(state.clone());
        anyhow::Ok(())
    })?;
    found.with_context(|| format!("the recording has no {number}"))
}

/// Where a state lies in its recording.
fn place(recording: &Recording, state: &State) -> String {
    let mut text = format!(
        "{} of {} entries had happened",
        state.happened,
        recording.log.entries.len()
    );
    if state.lost + state.torn > 0 {
        text += &format!(", {} writes lost, {} torn", state.lost, state.torn);
    }
    if let Some(what) = recording.during(state.happened) {
        text += &format!(", during: {what}");
    }
    text
}

impl Options {
    fn plan(&self, recording: &Recording) -> Result<Plan> {
        let range = recording.since(self.since.as_deref())?;
        let plan = Plan::new(&recording.log, range, self.cuts, self.seed);
        Ok(match self.only {
            Some(number) => plan.only(number),
            None => plan,
        })
    }
}

impl Report {
    /// So many of the states that boot, spread over the recording, to be booted for real.
    pub fn sample(&self, count: usize) -> Vec<(Number, String)> {
        let every = self.good.len() as f64 / count.max(1) as f64;
        let places = (0..count).map(|n| ((n as f64 + 0.5) * every) as usize);
        let mut sample: Vec<_> = places.filter_map(|n| self.good.get(n).cloned()).collect();
        sample.dedup();
        sample
    }

    /// Every state boots a whole version.
    pub fn is_good(&self) -> bool {
        self.bad.is_empty() && self.flushes.tried + self.cuts.tried > 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "state of the disk      tried  booted  of these after a fallback"
        )?;
        for (kind, tally) in [("after a flush", self.flushes), ("in between", self.cuts)] {
            let Tally {
                tried,
                booted,
                fell_back,
            } = tally;
            writeln!(f, "{kind:<20} {tried:>7} {booted:>7}  {fell_back:>7}")?;
        }
        for (version, count) in &self.versions {
            writeln!(f, "{count} boot version {version}")?;
        }
        for (finding, (count, number, detail)) in &self.findings {
            let detail = match detail.is_empty() {
                true => String::new(),
                false => format!(" ({detail})"),
            };
            let meaning = finding.meaning();
            writeln!(
                f,
                "noted {count} times: {meaning}; first in {number}{detail}"
            )?;
        }
        if let Some((number, why)) = self.bad.first() {
            writeln!(
                f,
                "{} do not boot, the first is {number}: {why}",
                self.bad.len()
            )?;
        }
        Ok(())
    }
}
