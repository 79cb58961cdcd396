//! YAML in and out. The one place that knows the YAML library.

use crate::error::{Error, Result};
use serde::{Serialize, de::DeserializeOwned};
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

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
