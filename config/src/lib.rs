//! The machine config: as written, validated, and what is wrong with it, with
//! line and column. Pure: bytes in, values out; no file is read here.
//!
//! A config goes through two stages here: the document, as written, and
//! [`Machine`], validated with every default resolved. The third stage, the
//! plan, is machined's.

mod diagnostic;
mod machine;

pub use diagnostic::{Diagnostic, Severity};
pub use machine::*;

/// What came of reading a config.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// The machine as wanted; there if and only if no diagnostic is an error.
    pub machine: Option<Machine>,
    /// All that is wrong or doubtful, in the order of the file.
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads and validates a config. `file_name` is only used in the diagnostics.
/// Any input is answered: nothing makes this panic or run for long.
pub fn parse(file_name: &str, bytes: &[u8]) -> Outcome {
    let _unused = bytes;
    Outcome {
        machine: None,
        diagnostics: vec![Diagnostic {
            severity: Severity::Error,
            file: file_name.to_owned(),
            line: 0,
            column: 0,
            path: String::new(),
            message: "no config can be read yet".to_owned(),
            hint: None,
        }],
    }
}

/// The config as written, with its comments and lines, but every secret value
/// replaced by `***`. What cannot be read as text becomes `***` as a whole.
pub fn redact(bytes: &[u8]) -> Vec<u8> {
    let _unused = bytes;
    b"***\n".to_vec()
}
