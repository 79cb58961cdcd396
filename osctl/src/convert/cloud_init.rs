//! The keys of a cloud-config (cloud-init's user-data) that say how K3s runs: its
//! config files among `write_files`, and the installer's command line in `runcmd`.

use super::{Config, Converted, text, words};
use crate::yaml;
use serde_json::{Value, json};
use std::path::Path;

/// What a cloud-config means here.
pub(crate) fn cloud_init(config: &Value) -> Converted {
    let mut out = Config::new();
    for (key, value) in config.as_object().into_iter().flatten() {
        match key.as_str() {
            "hostname" => out.hostname(value),
            "fqdn" => {
                if config.get("hostname").is_none() {
                    out.hostname(value);
                }
            }
            "preserve_hostname"
            | "manage_etc_hosts"
            | "package_update"
            | "package_upgrade"
            | "package_reboot_if_required"
            | "growpart"
            | "resize_rootfs"
            | "final_message" => {}
            "ntp" => {
                for list in ["servers", "pools"] {
                    for server in value[list].as_array().into_iter().flatten() {
                        out.add(&["machine", "time", "servers"], server.clone());
                    }
                }
            }
            "resolv_conf" => {
                if let Some(servers) = value.get("nameservers") {
                    out.set(&["network", "nameservers"], servers.clone());
                }
            }
            "write_files" => {
                for file in value.as_array().into_iter().flatten() {
                    self::file(&mut out, file);
                }
            }
            "runcmd" | "bootcmd" => {
                for command in value.as_array().into_iter().flatten() {
                    self::command(&mut out, key, command);
                }
            }
            "users"
            | "user"
            | "ssh_authorized_keys"
            | "chpasswd"
            | "password"
            | "ssh_pwauth"
            | "disable_root"
            | "groups"
            | "ssh_import_id" => {
                out.leave(key, "nobody can log in: the API is the way in");
            }
            "packages" | "apt" | "yum_repos" | "snap" => {
                out.leave(key, "there is no package manager: the image is what it is");
            }
            "timezone" | "locale" | "keyboard" => {
                out.leave(key, "the machine's clock is UTC, its language is none")
            }
            "disk_setup" | "fs_setup" | "mounts" | "swap" => {
                out.leave(key, "the image lays out its disk by itself");
            }
            _ => out.leave(key, "it says nothing of K3s"),
        }
    }
    out.done()
}

fn file(out: &mut Config, file: &Value) {
    let path = file["path"].as_str().unwrap_or_default();
    let at = format!("write_files: {path}");
    let content = file["content"].as_str().unwrap_or_default();
    let plain = file.get("encoding").is_none();
    let is_config = path == "/etc/rancher/k3s/config.yaml"
        || (path.starts_with("/etc/rancher/k3s/config.yaml.d/") && path.ends_with(".yaml"));
    if is_config && plain {
        match yaml::parse::<Value>(Path::new(path), content) {
            Ok(Value::Object(keys)) => {
                for (key, value) in keys {
                    out.k3s_key(&format!("{at}: {key}"), &key, value);
                }
            }
            _ => out.leave(at, "it is not a K3s config that can be read"),
        }
    } else if path.starts_with("/etc/sysctl") && plain {
        for line in content.lines() {
            let line = line.trim();
            if let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
                let key = key.trim().trim_start_matches('-').replace('/', ".");
                out.set(&["machine", "sysctls", &key], json!(value.trim()));
            }
        }
    } else if path.ends_with("/k3s.service.env") || path.ends_with("/k3s-agent.service.env") {
        for line in content.lines() {
            if let Some((name, value)) = line.split_once('=') {
                let value = words(value).join(" ");
                if !out.k3s_env(&format!("{at}: {name}"), name.trim(), &value) {
                    out.leave(format!("{at}: {name}"), "there is no environment to set");
                }
            }
        }
    } else {
        out.leave(
            at,
            "files are not written: what a machine is, its config says",
        );
    }
}

/// A command: only K3s's installer and K3s itself say something.
fn command(out: &mut Config, key: &str, command: &Value) {
    let line = match command {
        Value::Array(words) => words.iter().map(text).collect::<Vec<_>>().join(" "),
        other => text(other),
    };
    let words = match command {
        // [sh, -c, "…"] is one command line too.
        Value::Array(parts) if parts.len() == 3 && parts[1] == "-c" => words(&text(&parts[2])),
        Value::Array(parts) => parts.iter().map(text).collect(),
        other => words(&text(other)),
    };
    if !line.contains("get.k3s.io") && !line.contains("k3s-install") {
        out.leave(
            format!("{key}: {}", super::shown(&line)),
            "there is no shell",
        );
        return;
    }
    let at = format!("{key}: the installer");
    // curl … | VARIABLE=value sh -s - server --flag
    let piped = words.iter().position(|word| word == "|");
    let words = &words[piped.map_or(0, |at| at + 1)..];
    let mut args = Vec::new();
    let mut of_k3s = false;
    for word in words {
        match word.split_once('=') {
            _ if of_k3s => args.push(word.clone()),
            Some((name, value))
                if name
                    .bytes()
                    .all(|b| b.is_ascii_uppercase() || b == b'_' || b.is_ascii_digit()) =>
            {
                if !out.k3s_env(&format!("{at}: {name}"), name, value) {
                    out.leave(format!("{at}: {name}"), "there is no environment to set");
                }
            }
            _ => {
                of_k3s = matches!(word.as_str(), "-" | "--" | "server" | "agent")
                    || word.starts_with("--")
            }
        }
        if of_k3s && args.is_empty() && matches!(word.as_str(), "server" | "agent") {
            args.push(word.clone());
        }
    }
    out.k3s_args(&at, &args);
}
