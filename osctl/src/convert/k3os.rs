//! k3OS's config.yaml, as its README.md describes it.

use super::{Config, Converted, text};
use serde_json::{Map, Value, json};

/// What a k3OS config means here.
pub(crate) fn k3os(config: &Value) -> Converted {
    let mut out = Config::new();
    // What is labelled or tainted is so by the orchestrator; the role is in its
    // arguments, so they come first.
    let section = config.get("k3os").and_then(Value::as_object);
    for (key, value) in section.into_iter().flatten() {
        self::section(&mut out, key, value);
    }
    for (key, value) in config.as_object().into_iter().flatten() {
        match key.as_str() {
            "k3os" => {}
            "hostname" => out.hostname(value),
            "ssh_authorized_keys" => out.leave(key, "there is no SSH: the API is the way in"),
            "write_files" => {
                for file in value.as_array().into_iter().flatten() {
                    let path = file["path"].as_str().unwrap_or("a file");
                    let why = "files are not written: what a machine is, its config says";
                    out.leave(format!("{key}: {path}"), why);
                }
            }
            "run_cmd" | "boot_cmd" | "init_cmd" | "bootcmd" | "runcmd" => {
                for command in value.as_array().into_iter().flatten() {
                    let command = super::shown(&text(command));
                    out.leave(format!("{key}: {command}"), "there is no shell");
                }
            }
            _ => out.leave(key, "it is not known from k3OS"),
        }
    }
    out.done()
}

fn section(out: &mut Config, key: &str, value: &Value) {
    let at = format!("k3os.{key}");
    match key {
        "server_url" => {
            out.set(&["orchestrator", "server"], value.clone());
            // A machine of k3OS with a URL is an agent unless its arguments say else.
            if out.role_is_open() {
                out.role = "agent";
            }
        }
        "token" => out.set(&["orchestrator", "token"], json!(text(value))),
        "k3s_args" => {
            let words: Vec<String> = value.as_array().into_iter().flatten().map(text).collect();
            out.k3s_args(&at, &words);
        }
        "labels" => pairs(out, "node-label", value, "="),
        "taints" => {
            for taint in value.as_array().into_iter().flatten() {
                out.add(&["orchestrator", "settings", "node-taint"], taint.clone());
            }
        }
        "sysctls" | "sysctl" => {
            let sysctls: Map<String, Value> = value
                .as_object()
                .into_iter()
                .flatten()
                .map(|(key, value)| (key.replace('/', "."), json!(text(value))))
                .collect();
            out.set(&["machine", "sysctls"], Value::Object(sysctls));
        }
        "dns_nameservers" => out.set(&["network", "nameservers"], value.clone()),
        "ntp_servers" => out.set(&["machine", "time", "servers"], value.clone()),
        "modules" => {
            let names = value.as_array().into_iter().flatten().map(text);
            let modules = names.map(|name| json!({"name": name})).collect();
            out.set(&["machine", "kernel", "modules"], Value::Array(modules));
        }
        "environment" => {
            for (name, value) in value.as_object().into_iter().flatten() {
                let at = format!("{at}.{name}");
                if !out.k3s_env(&at, name, &text(value)) {
                    out.leave(at, "there is no environment to set");
                }
            }
        }
        "password" => out.leave(at, "nobody can log in: the API is the way in"),
        "data_sources" => out.leave(at, "a config is found by itself: see the guide"),
        "wifi" => out.leave(at, "wireless links are not supported"),
        "install" => out.leave(at, "an image is written to the disk by `osctl` or as it is"),
        _ => out.leave(at, "it is not known from k3OS"),
    }
}

impl Config {
    /// Whether no argument has said what the machine is.
    fn role_is_open(&self) -> bool {
        self.role == "server" && self.get(&["orchestrator", "settings"]).is_none()
    }
}

fn pairs(out: &mut Config, setting: &str, value: &Value, between: &str) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let pair = format!("{key}{between}{}", text(value));
        out.add(&["orchestrator", "settings", setting], json!(pair));
    }
}
