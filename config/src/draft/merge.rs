//! Laying a patch over values, as the model says: maps are merged key by key,
//! lists whose entries have names are merged entry by entry, any other list or
//! value is replaced. `null` removes, `+key` appends to a list what is not in it
//! yet, `$patch` says `merge`, `replace` or `delete` where that is not what would
//! be done anyway. Merging twice is merging once.

use crate::{
    model::{Shape, Table},
    written::{Written, below, identity, item, keyed},
};

/// The key that says how a value is to be merged.
pub(super) const DIRECTIVE: &str = "$patch";
/// What may stand there.
pub(super) const WORDS: [&str; 3] = ["merge", "replace", "delete"];

/// How a value of a patch is merged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Merge,
    Replace,
    Delete,
}

fn how(patch: &Written) -> How {
    match patch.get(DIRECTIVE) {
        Some(Written::Text(word)) if word == "replace" => How::Replace,
        Some(Written::Text(word)) if word == "delete" => How::Delete,
        _ => How::Merge,
    }
}

/// Lays a patch over a value.
pub(super) fn merge(base: &mut Written, patch: &Written, shape: Option<&'static Shape>) {
    match patch {
        Written::Map(entries) => {
            if how(patch) == How::Replace || !matches!(base, Written::Map(_)) {
                *base = Written::Map(Vec::new());
            }
            merge_map(base, entries, shape);
        }
        Written::List(items) => match keyed(shape) {
            Some(table) if !items.iter().any(is_mark) => {
                if !matches!(base, Written::List(_)) {
                    *base = Written::List(Vec::new());
                }
                merge_list(base, items, table, item(shape));
            }
            _ => {
                let items = items.iter().filter(|entry| !is_mark(entry));
                *base = Written::List(items.map(|it| fresh(it, item(shape))).collect());
            }
        },
        scalar => *base = scalar.clone(),
    }
}

/// `- $patch: replace`, which speaks for the list that it is in.
fn is_mark(item: &Written) -> bool {
    how(item) == How::Replace && item.entries().len() == 1
}

/// A value of a patch where nothing is below it.
fn fresh(patch: &Written, shape: Option<&'static Shape>) -> Written {
    let mut value = Written::Nothing;
    merge(&mut value, patch, shape);
    value
}

fn merge_map(base: &mut Written, patch: &[(String, Written)], shape: Option<&'static Shape>) {
    let Written::Map(entries) = base else { return };
    for (key, value) in patch.iter().filter(|(key, _)| key != DIRECTIVE) {
        let appended = key
            .strip_prefix('+')
            .filter(|_| below_is_not_known(shape, key));
        let key = appended.unwrap_or(key);
        let shape = below(shape, key);
        let at = entries.iter().position(|(name, _)| name == key);
        match (at, value) {
            (at, Written::List(items)) if appended.is_some() => {
                let at = at.unwrap_or_else(|| {
                    entries.push((key.to_owned(), Written::List(Vec::new())));
                    entries.len() - 1
                });
                append(&mut entries[at].1, items, shape);
            }
            (Some(at), Written::Nothing) => {
                entries.remove(at);
            }
            (None, Written::Nothing) => {}
            (Some(at), value) if how(value) == How::Delete => {
                entries.remove(at);
            }
            (None, value) if how(value) == How::Delete => {}
            (Some(at), value) => merge(&mut entries[at].1, value, shape),
            (None, value) => entries.push((key.to_owned(), fresh(value, shape))),
        }
    }
}

/// Whether a key with a plus is none of the object's own.
fn below_is_not_known(shape: Option<&'static Shape>, key: &str) -> bool {
    !matches!(shape, Some(Shape::Object(table)) if table.field(key).is_some())
}

/// Adds to a list what is not in it. A value that is no list is the list of itself:
/// K3s takes one for the other.
fn append(base: &mut Written, items: &[Written], shape: Option<&'static Shape>) {
    if !matches!(base, Written::List(_)) {
        let only = std::mem::replace(base, Written::Nothing);
        *base = Written::List(match only {
            Written::Nothing => Vec::new(),
            only => vec![only],
        });
    }
    let Written::List(list) = base else { return };
    for new in items {
        let new = fresh(new, item(shape));
        if !list.iter().any(|there| there.same(&new)) {
            list.push(new);
        }
    }
}

/// Merges a list entry by entry. Of several entries that are told apart by nothing
/// the first is merged with the first, the second with the second.
fn merge_list(
    base: &mut Written,
    patch: &[Written],
    table: &'static Table,
    shape: Option<&'static Shape>,
) {
    let Written::List(list) = base else { return };
    let same = |one: &Written, two: &Written| match identity(table, two) {
        Some((key, value)) => one.get(key).is_some_and(|there| there.same(value)),
        None => false,
    };
    for gone in patch.iter().filter(|entry| how(entry) == How::Delete) {
        list.retain(|there| !same(there, gone));
    }
    let kept: Vec<_> = patch.iter().filter(|it| how(it) != How::Delete).collect();
    for (index, entry) in kept.iter().enumerate() {
        let before = kept[..index].iter().filter(|it| same(it, entry)).count();
        let mut there = list.iter_mut().filter(|there| same(there, entry));
        match there.nth(before) {
            Some(there) => merge(there, entry, shape),
            None => list.push(fresh(entry, shape)),
        }
    }
}
