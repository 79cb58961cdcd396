//! Shows health checks as they change: on a terminal each has its line, which
//! turns green; elsewhere a line is written for each change.

use crate::{age, commands::health::word, output};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use keelson_api::v1::{HealthCheck, health_check::State};
use std::{
    collections::BTreeMap,
    io::IsTerminal,
    time::{Duration, Instant},
};

/// The checks of one node.
pub(crate) struct Board {
    begin: Instant,
    node: Option<String>,
    known: BTreeMap<String, State>,
    trouble: String,
    terminal: Option<Terminal>,
}

struct Terminal {
    all: MultiProgress,
    bars: BTreeMap<String, ProgressBar>,
    trouble: ProgressBar,
}

impl Board {
    /// An empty board. The node is named where there are several.
    pub(crate) fn new(node: Option<String>) -> Board {
        let terminal = std::io::stderr().is_terminal().then(|| {
            let all = MultiProgress::new();
            let trouble = all.add(spinner());
            trouble.set_message("calling the node");
            Terminal {
                all,
                bars: BTreeMap::new(),
                trouble,
            }
        });
        let (known, trouble) = (BTreeMap::new(), String::new());
        Board {
            begin: Instant::now(),
            node,
            known,
            trouble,
            terminal,
        }
    }

    /// All checks as they are now.
    pub(crate) fn show(&mut self, checks: &[HealthCheck]) {
        self.trouble.clear();
        for check in checks {
            let before = self.known.insert(check.name.clone(), check.state());
            match &mut self.terminal {
                Some(terminal) => terminal.show(check),
                None if before != Some(check.state()) => self.line(check),
                None => {}
            }
        }
        if let Some(terminal) = &self.terminal {
            terminal.trouble.set_message("waiting for the rest");
        }
    }

    /// The node cannot be asked at the moment.
    pub(crate) fn trouble(&mut self, why: &str) {
        if let Some(terminal) = &self.terminal {
            terminal.trouble.set_message(why.to_owned());
        } else if self.trouble != why {
            output::note(format!("{} waiting    {why}", self.head()));
        }
        why.clone_into(&mut self.trouble);
    }

    /// Leaves the lines as they are.
    pub(crate) fn close(self) {
        if let Some(terminal) = self.terminal {
            terminal.trouble.finish_and_clear();
            for bar in terminal.bars.into_values().filter(|bar| !bar.is_finished()) {
                bar.abandon();
            }
        }
    }

    fn line(&self, check: &HealthCheck) {
        let text = format!(
            "{} {:<10} {}",
            self.head(),
            word(check.state()),
            said(check)
        );
        output::note(text);
    }

    fn head(&self) -> String {
        let node = self
            .node
            .as_ref()
            .map(|node| format!("{node} "))
            .unwrap_or_default();
        format!("{node}{:>6}", age::short(self.begin.elapsed()))
    }
}

impl Terminal {
    fn show(&mut self, check: &HealthCheck) {
        let bar = self
            .bars
            .entry(check.name.clone())
            .or_insert_with(|| self.all.insert_before(&self.trouble, spinner()));
        let colour = output::colour_stderr();
        let (green, red, off) = if colour {
            ("\x1b[32m", "\x1b[31m", "\x1b[0m")
        } else {
            ("", "", "")
        };
        match check.state() {
            State::Healthy => {
                bar.set_style(plain());
                bar.finish_with_message(format!("{green}✓{off} {}", said(check)));
            }
            state => {
                if bar.is_finished() {
                    bar.reset();
                    bar.set_style(spinning());
                }
                let (on, off) = if state == State::Unhealthy {
                    (red, off)
                } else {
                    ("", "")
                };
                bar.set_message(format!("{on}{}{off}", said(check)));
            }
        }
    }
}

fn said(check: &HealthCheck) -> String {
    let message = check.message.replace(char::is_control, " ");
    if message.is_empty() {
        check.name.clone()
    } else {
        format!("{}: {message}", check.name)
    }
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_style(spinning());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

fn spinning() -> ProgressStyle {
    style("{spinner:.cyan} {wide_msg}")
}

fn plain() -> ProgressStyle {
    style("{wide_msg}")
}

/// The templates are ours; one that the library would not take is shown as its default.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
