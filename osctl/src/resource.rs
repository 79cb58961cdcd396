//! Resources of a node as JSON and as rows of a table.

use crate::age;
use keelson_api::v1::{Phase, Resource};
use prost_types::{Struct, value::Kind};
use serde_json::{Map, Value, json};
use time::OffsetDateTime;

/// A cell longer than this is cut: the whole is in `-o yaml`.
const CELL: usize = 60;

/// A resource as JSON.
pub(crate) fn json_of(resource: &Resource) -> Value {
    json!({
        "kind": resource.kind,
        "name": resource.name,
        "version": resource.version,
        "phase": phase(resource),
        "message": resource.message,
        "updated": age::rfc3339(resource.updated.as_ref()),
        "spec": resource.spec.as_ref().map_or_else(|| json!({}), struct_of),
    })
}

/// The phase in one word.
pub(crate) fn phase(resource: &Resource) -> &'static str {
    match resource.phase() {
        Phase::Unspecified => "unknown",
        Phase::Ready => "ready",
        Phase::Pending => "pending",
        Phase::Failed => "failed",
    }
}

fn struct_of(it: &Struct) -> Value {
    Value::Object(
        it.fields
            .iter()
            .map(|(key, value)| (key.clone(), value_of(value)))
            .collect(),
    )
}

fn value_of(it: &prost_types::Value) -> Value {
    match &it.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => json!(value),
        Some(Kind::StringValue(value)) => json!(value),
        Some(Kind::ListValue(list)) => list.values.iter().map(value_of).collect(),
        Some(Kind::StructValue(value)) => struct_of(value),
        // A number is a double in transit; whole ones are shown without a point.
        #[expect(
            clippy::cast_possible_truncation,
            reason = "checked to be whole and small"
        )]
        Some(Kind::NumberValue(number)) => {
            if number.fract() == 0.0 && number.abs() < 9e15 {
                json!(*number as i64)
            } else {
                json!(number)
            }
        }
    }
}

/// The headers of a table of these: the name, whatever the spec has, where it stands.
pub(crate) fn headers(resources: &[Resource]) -> Vec<String> {
    let mut headers = vec!["name".to_owned()];
    headers.extend(columns(resources).iter().map(|key| words(key)));
    headers.extend(["phase", "age", "message"].map(str::to_owned));
    headers
}

/// One row for each. See [`headers`].
pub(crate) fn rows(resources: &[Resource], now: OffsetDateTime) -> Vec<Vec<String>> {
    let columns = columns(resources);
    let row = |resource: &Resource| {
        let spec = resource.spec.as_ref().map_or(Value::Null, struct_of);
        let mut row = vec![resource.name.clone()];
        row.extend(columns.iter().map(|key| cell(spec.get(key))));
        row.push(phase(resource).to_owned());
        row.push(age::since(resource.updated.as_ref(), now));
        row.push(resource.message.clone());
        row
    };
    resources.iter().map(row).collect()
}

/// The spec's fields that fit into a cell, in any of the resources.
fn columns(resources: &[Resource]) -> Vec<String> {
    let mut columns = Map::new();
    for spec in resources
        .iter()
        .filter_map(|resource| resource.spec.as_ref())
    {
        for (key, value) in &spec.fields {
            let flat = match value_of(value) {
                Value::Object(_) => false,
                Value::Array(items) => {
                    !items.iter().any(|item| item.is_object() || item.is_array())
                }
                _ => true,
            };
            if flat {
                columns.insert(key.clone(), Value::Null);
            }
        }
    }
    columns.into_iter().map(|(key, _)| key).collect()
}

fn cell(value: Option<&Value>) -> String {
    let text = match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| cell(Some(item)))
            .collect::<Vec<_>>()
            .join(","),
        Some(other) => other.to_string(),
    };
    if text.chars().count() <= CELL {
        return text;
    }
    text.chars().take(CELL - 1).chain(['…']).collect()
}

/// `lastSeen` → `last-seen`.
fn words(key: &str) -> String {
    let mut words = String::new();
    for c in key.chars() {
        if c.is_uppercase() && !words.is_empty() {
            words.push('-');
        }
        words.extend(c.to_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output;

    fn value(kind: Kind) -> prost_types::Value {
        prost_types::Value { kind: Some(kind) }
    }

    fn resource(name: &str, fields: Vec<(&str, Kind)>) -> Resource {
        Resource {
            kind: "link".to_owned(),
            name: name.to_owned(),
            phase: Phase::Ready.into(),
            updated: Some(prost_types::Timestamp {
                seconds: 1000,
                nanos: 0,
            }),
            spec: Some(Struct {
                fields: fields
                    .into_iter()
                    .map(|(k, v)| (k.to_owned(), value(v)))
                    .collect(),
            }),
            ..Resource::default()
        }
    }

    #[test]
    fn the_spec_makes_the_columns() {
        let list = prost_types::ListValue {
            values: vec![
                value(Kind::StringValue("a".into())),
                value(Kind::NumberValue(1.5)),
            ],
        };
        let resources = [
            resource(
                "eth0",
                vec![
                    (
                        "hardwareAddr",
                        Kind::StringValue("52:54:00:12:34:56".into()),
                    ),
                    ("mtu", Kind::NumberValue(1500.0)),
                    ("up", Kind::BoolValue(true)),
                ],
            ),
            resource(
                "lo",
                vec![
                    ("list", Kind::ListValue(list)),
                    ("nested", Kind::StructValue(Struct::default())),
                    ("long", Kind::StringValue("x".repeat(100))),
                ],
            ),
        ];
        let now = OffsetDateTime::from_unix_timestamp(1045).unwrap();
        insta::assert_snapshot!(output::table(&headers(&resources), &rows(&resources, now)));
        insta::assert_snapshot!(serde_json::to_string_pretty(&json_of(&resources[0])).unwrap());
    }
}
