//! What differs between two configs: for people, by path, with secrets starred
//! out; and as the patch that makes one of the other.

use super::{
    merge::{self, DIRECTIVE},
    print,
};
use crate::{
    model::{Found, Shape, Table, Takes},
    secret::names_secret,
    tree::{push_key, quote},
    written::{Written, below, identity, item, keyed},
};

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Where: `network.links[eth0].addresses`. An entry of a list that has names
    /// is called by its name.
    pub path: String,
    /// What happened to the value.
    pub kind: Kind,
    /// What it takes to apply it.
    pub takes: Takes,
}

/// What happened to a value. Texts are one line, secrets are `***`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is new.
    Added(String),
    /// It is gone.
    Removed(String),
    /// It is another.
    Changed(String, String),
    /// The same entries are in another order.
    Reordered,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = &self.path;
        match &self.kind {
            Kind::Added(value) => write!(f, "+ {path}: {value}"),
            Kind::Removed(value) => write!(f, "- {path}: {value}"),
            Kind::Changed(before, after) if before == after => {
                write!(f, "~ {path}: {after} (another)")
            }
            Kind::Changed(before, after) => write!(f, "~ {path}: {before} -> {after}"),
            Kind::Reordered => write!(f, "~ {path}: another order"),
        }
    }
}

/// Where the comparison is.
#[derive(Clone)]
struct Place {
    path: String,
    found: Option<Found>,
    shape: Option<&'static Shape>,
    takes: Takes,
    secret: bool,
}

impl Place {
    fn key(&self, key: &str) -> Place {
        let mut path = self.path.clone();
        push_key(&mut path, key);
        let found = self.found.and_then(|found| found.below(key));
        let shape = below(self.shape, key);
        let named = match self.shape {
            Some(Shape::Object(table)) if table.field(key).is_some() => {
                matches!(shape, Some(Shape::Secret))
            }
            _ => matches!(shape, Some(Shape::Secret)) || names_secret(key),
        };
        Place {
            path,
            found,
            shape,
            takes: found.map_or(self.takes, |found| found.takes),
            secret: self.secret || named,
        }
    }

    fn entry(&self, name: &str) -> Place {
        Place {
            path: format!("{}[{name}]", self.path),
            shape: item(self.shape),
            ..self.clone()
        }
    }
}

/// All differences, in the order of the model.
pub(super) fn changes(before: &Written, after: &Written) -> Vec<Change> {
    let mut found = Vec::new();
    let root = Found::root();
    let place = Place {
        path: String::new(),
        found: Some(root),
        shape: Some(root.shape),
        takes: root.takes,
        secret: false,
    };
    compare(before, after, &place, &mut found);
    found
}

fn compare(before: &Written, after: &Written, place: &Place, found: &mut Vec<Change>) {
    if before.same(after) {
        return;
    }
    match (before, after) {
        (Written::Map(ours), Written::Map(theirs)) => {
            let new = theirs.iter().filter(|(key, _)| before.get(key).is_none());
            let mut keys: Vec<&str> = ours.iter().chain(new).map(|(key, _)| &**key).collect();
            if let Some(Shape::Object(table)) = place.shape {
                let at = |key: &str| table.fields.iter().position(|it| it.key == key);
                keys.sort_by_key(|key| at(key).unwrap_or(usize::MAX));
            }
            for key in keys {
                let place = place.key(key);
                match (before.get(key), after.get(key)) {
                    (Some(one), Some(two)) => compare(one, two, &place, found),
                    (Some(one), None) => one_side(one, &place, &Kind::Removed, found),
                    (None, Some(two)) => one_side(two, &place, &Kind::Added, found),
                    (None, None) => {}
                }
            }
        }
        (Written::List(ours), Written::List(theirs)) => match keyed(place.shape) {
            Some(table) => entries(ours, theirs, table, place, found),
            None => push(
                Kind::Changed(shown(before, place), shown(after, place)),
                place,
                found,
            ),
        },
        _ => push(
            Kind::Changed(shown(before, place), shown(after, place)),
            place,
            found,
        ),
    }
}

