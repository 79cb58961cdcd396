//! From a tree to typed values, strictly: an unknown key, a wrong type and a
//! missing key are reported, and reading goes on. What a field is called, what it
//! may be and what it means stands once, in [`object!`], from which the reader
//! and the [`Table`] both come; the tables also say what is secret.

mod types;

pub(crate) use crate::model::{Field, Shape, Table};
use crate::{
    diagnostic::{Problem, Problems},
    tree::{NodeId, Tree, Value, push_key, quote},
};

use types::text_of;
pub(crate) use types::{Any, Entries, Plain, TextOrNumber, number, plain};

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Located<T> {
    /// The node that it was read from.
    pub(crate) at: NodeId,
    /// The value.
    pub(crate) value: T,
}

/// A field as written.
#[derive(Debug)]
pub(crate) enum Given<T> {
    /// Not there.
    Absent,
    /// There, but not of its type; that was reported.
    Bad,
    /// There.
    Is(Located<T>),
}

impl<T> Given<T> {
    /// The value, where there is one.
    pub(crate) fn is(&self) -> Option<&Located<T>> {
        match self {
            Given::Is(located) => Some(located),
            Given::Absent | Given::Bad => None,
        }
    }

    /// Whether nothing was written.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Given::Absent)
    }
}

/// Something that can be read from a tree.
pub(crate) trait Read: Sized {
    /// What it may be.
    const SHAPE: &'static Shape;

    /// Reads it. What is wrong is reported; what can be read nevertheless is read.
    fn read(reader: &mut Reader<'_>, at: NodeId) -> Option<Self>;
}

/// Reads values and collects what is wrong with them.
pub(crate) struct Reader<'t> {
    tree: &'t Tree<'t>,
    /// All that was wrong so far.
    pub(crate) problems: &'t mut Problems,
    root: &'static Shape,
}

impl<'t> Reader<'t> {
    /// A reader of a document that should be a `root`.
    pub(crate) fn new(
        tree: &'t Tree<'t>,
        problems: &'t mut Problems,
        root: &'static Shape,
    ) -> Self {
        Reader {
            tree,
            problems,
            root,
        }
    }

    /// Reports an error at a value.
    pub(crate) fn error(&mut self, at: NodeId, message: impl Into<String>, hint: &str) {
        let tree = self.tree;
        self.report(hint, || {
            Problem::error(tree.spot(at), message).path(tree.path(at))
        });
    }

    /// Reports something doubtful at a value.
    pub(crate) fn warning(&mut self, at: NodeId, message: impl Into<String>, hint: &str) {
        let tree = self.tree;
        self.report(hint, || {
            Problem::error(tree.spot(at), message)
                .path(tree.path(at))
                .warning()
        });
    }

    /// Reports an error at a value's key.
    pub(crate) fn key_error(&mut self, at: NodeId, message: impl Into<String>, hint: &str) {
        let tree = self.tree;
        self.report(hint, || {
            Problem::error(tree.key_spot(at), message).path(tree.path(at))
        });
    }

    /// Reports that a map lacks a key.
    pub(crate) fn missing(
        &mut self,
        at: NodeId,
        key: &str,
        message: impl Into<String>,
        hint: &str,
    ) {
        let tree = self.tree;
        self.report(hint, || {
            let mut path = tree.path(at);
            push_key(&mut path, key);
            Problem::error(tree.spot(at), message).path(path)
        });
    }

    fn report(&mut self, hint: &str, problem: impl FnOnce() -> Problem) {
        self.problems.push_with(|| {
            let problem = problem();
            if hint.is_empty() {
                problem
            } else {
                problem.hint(hint)
            }
        });
    }

