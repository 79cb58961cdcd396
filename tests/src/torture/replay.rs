//! Which states of its disk a machine may wake up with. What was flushed is there; of what was
//! written since, any part may be: a device keeps writes back, reorders them and, when the power
//! goes, leaves one half done, in pieces of a sector.
//!
//! ```text
//! w w F w w w F w …
//!     └ flush-0 └ flush-1: everything before it, nothing behind it
//!       └─────┘ cut-N: flush-0, and some of these
//! ```
//!
//! A state has a number that stands for it in this log and with this seed, for good.

use std::{fmt, ops::Range, str::FromStr};

use super::{
    disk::{Map, Source},
    log::{Entry, Log},
};

/// The name of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Number {
    /// After a flush: the first is 0.
    Flush(u64),
    /// Somewhere between two flushes, drawn by the seed and this.
    Cut(u64),
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Number::Flush(n) => write!(f, "flush-{n}"),
            Number::Cut(n) => write!(f, "cut-{n}"),
        }
    }
}

impl FromStr for Number {
    type Err = String;

    fn from_str(text: &str) -> Result<Number, String> {
        let number = |n: &str| n.parse().ok();
        let named = text.split_once('-').and_then(|(kind, n)| match kind {
            "flush" => number(n).map(Number::Flush),
            "cut" => number(n).map(Number::Cut),
            _ => None,
        });
        named.ok_or_else(|| format!("{text} is not flush-N or cut-N"))
    }
}

/// A state that the disk may be found in.
#[derive(Clone, Debug)]
pub struct State {
    /// Its name.
    pub number: Number,
    /// The flush before it; nothing before the first.
    pub flush: Option<u64>,
    /// How many entries of the log had happened.
    pub happened: usize,
    /// What is on the disk.
    pub map: Map,
    /// Writes since the last flush that are lost.
    pub lost: u64,
    /// Writes that are half there.
    pub torn: u64,
}

/// The writes behind one flush, up to the next.
#[derive(Clone, Debug, Default)]
struct Epoch {
    /// The number of the flush that begins it; nothing for the first.
    flush: Option<u64>,
    /// The entries, without the flush that ends it.
    entries: Range<usize>,
}

/// The states to look at: after every flush that is in the range, and so many in between.
#[derive(Clone, Debug)]
pub struct Plan {
    epochs: Vec<Epoch>,
    /// For each epoch, the cuts in it.
    cuts: Vec<Vec<u64>>,
    seed: u64,
}

impl Plan {
    /// Chooses states from what happened in `range`, entries of the log.
    pub fn new(log: &Log, range: Range<usize>, cuts: u64, seed: u64) -> Plan {
        let mut epochs = vec![Epoch::default()];
        let mut flushes = 0;
        for (n, entry) in log.entries.iter().enumerate() {
            if *entry == Entry::Flush {
                epochs.push(Epoch {
                    flush: Some(flushes),
                    entries: n + 1..n + 1,
                });
                flushes += 1;
            } else if let Some(last) = epochs.last_mut() {
                last.entries.end = n + 1;
            }
        }
        let within = |epoch: &Epoch| Range {
            start: epoch.entries.start.max(range.start),
            end: epoch.entries.end.min(range.end),
        };
        // An epoch with one write is as interesting as one with a thousand, and not.
        let busy: Vec<usize> = (0..epochs.len())
            .filter(|n| !within(&epochs[*n]).is_empty())
            .collect();
        let writes: Vec<usize> = busy
            .iter()
            .flat_map(|n| within(&epochs[*n]).map(|_| *n))
            .collect();
        let mut drawn = vec![Vec::new(); epochs.len()];
        if !busy.is_empty() {
            for cut in 0..cuts {
                let mut dice = Dice::new(seed, cut);
                let epoch = match dice.below(2) {
                    0 => busy[dice.below(busy.len() as u64) as usize],
                    _ => writes[dice.below(writes.len() as u64) as usize],
                };
                drawn[epoch].push(cut);
            }
        }
        let mut plan = Plan {
            epochs,
            cuts: drawn,
            seed,
        };
        for epoch in &mut plan.epochs {
            // A flush out of the range is applied, not looked at.
            let begins = epoch.entries.start.saturating_sub(1);
            if !range.contains(&begins) {
                epoch.flush = None;
            }
        }
        plan
    }

