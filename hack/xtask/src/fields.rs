//! Which test shows what a field of the config does. A test says so itself, in a line of its
//! comment: `/// Shows: machine.sysctls, network.links.mtu`. A field that is shown nowhere, and
//! a line that names none, are errors.

use anyhow::{Result, ensure};
use keelson_config::{Found, Shape};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// What a test's line begins with.
const MARK: &str = "/// Shows: ";

/// The folders of the sources; tests that boot machines too.
const SOURCES: [&str; 5] = [
    "machined/src",
    "config/src",
    "osctl/src",
    "apid/src",
    "tests/tests",
];

/// They only say that a text is a config.
const NO_FIELDS: [&str; 2] = ["apiVersion", "kind"];

/// Where a test is.
struct Test {
    name: String,
    file: PathBuf,
}

/// Every field and the tests that show it, as a table.
pub(crate) fn table(root: &Path) -> Result<String> {
    let mut fields = Vec::new();
    leaves(Found::root().shape, "", &mut fields);
    fields.retain(|field| !NO_FIELDS.contains(&field.as_str()));
    let mut shown: BTreeMap<&str, Vec<&Test>> = BTreeMap::new();
    let mut found = Vec::new();
    for folder in SOURCES {
        look(root, &root.join(folder), &mut found)?;
    }
    let mut wrong = Vec::new();
    for (path, test) in &found {
        let below = format!("{path}.");
        let meant = fields
            .iter()
            .filter(|field| *field == path || field.starts_with(&below));
        let mut known = false;
        for field in meant {
            known = true;
            shown.entry(field).or_default().push(test);
        }
        if !known {
            wrong.push(format!("{}: {path} is no field", test.file.display()));
        }
    }
    let mut text = format!("{:<48} shown by\n", "field");
    for field in &fields {
        match shown.get(field.as_str()) {
            None => wrong.push(format!("{field} is shown by no test")),
            Some(tests) => {
                for (place, test) in tests.iter().enumerate() {
                    let field = if place == 0 { field } else { "" };
                    text += &format!("{field:<48} {} ({})\n", test.name, test.file.display());
                }
            }
        }
    }
    ensure!(
        wrong.is_empty(),
        "{}\n= a test says what it shows in its comment: {MARK}PATH, PATH",
        wrong.join("\n")
    );
    Ok(text)
}

/// Every field that is no map of fields itself; a map without any is one.
fn leaves(shape: &'static Shape, path: &str, fields: &mut Vec<String>) {
    match shape {
        Shape::List(item) | Shape::Map(item) if matches!(item, Shape::Object(_)) => {
            leaves(item, path, fields);
        }
        Shape::Object(table) if !table.fields.is_empty() => {
            for field in table.fields {
                let dot = if path.is_empty() { "" } else { "." };
                leaves(field.shape, &format!("{path}{dot}{}", field.key), fields);
            }
        }
        _ => fields.push(path.to_owned()),
    }
}

/// Reads the marks of all sources in a folder.
fn look(root: &Path, folder: &Path, found: &mut Vec<(String, Test)>) -> Result<()> {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()?;
    entries.sort();
    for path in entries {
        if path.is_dir() {
            look(root, &path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)?;
            let file = path.strip_prefix(root).unwrap_or(&path);
            for (fields, name) in marks(&text) {
                let file = file.to_owned();
                for field in fields {
                    let (name, file) = (name.clone(), file.clone());
                    found.push((field, Test { name, file }));
                }
            }
        }
    }
    Ok(())
}

/// The fields that each marked test of a source shows, and its name.
fn marks(text: &str) -> Vec<(Vec<String>, String)> {
    let mut marks = Vec::new();
    let mut fields: Vec<String> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(list) = line.strip_prefix(MARK) {
            fields.extend(list.split(',').map(|field| field.trim().to_owned()));
        } else if !fields.is_empty()
            && let Some(name) = line
                .split_once("fn ")
                .and_then(|(_, rest)| rest.split_once('('))
                .map(|(name, _)| name)
        {
            marks.push((std::mem::take(&mut fields), name.to_owned()));
        }
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_belongs_to_the_test_below_it() {
        let text = "fn other() {}\n    /// More.\n    /// Shows: a.b, c\n    /// Shows: d\n    \
                    #[tokio::test]\n    async fn it_is_so() {}\nfn last() {}\n";
        let fields = ["a.b", "c", "d"].map(str::to_owned).to_vec();
        assert_eq!(marks(text), [(fields, "it_is_so".to_owned())]);
    }
}
