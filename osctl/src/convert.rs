//! Other systems' configs turned into ours: what K3s and the machine need is
//! carried over, everything else is told. Values are not judged here; the whole is
//! validated afterwards, as any config is.

mod cloud_init;
mod k3os;

use keelson_config::OWNED_SETTINGS;
use serde_json::{Map, Value, json};

pub(crate) use cloud_init::cloud_init;
pub(crate) use k3os::k3os;

/// What came of it.
#[derive(Debug)]
pub(crate) struct Converted {
    /// Our config, without the secrets of the API.
    pub(crate) config: Value,
    /// What could not be carried over, in the order in which it was met: where it
    /// stands and why.
    pub(crate) left: Vec<(String, String)>,
}

/// A config of ours as it grows.
struct Config {
    root: Value,
    role: &'static str,
    left: Vec<(String, String)>,
}

impl Config {
    fn new() -> Config {
        let root = json!({"apiVersion": "keelson.dev/v1alpha1", "kind": "Machine"});
        Config {
            root,
            role: "server",
            left: Vec::new(),
        }
    }

    /// Says that something is not carried over.
    fn leave(&mut self, at: impl Into<String>, why: impl Into<String>) {
        self.left.push((at.into(), why.into()));
    }

    /// Sets a value, by keys.
    fn set(&mut self, path: &[&str], value: Value) {
        let mut at = &mut self.root;
        for key in path {
            if !at.is_object() {
                *at = Value::Object(Map::new());
            }
            at = &mut at[*key];
        }
        *at = value;
    }

    /// Adds to a list, by keys.
    fn add(&mut self, path: &[&str], value: Value) {
        let mut list = self.get(path).cloned().unwrap_or_else(|| json!([]));
        if let Value::Array(items) = &mut list
            && !items.contains(&value)
        {
            items.push(value);
        }
        self.set(path, list);
    }

    fn get(&self, path: &[&str]) -> Option<&Value> {
        path.iter().try_fold(&self.root, |at, key| at.get(key))
    }

    /// One key of K3s's own config. `at` is where it stood.
    fn k3s_key(&mut self, at: &str, key: &str, value: Value) {
        let bare = key.trim_end_matches('+');
        match bare {
            "token" | "cluster-secret" => self.set(&["orchestrator", "token"], value),
            "server" => self.set(&["orchestrator", "server"], value),
            "node-name" => self.set(&["machine", "hostname"], value),
            "datastore-endpoint" => {
                self.set(&["orchestrator", "datastore", "endpoint"], value);
            }
            _ => match OWNED_SETTINGS.iter().find(|(owned, _)| *owned == bare) {
                Some((_, reason)) => self.leave(at, *reason),
                None => {
                    let settings = ["orchestrator", "settings", key];
                    match self.get(&settings) {
                        // A flag that is there twice is a list.
                        Some(Value::Array(_)) if !value.is_array() => self.add(&settings, value),
                        Some(first) if !value.is_array() && *first != value => {
                            let both = json!([first.clone(), value]);
                            self.set(&settings, both);
                        }
                        _ => self.set(&settings, value),
                    }
                }
            },
        }
    }

    /// The words of a K3s command line, without the program.
    fn k3s_args(&mut self, at: &str, words: &[String]) {
        let mut words = words.iter().peekable();
        while let Some(word) = words.next() {
            match word.as_str() {
                "server" => self.role = "server",
                "agent" => self.role = "agent",
                flag if flag.starts_with("--") => {
                    let flag = flag.trim_start_matches('-');
                    let (key, value) = match flag.split_once('=') {
                        Some((key, value)) => (key, scalar(value)),
                        None => match words.next_if(|next| !next.starts_with('-')) {
                            Some(value) => (flag, scalar(value)),
                            None => (flag, json!(true)),
                        },
                    };
                    match key {
                        // The old names of flags that are lists.
                        "no-deploy" => self.add(&["orchestrator", "settings", "disable"], value),
                        _ => self.k3s_key(&format!("{at}: --{key}"), key, value),
                    }
                }
                "-t" | "-s" | "-c" | "-d" | "-v" => {
                    let value = words.next().cloned().unwrap_or_default();
                    let key = match word.as_str() {
                        "-t" => "token",
                        "-s" => "server",
                        "-d" => "data-dir",
                        "-c" => "config",
                        _ => "v",
                    };
                    self.k3s_key(&format!("{at}: {word}"), key, scalar(&value));
                }
                other => self.leave(
                    format!("{at}: {other}"),
                    "it is no flag that K3s is known to take",
                ),
            }
        }
    }

