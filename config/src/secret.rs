//! Which parts of a config are secret: by the config's own fields, by the name
//! of the key where it is somebody else's, and by what a private key looks like.
//! Where a text cannot be read as YAML, its lines are judged one by one, and
//! rather too much is starred out than too little.

use crate::{
    read::{Shape, Table},
    source::Mask,
    tree::{Step, Style, Tree, Value},
};
use std::ops::Range;

const STARS: &str = "***";

/// Whether a key names something that must not be shown: `token`,
/// `etcd-s3-secret-key`, `dbPassword`.
pub(crate) fn names_secret(key: &str) -> bool {
    // Longer keys are nobody's; their values are not shown.
    if key.len() > 256 {
        return true;
    }
    let key: String = key
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_ascii_lowercase();
    const PARTS: [&str; 9] = [
        "token",
        "secret",
        "passw",
        "passphrase",
        "credential",
        "private",
        "apikey",
        "accesskey",
        "datastoreendpoint",
    ];
    if PARTS.iter().any(|part| key.contains(part)) || key.ends_with("key") {
        return true;
    }
    // A slip of the keyboard must not show what the right key would have hidden.
    ["token", "tokens", "secret", "password", "key"]
        .iter()
        .any(|name| {
            let slips = usize::from(name.len() > 3) + usize::from(name.len() > 5);
            key.len().abs_diff(name.len()) <= slips && strsim::osa_distance(&key, name) <= slips
        })
}