    /// How many states there are.
    pub fn count(&self) -> usize {
        let flushes = self.epochs.iter().filter(|e| e.flush.is_some()).count();
        flushes + self.cuts.iter().map(Vec::len).sum::<usize>()
    }

    /// Keeps only one state.
    pub fn only(mut self, number: Number) -> Plan {
        for (epoch, cuts) in self.epochs.iter_mut().zip(&mut self.cuts) {
            epoch.flush = epoch.flush.filter(|n| Number::Flush(*n) == number);
            cuts.retain(|n| Number::Cut(*n) == number);
        }
        self
    }

    /// Makes the states one after the other, in the order of the log.
    pub fn each<E>(
        &self,
        log: &Log,
        mut look: impl FnMut(&State) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut durable = Map::default();
        for (epoch, cuts) in self.epochs.iter().zip(&self.cuts) {
            let mut state = State {
                number: Number::Flush(0),
                flush: epoch.flush,
                happened: epoch.entries.start,
                map: durable,
                lost: 0,
                torn: 0,
            };
            if let Some(n) = epoch.flush {
                state.number = Number::Flush(n);
                look(&state)?;
            }
            for cut in cuts {
                look(&draw(log, epoch, state.map.clone(), self.seed, *cut))?;
            }
            durable = state.map;
            for entry in &log.entries[epoch.entries.clone()] {
                let (sectors, source) = placed(entry);
                durable.put(sectors, source);
            }
        }
        Ok(())
    }
}

/// What is on the disk when all that was logged arrived.
pub fn whole(log: &Log) -> Map {
    let mut map = Map::default();
    for entry in &log.entries {
        let (sectors, source) = placed(entry);
        map.put(sectors, source);
    }
    map
}

/// Draws what of an epoch reached the disk.
fn draw(log: &Log, epoch: &Epoch, map: Map, seed: u64, cut: u64) -> State {
    let mut dice = Dice::new(seed ^ 0x5eed, cut);
    let count = epoch.entries.len() as u64;
    let happened = epoch.entries.start + 1 + dice.below(count) as usize;
    let mut state = State {
        number: Number::Cut(cut),
        flush: epoch.flush,
        happened,
        map,
        lost: 0,
        torn: 0,
    };
    // Of eight writes, how many arrive; eight stands for a device that keeps the order.
    let (arrive, tear) = match dice.below(6) {
        0 | 1 => (8, 0),
        2 => (7, 1),
        3 => (1, 1),
        _ => (4, 1),
    };
    for (n, entry) in (epoch.entries.start..happened).zip(&log.entries[epoch.entries.clone()]) {
        let (sectors, source) = placed(entry);
        let durable = matches!(entry, Entry::Write { durable: true, .. });
        // In order, only the last may be half done.
        let last = n + 1 == happened;
        let torn = dice.below(8) < tear || arrive == 8 && last && dice.below(2) == 0;
        if durable {
            state.map.put(sectors, source);
        } else if arrive < 8 && dice.below(8) >= arrive {
            state.lost += 1;
        } else if torn && sectors.end - sectors.start > 1 {
            state.torn += 1;
            tear_apart(&mut state.map, sectors, source, &mut dice);
        } else {
            state.map.put(sectors, source);
        }
    }
    state
}

/// Puts some sectors of a write: the first ones, the last ones, or any.
fn tear_apart(map: &mut Map, sectors: Range<u64>, source: Source, dice: &mut Dice) {
    let count = sectors.end - sectors.start;
    let at = 1 + dice.below(count - 1);
    let behind = |n: u64| match source {
        Source::Log(data) => Source::Log(data + n * super::log::SECTOR),
        Source::Zeros => Source::Zeros,
    };
    match dice.below(3) {
        0 => map.put(sectors.start..sectors.start + at, source),
        1 => map.put(sectors.start + at..sectors.end, behind(at)),
        _ => {
            for n in 0..count {
                if dice.below(2) == 0 {
                    let first = sectors.start + n;
                    map.put(first..first + 1, behind(n));
                }
            }
        }
    }
}

/// Where an entry's sectors go, and what they hold. What is discarded reads as zeros here.
fn placed(entry: &Entry) -> (Range<u64>, Source) {
    match *entry {
        Entry::Write {
            sector,
            sectors,
            data,
            ..
        } => (sector..sector + sectors, Source::Log(data)),
        Entry::Discard { sector, sectors } => (sector..sector + sectors, Source::Zeros),
        Entry::Flush => (0..0, Source::Zeros),
    }
}