    /// One variable of K3s's environment; `false` if it is none.
    fn k3s_env(&mut self, at: &str, name: &str, value: &str) -> bool {
        let key = match name {
            "K3S_TOKEN" | "K3S_CLUSTER_SECRET" => "token",
            "K3S_AGENT_TOKEN" => "agent-token",
            "K3S_URL" => {
                self.role = "agent";
                "server"
            }
            "K3S_NODE_NAME" => "node-name",
            "K3S_DATASTORE_ENDPOINT" => "datastore-endpoint",
            "INSTALL_K3S_VERSION"
            | "INSTALL_K3S_CHANNEL"
            | "INSTALL_K3S_SKIP_DOWNLOAD"
            | "INSTALL_K3S_SKIP_START"
            | "INSTALL_K3S_SKIP_ENABLE" => {
                self.leave(at, "the orchestrator is the image's");
                return true;
            }
            "K3S_KUBECONFIG_MODE" | "K3S_KUBECONFIG_OUTPUT" => {
                self.leave(at, "get it with `osctl kubeconfig`");
                return true;
            }
            "INSTALL_K3S_EXEC" => {
                let words = words(value);
                self.k3s_args(at, &words);
                return true;
            }
            _ => return false,
        };
        self.k3s_key(at, key, scalar(value));
        true
    }

    /// The host name, by one of its keys.
    fn hostname(&mut self, value: &Value) {
        if let Some(name) = value.as_str() {
            let name = name.to_ascii_lowercase();
            self.set(&["machine", "hostname"], json!(name));
        }
    }

    fn done(mut self) -> Converted {
        self.set(&["machine", "role"], json!(self.role));
        self.set(&["orchestrator", "name"], json!("k3s"));
        if self.role == "agent" && self.get(&["orchestrator", "server"]).is_none() {
            self.leave(
                "the server to join",
                "none is named: set orchestrator.server",
            );
        }
        if self.get(&["orchestrator", "token"]).is_none() {
            self.leave(
                "the cluster's token",
                "none is named: set orchestrator.token",
            );
        }
        Converted {
            config: self.root,
            left: self.left,
        }
    }
}

/// A flag's value: booleans and numbers are ones.
fn scalar(text: &str) -> Value {
    match text {
        "true" => json!(true),
        "false" => json!(false),
        _ => match text.parse::<i64>() {
            Ok(number) if number.to_string() == text => json!(number),
            _ => json!(text),
        },
    }
}

/// The words of a shell command, as far as quotes and backslashes go.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => {
                if let Some(next) = chars.next().filter(|next| *next != '\n') {
                    word.get_or_insert_default().push(next);
                }
            }
            (c, Some(open)) if c == open => quote = None,
            (c @ ('"' | '\''), None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// A command as it is told: not endless, and without what may be a secret.
fn shown(command: &str) -> String {
    let lower = command.to_ascii_lowercase();
    let secret = ["token", "passw", "secret", "key"];
    if secret.iter().any(|word| lower.contains(word)) {
        let first = command.split_whitespace().next().unwrap_or_default();
        return format!("{first} …");
    }
    command.chars().take(60).collect()
}

/// The text of a value, as a shell would see it.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;
    use keelson_config::Draft;
    use std::path::Path;

    fn shown(converted: Converted) -> String {
        let mut text = Draft::from_json(&converted.config).print().to_string();
        for (at, why) in converted.left {
            text.push_str(&format!("# left: {at}: {why}\n"));
        }
        text
    }

    fn read(text: &str) -> Value {
        yaml::parse(Path::new("x"), text).unwrap()
    }

    #[test]
    fn k3os_configs() {
        insta::assert_snapshot!(shown(k3os(&read(include_str!(
            "convert/fixtures/k3os-server.yaml"
        )))));
        insta::assert_snapshot!(shown(k3os(&read(include_str!(
            "convert/fixtures/k3os-agent.yaml"
        )))));
    }

    #[test]
    fn cloud_configs() {
        insta::assert_snapshot!(shown(cloud_init(&read(include_str!(
            "convert/fixtures/cloud-config-installer.yaml"
        )))));
        insta::assert_snapshot!(shown(cloud_init(&read(include_str!(
            "convert/fixtures/cloud-config-files.yaml"
        )))));
    }

    #[test]
    fn shell_words() {
        for (text, want) in [
            ("a  b", &["a", "b"][..]),
            ("a 'b c' \"d e\"", &["a", "b c", "d e"]),
            ("a=\"b c\" d\\ e", &["a=b c", "d e"]),
            ("''", &[""]),
            ("", &[]),
            ("a \\\n b", &["a", "b"]),
        ] {
            assert_eq!(words(text), want, "{text}");
        }
    }
}
