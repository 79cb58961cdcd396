//! What can go wrong, as the person at the keyboard sees it: a message that says
//! what was being done, the causes below it, a hint what to do next, and the exit
//! code. Nothing is printed here but through [`Error::render`].

use std::{fmt, process::ExitCode};

/// Either a value or something to tell the person.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure it is; decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// The reader of our output is gone. Not a failure.
    Closed,
    /// The node, or this machine, could not do it.
    Failed,
    /// The person asked for something that makes no sense, or gave an invalid file.
    Input,
    /// No node answers there, or one that we do not trust.
    Unreachable,
    /// The node answers and refuses.
    Denied,
    /// It took longer than it may.
    Timeout,
}

impl Kind {
    /// The exit code that goes with it; documented in [`EXIT_CODES`].
    pub(crate) fn code(self) -> u8 {
        match self {
            Kind::Closed => 0,
            Kind::Failed => 1,
            Kind::Input => 2,
            Kind::Unreachable => 3,
            Kind::Denied => 4,
            Kind::Timeout => 5,
        }
    }
}

/// The exit codes, as the help shows them.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0  it worked
  1  it failed on the node, on this machine or on the way
  2  bad input: the command line, or a config or bundle that is not valid; nothing was changed
  3  the node cannot be reached, or it is not the node that it should be
  4  the node refused: no certificate, a wrong one, or a role that may not do this
  5  it was not done in time";

/// Something to tell the person. See the module for its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Error {
    kind: Kind,
    message: String,
    causes: Vec<String>,
    hint: Option<String>,
    passing: bool,
}

impl Error {
    /// An error with neither cause nor hint.
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        let passing = matches!(kind, Kind::Unreachable | Kind::Timeout);
        Error {
            kind,
            message: message.into(),
            causes: Vec::new(),
            hint: None,
            passing,
        }
    }

    /// It could not be done.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Error::new(Kind::Failed, message)
    }

    /// What was asked for is wrong.
    pub(crate) fn input(message: impl Into<String>) -> Self {
        Error::new(Kind::Input, message)
    }

    /// What was wrong has been told already, on stderr; only the exit code is left.
    pub(crate) fn told(kind: Kind) -> Self {
        Error::new(kind, "")
    }

    /// With a cause below the ones that are there.
    pub(crate) fn cause(mut self, cause: impl fmt::Display) -> Self {
        let text = cause.to_string();
        if !text.is_empty() {
            self.causes.push(text);
        }
        self
    }

    /// With an error and everything that it says caused it, without repetitions.
    pub(crate) fn chain(mut self, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut next = Some(error);
        while let Some(error) = next {
            let text = error.to_string();
            if !self.causes.iter().any(|cause| cause.contains(&text)) {
                self.causes.push(text);
            }
            next = error.source();
        }
        self
    }

    /// With what to do next. Replaces the hint that is there.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// May it pass by itself, so that trying again makes sense? By default what is
    /// unreachable or late may.
    pub(crate) fn passing(mut self, passing: bool) -> Self {
        self.passing = passing;
        self
    }

    /// See [`Error::passing`].
    pub(crate) fn is_passing(&self) -> bool {
        self.passing
    }

    /// The sort of failure.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// The message and the first cause in one line, for progress lines.
    pub(crate) fn line(&self) -> String {
        match self.causes.first() {
            Some(cause) => format!("{}: {cause}", self.message),
            None => self.message.clone(),
        }
    }

    /// The exit code.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind.code())
    }

    /// The whole error as text, each line ended; empty if all has been told.
    pub(crate) fn render(&self, colour: bool) -> String {
        if self.message.is_empty() {
            return String::new();
        }
        let (red, cyan, off) = if colour {
            ("\x1b[1;31m", "\x1b[1;36m", "\x1b[0m")
        } else {
            ("", "", "")
        };
        let mut text = format!("{red}error:{off} {}\n", self.message);
        for cause in &self.causes {
            text.push_str(&format!("  cause: {}\n", cause.replace('\n', "\n    ")));
        }
        if let Some(hint) = &self.hint {
            text.push_str(&format!("{cyan}hint:{off} {hint}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_message_causes_hint() {
        let error = Error::new(Kind::Unreachable, "cannot reach 10.0.0.1:50000")
            .cause("connection refused")
            .hint("is it on?");
        assert_eq!(
            error.render(false),
            "error: cannot reach 10.0.0.1:50000\n  cause: connection refused\nhint: is it on?\n"
        );
        assert!(error.render(true).starts_with("\x1b[1;31merror:\x1b[0m "));
        assert_eq!(
            error.line(),
            "cannot reach 10.0.0.1:50000: connection refused"
        );
    }

    #[test]
    fn what_was_told_is_not_told_again() {
        assert_eq!(Error::told(Kind::Input).render(true), "");
    }

    #[test]
    fn each_kind_has_the_code_that_the_help_names() {
        let kinds = [
            Kind::Closed,
            Kind::Failed,
            Kind::Input,
            Kind::Unreachable,
            Kind::Denied,
            Kind::Timeout,
        ];
        for (code, kind) in kinds.into_iter().enumerate() {
            assert_eq!(usize::from(kind.code()), code);
            assert!(EXIT_CODES.contains(&format!("\n  {code}  ")));
        }
    }

    #[test]
    fn a_chain_says_nothing_twice() {
        let inner = std::io::Error::other("disk is full");
        let outer = std::io::Error::other(inner);
        assert_eq!(Error::failed("x").chain(&outer).causes, ["disk is full"]);
    }
}