/// Numbers that look random and are the same each time (SplitMix64).
struct Dice(u64);

impl Dice {
    fn new(seed: u64, n: u64) -> Dice {
        let mut dice = Dice(seed.wrapping_mul(0xd134_2543_de82_ef95) ^ n);
        dice.next();
        dice
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `end`, which is not zero.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes of eight sectors, one behind the other, where there is no F; D is durable.
    fn log(history: &str) -> Log {
        let mut log = Log::default();
        for (n, what) in history.chars().enumerate() {
            log.places.push(0);
            log.entries.push(match what {
                'F' => Entry::Flush,
                _ => Entry::Write {
                    sector: n as u64 * 8,
                    sectors: 8,
                    data: n as u64 * 4096,
                    durable: what == 'D',
                },
            });
        }
        log
    }

    fn states(history: &str, range: Range<usize>, cuts: u64, seed: u64) -> Vec<State> {
        let log = log(history);
        let plan = Plan::new(&log, range, cuts, seed);
        let mut states = Vec::new();
        plan.each(&log, |state| {
            states.push(state.clone());
            Ok::<_, ()>(())
        })
        .unwrap();
        assert_eq!(states.len(), plan.count());
        states
    }

    /// How many of a write's sectors are there.
    fn there(state: &State, write: u64) -> u64 {
        let pieces = state.map.pieces(write * 8..write * 8 + 8);
        let there = pieces.iter().filter(|(_, source)| source.is_some());
        there.map(|(sectors, _)| sectors.end - sectors.start).sum()
    }

    #[test]
    fn after_a_flush_everything_before_it_is_there() {
        let states = states("wwFwFF", 0..6, 0, 1);
        let seen: Vec<_> = states
            .iter()
            .map(|s| (s.number.to_string(), there(s, 0), there(s, 1), there(s, 3)))
            .collect();
        assert_eq!(
            seen,
            [
                ("flush-0".into(), 8, 8, 0),
                ("flush-1".into(), 8, 8, 8),
                ("flush-2".into(), 8, 8, 8)
            ]
        );
    }

    #[test]
    fn in_between_some_writes_are_lost_and_some_torn() {
        let states = states("wFwwwwDwwF", 0..10, 500, 7);
        let (mut lost, mut torn, mut reordered) = (0, 0, 0);
        for state in states.iter().filter(|s| matches!(s.number, Number::Cut(_))) {
            if state.flush == Some(0) {
                assert_eq!(there(state, 0), 8, "what was flushed stays");
            }
            if state.happened > 6 {
                assert_eq!(there(state, 6), 8, "what is durable stays");
            }
            for write in state.happened as u64..10 {
                assert_eq!(there(state, write), 0, "what had not happened is not there");
            }
            lost += state.lost;
            torn += state.torn;
            reordered += u64::from(there(state, 2) == 0 && there(state, 3) > 0);
        }
        assert!(
            lost > 100 && torn > 50 && reordered > 20,
            "{lost} {torn} {reordered}"
        );
    }

    #[test]
    fn a_number_is_one_state_for_good() {
        let all = states("wFwwwwDwwF", 0..10, 50, 7);
        let log = log("wFwwwwDwwF");
        for want in &all {
            let plan = Plan::new(&log, 0..10, 50, 7).only(want.number);
            assert_eq!(want.number.to_string().parse(), Ok(want.number));
            let mut found = Vec::new();
            plan.each(&log, |state| {
                found.push(state.map.clone());
                Ok::<_, ()>(())
            })
            .unwrap();
            assert_eq!(found, std::slice::from_ref(&want.map));
        }
        let other = states("wFwwwwDwwF", 0..10, 50, 8);
        assert!(all.iter().zip(&other).any(|(a, b)| a.map != b.map));
    }

    #[test]
    fn only_what_is_in_the_range_is_looked_at() {
        let states = states("wFwFwwF", 4..7, 20, 1);
        assert_eq!(states.len(), 21);
        for state in states {
            assert_eq!(there(&state, 2), 8);
            assert!(state.happened > 4);
        }
    }

    #[test]
    fn an_empty_log_has_no_states() {
        assert!(states("", 0..0, 10, 1).is_empty());
        assert!(states("FF", 0..0, 10, 1).is_empty());
    }
}
