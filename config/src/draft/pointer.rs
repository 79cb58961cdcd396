//! JSON patches (RFC 6902): steps that name their place by a pointer (RFC 6901).
//! Each step is read with its place in the patch, so that a step that fails is
//! told with its line.

use crate::{
    diagnostic::{Problem, Problems},
    read::{Plain, nearest, plain},
    tree::{NodeId, Tree, Value, quote},
    written::Written,
};
use std::ops::Range;

/// One step.
#[derive(Clone)]
pub(super) struct Operation {
    what: What,
    to: Pointer,
    /// Where its pointer stands in the patch.
    pub(super) at: Range<usize>,
    /// The path of its pointer in the patch.
    pub(super) path: String,
}

#[derive(Clone)]
enum What {
    Add(Written),
    Remove,
    Replace(Written),
    Test(Written),
    Move(Pointer),
    Copy(Pointer),
}

/// `/network/links/0`: as written, and its keys.
#[derive(Clone)]
struct Pointer {
    text: String,
    keys: Vec<String>,
}

const NAMES: [&str; 6] = ["add", "remove", "replace", "move", "copy", "test"];

/// The steps of a patch, as far as they can be read; what is wrong is reported.
pub(super) fn operations(
    tree: &Tree<'_>,
    items: &[NodeId],
    problems: &mut Problems,
) -> Vec<Operation> {
    items
        .iter()
        .filter_map(|&item| operation(tree, item, problems))
        .collect()
}

fn operation(tree: &Tree<'_>, at: NodeId, problems: &mut Problems) -> Option<Operation> {
    let mut wrong = |spot: Range<usize>, path: String, message: String, hint: &str| {
        let problem = Problem::error(spot, message).path(path);
        problems.push(if hint.is_empty() {
            problem
        } else {
            problem.hint(hint)
        });
    };
    let form = "a step looks like {op: replace, path: /machine/hostname, value: server-2}";
    let Value::Map(children) = &tree.node(at).value else {
        wrong(
            tree.spot(at),
            tree.path(at),
            "a step is a map".to_owned(),
            form,
        );
        return None;
    };
    let text = |key: &str| {
        let at = tree.get(at, key)?;
        match &tree.node(at).value {
            Value::Scalar { text, style } if matches!(plain(text, *style), Plain::Text) => {
                Some((at, text.to_string()))
            }
            _ => None,
        }
    };
    let Some((op_at, op)) = text("op") else {
        wrong(
            tree.spot(at),
            tree.path(at),
            "the step has no op".to_owned(),
            form,
        );
        return None;
    };
    if !NAMES.contains(&op.as_str()) {
        let near = nearest(&op, NAMES.into_iter()).map(|near| format!("did you mean {near}?"));
        let message = format!("expected one of {}, found {}", NAMES.join(", "), quote(&op));
        wrong(
            tree.spot(op_at),
            tree.path(op_at),
            message,
            &near.unwrap_or_default(),
        );
        return None;
    }
    let needs = match op.as_str() {
        "add" | "replace" | "test" => "value",
        "move" | "copy" => "from",
        _ => "path",
    };
    for &child in children {
        let key = tree.key(child).unwrap_or_default();
        if !["op", "path", needs].contains(&key) {
            let message = format!("unknown key for {op}");
            wrong(tree.key_spot(child), tree.path(child), message, "");
        }
    }
    let mut pointer = |key: &str| match text(key) {
        Some((at, text)) => match Pointer::parse(&text) {
            Some(pointer) => Some((at, pointer)),
            None => {
                let hint = "it looks like /network/links/0/addresses";
                let message = format!("{} is not a pointer", quote(&text));
                wrong(tree.spot(at), tree.path(at), message, hint);
                None
            }
        },
        None => {
            wrong(
                tree.spot(at),
                tree.path(at),
                format!("the step has no {key}"),
                form,
            );
            None
        }
    };
    let (path_at, to) = pointer("path")?;
    let what = match needs {
        "from" => {
            let (_, from) = pointer("from")?;
            if op == "copy" {
                What::Copy(from)
            } else {
                What::Move(from)
            }
        }
        "value" => {
            let Some(value) = tree.get(at, "value") else {
                wrong(
                    tree.spot(at),
                    tree.path(at),
                    "the step has no value".to_owned(),
                    form,
                );
                return None;
            };
            let value = Written::of(tree, value);
            match op.as_str() {
                "add" => What::Add(value),
                "replace" => What::Replace(value),
                _ => What::Test(value),
            }
        }
        _ => What::Remove,
    };
    Some(Operation {
        what,
        to,
        at: tree.spot(path_at),
        path: tree.path(path_at),
    })
}

