//! The JSON Schema of a config (draft 2020-12), for editors: what keys there are,
//! what their values may be. It knows less than the validation: what values mean
//! together no schema says.

use crate::{
    diagnostic::Problems,
    model::{Field, Shape, Table, Takes},
    validate::{API_VERSION, KIND},
    written::Written,
    yaml,
};
use serde_json::{Map, Value as Json, json};

/// The schema of a whole config.
pub fn schema() -> Json {
    let mut schema = of(super::model(), Takes::Nothing);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("The config of a Keelson machine");
    schema["properties"]["apiVersion"]["const"] = json!(API_VERSION);
    schema["properties"]["kind"]["const"] = json!(KIND);
    schema
}

fn of(shape: &'static Shape, takes: Takes) -> Json {
    match shape {
        Shape::Text => json!({"type": "string"}),
        Shape::Secret => json!({"type": "string", "writeOnly": true}),
        Shape::Bool => json!({"type": "boolean"}),
        Shape::Number => json!({"type": "integer", "minimum": 0, "maximum": u32::MAX}),
        Shape::TextOrNumber => json!({"type": ["string", "number"]}),
        Shape::Choice(words) => json!({"type": "string", "enum": words}),
        Shape::List(item) => json!({"type": "array", "items": of(item, takes)}),
        Shape::Map(value) => json!({"type": "object", "additionalProperties": of(value, takes)}),
        Shape::Object(table) => object(table, takes),
        Shape::Any => json!({}),
    }
}

fn object(table: &'static Table, takes: Takes) -> Json {
    let properties: Map<String, Json> = table
        .fields
        .iter()
        .map(|it| (it.key.to_owned(), field(it, takes)))
        .collect();
    let required: Vec<_> = table.fields.iter().filter(|it| it.required).collect();
    let required: Vec<_> = required.iter().map(|it| it.key).collect();
    let mut object = json!({
        "type": "object",
        "description": table.meaning(),
        "properties": properties,
        "additionalProperties": false,
    });
    if !required.is_empty() {
        object["required"] = json!(required);
    }
    object
}

fn field(field: &'static Field, takes: Takes) -> Json {
    let takes = field.takes.unwrap_or(takes);
    let mut schema = of(field.shape, takes);
    let mut description = field.meaning();
    if let Some(default) = field.default() {
        match value(&default).filter(|value| fits(value, field.shape)) {
            Some(value) => schema["default"] = value,
            None => description = format!("{description} Default: {default}."),
        }
    }
    schema["description"] = json!(description);
    if let Some(example) = field.example.and_then(value) {
        schema["examples"] = json!([example]);
    }
    if !matches!(field.shape, Shape::Object(_)) {
        schema["x-applying-a-change"] = json!(takes.words());
    }
    schema
}

/// Whether words about a default are the default itself.
fn fits(value: &Json, shape: &Shape) -> bool {
    match shape {
        Shape::Bool => value.is_boolean(),
        Shape::Number => value.is_u64(),
        Shape::Choice(words) => value.as_str().is_some_and(|it| words.contains(&it)),
        Shape::Text => value.as_str().is_some_and(|it| !it.contains(' ')),
        _ => false,
    }
}

/// A piece of YAML as JSON.
pub(crate) fn value(text: &str) -> Option<Json> {
    let mut problems = Problems::default();
    let text = yaml::text(text.as_bytes(), &mut problems)?;
    let tree = yaml::tree(text, &mut problems)?;
    let written = Written::of(&tree, tree.root()?);
    (!problems.has_errors()).then(|| written.to_json())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Draft;
    use std::{fs, path::Path};

    /// The part of JSON Schema that the schema uses. The first complaint.
    fn complaint(schema: &Json, value: &Json, path: &str) -> Option<String> {
        let kind = match value {
            Json::Null => "null",
            Json::Bool(_) => "boolean",
            Json::Number(it) if it.is_u64() || it.is_i64() => "integer",
            Json::Number(_) => "number",
            Json::String(_) => "string",
            Json::Array(_) => "array",
            Json::Object(_) => "object",
        };
        let is = |want: &Json| want == kind || (want == "number" && kind == "integer");
        let typed = match &schema["type"] {
            Json::Null => true,
            Json::Array(any) => any.iter().any(is),
            one => is(one),
        };
        let of_list = |list: &Json| list.as_array().is_none_or(|list| list.contains(value));
        if !typed || !of_list(&schema["enum"]) {
            return Some(format!("{path}: {value}"));
        }
        if schema.get("const").is_some_and(|it| it != value) {
            return Some(format!("{path}: {value}"));
        }
        if value.as_f64() < schema["minimum"].as_f64()
            || (schema["maximum"].is_number() && value.as_f64() > schema["maximum"].as_f64())
        {
            return Some(format!("{path}: {value}"));
        }
        if let Json::Array(items) = value {
            return items
                .iter()
                .find_map(|it| complaint(schema.get("items")?, it, &format!("{path}[]")));
        }
        let entries = value.as_object()?;
        let missing = schema["required"].as_array().into_iter().flatten();
        for key in missing.filter_map(Json::as_str) {
            if !entries.contains_key(key) {
                return Some(format!("{path} lacks {key}"));
            }
        }
        entries.iter().find_map(|(key, value)| {
            let path = format!("{path}.{key}");
            match schema["properties"].get(key) {
                Some(schema) => complaint(schema, value, &path),
                None => match schema.get("additionalProperties")? {
                    Json::Bool(false) => Some(format!("{path} is unknown")),
                    schema => complaint(schema, value, &path),
                },
            }
        })
    }

    fn cases(folder: &str) -> Vec<(String, Draft)> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
        let mut found = Vec::new();
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            if name.ends_with(".yaml")
                && let Ok(draft) = Draft::read(&name, &fs::read(&path).unwrap())
            {
                found.push((name, draft));
            }
        }
        assert!(!found.is_empty());
        found
    }

    #[test]
    fn the_schema_takes_what_is_valid() {
        for (name, draft) in cases("valid") {
            assert_eq!(complaint(&schema(), &draft.to_json(), ""), None, "{name}");
        }
    }

    #[test]
    fn the_schema_refuses_what_has_a_wrong_shape() {
        let mut seen = 0;
        for (name, draft) in cases("invalid") {
            if name.starts_with("shape-") {
                let refused = complaint(&schema(), &draft.to_json(), "").is_some();
                assert!(refused, "{name} has the right shape");
                seen += 1;
            }
        }
        assert!(seen > 20, "only {seen} cases");
    }

    /// Walks the model and looks at what stands as an example.
    fn examples(shape: &'static Shape, path: &str, seen: &mut usize) {
        match shape {
            Shape::List(item) | Shape::Map(item) => examples(item, path, seen),
            Shape::Object(table) => {
                for field in table.fields {
                    let path = format!("{path}.{}", field.key);
                    if let Some(example) = field.example {
                        let value = value(example).unwrap_or_else(|| panic!("{path}: {example}"));
                        let schema = of(field.shape, Takes::Nothing);
                        assert_eq!(complaint(&schema, &value, &path), None);
                        *seen += 1;
                    }
                    examples(field.shape, &path, seen);
                }
            }
            _ => {}
        }
    }

    #[test]
    fn every_example_is_one() {
        let mut seen = 0;
        examples(crate::model(), "", &mut seen);
        assert!(seen > 10);
    }
}