fn push(kind: Kind, place: &Place, found: &mut Vec<Change>) {
    found.push(Change {
        path: place.path.clone(),
        kind,
        takes: place.takes,
    });
}

/// A value that only one side has: each of its keys is told, so that every line
/// has its path.
fn one_side(
    value: &Written,
    place: &Place,
    kind: &dyn Fn(String) -> Kind,
    found: &mut Vec<Change>,
) {
    match (value, keyed(place.shape)) {
        (Written::Map(entries), _) if !entries.is_empty() => {
            for (key, value) in entries {
                one_side(value, &place.key(key), kind, found);
            }
        }
        (Written::List(items), Some(table)) if !items.is_empty() => {
            for (index, entry) in items.iter().enumerate() {
                let name = name(table, entry, index);
                push(
                    kind(shown(entry, &place.entry(&name))),
                    &place.entry(&name),
                    found,
                );
            }
        }
        _ => push(kind(shown(value, place)), place, found),
    }
}

/// What an entry of a list is called.
fn name(table: &'static Table, entry: &Written, index: usize) -> String {
    match identity(table, entry) {
        Some((_, Written::Map(entries))) => {
            let entries = entries.iter();
            let entries: Vec<_> = entries
                .map(|(key, value)| match value {
                    Written::Text(text) | Written::Bare(text) => format!("{key}={text}"),
                    other => format!("{key}={}", print::line(other)),
                })
                .collect();
            entries.join(",")
        }
        Some((_, value)) => print::line(value),
        None => index.to_string(),
    }
}

fn entries(
    before: &[Written],
    after: &[Written],
    table: &'static Table,
    place: &Place,
    found: &mut Vec<Change>,
) {
    let told = found.len();
    let pairs = pairs(before, after, table);
    for (index, entry) in before.iter().enumerate() {
        let place = place.entry(&name(table, entry, index));
        match pairs.iter().find(|(one, _)| *one == index) {
            Some((_, two)) => compare(entry, &after[*two], &place, found),
            None => push(Kind::Removed(shown(entry, &place)), &place, found),
        }
    }
    for (index, entry) in after.iter().enumerate() {
        if !pairs.iter().any(|(_, two)| *two == index) {
            let place = place.entry(&name(table, entry, index));
            push(Kind::Added(shown(entry, &place)), &place, found);
        }
    }
    if found.len() == told {
        push(Kind::Reordered, place, found);
    }
}

/// Which entries of two lists are the same ones: the first of a name is the first.
fn pairs(before: &[Written], after: &[Written], table: &'static Table) -> Vec<(usize, usize)> {
    let mut pairs: Vec<(usize, usize)> = Vec::new();
    for (one, entry) in before.iter().enumerate() {
        let ours = identity(table, entry);
        let same = after.iter().enumerate().position(|(two, there)| {
            let free = !pairs.iter().any(|(_, taken)| *taken == two);
            let theirs = identity(table, there);
            free && match (ours, theirs) {
                (Some((ours, a)), Some((theirs, b))) => ours == theirs && a.same(b),
                _ => false,
            }
        });
        pairs.extend(same.map(|two| (one, two)));
    }
    pairs
}

/// A value on one line, not endless, its secrets starred out.
fn shown(value: &Written, place: &Place) -> String {
    const MAX: usize = 100;
    let text = match starred(value, place) {
        Written::Text(ref text) if text.contains('\n') => quote(text),
        ref other => print::line(other),
    };
    if text.chars().count() <= MAX {
        return text;
    }
    let mut cut: String = text.chars().take(MAX).collect();
    cut.push('…');
    cut
}

