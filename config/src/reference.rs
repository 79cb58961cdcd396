//! The reference page of the config as Markdown: every key, its type, its default,
//! an example, and what applying a change takes.

use crate::model::{Field, Shape, Table, Takes};
use std::fmt::Write as _;

/// The whole page.
pub fn reference() -> String {
    let mut page = String::from(
        "# The machine config\n\nGenerated from the model in `config/src/document/`; do not edit. \
         `osctl explain PATH` shows the same,\n`osctl schema` gives it to an editor.\n\n\
         Keys in **bold** must be there. What applying a change takes: \
         *live*, the running machine follows;\n*restarts the orchestrator*, pods keep running meanwhile; \
         *at the next reboot*.\n",
    );
    if let Shape::Object(table) = super::model() {
        section(&mut page, table, "", Takes::Nothing);
    }
    page
}

fn section(page: &mut String, table: &'static Table, path: &str, takes: Takes) {
    let title = if path.is_empty() {
        "The document"
    } else {
        path
    };
    // Writing to a String cannot fail.
    write!(page, "\n## {title}\n\n{}", table.meaning()).ok();
    if !table.by.is_empty() {
        write!(
            page,
            " In a patch, `{}` says which one is meant.",
            table.by.join("` or `")
        )
        .ok();
    }
    if table.fields.is_empty() {
        page.push_str(" It has no keys.\n");
        return;
    }
    page.push_str("\n\n| key | type | default | applying a change | |\n|---|---|---|---|---|\n");
    for field in table.fields {
        row(page, field, path, field.takes.unwrap_or(takes));
    }
    for field in table.fields {
        let mut path = below(path, field.key);
        let takes = field.takes.unwrap_or(takes);
        let mut shape = field.shape;
        loop {
            match shape {
                Shape::List(item) => {
                    path.push_str("[]");
                    shape = item;
                }
                Shape::Map(value) => {
                    path.push_str(".*");
                    shape = value;
                }
                Shape::Object(table) => break section(page, table, &path, takes),
                _ => break,
            }
        }
    }
}

fn row(page: &mut String, field: &'static Field, path: &str, takes: Takes) {
    let key = if field.required {
        format!("**`{}`**", field.key)
    } else {
        format!("`{}`", field.key)
    };
    let default = match field.default() {
        Some(default) if !default.contains(' ') => format!("`{default}`"),
        Some(default) => default,
        None => String::new(),
    };
    let takes = match innermost(field.shape) {
        Shape::Object(_) => "",
        _ => takes.words(),
    };
    let mut meaning = field.meaning();
    if let Some(example) = field.example {
        write!(meaning, " Example: `{}: {example}`", field.key).ok();
    }
    let meaning = meaning.replace('|', "\\|");
    let mut kind = field.shape.words();
    if let Shape::Object(_) = innermost(field.shape) {
        let to = below(path, field.key);
        let marks = kind_marks(field.shape);
        kind = format!("[{kind}](#{})", anchor(&format!("{to}{marks}")));
    }
    writeln!(page, "| {key} | {kind} | {default} | {takes} | {meaning} |").ok();
}

fn below(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

fn innermost(shape: &'static Shape) -> &'static Shape {
    match shape {
        Shape::List(item) | Shape::Map(item) => innermost(item),
        other => other,
    }
}

fn kind_marks(shape: &'static Shape) -> String {
    match shape {
        Shape::List(item) => format!("[]{}", kind_marks(item)),
        Shape::Map(value) => format!(".*{}", kind_marks(value)),
        _ => String::new(),
    }
}

/// The anchor that Markdown gives a heading: letters, digits and dashes of it.
fn anchor(title: &str) -> String {
    let kept = title
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '-');
    kept.collect::<String>().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_in_the_tree_are_these() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/");
        let there = |name: &str| std::fs::read_to_string(format!("{root}{name}"));
        let schema = format!("{:#}\n", crate::schema());
        for (name, made) in [("config.md", reference()), ("machine.schema.json", schema)] {
            assert!(
                there(name).unwrap_or_default() == made,
                "docs/reference/{name} is stale: cargo xtask gen"
            );
        }
    }

    #[test]
    fn links_lead_to_headings() {
        let page = reference();
        let anchors: Vec<_> = page
            .lines()
            .filter_map(|line| line.strip_prefix("## "))
            .map(anchor)
            .collect();
        for link in page.split("](#").skip(1) {
            let to = link.split(')').next().unwrap_or_default();
            assert!(anchors.iter().any(|it| it == to), "{to}");
        }
    }
}
