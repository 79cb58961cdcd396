//! Configs and patches as nobody would write them: every text is answered, soon, without a panic,
//! and what is read is printed and read again the same. Texts are made of the cases in the tree by
//! changing them; one that is answered in words not heard before is changed further.

use anyhow::{Context, Result, bail};
use keelson_config::{Draft, Outcome, Patch, parse, redact};
use std::{
    collections::HashSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// The folders of the texts to begin with.
const SEEDS: [&str; 4] = [
    "config/tests/cases/valid",
    "config/tests/cases/invalid",
    "docs/examples",
    "docs/examples/three-servers",
];

/// No text may take longer.
const LIMIT: Duration = Duration::from_secs(1);

/// Longer texts are not made: what is longer is refused by its length alone.
const LONGEST: usize = 64 << 10;

/// What YAML and a config give a meaning to.
const PIECES: [&str; 32] = [
    ":",
    ": ",
    "- ",
    "\n",
    "\n  ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "\"",
    "'",
    "|",
    ">",
    "#",
    " #",
    "&a",
    "*a",
    "!t",
    "---\n",
    "...\n",
    "%",
    "~",
    "null",
    "true",
    "0",
    "-1",
    "4294967296",
    "+",
    "$patch",
    "\u{feff}",
    "\u{85}",
];

/// How long to try.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many minutes
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// Decides which texts are made
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Tries texts until the time is over or one is answered wrongly, which is kept.
pub(crate) fn run(root: &Path, args: &Args) -> Result<()> {
    let mut corpus = Vec::new();
    for folder in SEEDS {
        for entry in fs::read_dir(root.join(folder)).with_context(|| format!("reading {folder}"))? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "yaml")
            {
                corpus.push(fs::read(&path)?);
            }
        }
    }
    corpus.sort();
    let seeds = corpus.len();
    let mut random = Random(args.seed);
    let mut heard = HashSet::new();
    let (begun, mut told) = (Instant::now(), Instant::now());
    let (mut tried, mut valid) = (0u64, 0u64);
    while begun.elapsed() < Duration::from_secs(60 * args.minutes) {
        // Half of them come from what a person wrote, else few would be read to their end.
        let pool = match random.below(2) {
            0 => &corpus[..seeds],
            _ => &corpus[..],
        };
        let text = random.text(pool);
        tried += 1;
        let outcome = match catch_unwind(AssertUnwindSafe(|| answered(&text))) {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(why)) => bail!("{why}: {}", keep(root, tried, &text)?.display()),
            Err(_) => bail!("it panicked at {}", keep(root, tried, &text)?.display()),
        };
        valid += u64::from(outcome.machine.is_some());
        if heard.insert(words(&outcome)) && corpus.len() < 20_000 {
            corpus.push(text);
        }
        if told.elapsed() > Duration::from_secs(60) {
            told = Instant::now();
            eprintln!(
                "{tried} texts, {} answers, {:?}",
                heard.len(),
                begun.elapsed()
            );
        }
    }
    println!(
        "{tried} texts in {} minutes, seed {}: no panic, none longer than {LIMIT:?}; {valid} valid, \
         {} different answers; begun with {seeds} texts",
        args.minutes,
        args.seed,
        heard.len()
    );
    Ok(())
}

/// Reads a text in every way that there is; what is wrong with the answer is the error.
fn answered(text: &[u8]) -> Result<Outcome, String> {
    let timed = |what: &str, work: &dyn Fn()| {
        // A machine that does something else may be slow once.
        let slow = (0..3).all(|_| {
            let begun = Instant::now();
            work();
            begun.elapsed() > LIMIT
        });
        if slow {
            Err(format!("{what} takes longer than {LIMIT:?}"))
        } else {
            Ok(())
        }
    };
    timed("reading it", &|| drop(parse("any.yaml", text)))?;
    timed("starring it out", &|| drop(redact(text)))?;
    timed("reading it as a patch", &|| {
        drop(Patch::read("any.yaml", text))
    })?;
    if let Ok(draft) = Draft::read("any.yaml", text) {
        let printed = draft.print();
        match Draft::read("printed.yaml", printed.as_bytes()) {
            Ok(again) if again == draft => {}
            _ => return Err("what is printed of it is read as something else".into()),
        }
    }
    Ok(parse("any.yaml", text))
}

/// What is told of a text, without what it says itself.
fn words(outcome: &Outcome) -> Vec<String> {
    let plain = |message: &String| {
        message
            .split('"')
            .step_by(2)
            .collect::<String>()
            .chars()
            .filter(|c| !c.is_ascii_digit())
            .collect()
    };
    let mut words: Vec<String> = outcome
        .diagnostics
        .iter()
        .map(|it| plain(&it.message))
        .collect();
    words.sort();
    words.dedup();
    words.truncate(8);
    words
}

fn keep(root: &Path, number: u64, text: &[u8]) -> Result<PathBuf> {
    let folder = root.join("target/fuzz");
    fs::create_dir_all(&folder)?;
    let path = folder.join(format!("text-{number}.yaml"));
    fs::write(&path, text)?;
    Ok(path)
}

/// SplitMix64: <https://prng.di.unimi.it/splitmix64.c>.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below this one, which is not 0.
    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// A text of the corpus, changed in some places.
    fn text(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut text = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(6) {
            self.change(&mut text, corpus);
        }
        text.truncate(LONGEST);
        text
    }

    fn change(&mut self, text: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        let at = self.below(text.len() + 1);
        let end = (at + 1 + self.below(40)).min(text.len());
        match self.below(8) {
            0 if at < text.len() => text[at] ^= 1 << self.below(8),
            1 if at < end => drop(text.drain(at..end)),
            2 => {
                let copy = text[at.min(end)..end].to_vec();
                let to = self.below(text.len() + 1);
                text.splice(to..to, copy);
            }
            3 => {
                let piece = PIECES[self.below(PIECES.len())];
                text.splice(at..at, piece.bytes());
            }
            4 => {
                let piece = PIECES[self.below(PIECES.len())];
                text.splice(at.min(end)..end, piece.bytes());
            }
            5 => {
                let other = lines(&corpus[self.below(corpus.len())]);
                let from = self.line(text);
                if let Some(line) = other.get(self.below(other.len())) {
                    text.splice(from..from, line.iter().copied());
                }
            }
            6 => {
                let from = self.line(text);
                let length = text[from..]
                    .iter()
                    .take_while(|byte| **byte != b'\n')
                    .count();
                let until = (from + length + 1).min(text.len());
                text.drain(from..until);
            }
            _ => {
                let from = self.line(text);
                let spaces = vec![b' '; self.below(5)];
                text.splice(from..from, spaces);
            }
        }
    }

    /// Where a line begins.
    fn line(&mut self, text: &[u8]) -> usize {
        let at = self.below(text.len() + 1);
        text[..at]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1)
    }
}

/// The lines of a text, each with its end.
fn lines(text: &[u8]) -> Vec<&[u8]> {
    text.split_inclusive(|byte| *byte == b'\n').collect()
}
