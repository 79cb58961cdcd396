//! `osctl explain`.

use crate::{
    contexts::nearest,
    error::{Error, Result},
    output,
};
use clap::Args;
use keelson_config::{Found, Shape};

/// Say what a part of the machine config means; needs no node
///
/// Without a path it lists the sections. Example:
///   osctl explain network.links
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Explain {
    /// The keys that lead there, with dots between them
    #[arg(value_name = "PATH", default_value = "")]
    path: String,

    /// Go on with everything below it
    #[arg(long)]
    recursive: bool,
}

impl Explain {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        output::bytes(explain(&self.path, self.recursive)?.as_bytes())
    }
}

/// The whole page.
fn explain(path: &str, recursive: bool) -> Result<String> {
    let keys = keys(path);
    let (keys, found) = match find(&keys) {
        Ok(found) => (&keys[..], found),
        // kubectl's habit: the kind first.
        Err(error) => match keys.split_first() {
            Some((kind, rest)) if kind.eq_ignore_ascii_case("machine") => {
                (rest, find(rest).map_err(|_| error)?)
            }
            _ => return Err(error),
        },
    };
    let mut page = String::new();
    if let Some(field) = found.field {
        let needed = if field.required { ", required" } else { "" };
        page.push_str(&format!(
            "{}: {}{needed}\n\n  {}\n\n",
            keys.join("."),
            found.shape.words(),
            field.meaning()
        ));
        if let Some(default) = field.default() {
            page.push_str(&format!("  default            {default}\n"));
        }
        if let Some(example) = field
            .example
            .filter(|_| keys.last() == Some(&field.key.to_owned()))
        {
            page.push_str(&format!("  example            {}: {example}\n", field.key));
        }
        page.push_str(&format!("  applying a change  {}\n", found.takes.words()));
    }
    let mut below = String::new();
    fields(found.shape, 1, recursive, &mut below);
    if !below.is_empty() {
        page.push_str(if page.is_empty() {
            "Keys:\n"
        } else {
            "\nKeys:\n"
        });
        page.push_str(&below);
    }
    Ok(page)
}

/// `network.links[0].name` is `network`, `links`, `name`.
fn keys(path: &str) -> Vec<String> {
    path.trim_matches('.')
        .split('.')
        .map(|key| key.split('[').next().unwrap_or_default().to_owned())
        .filter(|key| !key.is_empty())
        .collect()
}

fn find(keys: &[String]) -> Result<Found> {
    let mut found = Found::root();
    for (index, key) in keys.iter().enumerate() {
        found = found.below(key).ok_or_else(|| {
            let path = keys[..=index].join(".");
            let error = Error::input(format!("there is no {path} in a machine config"));
            let known = known(found.shape);
            match nearest(key, &known) {
                Some(near) => {
                    let near = [&keys[..index], &[near.to_owned()]].concat().join(".");
                    error.hint(format!("did you mean {near}?"))
                }
                None if known.is_empty() => error.hint("it has no keys below it"),
                None => error.hint(format!("known there: {}", known.join(", "))),
            }
        })?;
    }
    Ok(found)
}

fn known(shape: &Shape) -> Vec<&'static str> {
    match shape {
        Shape::List(item) => known(item),
        Shape::Object(table) => table.fields.iter().map(|field| field.key).collect(),
        _ => Vec::new(),
    }
}

fn fields(shape: &'static Shape, depth: usize, recursive: bool, page: &mut String) {
    match shape {
        Shape::List(item) | Shape::Map(item) => fields(item, depth, recursive, page),
        Shape::Object(table) => {
            for field in table.fields {
                let indent = "  ".repeat(depth);
                let needed = if field.required { ", required" } else { "" };
                page.push_str(&format!(
                    "{indent}{}: {}{needed}\n",
                    field.key,
                    field.shape.words()
                ));
                let mut meaning = field.meaning();
                if let Some(default) = field.default() {
                    meaning.push_str(&format!(" Default: {default}."));
                }
                page.push_str(&format!("{indent}    {meaning}\n"));
                if recursive {
                    fields(field.shape, depth + 1, true, page);
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_explained() {
        insta::assert_snapshot!(explain("machine.hostname", false).unwrap());
        insta::assert_snapshot!(explain("network.links[0].routes.metric", false).unwrap());
    }

    #[test]
    fn the_whole_model_is_explained() {
        let page = explain("", true).unwrap();
        for key in ["apiVersion", "hostname", "metric", "settings"] {
            assert!(page.contains(&format!("  {key}: ")), "{page}");
        }
        assert_eq!(
            explain("Machine.network", false).unwrap(),
            explain("network", false).unwrap()
        );
        assert!(explain("orchestrator.settings.disable", false).is_ok());
    }

    #[test]
    fn what_is_not_there_has_a_hint() {
        for (path, hint) in [
            ("machine.hostnam", "did you mean machine.hostname?"),
            ("machine.hostname.x", "it has no keys below it"),
            ("zebra", "known there: apiVersion"),
        ] {
            let text = explain(path, false).unwrap_err().render(false);
            assert!(text.contains(hint), "{text}");
        }
    }
}
