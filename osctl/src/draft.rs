//! Configs and patches as values: read from files, with what is wrong told on
//! stderr, and shown as what differs.

use crate::{
    check,
    error::{Error, Result},
    output,
};
use keelson_config::{Change, Diagnostic, Draft, Patch, Takes};
use std::path::Path;

/// Reads a config that need not be valid.
pub(crate) fn read(path: &Path) -> Result<Draft> {
    let name = check::name(path);
    parse(&name, &check::read(path)?)
}

/// A config that need not be valid, from its bytes.
pub(crate) fn parse(name: &str, bytes: &[u8]) -> Result<Draft> {
    Draft::read(name, bytes).map_err(|wrong| told(&wrong, format!("{name} cannot be read")))
}

/// Reads a patch.
pub(crate) fn patch(path: &Path) -> Result<Patch> {
    let name = check::name(path);
    parse_patch(&name, &check::read(path)?)
}

/// A patch, from its bytes.
pub(crate) fn parse_patch(name: &str, bytes: &[u8]) -> Result<Patch> {
    Patch::read(name, bytes).map_err(|wrong| told(&wrong, format!("{name} is not a valid patch")))
}

/// A config with patches applied, one after the other.
pub(crate) fn patched(config: Draft, patches: &[Patch]) -> Result<Draft> {
    patches.iter().try_fold(config, |config, patch| {
        config
            .patched(patch)
            .map_err(|wrong| told(&wrong, format!("{} does not fit the config", patch.name())))
    })
}

/// Tells diagnostics; what is left to say is the error.
fn told(diagnostics: &[Diagnostic], message: String) -> Error {
    for diagnostic in diagnostics {
        let text = diagnostic.render(output::colour_stderr());
        output::note(text.trim_end_matches('\n'));
    }
    Error::input(message)
}

/// Differences as lines, and what applying them takes. Empty where there are none.
pub(crate) fn lines(changes: &[Change], colour: bool) -> String {
    let mut text = String::new();
    for change in changes {
        let line = change.to_string();
        let tint = match line.as_bytes().first() {
            Some(b'+') => "\x1b[32m",
            Some(b'-') => "\x1b[31m",
            _ => "\x1b[33m",
        };
        if colour {
            text.push_str(&format!("{tint}{line}\x1b[0m\n"));
        } else {
            text.push_str(&format!("{line}\n"));
        }
    }
    match changes.iter().map(|change| change.takes).max() {
        None | Some(Takes::Nothing) => {}
        Some(takes) => text.push_str(&format!("applying this: {}\n", takes.words())),
    }
    text
}
