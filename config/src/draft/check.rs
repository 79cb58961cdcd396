//! What can be said of a merge patch by itself: its keys are known, its values are
//! of their types, and its directives make sense where they stand.

use super::merge::{DIRECTIVE, WORDS};
use crate::{
    diagnostic::Problems,
    model::{Shape, Table},
    read::{Plain, Reader, nearest, plain},
    tree::{NodeId, Tree, Value, quote},
    validate,
};

/// Reports what is wrong with a patch.
pub(super) fn patch(tree: &Tree<'_>, at: NodeId, problems: &mut Problems) {
    let mut reader = Reader::new(tree, problems, super::root());
    if matches!(tree.node(at).value, Value::Map(_)) {
        if validate::is_machine(&mut reader, at) {
            value(&mut reader, at, super::root());
        }
    } else {
        let hint = "a list of steps is a JSON patch, a map is laid over the config";
        reader.error(at, "a patch is a map or a list", hint);
    }
}

fn value(reader: &mut Reader<'_>, at: NodeId, shape: &'static Shape) {
    match shape {
        Shape::Object(table) => object(reader, at, table),
        Shape::Map(item) => {
            for &child in reader.map(at).unwrap_or_default() {
                let key = reader.key(child);
                if key == DIRECTIVE {
                    directive(reader, child);
                } else if let Some(key) = key.strip_prefix('+') {
                    appended(reader, child, key, item);
                } else if !removed(reader, child) {
                    value(reader, child, item);
                }
            }
        }
        Shape::List(item) => list(reader, at, item),
        _ => reader.fits(at, shape),
    }
}

fn object(reader: &mut Reader<'_>, at: NodeId, table: &'static Table) {
    for &child in reader.map(at).unwrap_or_default() {
        let key = reader.key(child);
        let appends = key.strip_prefix('+').and_then(|key| table.field(key));
        match (table.field(key), appends) {
            _ if key == DIRECTIVE => directive(reader, child),
            (Some(field), _) => {
                if !removed(reader, child) {
                    value(reader, child, field.shape);
                }
            }
            (None, Some(field)) => appended(reader, child, field.key, field.shape),
            (None, None) => reader.unknown_key(child, table),
        }
    }
}

/// Whether a value is `null` or a map that says so itself: nothing more is asked of it.
fn removed(reader: &mut Reader<'_>, at: NodeId) -> bool {
    match reader.tree().node(at).value {
        Value::Scalar { ref text, style } => matches!(plain(text, style), Plain::Nothing),
        Value::Map(ref children) => {
            let Some((word, "delete")) = reader.text_at(at, DIRECTIVE) else {
                return false;
            };
            if children.len() > 1 {
                reader.error(
                    word,
                    "nothing else may stand beside it",
                    "the value is removed",
                );
            }
            true
        }
        _ => false,
    }
}

fn appended(reader: &mut Reader<'_>, at: NodeId, key: &str, shape: &'static Shape) {
    let plain_key = || format!("write {key}, which replaces");
    match shape {
        Shape::List(item) => {
            for &child in reader.list(at).unwrap_or_default() {
                value(reader, child, item);
            }
        }
        Shape::Any => {
            reader.list(at);
        }
        _ => reader.key_error(at, "only a list can be appended to", &plain_key()),
    }
}

fn list(reader: &mut Reader<'_>, at: NodeId, item: &'static Shape) {
    let items = reader.list(at).unwrap_or_default();
    let table = match item {
        Shape::Object(table) if !table.by.is_empty() => Some(*table),
        _ => None,
    };
    let marks = |reader: &Reader<'_>, at: NodeId| {
        let said = reader.text_at(at, DIRECTIVE);
        said.is_some_and(|(_, word)| word == "replace") && count(reader, at) == 1
    };
    let replaced = items.iter().any(|&at| marks(reader, at));
    for &child in items {
        value(reader, child, item);
        let mark = marks(reader, child);
        match table {
            // What is told apart by nothing cannot be found again.
            None if !mark => {
                if let Some((word, "merge" | "delete")) = reader.text_at(child, DIRECTIVE) {
                    let hint = "the list is replaced as a whole: write all of it";
                    reader.error(word, "nothing tells the entries of this list apart", hint);
                }
            }
            Some(table) if !mark && !replaced => {
                let told = table
                    .by
                    .iter()
                    .any(|key| reader.tree().get(child, key).is_some());
                if !told && count(reader, child) > 0 {
                    let keys = table.by.join(" or ");
                    let hint = "or put `- $patch: replace` into the list to replace all of it";
                    let message = format!("{keys} must say which entry is meant");
                    reader.missing(child, table.by[0], message, hint);
                }
            }
            _ => {}
        }
    }
}

/// How many keys a map has.
fn count(reader: &Reader<'_>, at: NodeId) -> usize {
    match &reader.tree().node(at).value {
        Value::Map(children) => children.len(),
        _ => 0,
    }
}

fn directive(reader: &mut Reader<'_>, at: NodeId) {
    match &reader.tree().node(at).value {
        Value::Scalar { text, style } if matches!(plain(text, *style), Plain::Text) => {
            if !WORDS.contains(&text.as_ref()) {
                let near = nearest(text, WORDS.into_iter());
                let hint = near.map(|word| format!("did you mean {word}?"));
                let message = format!(
                    "expected one of {}, found {}",
                    WORDS.join(", "),
                    quote(text)
                );
                reader.error(at, message, &hint.unwrap_or_default());
            }
        }
        _ => {
            let message = format!("expected one of {}", WORDS.join(", "));
            reader.error(at, message, "");
        }
    }
}