impl Operation {
    /// Takes the step.
    pub(super) fn apply(&self, root: &mut Written) -> Result<(), String> {
        match &self.what {
            What::Add(value) => add(root, &self.to, value.clone()),
            What::Remove => remove(root, &self.to).map(|_| ()),
            What::Replace(value) => {
                *find(root, &self.to)? = value.clone();
                Ok(())
            }
            What::Test(value) => {
                if find(root, &self.to)?.same(value) {
                    Ok(())
                } else {
                    Err(format!("{} has another value", self.to.text))
                }
            }
            What::Copy(from) => {
                let value = find(root, from)?.clone();
                add(root, &self.to, value)
            }
            What::Move(from) => {
                if self.to.keys.len() > from.keys.len() && self.to.keys.starts_with(&from.keys) {
                    return Err(format!("{} is within {}", self.to.text, from.text));
                }
                let value = remove(root, from)?;
                add(root, &self.to, value)
            }
        }
    }
}

impl Pointer {
    fn parse(text: &str) -> Option<Pointer> {
        let keys = match text.strip_prefix('/') {
            None if text.is_empty() => Vec::new(),
            None => return None,
            Some(rest) => rest.split('/').map(unescape).collect::<Option<_>>()?,
        };
        let text = text.to_owned();
        Some(Pointer { text, keys })
    }

    fn nothing(&self) -> String {
        format!("there is nothing at {}", self.text)
    }
}

/// `~1` is a slash, `~0` a tilde, and nothing else stands behind a tilde.
fn unescape(key: &str) -> Option<String> {
    let rest = key.replace("~1", "").replace("~0", "");
    (!rest.contains('~')).then(|| key.replace("~1", "/").replace("~0", "~"))
}

/// An index of a list as the RFC writes it: no sign, no leading zero.
fn index(key: &str) -> Option<usize> {
    let digits = !key.is_empty() && key.bytes().all(|b| b.is_ascii_digit());
    (digits && (key == "0" || !key.starts_with('0')))
        .then(|| key.parse().ok())
        .flatten()
}

fn step<'w>(value: &'w mut Written, key: &str) -> Option<&'w mut Written> {
    match value {
        Written::Map(entries) => entries
            .iter_mut()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value),
        Written::List(items) => items.get_mut(index(key)?),
        _ => None,
    }
}

fn find<'w>(root: &'w mut Written, to: &Pointer) -> Result<&'w mut Written, String> {
    to.keys
        .iter()
        .try_fold(root, |value, key| step(value, key))
        .ok_or_else(|| to.nothing())
}

/// What holds the place, and the place's key in it.
fn parent<'w, 'p>(
    root: &'w mut Written,
    to: &'p Pointer,
) -> Result<Option<(&'w mut Written, &'p str)>, String> {
    let Some((last, before)) = to.keys.split_last() else {
        return Ok(None);
    };
    let holder = before.iter().try_fold(root, |value, key| step(value, key));
    let holder = holder.ok_or_else(|| format!("there is nothing that could hold {}", to.text))?;
    Ok(Some((holder, last)))
}

fn add(root: &mut Written, to: &Pointer, value: Written) -> Result<(), String> {
    let Some((holder, key)) = parent(root, to)? else {
        *root = value;
        return Ok(());
    };
    match holder {
        Written::Map(entries) => match entries.iter_mut().find(|(name, _)| name == key) {
            Some((_, there)) => *there = value,
            None => entries.push((key.to_owned(), value)),
        },
        Written::List(items) => {
            let count = items.len();
            let at = if key == "-" { Some(count) } else { index(key) };
            match at.filter(|&at| at <= count) {
                Some(at) => items.insert(at, value),
                None => {
                    return Err(format!(
                        "the list has {count} items, none is at {}",
                        to.text
                    ));
                }
            }
        }
        _ => return Err(format!("there is nothing that could hold {}", to.text)),
    }
    Ok(())
}

fn remove(root: &mut Written, from: &Pointer) -> Result<Written, String> {
    let nothing = || from.nothing();
    match parent(root, from).map_err(|_| nothing())? {
        Some((Written::Map(entries), key)) => {
            let at = entries.iter().position(|(name, _)| name == key);
            Ok(entries.remove(at.ok_or_else(nothing)?).1)
        }
        Some((Written::List(items), key)) => {
            let at = index(key).filter(|&at| at < items.len());
            Ok(items.remove(at.ok_or_else(nothing)?))
        }
        Some(_) => Err(nothing()),
        None => Err("the whole config cannot be removed".to_owned()),
    }
}
