//! What is wrong or doubtful in a config, how it is collected, and how it is
//! shown to a person. A secret's value is never part of it.

use crate::source::Source;
use std::{
    fmt::{self, Write as _},
    ops::Range,
};

/// How bad a diagnostic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The config is not used.
    Error,
    /// The config is used; someone should look at it.
    Warning,
}

/// One thing that is wrong or doubtful, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How bad it is.
    pub severity: Severity,
    /// The file as the caller named it.
    pub file: String,
    /// The line, counted from 1; 0 if it is not known.
    pub line: u32,
    /// The column in characters, counted from 1; 0 if it is not known.
    pub column: u32,
    /// The path to the value, for example `network.links[0].addresses[1]`; may be empty.
    pub path: String,
    /// What is wrong. Never a secret's value.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The line of the config, secrets starred out.
    pub(crate) excerpt: Option<Excerpt>,
}

/// A line of a config, as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Excerpt {
    /// The line or, where it is long, the part around the value.
    pub(crate) text: String,
    /// How many columns stand before the value.
    pub(crate) before: usize,
    /// How many columns the value takes, at least one.
    pub(crate) width: usize,
}

impl Diagnostic {
    /// A diagnostic that speaks of no line.
    pub fn new(severity: Severity, file: &str, path: &str, message: impl Into<String>) -> Self {
        Diagnostic {
            severity,
            file: file.to_owned(),
            line: 0,
            column: 0,
            path: path.to_owned(),
            message: message.into(),
            hint: None,
            excerpt: None,
        }
    }

    /// The whole diagnostic, with the line of the config that it speaks of and a
    /// caret below the value. Ends with a newline.
    pub fn render(&self, colour: bool) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        self.write(&mut out, &if colour { COLOURED } else { PLAIN })
            .ok();
        out
    }

    fn write(&self, out: &mut impl fmt::Write, paint: &Paint) -> fmt::Result {
        let (word, tint) = match self.severity {
            Severity::Error => ("error", paint.error),
            Severity::Warning => ("warning", paint.warning),
        };
        let Paint {
            strong, dim, off, ..
        } = *paint;
        write!(out, "{strong}{}", self.file)?;
        if self.line > 0 {
            write!(out, ":{}:{}", self.line, self.column)?;
        }
        write!(out, ":{off} {tint}{word}:{off} {strong}")?;
        if !self.path.is_empty() {
            write!(out, "{}: ", self.path)?;
        }
        writeln!(out, "{}{off}", self.message)?;
        let gutter = self.line.max(1).ilog10() as usize + 3;
        if let Some(Excerpt {
            text,
            before,
            width,
        }) = &self.excerpt
        {
            let (line, gap) = (self.line, "");
            writeln!(out, "{dim}{line:>gutter$} |{off} {text}")?;
            writeln!(
                out,
                "{dim}{gap:gutter$} |{off} {gap:before$}{tint}{gap:^<width$}{off}"
            )?;
        }
        if let Some(hint) = &self.hint {
            writeln!(out, "{dim}{:gutter$} ={off} {hint}", "")?;
        }
        Ok(())
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f, &PLAIN)
    }
}

/// Terminal colours, or nothing.
struct Paint {
    error: &'static str,
    warning: &'static str,
    strong: &'static str,
    dim: &'static str,
    off: &'static str,
}

const PLAIN: Paint = Paint {
    error: "",
    warning: "",
    strong: "",
    dim: "",
    off: "",
};
const COLOURED: Paint = Paint {
    error: "\x1b[1;31m",
    warning: "\x1b[1;33m",
    strong: "\x1b[1m",
    dim: "\x1b[2m",
    off: "\x1b[0m",
};

/// A diagnostic in the making: it knows its place in the text, not yet its line.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    severity: Severity,
    range: Range<usize>,
    path: String,
    message: String,
    hint: Option<String>,
    /// It speaks of the config as a whole.
    nowhere: bool,
}

impl Problem {
    /// An error at a place of the text.
    pub(crate) fn error(range: Range<usize>, message: impl Into<String>) -> Self {
        let severity = Severity::Error;
        Problem {
            severity,
            range,
            path: String::new(),
            message: message.into(),
            hint: None,
            nowhere: false,
        }
    }

    /// An error that speaks of the config as a whole.
    pub(crate) fn whole(message: impl Into<String>) -> Self {
        Problem {
            nowhere: true,
            ..Problem::error(0..0, message)
        }
    }

    /// Only a warning.
    pub(crate) fn warning(self) -> Self {
        Problem {
            severity: Severity::Warning,
            ..self
        }
    }

    /// With the path to the value.
    pub(crate) fn path(self, path: String) -> Self {
        Problem { path, ..self }
    }

    /// With what to do about it.
    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Problem {
            hint: Some(hint.into()),
            ..self
        }
    }
}

/// All problems of one config.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    list: Vec<Problem>,
    more: usize,
    errors: bool,
}

/// More problems than this are counted, not shown.
const MAX_PROBLEMS: usize = 100;

impl Problems {
    /// Adds one.
    pub(crate) fn push(&mut self, problem: Problem) {
        self.errors |= problem.severity == Severity::Error;
        if self.list.len() < MAX_PROBLEMS {
            self.list.push(problem);
        } else {
            self.more += 1;
        }
    }

    /// Adds one that is only put into words where it will be shown. One that will
    /// not counts as an error: a warning among so many makes no difference.
    pub(crate) fn push_with(&mut self, problem: impl FnOnce() -> Problem) {
        if self.is_full() {
            self.more += 1;
            self.errors = true;
        } else {
            self.push(problem());
        }
    }

    /// How much of the text must be there to place them all.
    pub(crate) fn end(&self) -> usize {
        self.list
            .iter()
            .map(|problem| problem.range.end)
            .max()
            .unwrap_or(0)
    }

    /// Whether further problems are only counted, so that whoever would look long
    /// for a good message need not.
    pub(crate) fn is_full(&self) -> bool {
        self.list.len() >= MAX_PROBLEMS
    }

    /// Whether one of them is an error.
    pub(crate) fn has_errors(&self) -> bool {
        self.errors
    }

    /// The problems as diagnostics, in the order of the text.
    pub(crate) fn diagnostics(mut self, file: &str, source: &Source<'_>) -> Vec<Diagnostic> {
        self.list
            .sort_by_key(|problem| (!problem.nowhere, problem.range.start));
        let mut all: Vec<Diagnostic> = self
            .list
            .into_iter()
            .map(|problem| {
                let mut diagnostic =
                    Diagnostic::new(problem.severity, file, &problem.path, problem.message);
                diagnostic.hint = problem.hint;
                if !problem.nowhere {
                    let place = source.place(&problem.range);
                    (diagnostic.line, diagnostic.column) = (place.line, place.column);
                    diagnostic.excerpt = place.excerpt;
                }
                diagnostic
            })
            .collect();
        if self.more > 0 {
            let mut message = String::new();
            // Writing to a String cannot fail.
            write!(message, "{} more problems are not shown", self.more).ok();
            let severity = if self.errors {
                Severity::Error
            } else {
                Severity::Warning
            };
            all.push(Diagnostic::new(severity, file, "", message));
        }
        all
    }
}
