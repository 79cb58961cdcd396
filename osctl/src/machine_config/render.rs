//! The text of a machine config: keys in the order in which a person reads them,
//! each with its comment; what is not set stands there as an example.

use crate::{error::Result, yaml};
use serde_json::{Map, Value};

/// What is said about one key. The order of the notes is the order of the keys;
/// keys without a note follow, sorted.
struct Note {
    /// Where the key is, dotted.
    path: &'static str,
    /// Stands above it.
    comment: &'static str,
    /// Stands there, as a comment, where the key is not set.
    example: &'static str,
}

const fn note(path: &'static str, comment: &'static str, example: &'static str) -> Note {
    Note {
        path,
        comment,
        example,
    }
}

const NOTES: &[Note] = &[
    note("apiVersion", "The version of this format.", ""),
    note("kind", "", ""),
    note("machine", "The machine itself.", ""),
    note(
        "machine.hostname",
        "Its name on the network and in the cluster. Without it the name comes from
DHCP, or else is made from the machine's identity.",
        "hostname: server-1",
    ),
    note(
        "machine.role",
        "What it is in the cluster: a server runs the control plane and pods, an agent
runs pods, and none runs no orchestrator at all.",
        "",
    ),
    note(
        "machine.sysctls",
        "Kernel parameters. Values are texts: keep the quotes.",
        "sysctls:\n  vm.max_map_count: \"262144\"",
    ),
    note(
        "machine.time",
        "Where the time comes from. Without it: four servers of pool.ntp.org.",
        "time:\n  servers: [ntp1.example.com, ntp2.example.com]",
    ),
    note(
        "machine.api",
        "Who may call the machine, and how it proves that it is itself.",
        "",
    ),
    note(
        "machine.api.ca",
        "Only clients with a certificate of this CA are let in. The certificate names
their role: os:reader, os:operator or os:admin.",
        "",
    ),
    note(
        "machine.api.issuer",
        "Signs the machine's own server certificate, and can sign nothing else.
The key is secret.",
        "",
    ),
    note("machine.api.issuer.cert", "", ""),
    note("machine.api.issuer.key", "", ""),
    note(
        "machine.api.sans",
        "More names or addresses by which the machine is called, for its certificate.",
        "sans: [server-1.example.com]",
    ),
    note(
        "network",
        "The network. Where no link is named, every Ethernet link asks DHCP.",
        "network:
  links:
    - name: eth0
      dhcp: {v4: true}
    - name: eth1
      addresses: [10.1.0.5/24]
      routes: [{to: 0.0.0.0/0, via: 10.1.0.1}]
  nameservers: [1.1.1.1]",
    ),
    note("network.links", "One entry for each link.", ""),
    note(
        "network.nameservers",
        "Resolvers to ask instead of those that DHCP names.",
        "",
    ),
    note("orchestrator", "What runs on the machine.", ""),
    note(
        "orchestrator.name",
        "It must be the one that is in the image.",
        "",
    ),
    note("orchestrator.server", "The server to join.", ""),
    note(
        "orchestrator.token",
        "Joins machines to the cluster. Secret.",
        "",
    ),
    note(
        "orchestrator.settings",
        "Keys of the orchestrator's own config, handed to it as they are.",
        "settings:\n  cluster-cidr: 10.42.0.0/16",
    ),
];

/// The text of a config, without a header.
pub(super) fn render(config: &Value) -> Result<String> {
    let mut text = String::new();
    match config {
        Value::Object(map) => render_map(&mut text, map, "", 0)?,
        other => text.push_str(&yaml::to_text(other)?),
    }
    Ok(text)
}

fn render_map(
    text: &mut String,
    map: &Map<String, Value>,
    parent: &str,
    depth: usize,
) -> Result<()> {
    let known = NOTES.iter().filter(|note| parent_of(note.path) == parent);
    for note in known.clone() {
        let value = map.get(last_of(note.path));
        if value.is_none() && note.example.is_empty() {
            continue;
        }
        // A blank line sets the sections apart.
        if depth == 0 && !note.comment.is_empty() {
            text.push('\n');
        }
        push_comment(text, note.comment, depth);
        match value {
            Some(value) => render_entry(text, last_of(note.path), value, note.path, depth)?,
            None => push_comment(text, note.example, depth),
        }
    }
    for (key, value) in map {
        if !known.clone().any(|note| last_of(note.path) == key) {
            render_entry(text, key, value, &format!("{parent}.{key}"), depth)?;
        }
    }
    Ok(())
}