fn starred(value: &Written, place: &Place) -> Written {
    match value {
        Written::Map(entries) => Written::Map(
            entries
                .iter()
                .map(|(key, value)| (key.clone(), starred(value, &place.key(key))))
                .collect(),
        ),
        Written::List(items) => {
            let place = place.entry("");
            Written::List(items.iter().map(|it| starred(it, &place)).collect())
        }
        Written::Text(text) if place.secret || text.contains("PRIVATE KEY-----") => {
            // Bare, so that it is shown without quotes.
            Written::Bare("***".to_owned())
        }
        Written::Bare(text) if place.secret && !matches!(text.as_str(), "true" | "false") => {
            Written::Bare("***".to_owned())
        }
        other => other.clone(),
    }
}

/// The patch that makes `after` of `before`; `None` where nothing differs.
pub(super) fn patch(
    before: &Written,
    after: &Written,
    shape: Option<&'static Shape>,
) -> Option<Written> {
    if before.same(after) {
        return None;
    }
    let exact = |patch: Written| {
        let mut made = before.clone();
        merge::merge(&mut made, &patch, shape);
        made.same(after).then_some(patch)
    };
    let smallest = match (before, after) {
        (Written::Map(ours), Written::Map(theirs)) => {
            let gone = ours.iter().filter(|(key, _)| after.get(key).is_none());
            let gone = gone.map(|(key, _)| (key.clone(), Written::Nothing));
            let changed = theirs.iter().filter_map(|(key, value)| {
                let value = match before.get(key) {
                    Some(there) => patch(there, value, below(shape, key))?,
                    None => whole(value, below(shape, key)),
                };
                Some((key.clone(), value))
            });
            exact(Written::Map(changed.chain(gone).collect()))
        }
        (Written::List(ours), Written::List(theirs)) => keyed(shape)
            .and_then(|table| list_patch(ours, theirs, table, item(shape)))
            .and_then(exact),
        _ => None,
    };
    Some(smallest.unwrap_or_else(|| replacing(after, shape)))
}

/// A value that is to be there as it is, whatever is there.
fn replacing(value: &Written, shape: Option<&'static Shape>) -> Written {
    let word = || Written::Text("replace".to_owned());
    match value {
        Written::Map(entries) => {
            let mut all = vec![(DIRECTIVE.to_owned(), word())];
            all.extend(entries.iter().cloned());
            Written::Map(all)
        }
        Written::List(items) if keyed(shape).is_some() => {
            let mut all = vec![Written::Map(vec![(DIRECTIVE.to_owned(), word())])];
            all.extend(items.iter().cloned());
            Written::List(all)
        }
        other => other.clone(),
    }
}

/// A value for a place where nothing is.
fn whole(value: &Written, shape: Option<&'static Shape>) -> Written {
    let mut made = Written::Nothing;
    merge::merge(&mut made, value, shape);
    if made.same(value) {
        value.clone()
    } else {
        replacing(value, shape)
    }
}

fn list_patch(
    before: &[Written],
    after: &[Written],
    table: &'static Table,
    shape: Option<&'static Shape>,
) -> Option<Written> {
    let pairs = pairs(before, after, table);
    let mut entries = Vec::new();
    for (index, entry) in before.iter().enumerate() {
        let (key, value) = identity(table, entry)?;
        let mut of_it = vec![(key.to_owned(), value.clone())];
        match pairs.iter().find(|(one, _)| *one == index) {
            Some((_, two)) => {
                if let Some(changed) = patch(entry, &after[*two], shape) {
                    let changed = changed.entries().iter();
                    of_it.extend(changed.filter(|(name, _)| name != key).cloned());
                    entries.push(Written::Map(of_it));
                }
            }
            None => {
                of_it.push((DIRECTIVE.to_owned(), Written::Text("delete".to_owned())));
                entries.push(Written::Map(of_it));
            }
        }
    }
    for (index, entry) in after.iter().enumerate() {
        if !pairs.iter().any(|(_, two)| *two == index) {
            entries.push(whole(entry, shape));
        }
    }
    Some(Written::List(entries))
}