/// The secrets of a config that could be read; `root` says which fields are secret.
pub(crate) fn masks(text: &str, tree: &Tree<'_>, root: &'static Shape) -> Vec<Mask> {
    let mut masks = Vec::new();
    // For each node what it should be, and whether it lies within something
    // secret. A parent comes before its children.
    let mut known: Vec<(Option<&'static Shape>, bool)> = Vec::with_capacity(tree.len());
    for id in tree.ids() {
        let node = tree.node(id);
        let (shape, secret) = match &node.step {
            Step::Root if tree.root() == Some(id) => (Some(root), false),
            // What was read and refused hangs below nothing that says what it is.
            Step::Root => (None, true),
            Step::Key { parent, name, .. } => {
                let (shape, secret) = known[parent.index()];
                let (below, hidden) = below(shape, name);
                (below, secret || hidden)
            }
            Step::Index { parent, .. } => match known[parent.index()] {
                (Some(Shape::List(item)), secret) => (Some(*item), secret),
                (_, secret) => (None, secret),
            },
        };
        known.push((shape, secret));
        match &node.value {
            Value::Scalar { text: value, style } => {
                let plain =
                    *style == Style::Plain && matches!(&**value, "true" | "false" | "null" | "~");
                if (secret && !plain) || value.contains("PRIVATE KEY-----") || has_login(value) {
                    mask_scalar(text, &node.range, *style, &mut masks);
                }
            }
            Value::Bad if secret => mask_lines(text, &node.range, "", &mut masks),
            Value::Bad | Value::List(_) | Value::Map(_) => {}
        }
    }
    if let Some(rest) = tree.rest.and_then(|at| text.get(at..)) {
        let before = text.len() - rest.len();
        masks.extend(masks_by_line(rest).into_iter().map(|mask| Mask {
            range: mask.range.start + before..mask.range.end + before,
            ..mask
        }));
    }
    masks
}

/// Whether a text is a URL with a password in it.
fn has_login(text: &str) -> bool {
    text.split_once("://")
        .and_then(|(_, rest)| rest.split('/').next()?.rsplit_once('@'))
        .is_some_and(|(login, _)| login.contains(':'))
}

/// What the value of a key should be, and whether it is secret.
fn below(shape: Option<&'static Shape>, key: &str) -> (Option<&'static Shape>, bool) {
    match shape {
        Some(Shape::Object(Table { fields, .. })) => {
            match fields.iter().find(|field| field.key == key) {
                Some(field) => (Some(field.shape), matches!(field.shape, Shape::Secret)),
                None => (None, names_secret(key)),
            }
        }
        Some(Shape::Map(value)) => (
            Some(value),
            matches!(value, Shape::Secret) || names_secret(key),
        ),
        _ => (None, names_secret(key)),
    }
}

fn mask_scalar(text: &str, range: &Range<usize>, style: Style, masks: &mut Vec<Mask>) {
    let range = range.start..range.start + text[range.clone()].trim_end().len();
    match style {
        Style::Plain => mask_lines(text, &range, "\"", masks),
        // The quotes stay.
        Style::Quoted => mask_lines(
            text,
            &(range.start + 1..(range.end - 1).max(range.start + 1)),
            "",
            masks,
        ),
        // Its range begins below the line with the |.
        Style::Block => mask_lines(text, &range, "", masks),
    }
}

/// Masks every line of a range on its own, so that the lines stay; indentation stays too.
fn mask_lines(text: &str, range: &Range<usize>, quote: &str, masks: &mut Vec<Mask>) {
    let mut lines = Vec::new();
    let mut at = range.start;
    for line in text[range.clone()].split_inclusive('\n') {
        let start = at + (line.len() - line.trim_start().len());
        let end = at + line.trim_end().len();
        if start < end {
            lines.push(start..end);
        }
        at += line.len();
    }
    let last = lines.len().saturating_sub(1);
    for (index, range) in lines.into_iter().enumerate() {
        let shown = match (quote.is_empty(), index == 0, index == last) {
            (false, true, true) => "\"***\"",
            (false, true, false) => "\"***",
            (false, false, true) => "***\"",
            _ => STARS,
        };
        masks.push(Mask { range, shown });
    }
}

/// The secrets of a text that is not YAML: judged line by line.
pub(crate) fn masks_by_line(text: &str) -> Vec<Mask> {
    let mut masks = Vec::new();
    let mut within = Within::Nothing;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let indent = line.len() - line.trim_start().len();
        let bare = line.trim_end();
        let whole = at + indent..at + bare.len().max(indent);
        let hide = |from: usize, masks: &mut Vec<Mask>| {
            let range = at + from..at + bare.len();
            if !range.is_empty() {
                masks.push(Mask {
                    range,
                    shown: STARS,
                });
            }
        };
        within = match within {
            Within::Rest => {
                hide(indent.min(bare.len()), &mut masks);
                Within::Rest
            }
            Within::Pem => {
                hide(indent.min(bare.len()), &mut masks);
                if line.contains("-----END") {
                    Within::Nothing
                } else {
                    Within::Pem
                }
            }
            Within::Value(outer) if bare.trim().is_empty() || indent > outer => {
                hide(indent.min(bare.len()), &mut masks);
                Within::Value(outer)
            }
            Within::Nothing | Within::Value(_) => {
                if line.contains("PRIVATE KEY-----") {
                    masks.push(Mask {
                        range: whole,
                        shown: STARS,
                    });
                    if line.contains("-----END") {
                        Within::Nothing
                    } else {
                        Within::Pem
                    }
                } else if let Some(from) = secret_value(bare) {
                    hide(from, &mut masks);
                    if is_closed(&bare[from..]) {
                        Within::Value(indent)
                    } else {
                        Within::Rest
                    }
                } else {
                    Within::Nothing
                }
            }
        };
        at += line.len();
    }
    masks
}

/// What the lines above have begun.
enum Within {
    Nothing,
    /// A private key.
    Pem,
    /// The value of a secret's key with this indentation.
    Value(usize),
    /// A secret that is nowhere seen to end.
    Rest,
}

/// Where in a line the value of a secret's key begins.
fn secret_value(line: &str) -> Option<usize> {
    line.match_indices(':').find_map(|(colon, _)| {
        let before = line[..colon].trim_end_matches(['"', '\'', ' ']);
        let part = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
        let name = &before[before.trim_end_matches(part).len()..];
        let rest = &line[colon + 1..];
        let environment = name == "env";
        let proxy = matches!(name, "http" | "https") && rest.contains('@');
        (names_secret(name) || environment || proxy)
            .then(|| colon + 1 + (rest.len() - rest.trim_start().len()))
    })
}

/// Whether every quote and bracket that a text opens is closed in it.
fn is_closed(text: &str) -> bool {
    let count = |c: char| text.matches(c).count();
    count('"').is_multiple_of(2)
        && count('\'').is_multiple_of(2)
        && count('{') <= count('}')
        && count('[') <= count(']')
}
