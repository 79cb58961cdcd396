//! How the builder tells a person what it does: one line for each step, a moving bar on a
//! terminal, plain lines elsewhere, and the table of times and sizes at the end. Writes to
//! standard error only; it decides nothing.

use std::io::{IsTerminal, Write as _};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It ran.
    Done,
    /// Nothing had changed since it ran last.
    Fresh,
}

/// One row of the table at the end.
#[derive(Debug)]
struct Row {
    name: String,
    outcome: Outcome,
    time: Duration,
    bytes: Option<u64>,
}

/// The reporter of one build; hand out a reference to it.
#[derive(Debug)]
pub struct Report {
    terminal: bool,
    quiet: bool,
    start: Instant,
    rows: Mutex<Vec<Row>>,
}

impl Report {
    /// A reporter that draws bars if standard error is a terminal; `quiet` prints only warnings.
    pub fn new(quiet: bool) -> Report {
        Report {
            terminal: std::io::stderr().is_terminal() && !quiet,
            quiet,
            start: Instant::now(),
            rows: Mutex::new(Vec::new()),
        }
    }

    /// Begins a step, such as `step("root image")`. End it with [`Step::done`] or
    /// [`Step::fresh`]; a step that is dropped without either just vanishes (it failed, and the
    /// error says so).
    pub fn step(&self, name: &str) -> Step<'_> {
        let bar = if self.terminal {
            let bar = ProgressBar::new_spinner();
            bar.set_style(style("{prefix:>12.cyan.bold} {msg} {spinner}"));
            bar.set_prefix("Building");
            bar.set_message(name.to_string());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        } else {
            ProgressBar::hidden()
        };
        Step {
            report: self,
            name: name.to_string(),
            bar,
            start: Instant::now(),
        }
    }

    /// A line that a person should see, but that does not stop the build.
    pub fn warn(&self, message: &str) {
        self.line("Warning", message);
    }

    /// A plain line of news, such as `note("Output", "build/keelson.raw")`.
    pub fn note(&self, verb: &str, message: &str) {
        if !self.quiet {
            self.line(verb, message);
        }
    }

    /// The table of all steps: name, size, time; and the total.
    pub fn summary(&self) {
        if self.quiet {
            return;
        }
        let rows = self.rows.lock().unwrap_or_else(|e| e.into_inner());
        let width = rows.iter().map(|r| r.name.len()).max().unwrap_or(0).max(5);
        self.raw("");
        for row in rows.iter() {
            let time = match row.outcome {
                Outcome::Done => seconds(row.time),
                Outcome::Fresh => "fresh".to_string(),
            };
            let size = row.bytes.map(size).unwrap_or_default();
            self.raw(&format!("    {:width$}  {size:>10}  {time:>8}", row.name));
        }
        let total = seconds(self.start.elapsed());
        self.raw(&format!("    {:width$}  {:>10}  {total:>8}", "total", ""));
    }

    fn line(&self, verb: &str, message: &str) {
        if self.terminal {
            self.raw(&format!("\x1b[1;32m{verb:>12}\x1b[0m {message}"));
        } else {
            self.raw(&format!("{verb:>12} {message}"));
        }
    }

    fn raw(&self, line: &str) {
        // Where nobody listens on standard error there is nobody to tell about it.
        writeln!(std::io::stderr(), "{line}").ok();
    }

    fn finish(&self, step: &Step<'_>, outcome: Outcome, bytes: Option<u64>) {
        step.bar.finish_and_clear();
        let time = step.start.elapsed();
        let verb = match outcome {
            Outcome::Done => "Built",
            Outcome::Fresh => "Fresh",
        };
        let mut message = step.name.clone();
        if let Some(bytes) = bytes {
            message.push_str(&format!(" ({})", size(bytes)));
        }
        if outcome == Outcome::Done {
            message.push_str(&format!(" in {}", seconds(time)));
        }
        self.note(verb, &message);
        self.rows
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .push(Row {
                name: step.name.clone(),
                outcome,
                time,
                bytes,
            });
    }
}

/// A step that is running.
#[derive(Debug)]
pub struct Step<'a> {
    report: &'a Report,
    name: String,
    bar: ProgressBar,
    start: Instant,
}

impl Step<'_> {
    /// Says how much work there is (bytes), which turns the spinner into a bar.
    pub fn length(&self, bytes: u64) {
        if self.report.terminal {
            self.bar.set_style(style(
                "{prefix:>12.cyan.bold} {msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}",
            ));
            self.bar.set_length(bytes);
        }
    }

    /// Says that so many bytes more are done.
    pub fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
    }

    /// Says what of the step is being done now, such as a package's name.
    pub fn detail(&self, what: &str) {
        self.bar.set_message(format!("{}: {what}", self.name));
    }

    /// The step ran; `bytes` is the size of what came out.
    pub fn done(self, bytes: Option<u64>) {
        self.report.finish(&self, Outcome::Done, bytes);
    }

    /// The step had nothing to do.
    pub fn fresh(self, bytes: Option<u64>) {
        self.report.finish(&self, Outcome::Fresh, bytes);
    }
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A number of bytes for people: `63.4 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

fn seconds(time: Duration) -> String {
    let whole = time.as_secs();
    if whole >= 60 {
        format!("{}m{:02}s", whole / 60, whole % 60)
    } else {
        format!("{:.1}s", time.as_secs_f64())
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
        .progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (66_060_288, "63.0 MiB"),
            (5 << 30, "5.0 GiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn times_read_well() {
        assert_eq!(seconds(Duration::from_millis(1240)), "1.2s");
        assert_eq!(seconds(Duration::from_secs(125)), "2m05s");
    }
}