    /// The key of a value.
    pub(crate) fn key(&self, at: NodeId) -> &'t str {
        self.tree.key(at).unwrap_or_default()
    }

    /// Whether a list or map has nothing in it, not even something that was refused.
    pub(crate) fn is_empty(&self, at: NodeId) -> bool {
        match &self.tree.node(at).value {
            Value::List(children) | Value::Map(children) => children.is_empty(),
            Value::Bad | Value::Scalar { .. } => false,
        }
    }

    /// The text of a key's value, where it is there and is one.
    pub(crate) fn text_at(&self, at: NodeId, key: &str) -> Option<(NodeId, &'t str)> {
        let at = self.tree.get(at, key)?;
        match &self.tree.node(at).value {
            Value::Scalar { text, style } if matches!(plain(text, *style), Plain::Text) => {
                Some((at, text))
            }
            _ => None,
        }
    }

    /// The tree that is read.
    pub(crate) fn tree(&self) -> &'t Tree<'t> {
        self.tree
    }

    /// Reports a value that is not of the shape of a scalar, or not anything.
    pub(crate) fn fits(&mut self, at: NodeId, shape: &'static Shape) {
        match shape {
            Shape::Text => drop(String::read(self, at)),
            Shape::Secret => drop(crate::Secret::read(self, at)),
            Shape::Bool => drop(bool::read(self, at)),
            Shape::Number => drop(u32::read(self, at)),
            Shape::TextOrNumber => drop(TextOrNumber::read(self, at)),
            Shape::Choice(words) => drop(self.word(at, words)),
            Shape::Any => drop(Any::read(self, at)),
            Shape::List(_) => drop(self.list(at)),
            Shape::Map(_) | Shape::Object(_) => drop(self.map(at)),
        }
    }

    /// The path of a value.
    pub(crate) fn path(&self, at: NodeId) -> String {
        self.tree.path(at)
    }

    /// Reports that a value is not what was expected.
    fn wrong_type(&mut self, at: NodeId, expected: &str) {
        let found = match &self.tree.node(at).value {
            Value::Bad => return,
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
            Value::Scalar { text, style } => match plain(text, *style) {
                Plain::Nothing => {
                    let hint = "give it a value, or remove the key";
                    self.error(at, format!("expected {expected}, found nothing"), hint);
                    return;
                }
                Plain::Bool(_) => "a boolean",
                Plain::Number => "a number",
                Plain::Text => "text",
            },
        };
        let scalar = matches!(self.tree.node(at).value, Value::Scalar { .. });
        let hint = match expected {
            "text" if scalar => "write it in quotes",
            "true or false" if scalar => "write true or false, without quotes",
            "text or a number" if scalar => "write 1 or 0, or put it in quotes",
            "a map" if found == "a list" => {
                "write its keys one below the other, without the \"- \""
            }
            "a list" => "write each item on a line of its own behind \"- \", or all in [brackets]",
            _ => "",
        };
        self.error(at, format!("expected {expected}, found {found}"), hint);
    }

    /// The children of a map whose keys are fixed, one for each field of the table.
    pub(crate) fn object(
        &mut self,
        at: NodeId,
        table: &'static Table,
    ) -> Option<Vec<Option<NodeId>>> {
        let tree = self.tree;
        let Value::Map(children) = &tree.node(at).value else {
            self.wrong_type(at, "a map");
            return None;
        };
        let mut found = vec![None; table.fields.len()];
        for &child in children {
            let key = self.key(child);
            match table.fields.iter().position(|field| field.key == key) {
                Some(index) => found[index] = Some(child),
                None => self.unknown_key(child, table),
            }
        }
        for (field, found) in table.fields.iter().zip(&found) {
            if field.required && found.is_none() {
                self.missing(at, field.key, "is required", "");
            }
        }
        Some(found)
    }

    /// The items of a list.
    pub(crate) fn list(&mut self, at: NodeId) -> Option<&'t [NodeId]> {
        match &self.tree.node(at).value {
            Value::List(items) => Some(items),
            _ => {
                self.wrong_type(at, "a list");
                None
            }
        }
    }

    /// The children of a map with any keys.
    pub(crate) fn map(&mut self, at: NodeId) -> Option<&'t [NodeId]> {
        match &self.tree.node(at).value {
            Value::Map(children) => Some(children),
            _ => {
                self.wrong_type(at, "a map");
                None
            }
        }
    }

    /// Reports a key that the table does not have.
    pub(crate) fn unknown_key(&mut self, at: NodeId, table: &'static Table) {
        let key = self.key(at);
        let path = self.path(at);
        let not_there = crate::document::NOT_THERE
            .iter()
            .find(|(known, _)| *known == any_item(&path));
        let hint = if self.problems.is_full() {
            String::new()
        } else if let Some((_, why)) = not_there {
            (*why).to_owned()
        } else if let Some(near) = nearest(key, table.fields.iter().map(|field| field.key)) {
            format!("did you mean {near}?")
        } else if let Some(elsewhere) = elsewhere(key, self.root) {
            format!("it belongs to {elsewhere}")
        } else if table.fields.is_empty() {
            "nothing is known here: write {}".to_owned()
        } else {
            let known: Vec<&str> = table.fields.iter().map(|field| field.key).collect();
            format!("known here: {}", known.join(", "))
        };
        self.key_error(at, "unknown key", &hint);
    }
}

