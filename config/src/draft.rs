//! Configs before they are judged: read as they are written, patched, compared
//! and printed. Nothing here says whether a config is valid; that is for
//! [`parse`](crate::parse), of what comes out.

mod change;
mod check;
mod merge;
mod pointer;
mod print;

pub use change::{Change, Kind};

use crate::{
    diagnostic::{Diagnostic, Problem, Problems},
    document::Document,
    model::Shape,
    read::Read as _,
    secret,
    source::Source,
    tree::{NodeId, Tree, Value},
    written::Written,
    yaml,
};
use pointer::Operation;
use std::fmt;
use zeroize::Zeroizing;

/// A config as it is written, without its comments.
#[derive(Clone, PartialEq, Eq)]
pub struct Draft {
    root: Written,
}

/// A change of configs, written by a person: read by [`Patch::read`], which finds
/// what is wrong with it before there is a config to change.
#[derive(Clone)]
pub struct Patch {
    name: String,
    text: Zeroizing<String>,
    kind: PatchKind,
}

#[derive(Clone)]
enum PatchKind {
    /// Laid over the config, as the model says.
    Merge(Written),
    /// Steps by RFC 6902.
    Steps(Vec<Operation>),
}

impl Draft {
    /// Reads a config. Only what is no YAML map is refused.
    pub fn read(name: &str, bytes: &[u8]) -> Result<Draft, Vec<Diagnostic>> {
        let mut root = read(name, bytes, |tree, at, problems| {
            let value = &tree.node(at).value;
            if !matches!(value, Value::Map(_)) {
                problems.push(Problem::error(tree.spot(at), "a config is a map of keys"));
            }
            Written::of(tree, at)
        })?;
        root.order(Some(Document::SHAPE));
        Ok(Draft { root })
    }

    /// A config from JSON.
    pub fn from_json(json: &serde_json::Value) -> Draft {
        let mut root = Written::from_json(json);
        root.order(Some(Document::SHAPE));
        Draft { root }
    }

    /// The config as JSON.
    pub fn to_json(&self) -> serde_json::Value {
        self.root.to_json()
    }

    /// The config with a patch applied. What goes wrong is said of the patch.
    pub fn patched(&self, patch: &Patch) -> Result<Draft, Vec<Diagnostic>> {
        let mut root = self.root.clone();
        match &patch.kind {
            PatchKind::Merge(values) => merge::merge(&mut root, values, Some(Document::SHAPE)),
            PatchKind::Steps(steps) => {
                for step in steps {
                    if let Err(message) = step.apply(&mut root) {
                        let problem =
                            Problem::error(step.at.clone(), message).path(step.path.clone());
                        let mut problems = Problems::default();
                        problems.push(problem);
                        return Err(shown(&patch.name, &patch.text, problems));
                    }
                }
                if !matches!(root, Written::Map(_)) {
                    let message = "the patch leaves no config";
                    let mut problems = Problems::default();
                    problems.push(Problem::whole(message));
                    return Err(shown(&patch.name, &patch.text, problems));
                }
            }
        }
        root.order(Some(Document::SHAPE));
        Ok(Draft { root })
    }

    /// The config's text: keys in the order of the model, no comments. Equal
    /// configs have equal texts.
    pub fn print(&self) -> Zeroizing<String> {
        print::document(&self.root)
    }

    /// What differs in another config. Secrets are starred out.
    pub fn changes(&self, other: &Draft) -> Vec<Change> {
        change::changes(&self.root, &other.root)
    }

    /// The patch that makes another config of this one. It holds the secrets that
    /// differ.
    pub fn patch_to(&self, other: &Draft) -> Zeroizing<String> {
        let patch = change::patch(&self.root, &other.root, Some(Document::SHAPE));
        print::document(&patch.unwrap_or(Written::Map(Vec::new())))
    }
}

impl Patch {
    /// Reads a patch: a map is laid over the config, a list holds the steps of a
    /// JSON patch (RFC 6902). All that is wrong with it is told, as of a config;
    /// only what is missing is not, since that may be in the config.
    pub fn read(name: &str, bytes: &[u8]) -> Result<Patch, Vec<Diagnostic>> {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let nothing = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
        let kind = if text.lines().all(nothing) && !bytes.contains(&0) {
            PatchKind::Merge(Written::Map(Vec::new()))
        } else {
            read(name, bytes, |tree, at, problems| {
                match &tree.node(at).value {
                    Value::List(items) => {
                        PatchKind::Steps(pointer::operations(tree, items, problems))
                    }
                    _ => {
                        check::patch(tree, at, problems);
                        PatchKind::Merge(Written::of(tree, at))
                    }
                }
            })?
        };
        Ok(Patch {
            name: name.to_owned(),
            text: Zeroizing::new(text),
            kind,
        })
    }

    /// The name that it was read by.
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Secrets may be in it.
impl fmt::Debug for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Draft(***)")
    }
}

/// Secrets may be in it.
impl fmt::Debug for Patch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Patch({})", self.name)
    }
}

/// Reads bytes as YAML and gives what `look` makes of the document; what is wrong
/// with either is the error.
fn read<T>(
    name: &str,
    bytes: &[u8],
    look: impl FnOnce(&Tree<'_>, NodeId, &mut Problems) -> T,
) -> Result<T, Vec<Diagnostic>> {
    let mut problems = Problems::default();
    let Some(text) = yaml::text(bytes, &mut problems) else {
        let lossy = String::from_utf8_lossy(&bytes[..problems.end().min(bytes.len())]);
        let mut diagnostics = problems.diagnostics(name, &Source::new(&lossy, Vec::new()));
        diagnostics.iter_mut().for_each(|it| it.excerpt = None);
        return Err(diagnostics);
    };
    let Some(tree) = yaml::tree(text, &mut problems) else {
        let source = Source::new(text, secret::masks_by_line(text));
        return Err(problems.diagnostics(name, &source));
    };
    let found = tree.root().map(|root| look(&tree, root, &mut problems));
    match found {
        Some(found) if !problems.has_errors() => Ok(found),
        _ => Err(problems.diagnostics(name, &source_of(text, &tree))),
    }
}

/// A text that could be read, with what is not shown of it. Only a map can be a
/// part of a config; of anything else nothing says what is secret in it.
fn source_of<'t>(text: &'t str, tree: &Tree<'_>) -> Source<'t> {
    let is_map = tree
        .root()
        .is_some_and(|root| matches!(tree.node(root).value, Value::Map(_)));
    Source::new(
        text,
        if is_map {
            secret::masks(text, tree, Document::SHAPE)
        } else {
            secret::masks_by_line(text)
        },
    )
}

/// Problems of a text that was read before.
fn shown(name: &str, text: &str, problems: Problems) -> Vec<Diagnostic> {
    problems.diagnostics(name, &Source::new(text, secret::masks_by_line(text)))
}

/// The shape of a whole config.
fn root() -> &'static Shape {
    Document::SHAPE
}

#[cfg(test)]
mod tests;
