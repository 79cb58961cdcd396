//! The text of values: block style, two spaces, keys in the model's order, text
//! without quotes where every YAML reader takes it for the same text. What is
//! printed reads back as what it was.

use crate::{
    read::{Plain, plain},
    tree::Style,
    written::Written,
};
use zeroize::Zeroizing;

/// Short lists of words stand on one line up to this many characters.
const MAX_LINE: usize = 72;

/// The text of a document.
pub(super) fn document(root: &Written) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::new());
    match root {
        Written::Map(entries) if !entries.is_empty() => {
            for (index, (key, value)) in entries.iter().enumerate() {
                // A blank line sets the sections apart.
                let section = matches!(value, Written::Map(map) if !map.is_empty());
                if section && index > 0 {
                    out.push('\n');
                }
                entry(&mut out, key, value, 0);
            }
        }
        Written::List(items) if !items.is_empty() => list(&mut out, items, 0),
        other => {
            out.push_str(&line(other));
            out.push('\n');
        }
    }
    out
}

/// The text of a value on one line, for people.
pub(super) fn line(value: &Written) -> String {
    match value {
        Written::Nothing => "null".to_owned(),
        Written::Bare(text) => text.clone(),
        Written::Text(text) => word(text),
        Written::List(items) => {
            let items: Vec<_> = items.iter().map(line).collect();
            format!("[{}]", items.join(", "))
        }
        Written::Map(entries) => {
            let entries: Vec<_> = entries
                .iter()
                .map(|(key, value)| format!("{}: {}", word(key), line(value)))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
    }
}

fn entry(out: &mut String, key: &str, value: &Written, depth: usize) {
    indent(out, depth);
    out.push_str(&word(key));
    out.push(':');
    match value {
        Written::Map(entries) if !entries.is_empty() => {
            out.push('\n');
            for (key, value) in entries {
                entry(out, key, value, depth + 1);
            }
        }
        Written::List(items) if !items.is_empty() && !fits(items, depth + key.len()) => {
            out.push('\n');
            list(out, items, depth + 1);
        }
        other => scalar(out, other, depth),
    }
}

fn list(out: &mut String, items: &[Written], depth: usize) {
    for item in items {
        indent(out, depth);
        out.push('-');
        match item {
            Written::Map(entries) if !entries.is_empty() => {
                // The first key stands behind the dash.
                let mut below = String::new();
                for (key, value) in entries {
                    entry(&mut below, key, value, depth + 1);
                }
                out.push(' ');
                out.push_str(below.trim_start_matches(' '));
            }
            Written::List(inner) if !inner.is_empty() => {
                let mut below = String::new();
                list(&mut below, inner, depth + 1);
                out.push(' ');
                out.push_str(below.trim_start_matches(' '));
            }
            other => scalar(out, other, depth),
        }
    }
}

/// A scalar, an empty collection or a short list, behind a colon or a dash.
fn scalar(out: &mut String, value: &Written, depth: usize) {
    match value {
        Written::Text(text) if is_block(text) => {
            out.push_str(if text.ends_with('\n') {
                " |\n"
            } else {
                " |-\n"
            });
            for text in text.lines() {
                if !text.is_empty() {
                    indent(out, depth + 1);
                    out.push_str(text);
                }
                out.push('\n');
            }
        }
        other => {
            out.push(' ');
            out.push_str(&line(other));
            out.push('\n');
        }
    }
}

fn indent(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n("  ", depth));
}

/// Whether a list can stand on one line: words that mean nothing in brackets.
fn fits(items: &[Written], before: usize) -> bool {
    let simple = |item: &Written| match item {
        Written::Bare(text) => Some(text.len()),
        Written::Text(text) => {
            let fine = |c: char| c.is_ascii_alphanumeric() || "._/@=-".contains(c);
            (text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(fine))
                .then_some(text.len())
        }
        _ => None,
    };
    let length: Option<usize> = items.iter().map(|item| Some(simple(item)? + 2)).sum();
    length.is_some_and(|length| before + length <= MAX_LINE)
}

/// A text on one line: plain, or else in quotes.
fn word(text: &str) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if is_odd(c) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// What some readers refuse, or take for the end of a line. All of it lies in the
/// first 65,536 characters.
fn is_odd(c: char) -> bool {
    c.is_control() || matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}')
}

/// Whether a text without quotes is the same text to every reader of YAML, also
/// to those of version 1.1, where `yes` is a boolean and `12:30` a number.
fn is_plain(text: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || " ._/@+=:$%-".contains(c);
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        || !text.chars().all(fine)
        || text.ends_with([' ', ':'])
        || text.contains(": ")
        || text.contains("  ")
    {
        return false;
    }
    let number = text.starts_with(|c: char| c.is_ascii_digit())
        && text
            .chars()
            .all(|c| c.is_ascii_hexdigit() || ":_-x+ ".contains(c) || c == '.')
        && text.matches('.').count() < 2;
    let lower = text.to_ascii_lowercase();
    let boolean = matches!(lower.as_str(), "yes" | "no" | "on" | "off" | "y" | "n");
    let nothing = matches!(lower.as_str(), "true" | "false" | "null");
    !number && !boolean && !nothing && matches!(plain(text, Style::Plain), Plain::Text)
}

/// Whether a block gives the text back as it is.
fn is_block(text: &str) -> bool {
    text.trim_end_matches('\n').contains('\n')
        && !text.ends_with("\n\n")
        && !text.starts_with([' ', '\n'])
        && !text.chars().any(|c| c != '\n' && is_odd(c))
        && text
            .lines()
            .all(|line| line.is_empty() || !line.trim_matches(' ').is_empty())
}
