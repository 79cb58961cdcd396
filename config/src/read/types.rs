//! How the types of fields are read: text, numbers, booleans, lists, maps. What a
//! plain scalar is follows the core schema of YAML 1.2; what is ambiguous there is
//! asked for in quotes.

use super::{Located, Read, Reader, Shape};
use crate::tree::{NodeId, Style, Value, quote};

/// What a scalar is, by how it is written.
pub(crate) enum Plain {
    /// `null`, in one of its spellings.
    Nothing,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number,
    /// Anything else.
    Text,
}

/// What a scalar is, by the core schema of YAML 1.2.
pub(crate) fn plain(text: &str, style: Style) -> Plain {
    if style != Style::Plain {
        return Plain::Text;
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Plain::Nothing,
        "true" => Plain::Bool(true),
        "false" => Plain::Bool(false),
        _ if is_number(text) => Plain::Number,
        _ => Plain::Text,
    }
}

/// Whether a plain scalar is a number by the core schema of YAML 1.2, section 10.3.2.
fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if let Some(hex) = text.strip_prefix("0x") {
        return !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit());
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return !octal.is_empty() && octal.bytes().all(|b| (b'0'..=b'7').contains(&b));
    }
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(at) => (&unsigned[..at], Some(&unsigned[at + 1..])),
        None => (unsigned, None),
    };
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    digits(whole)
        && digits(part)
        && !(whole.is_empty() && part.is_empty())
        && exponent.is_none_or(|exponent| {
            let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
            !exponent.is_empty() && digits(exponent)
        })
}

/// The text of a scalar that is text; anything else is reported.
pub(super) fn text_of(reader: &mut Reader<'_>, at: NodeId) -> Option<String> {
    match &reader.tree.node(at).value {
        Value::Scalar { text, style } if matches!(plain(text, *style), Plain::Text) => {
            Some(text.to_string())
        }
        _ => {
            reader.wrong_type(at, "text");
            None
        }
    }
}

impl Read for String {
    const SHAPE: &'static Shape = &Shape::Text;

    fn read(reader: &mut Reader<'_>, at: NodeId) -> Option<Self> {
        text_of(reader, at)
    }
}

impl Read for crate::Secret {
    const SHAPE: &'static Shape = &Shape::Secret;

    fn read(reader: &mut Reader<'_>, at: NodeId) -> Option<Self> {
        let text = text_of(reader, at)?;
        if text.trim() == "***" || text.contains("\n***") {
            reader.error(at, "is starred out", "this is a config as it is shown, not as it was written: put the secret itself here");
            return None;
        }
        Some(crate::Secret::new(text))
    }
}

impl Read for bool {
    const SHAPE: &'static Shape = &Shape::Bool;

    fn read(reader: &mut Reader<'_>, at: NodeId) -> Option<Self> {
        if let Value::Scalar { text, style } = &reader.tree.node(at).value
            && let Plain::Bool(value) = plain(text, *style)
        {
            return Some(value);
        }
        reader.wrong_type(at, "true or false");
        None
    }
}

impl Read for u32 {
    const SHAPE: &'static Shape = &Shape::Number;

    fn read(reader: &mut Reader<'_>, at: NodeId) -> Option<Self> {
        const EXPECTED: &str = "a whole number from 0 to 4294967295";
        match &reader.tree.node(at).value {
            Value::Scalar { text, style } if matches!(plain(text, *style), Plain::Number) => {
                if let Ok(number) = text.parse() {
                    return Some(number);
                }
                let message = format!("expected {EXPECTED}, found {}", quote(text));
                reader.error(at, message, "");
            }
            _ => reader.wrong_type(at, EXPECTED),
        }
        None
    }
}

/// Text, or a number as it is written.
#[derive(Clone, Debug)]
pub(crate) struct TextOrNumber(pub(crate) String);

impl Read for TextOrNumber {
    const SHAPE: &'static Shape = &Shape::TextOrNumber;

    fn read(reader: &mut Reader<'_>, at: NodeId) -> Option<Self> {
        match &reader.tree.node(at).value {
            Value::Scalar { text, style }
                if matches!(plain(text, *style), Plain::Text | Plain::Number) =>
            {
                Some(TextOrNumber(text.to_string()))
            }
            _ => {
                reader.wrong_type(at, "text or a number");
                None
            }
        }
    }
}

impl<T: Read> Read for Vec<Located<T>> {
    const SHAPE: &'static Shape = &Shape::List(T::SHAPE);

    fn read(reader: &mut Reader<'_>, at: NodeId) -> Option<Self> {
        let items = reader.list(at)?;
        Some(
            items
                .iter()
                .filter_map(|&at| T::read(reader, at).map(|value| Located { at, value }))
                .collect(),
        )
    }
}

/// The entries of a map with any keys, in the order in which they are written.
/// The key is at the node's step.
#[derive(Clone, Debug)]
pub(crate) struct Entries<T>(pub(crate) Vec<Located<T>>);

impl<T: Read> Read for Entries<T> {
    const SHAPE: &'static Shape = &Shape::Map(T::SHAPE);

    fn read(reader: &mut Reader<'_>, at: NodeId) -> Option<Self> {
        let items = reader.map(at)?;
        Some(Entries(
            items
                .iter()
                .filter_map(|&at| T::read(reader, at).map(|value| Located { at, value }))
                .collect(),
        ))
    }
}

/// Whatever there is, as JSON knows it.
#[derive(Clone, Debug)]
pub(crate) struct Any(pub(crate) serde_json::Value);

impl Read for Any {
    const SHAPE: &'static Shape = &Shape::Any;

    fn read(reader: &mut Reader<'_>, at: NodeId) -> Option<Self> {
        any(reader, at).map(Any)
    }
}

// The depth is bounded where the tree is built.
fn any(reader: &mut Reader<'_>, at: NodeId) -> Option<serde_json::Value> {
    use serde_json::Value as Json;
    let tree = reader.tree;
    match &tree.node(at).value {
        Value::Bad => None,
        Value::List(items) => {
            let read: Vec<_> = items.iter().filter_map(|&item| any(reader, item)).collect();
            (read.len() == items.len()).then_some(Json::Array(read))
        }
        Value::Map(children) => {
            let read: serde_json::Map<_, _> = children
                .iter()
                .filter_map(|&child| {
                    any(reader, child).map(|value| (reader.key(child).to_owned(), value))
                })
                .collect();
            (read.len() == children.len()).then_some(Json::Object(read))
        }
        Value::Scalar { text, style } => match plain(text, *style) {
            Plain::Nothing => Some(Json::Null),
            Plain::Bool(value) => Some(Json::Bool(value)),
            Plain::Number => {
                Some(number(text).map_or_else(|| Json::String(text.to_string()), Json::Number))
            }
            Plain::Text => Some(Json::String(text.to_string())),
        },
    }
}

/// A number, where JSON can hold exactly what is written. `0644` is not one: to
/// some it is octal, to others not, so that it is better passed on as it stands.
pub(crate) fn number(text: &str) -> Option<serde_json::Number> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.") {
        return None;
    }
    if let Ok(number) = text.parse::<i64>() {
        return Some(number.into());
    }
    if let Ok(number) = text.parse::<u64>() {
        return Some(number.into());
    }
    let number = text.parse::<f64>().ok()?;
    (number.to_string() == text)
        .then(|| serde_json::Number::from_f64(number))
        .flatten()
}