/// A path without the places in lists: `a[].b` for `a[3].b`.
fn any_item(path: &str) -> String {
    let mut parts = path.split('[');
    let mut general = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        general.push('[');
        general.push_str(part.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    general
}

/// Where else in a config this key is known, if that is one place.
fn elsewhere(key: &str, root: &'static Shape) -> Option<String> {
    let mut found = Vec::new();
    let mut waiting = vec![(String::new(), root)];
    while let Some((path, shape)) = waiting.pop() {
        match shape {
            Shape::List(item) => waiting.push((path + "[]", item)),
            Shape::Object(table) => {
                for field in table.fields {
                    let mut path = path.clone();
                    push_key(&mut path, field.key);
                    if field.key == key {
                        found.push(path.clone());
                    }
                    waiting.push((path, field.shape));
                }
            }
            _ => {}
        }
    }
    match found.as_slice() {
        [one] => Some(one.clone()),
        _ => None,
    }
}

/// The name that was probably meant.
pub fn nearest<'n>(written: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    if written.len() > 64 {
        return None;
    }
    let plain = |text: &str| {
        text.chars()
            .filter(char::is_ascii_alphanumeric)
            .collect::<String>()
            .to_ascii_lowercase()
    };
    let written = plain(written);
    names
        .map(|name| (strsim::osa_distance(&written, &plain(name)), name))
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// A word of a fixed list.
macro_rules! choice {
    ($(#[doc = $doc:literal])+ $name:ident { $($word:literal => $variant:ident,)+ }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum $name { $(#[doc = $word] $variant,)+ }

        impl $name {
            /// As it is written; not every one is asked.
            #[allow(dead_code)]
            pub(crate) fn word(self) -> &'static str {
                match self {
                    $($name::$variant => $word,)+
                }
            }
        }

        impl $crate::read::Read for $name {
            const SHAPE: &'static $crate::read::Shape = &$crate::read::Shape::Choice(&[$($word),+]);

            fn read(reader: &mut $crate::read::Reader<'_>, at: $crate::tree::NodeId) -> Option<Self> {
                let $crate::read::Shape::Choice(words) = Self::SHAPE else { return None };
                match reader.word(at, words)? {
                    $($word => Some($name::$variant),)+
                    _ => None,
                }
            }
        }
    };
}
pub(crate) use choice;

impl<'t> Reader<'t> {
    /// Reads one word of a list.
    pub(crate) fn word(&mut self, at: NodeId, words: &[&'static str]) -> Option<&'static str> {
        let text = text_of(self, at)?;
        if let Some(word) = words.iter().find(|word| **word == text) {
            return Some(word);
        }
        let hint =
            nearest(&text, words.iter().copied()).map(|near| format!("did you mean {near}?"));
        let message = format!(
            "expected one of {}, found {}",
            words.join(", "),
            quote(&text)
        );
        self.error(at, message, &hint.unwrap_or_default());
        None
    }

    /// Reads a field.
    pub(crate) fn field<T: Read>(&mut self, found: Option<NodeId>) -> Given<T> {
        match found {
            None => Given::Absent,
            Some(at) => {
                T::read(self, at).map_or(Given::Bad, |value| Given::Is(Located { at, value }))
            }
        }
    }
}

/// Declares an object: its fields, their keys, types and meaning. From it come
/// the struct, its reader and its table, and from the table everything else that
/// knows fields: patches, the schema, the reference.
///
/// The doc comments are what a person reads; a sentence "Default: …" says what
/// counts where a field is not written. Behind the key may stand `required`,
/// `example("its value as YAML")` and `takes(Takes::…)`; `by "key"` behind the
/// object's name says what tells its entries apart in a list.
macro_rules! object {
    ($(#[doc = $doc:literal])+ $name:ident $(by $($by:literal)|+)? {
        $($(#[doc = $about:literal])+ $field:ident: $type:ty = $key:literal
            $(, $option:ident $(($value:expr))?)*;)+
    }) => {
        $(#[doc = $doc])+
        #[derive(Debug)]
        pub(crate) struct $name {
            $($(#[doc = $about])+ pub(crate) $field: $crate::read::Given<$type>,)+
        }

        impl $crate::read::Read for $name {
            const SHAPE: &'static $crate::read::Shape = {
                const FIELDS: &[$crate::read::Field] = &[$(
                    $crate::read::Field::new(
                        $key,
                        <$type as $crate::read::Read>::SHAPE,
                        concat!($($about, "\n"),+),
                    )
                    $(.$option($($value)?))*,
                )+];
                const TABLE: &$crate::read::Table = &$crate::read::Table {
                    docs: concat!($($doc, "\n"),+),
                    by: &[$($($by),+)?],
                    fields: FIELDS,
                };
                &$crate::read::Shape::Object(TABLE)
            };

            fn read(reader: &mut $crate::read::Reader<'_>, at: $crate::tree::NodeId) -> Option<Self> {
                let $crate::read::Shape::Object(table) = Self::SHAPE else { return None };
                let mut found = reader.object(at, table)?.into_iter();
                Some($name {
                    $($field: reader.field(found.next().flatten()),)+
                })
            }
        }
    };
}
pub(crate) use object;