fn render_entry(
    text: &mut String,
    key: &str,
    value: &Value,
    path: &str,
    depth: usize,
) -> Result<()> {
    let indent = "  ".repeat(depth);
    let key = scalar(&Value::from(key))?;
    match value {
        Value::Object(map) if !map.is_empty() => {
            text.push_str(&format!("{indent}{key}:\n"));
            render_map(text, map, path, depth + 1)?;
        }
        Value::Array(items) if !items.is_empty() => {
            text.push_str(&format!("{indent}{key}:\n"));
            for item in items {
                text.push_str(&list_item(item, depth + 1)?);
            }
        }
        Value::String(lines) if is_block(lines) => {
            text.push_str(&format!("{indent}{key}: |\n"));
            for line in lines.lines() {
                text.push_str(&format!("{indent}  {line}\n"));
            }
        }
        other => text.push_str(&format!("{indent}{key}: {}\n", scalar(other)?)),
    }
    Ok(())
}

/// One item of a list: the library's text of it behind a dash. No note is about
/// what lies in a list.
fn list_item(item: &Value, depth: usize) -> Result<String> {
    let indent = "  ".repeat(depth);
    let text = yaml::to_text(&[item])?;
    Ok(text
        .lines()
        .map(|line| format!("{indent}{line}\n"))
        .collect())
}

/// A text that a block `|` gives back as it is.
fn is_block(text: &str) -> bool {
    text.ends_with('\n')
        && !text.ends_with("\n\n")
        && !text.starts_with([' ', '\n'])
        && text.chars().all(|c| c == '\n' || !c.is_control())
}

/// One line: a scalar or an empty collection.
fn scalar(value: &Value) -> Result<String> {
    match value {
        // JSON's strings are YAML's double-quoted ones.
        Value::String(text) if text.contains(char::is_control) => Ok(value.to_string()),
        _ => Ok(yaml::to_text(value)?.trim_end_matches('\n').to_owned()),
    }
}

fn push_comment(text: &mut String, comment: &str, depth: usize) {
    for line in comment.lines() {
        text.push_str(&format!("{}# {line}\n", "  ".repeat(depth)));
    }
}

fn parent_of(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(parent, _)| parent)
}

fn last_of(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, last)| last)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;
    use std::path::Path;

    #[test]
    fn keys_are_in_reading_order_and_unknown_ones_follow() {
        let config = json!({
            "orchestrator": {"token": "t", "name": "k3s", "settings": {"b": [], "a": {}}},
            "kind": "Machine", "apiVersion": "v", "more": {"z": 1, "on": "yes"}, "network": {},
            "machine": {"role": "none", "hostname": "h", "api": {"ca": "a\nb\n"}},
        });
        insta::assert_snapshot!(render(&config).unwrap());
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,20}".prop_map(Value::from),
            "[ -~\n\t]{0,20}".prop_map(Value::from),
            prop::sample::select(vec![
                "yes", "no", "1.0", "~", "null", "- a", "a: b", "#", "0x1", ""
            ])
            .prop_map(Value::from),
        ];
        let keys = || prop_oneof!["[a-z.-]{1,8}", "[ -~]{0,6}", Just("machine".to_owned())];
        leaf.prop_recursive(4, 32, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(keys(), inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_rendered_reads_back(
            config in prop::collection::btree_map("[a-zA-Z]{1,12}", values(), 1..4)
        ) {
            let config = Value::Object(config.into_iter().collect());
            let text = render(&config).unwrap();
            let read: Value = yaml::parse(Path::new("x"), &text)
                .map_err(|error| TestCaseError::fail(format!("{}\n{text}", error.render(false))))?;
            prop_assert_eq!(read, config, "{}", text);
        }
    }
}
