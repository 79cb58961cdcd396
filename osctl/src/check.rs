//! Validates machine configs at the desk, with the code that the machine uses.

use crate::{
    error::{Error, Kind, Result},
    output,
};
use keelson_config::{Diagnostic, Severity};

/// The largest config that is read at all; the machine takes no larger one either.
pub(crate) const LIMIT: u64 = 1 << 20;

/// What was found in a config.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    /// How many diagnostics are errors.
    pub(crate) errors: usize,
    /// How many are warnings.
    pub(crate) warnings: usize,
}

impl Count {
    /// Counts them.
    pub(crate) fn of(diagnostics: &[Diagnostic]) -> Count {
        let errors = diagnostics
            .iter()
            .filter(|it| it.severity == Severity::Error)
            .count();
        Count {
            errors,
            warnings: diagnostics.len() - errors,
        }
    }

    /// In words: `2 errors, 1 warning`.
    pub(crate) fn words(self) -> String {
        let plural = |count: usize, what: &str| match count {
            0 => None,
            1 => Some(format!("1 {what}")),
            _ => Some(format!("{count} {what}s")),
        };
        let parts: Vec<_> = [
            plural(self.errors, "error"),
            plural(self.warnings, "warning"),
        ]
        .into_iter()
        .flatten()
        .collect();
        if parts.is_empty() {
            "nothing wrong".to_owned()
        } else {
            parts.join(", ")
        }
    }
}

/// Tells everything that is wrong or doubtful in a config, on stderr. An error is
/// returned if the machine would refuse it (or, if `strict`, if anything was told).
pub(crate) fn check(name: &str, config: &[u8], strict: bool) -> Result<Count> {
    let outcome = keelson_config::parse(name, config);
    let colour = output::colour_stderr();
    for diagnostic in &outcome.diagnostics {
        output::note(diagnostic.render(colour).trim_end_matches('\n'));
    }
    let count = Count::of(&outcome.diagnostics);
    if outcome.machine.is_none() || count.errors > 0 {
        return Err(Error::input(format!(
            "{name} is not valid: {}",
            count.words()
        )));
    }
    if strict && count.warnings > 0 {
        return Err(
            Error::input(format!("{name} is doubtful: {}", count.words()))
                .hint("without --strict, warnings are only told"),
        );
    }
    Ok(count)
}

/// Reads a config, at most [`LIMIT`] bytes of it.
pub(crate) fn read(path: &std::path::Path) -> Result<Vec<u8>> {
    crate::file::read(path, LIMIT)
}

/// The name under which diagnostics speak of a file.
pub(crate) fn name(path: &std::path::Path) -> String {
    if path == std::path::Path::new("-") {
        "<stdin>".to_owned()
    } else {
        path.display().to_string()
    }
}

/// The error after diagnostics that the node, not we, found.
pub(crate) fn refused_by_node() -> Error {
    Error::new(
        Kind::Input,
        "the node found the config invalid and changed nothing",
    )
    .hint("osctl did not: is it older than the node? See `osctl version`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counting_in_words() {
        for (errors, warnings, words) in [
            (0, 0, "nothing wrong"),
            (1, 0, "1 error"),
            (2, 1, "2 errors, 1 warning"),
            (0, 3, "3 warnings"),
        ] {
            assert_eq!(Count { errors, warnings }.words(), words);
        }
    }
}
