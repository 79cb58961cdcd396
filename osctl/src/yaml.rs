//! YAML in and out, and merging. The one place that knows the YAML library.

use crate::error::{Error, Result};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::path::Path;

/// Reads a YAML document. `path` is only used in messages.
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    let mut options = serde_saphyr::Options::default();
    options.strict_booleans = true;
    // A snippet of the file could show a secret.
    options.with_snippet = false;
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| Error::input(format!("cannot read {}", path.display())).cause(error))
}

/// Writes a value as a YAML document.
pub(crate) fn to_text<T: Serialize>(value: &T) -> Result<String> {
    let mut options = serde_saphyr::SerializerOptions::default();
    options.compact_list_indent = false;
    // Long lines (a certificate in base64) stay one line: every reader takes that.
    options.folded_wrap_chars = 1 << 30;
    let mut text = serde_saphyr::to_string_with_options(value, options)
        .map_err(|error| Error::failed("cannot write YAML").cause(error))?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

/// Lays one document over another: maps are merged key by key, `null` removes a
/// key, everything else, lists too, replaces what was there (RFC 7396).
pub(crate) fn merge(base: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *base = patch;
        return;
    };
    if !base.is_object() {
        *base = Value::Object(serde_json::Map::new());
    }
    let Value::Object(base) = base else { return };
    for (key, value) in patch {
        if value.is_null() {
            base.remove(&key);
        } else {
            merge(base.entry(key).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merging() {
        let cases = [
            (
                "maps are merged",
                json!({"a": {"b": 1}}),
                json!({"a": {"c": 2}}),
                json!({"a": {"b": 1, "c": 2}}),
            ),
            (
                "lists replace",
                json!({"a": [1, 2]}),
                json!({"a": [3]}),
                json!({"a": [3]}),
            ),
            (
                "null removes",
                json!({"a": 1, "b": 2}),
                json!({"a": null}),
                json!({"b": 2}),
            ),
            (
                "null removes what is not there",
                json!({}),
                json!({"a": {"b": null}}),
                json!({"a": {}}),
            ),
            (
                "a scalar becomes a map",
                json!({"a": 1}),
                json!({"a": {"b": 1}}),
                json!({"a": {"b": 1}}),
            ),
        ];
        for (rule, mut base, patch, want) in cases {
            merge(&mut base, patch);
            assert_eq!(base, want, "{rule}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let value = json!({
            "long": "QUJD".repeat(200), "lines": "a\nb\n", "yes": "yes", "number": "1.0", "list": ["x", {"y": 1}],
        });
        let text = to_text(&value).unwrap();
        assert_eq!(
            parse::<Value>(Path::new("x"), &text).unwrap(),
            value,
            "{text}"
        );
        assert!(text.contains(&"QUJD".repeat(200)), "{text}");
    }
}
