//! The machine config: as written, validated, and what is wrong with it, with
//! line and column. Pure: bytes in, values out; no file is read here.
//!
//! A config goes through two stages here: the document, as written, and
//! [`Machine`], validated with every default resolved. The third stage, the
//! plan, is machined's.
//!
//! ```text
//! bytes ─yaml─> tree ─read─> document ─validate─> Machine
//!                 └───────────┴───────────┴──────> diagnostics
//! ```

mod diagnostic;
mod document;
mod draft;
mod machine;
mod model;
mod read;
mod reference;
mod schema;
mod secret;
mod setting;
mod source;
mod tree;
mod validate;
mod value;
mod wireguard;
mod written;
mod yaml;

pub use diagnostic::{Diagnostic, Severity};
pub use draft::{Change, Draft, Kind, Patch};
pub use machine::*;
pub use model::{Field, Found, Shape, Table, Takes};
pub use read::nearest;
pub use reference::reference;
pub use schema::schema;
pub use setting::OWNED_SETTINGS;
pub use value::{LINKS_OF_PODS, Wrong, is_of_pods};
pub use wireguard::*;

use diagnostic::{Problem, Problems};
use document::Document;
use read::{Located, Read, Reader};
use source::Source;

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
    let mut problems = Problems::default();
    let Some(text) = yaml::text(bytes, &mut problems) else {
        let lossy = String::from_utf8_lossy(&bytes[..problems.end().min(bytes.len())]);
        let mut diagnostics = problems.diagnostics(file_name, &Source::new(&lossy, Vec::new()));
        // What is not text is not shown; nobody knows what is secret in it.
        diagnostics
            .iter_mut()
            .for_each(|diagnostic| diagnostic.excerpt = None);
        return Outcome {
            machine: None,
            diagnostics,
        };
    };
    let Some(tree) = yaml::tree(text, &mut problems) else {
        let source = Source::new(text, secret::masks_by_line(text));
        return Outcome {
            machine: None,
            diagnostics: problems.diagnostics(file_name, &source),
        };
    };
    let mut machine = None;
    if let Some(root) = tree.root() {
        let mut reader = Reader::new(&tree, &mut problems, Document::SHAPE);
        if validate::is_machine(&mut reader, root)
            && let Some(value) = Document::read(&mut reader, root)
        {
            machine = validate::machine(&mut reader, &Located { at: root, value });
        }
    }
    if problems.has_errors() {
        machine = None;
    }
    let source = Source::new(text, secret::masks(text, &tree, Document::SHAPE));
    Outcome {
        machine,
        diagnostics: problems.diagnostics(file_name, &source),
    }
}

/// What can be written in a config.
pub fn model() -> &'static Shape {
    Document::SHAPE
}

/// A diagnostic about the value at a path, for what only the machine itself can
/// judge: it has the value's line, if the config has the value.
pub fn locate(
    file_name: &str,
    bytes: &[u8],
    path: &str,
    severity: Severity,
    message: &str,
) -> Diagnostic {
    let mut problems = Problems::default();
    if let Some(text) = yaml::text(bytes, &mut problems)
        && let Some(tree) = yaml::tree(text, &mut problems)
        && let Some(at) = tree.ids().find(|&id| tree.path(id) == path)
    {
        let problem = Problem::error(tree.spot(at), message).path(path.to_owned());
        let mut found = Problems::default();
        found.push(if severity == Severity::Warning {
            problem.warning()
        } else {
            problem
        });
        let source = Source::new(text, secret::masks(text, &tree, Document::SHAPE));
        if let Some(diagnostic) = found.diagnostics(file_name, &source).pop() {
            return diagnostic;
        }
    }
    Diagnostic::new(severity, file_name, path, message)
}

/// The config as written, with its comments and lines, but every secret value
/// replaced by `***`. What cannot be read as text becomes `***` as a whole.
pub fn redact(bytes: &[u8]) -> Vec<u8> {
    let mut problems = Problems::default();
    let Some(text) = yaml::text(bytes, &mut problems) else {
        return b"***\n".to_vec();
    };
    let masks = match yaml::tree(text, &mut problems) {
        Some(tree) => secret::masks(text, &tree, Document::SHAPE),
        None => secret::masks_by_line(text),
    };
    Source::new(text, masks).masked().into_bytes()
}
