//! Reads the paragraphs of Debian's control files (deb-control(5)): `Field: value`, continued on
//! lines that begin with a blank, paragraphs parted by empty lines. Text in, fields out.

use std::collections::BTreeMap;

/// The paragraphs of `text`, each a map from field to value. Continuation lines are joined with a
/// newline; a line that is neither is passed over.
pub(super) fn parse(text: &str) -> Vec<BTreeMap<&str, String>> {
    let mut paragraphs = Vec::new();
    let mut fields: BTreeMap<&str, String> = BTreeMap::new();
    let mut last: Option<&str> = None;
    for line in text.lines() {
        if line.trim().is_empty() {
            if !fields.is_empty() {
                paragraphs.push(std::mem::take(&mut fields));
            }
            last = None;
        } else if line.starts_with([' ', '\t']) {
            if let Some(value) = last.and_then(|name| fields.get_mut(name)) {
                value.push('\n');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.insert(name, value.trim().to_string());
            last = Some(name);
        }
    }
    if !fields.is_empty() {
        paragraphs.push(fields);
    }
    paragraphs
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paragraphs_and_continuations() {
        let text = "Package: a\nDescription: short\n long\n .\n\n\nPackage: b\nVersion: 1:2.0\n";
        let got = parse(text);
        assert_eq!(got.len(), 2);
        assert_eq!(got[0]["Package"], "a");
        assert_eq!(got[0]["Description"], "short\nlong\n.");
        assert_eq!(got[1]["Version"], "1:2.0");
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange(text in "\\PC*") {
            for fields in parse(&text) {
                prop_assert!(!fields.is_empty());
            }
        }

        #[test]
        fn written_fields_are_read_back(
            fields in proptest::collection::btree_map("[A-Z][a-z-]{1,8}", "[a-z0-9.:+~]{1,12}", 1..6)
        ) {
            let text: String = fields.iter().map(|(k, v)| format!("{k}: {v}\n")).collect();
            let read = parse(&text);
            prop_assert_eq!(read.len(), 1);
            for (name, value) in &fields {
                prop_assert_eq!(&read[0][name.as_str()], value);
            }
        }
    }
}
