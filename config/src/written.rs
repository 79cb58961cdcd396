//! The values of a config as they are written, without their places: what patches
//! change, what is compared, what is printed. A number stays the text that it is
//! written with, so that nothing is lost between reading and printing. Of what
//! the values mean it knows the order of the model's keys.

use crate::{
    model::{Shape, Table},
    read::{Plain, plain},
    tree::{NodeId, Tree, Value},
};
use zeroize::Zeroize as _;

/// A value. It may hold secrets.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Written {
    /// `null`.
    Nothing,
    /// A boolean or a number, as written.
    Bare(String),
    /// Text.
    Text(String),
    /// A list.
    List(Vec<Written>),
    /// A map, in its order; no key is there twice.
    Map(Vec<(String, Written)>),
}

/// Secrets may be in it.
impl std::fmt::Debug for Written {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Secrets leave memory with the value.
impl Drop for Written {
    fn drop(&mut self) {
        if let Written::Text(text) = self {
            text.zeroize();
        }
    }
}

impl Written {
    /// The value of a node. Nothing stands for what was refused; that was reported.
    pub(crate) fn of(tree: &Tree<'_>, at: NodeId) -> Written {
        match &tree.node(at).value {
            Value::Bad => Written::Nothing,
            Value::Scalar { text, style } => match plain(text, *style) {
                Plain::Nothing => Written::Nothing,
                Plain::Bool(_) | Plain::Number => Written::Bare(text.to_string()),
                Plain::Text => Written::Text(text.to_string()),
            },
            Value::List(items) => {
                Written::List(items.iter().map(|&item| Written::of(tree, item)).collect())
            }
            Value::Map(children) => {
                let entry = |&child: &NodeId| {
                    let key = tree.key(child).unwrap_or_default().to_owned();
                    (key, Written::of(tree, child))
                };
                Written::Map(children.iter().map(entry).collect())
            }
        }
    }

    /// The value of a key, where this is a map that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Written> {
        match self {
            Written::Map(entries) => entries
                .iter()
                .find(|(name, _)| name == key)
                .map(|(_, value)| value),
            _ => None,
        }
    }

    /// The entries of a map; nothing else has any.
    pub(crate) fn entries(&self) -> &[(String, Written)] {
        match self {
            Written::Map(entries) => entries,
            _ => &[],
        }
    }

    /// Whether two values mean the same: the order of keys says nothing.
    pub(crate) fn same(&self, other: &Written) -> bool {
        match (self, other) {
            (Written::Map(ours), Written::Map(theirs)) => {
                ours.len() == theirs.len()
                    && ours
                        .iter()
                        .all(|(key, value)| other.get(key).is_some_and(|there| value.same(there)))
            }
            (Written::List(ours), Written::List(theirs)) => {
                ours.len() == theirs.len()
                    && ours.iter().zip(theirs).all(|(one, two)| one.same(two))
            }
            _ => self == other,
        }
    }

    /// Puts keys into the order of the model. Keys that it does not know follow, in
    /// the order in which they are written.
    pub(crate) fn order(&mut self, shape: Option<&'static Shape>) {
        match self {
            Written::Map(entries) => {
                if let Some(Shape::Object(table)) = shape {
                    let place = |key: &str| table.fields.iter().position(|it| it.key == key);
                    entries.sort_by_key(|(key, _)| place(key).unwrap_or(usize::MAX));
                }
                for (key, value) in entries {
                    value.order(below(shape, key));
                }
            }
            Written::List(items) => items.iter_mut().for_each(|it| it.order(item(shape))),
            _ => {}
        }
    }

    /// As JSON has it. A number that JSON cannot hold as it is written is a text.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match self {
            Written::Nothing => Json::Null,
            Written::Bare(text) => match text.as_str() {
                "true" => Json::Bool(true),
                "false" => Json::Bool(false),
                _ => crate::read::number(text)
                    .map_or_else(|| Json::String(text.clone()), Json::Number),
            },
            Written::Text(text) => Json::String(text.clone()),
            Written::List(items) => Json::Array(items.iter().map(Written::to_json).collect()),
            Written::Map(entries) => Json::Object(
                entries
                    .iter()
                    .map(|(key, value)| (key.clone(), value.to_json()))
                    .collect(),
            ),
        }
    }

    /// From JSON.
    pub(crate) fn from_json(json: &serde_json::Value) -> Written {
        use serde_json::Value as Json;
        match json {
            Json::Null => Written::Nothing,
            Json::Bool(_) | Json::Number(_) => Written::Bare(json.to_string()),
            Json::String(text) => Written::Text(text.clone()),
            Json::Array(items) => Written::List(items.iter().map(Written::from_json).collect()),
            Json::Object(entries) => Written::Map(
                entries
                    .iter()
                    .map(|(key, value)| (key.clone(), Written::from_json(value)))
                    .collect(),
            ),
        }
    }
}

/// What the value of a key may be.
pub(crate) fn below(shape: Option<&'static Shape>, key: &str) -> Option<&'static Shape> {
    match shape? {
        Shape::Object(table) => table.field(key).map(|field| field.shape),
        Shape::Map(value) => Some(value),
        Shape::Any => shape,
        _ => None,
    }
}

/// What an item of a list may be.
pub(crate) fn item(shape: Option<&'static Shape>) -> Option<&'static Shape> {
    match shape? {
        Shape::List(item) => Some(item),
        Shape::Any => shape,
        _ => None,
    }
}

/// The table of a list's items, where something tells them apart.
pub(crate) fn keyed(shape: Option<&'static Shape>) -> Option<&'static Table> {
    match item(shape)? {
        Shape::Object(table) if !table.by.is_empty() => Some(table),
        _ => None,
    }
}

/// What tells an item from the others of its list: its key and that key's value.
pub(crate) fn identity<'w>(
    table: &'static Table,
    item: &'w Written,
) -> Option<(&'static str, &'w Written)> {
    table.by.iter().find_map(|&key| match item.get(key)? {
        Written::Nothing => None,
        value => Some((key, value)),
    })
}
