//! A guest's serial console, as QEMU writes it to a file.

use crate::monitor::Monitor;
use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

/// A guest's console. Positions are bytes from the beginning.
#[derive(Clone, Debug)]
pub struct Console {
    path: PathBuf,
    monitor: Monitor,
}

impl Console {
    pub(crate) fn new(path: &Path, monitor: Monitor) -> Self {
        Console {
            path: path.to_owned(),
            monitor,
        }
    }

    /// Everything written so far; what is no UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.path).unwrap_or_default()).into_owned()
    }

    /// Where the console's file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How much has been written so far.
    pub fn position(&self) -> usize {
        fs::metadata(&self.path).map_or(0, |meta| usize::try_from(meta.len()).unwrap_or(usize::MAX))
    }

    /// Waits for a line that contains the text, from the beginning of the console.
    pub fn wait_for(&self, text: &str, limit: Duration) -> Result<String> {
        self.wait_after(0, text, limit)
    }

    /// Waits for a line that contains the text, behind a position.
    pub fn wait_after(&self, position: usize, text: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(line) = self.find_after(position, text) {
                return Ok(line);
            }
            if Instant::now() > deadline {
                bail!(
                    "{text:?} was not on the console after {}s; its end:\n{}",
                    limit.as_secs(),
                    self.end()
                );
            }
            sleep(Duration::from_millis(100));
        }
    }

    /// The first whole line behind a position that contains the text.
    pub fn find_after(&self, position: usize, text: &str) -> Option<String> {
        let bytes = fs::read(&self.path).ok()?;
        let rest = String::from_utf8_lossy(bytes.get(position..)?).into_owned();
        let whole = &rest[..rest.rfind('\n')?];
        whole
            .lines()
            .find(|line| line.contains(text))
            .map(|line| line.trim().to_owned())
    }

    /// The last lines, and where the machine is: what a failed test tells.
    pub fn end(&self) -> String {
        let text = self.text();
        let all: Vec<_> = text.lines().collect();
        let last = all[all.len().saturating_sub(25)..].join("\n");
        format!("{last}\n{}", self.monitor.place())
    }

    /// Copies the console to where it is kept after a failed test.
    pub(crate) fn keep(&self, to: &Path) -> Result<()> {
        fs::copy(&self.path, to)
            .with_context(|| format!("keeping the console as {}", to.display()))?;
        Ok(())
    }
}
