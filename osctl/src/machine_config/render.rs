//! The text of a machine config: keys in the order in which a person reads them,
//! each with what the model says of it; what is not set stands there as an example.

use crate::{error::Result, yaml};
use keelson_config::{Field, Found, Shape, Table};
use serde_json::{Map, Value};

/// What stands there as an example where it is not set: what most people come to write.
const SHOWN: [&str; 9] = [
    "machine.hostname",
    "machine.sysctls",
    "machine.time",
    "machine.time.servers",
    "machine.api.sans",
    "network",
    "network.links",
    "network.nameservers",
    "orchestrator.settings",
];

/// How long a line of a comment is.
const WIDTH: usize = 78;

/// The text of a config, without a header.
pub(super) fn render(config: &Value) -> Result<String> {
    let mut text = String::new();
    match config {
        Value::Object(map) => render_map(&mut text, map, Place::root(), 0)?,
        other => text.push_str(&yaml::to_text(other)?),
    }
    Ok(text)
}

/// Where a map is: its path, and what the model says of its keys, if it does.
#[derive(Clone)]
struct Place {
    path: String,
    table: Option<&'static Table>,
}

impl Place {
    fn root() -> Place {
        Place {
            path: String::new(),
            table: table(Found::root().shape),
        }
    }

    fn below(&self, key: &str) -> Place {
        let path = match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        };
        let field = self.table.and_then(|table| table.field(key));
        Place {
            path,
            table: field.and_then(|field| table(field.shape)),
        }
    }
}

fn table(shape: &'static Shape) -> Option<&'static Table> {
    match shape {
        Shape::Object(table) => Some(table),
        _ => None,
    }
}

/// The keys in the model's order, each with what it means; then those that it does not know.
fn render_map(
    text: &mut String,
    map: &Map<String, Value>,
    place: Place,
    depth: usize,
) -> Result<()> {
    let fields = place.table.map_or(&[][..], |table| table.fields);
    for field in fields {
        let below = place.below(field.key);
        let value = map.get(field.key);
        if value.is_none() && !SHOWN.contains(&below.path.as_str()) {
            continue;
        }
        // A blank line sets the sections apart.
        if depth == 0 && below.table.is_some() {
            text.push('\n');
        }
        match value {
            Some(value) => {
                push_comment(text, &field.meaning(), depth);
                render_entry(text, field.key, value, below, depth)?;
            }
            None => {
                let default = field.default().map(|it| format!(" Default: {it}."));
                let meaning = field.meaning() + &default.unwrap_or_default();
                push_comment(text, &meaning, depth);
                push_example(text, field, &below, depth, 0);
            }
        }
    }
    for (key, value) in map {
        if !fields.iter().any(|field| field.key == key) {
            render_entry(text, key, value, place.below(key), depth)?;
        }
    }
    Ok(())
}

/// A key that is not set, as it could be written.
fn push_example(text: &mut String, field: &Field, place: &Place, depth: usize, inner: usize) {
    let (indent, inside) = ("  ".repeat(depth), "  ".repeat(inner));
    let line = format!("{indent}# {inside}{}:", field.key);
    text.push_str(&line);
    match (field.example, place.table) {
        (Some(example), _) => text.push_str(&format!(" {example}\n")),
        (None, Some(table)) => {
            text.push('\n');
            for field in table.fields {
                let below = place.below(field.key);
                if SHOWN.contains(&below.path.as_str()) {
                    push_example(text, field, &below, depth, inner + 1);
                }
            }
        }
        (None, None) => text.push('\n'),
    }
}

fn render_entry(
    text: &mut String,
    key: &str,
    value: &Value,
    place: Place,
    depth: usize,
) -> Result<()> {
    let indent = "  ".repeat(depth);
    let key = scalar(&Value::from(key))?;
    match value {
        Value::Object(map) if !map.is_empty() => {
            text.push_str(&format!("{indent}{key}:\n"));
            render_map(text, map, place, depth + 1)?;
        }
        Value::Array(items) if !items.is_empty() => {
            text.push_str(&format!("{indent}{key}:\n"));
            for item in items {
                text.push_str(&list_item(item, depth + 1)?);
            }
        }
        Value::String(lines) if is_block(lines) => {
            text.push_str(&format!("{indent}{key}: |\n"));
            for line in lines.lines() {
                text.push_str(&format!("{indent}  {line}\n"));
            }
        }
        other => text.push_str(&format!("{indent}{key}: {}\n", scalar(other)?)),
    }
    Ok(())
}

/// One item of a list: the library's text of it behind a dash. No note is about
/// what lies in a list.
fn list_item(item: &Value, depth: usize) -> Result<String> {
    let indent = "  ".repeat(depth);
    let text = yaml::to_text(&[item])?;
    Ok(text
        .lines()
        .map(|line| format!("{indent}{line}\n"))
        .collect())
}

/// A text that a block `|` gives back as it is.
fn is_block(text: &str) -> bool {
    text.ends_with('\n')
        && !text.ends_with("\n\n")
        && !text.starts_with([' ', '\n'])
        && text.chars().all(|c| c == '\n' || !c.is_control())
}

/// One line: a scalar or an empty collection.
fn scalar(value: &Value) -> Result<String> {
    match value {
        // JSON's strings are YAML's double-quoted ones.
        Value::String(text) if text.contains(char::is_control) => Ok(value.to_string()),
        _ => Ok(yaml::to_text(value)?.trim_end_matches('\n').to_owned()),
    }
}

/// Prose as comments of at most [`WIDTH`] columns, where its words let it.
fn push_comment(text: &mut String, prose: &str, depth: usize) {
    let indent = "  ".repeat(depth);
    let mut line = String::new();
    for word in prose.split_whitespace() {
        if !line.is_empty() && indent.len() + 2 + line.len() + 1 + word.len() > WIDTH {
            text.push_str(&format!("{indent}# {line}\n"));
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        text.push_str(&format!("{indent}# {line}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use std::path::Path;

    #[test]
    fn keys_are_in_reading_order_and_unknown_ones_follow() {
        let config = json!({
            "orchestrator": {"token": "t", "name": "k3s", "settings": {"b": [], "a": {}}},
            "kind": "Machine", "apiVersion": "v", "more": {"z": 1, "on": "yes"}, "network": {},
            "machine": {"role": "none", "hostname": "h", "api": {"ca": "a\nb\n"}},
        });
        insta::assert_snapshot!(render(&config).unwrap());
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,20}".prop_map(Value::from),
            "[ -~\n\t]{0,20}".prop_map(Value::from),
            prop::sample::select(vec![
                "yes", "no", "1.0", "~", "null", "- a", "a: b", "#", "0x1", ""
            ])
            .prop_map(Value::from),
        ];
        let keys = || prop_oneof!["[a-z.-]{1,8}", "[ -~]{0,6}", Just("machine".to_owned())];
        leaf.prop_recursive(4, 32, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(keys(), inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_rendered_reads_back(
            config in prop::collection::btree_map("[a-zA-Z]{1,12}", values(), 1..4)
        ) {
            let config = Value::Object(config.into_iter().collect());
            let text = render(&config).unwrap();
            let read: Value = yaml::parse(Path::new("x"), &text)
                .map_err(|error| TestCaseError::fail(format!("{}\n{text}", error.render(false))))?;
            prop_assert_eq!(read, config, "{}", text);
        }
    }
}
