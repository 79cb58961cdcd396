//! The rules of `orchestrator`: when it must be there, what an agent needs, and
//! which of its own keys may be passed through.

mod archives;
mod fields;
mod memory;

pub(super) use fields::{CLUSTER_CIDRS, SERVICE_CIDRS};

use super::checked;
use crate::{
    Orchestrator, Role, Secret,
    document::OrchestratorSection,
    read::{Any, Entries, Given, Located, Reader},
    setting,
    tree::{NodeId, quote},
    value::{self, Wrong},
};
use serde_json::Value as Json;
use std::collections::BTreeMap;

/// The outer `None`: something is wrong, and was reported. `role` is `None` where it is not known.
pub(super) fn orchestrator(
    reader: &mut Reader<'_>,
    document: NodeId,
    role: Option<Role>,
    written: &Given<OrchestratorSection>,
) -> Option<Option<Orchestrator>> {
    let Some(section) = written.is() else {
        if !written.is_absent() {
            return None;
        }
        return match role? {
            Role::None => Some(None),
            Role::Server | Role::Agent => {
                let hint = "a machine that runs no orchestrator has the role none";
                reader.missing(document, "orchestrator", "is required for this role", hint);
                None
            }
        };
    };
    let OrchestratorSection {
        name,
        token,
        server,
        datastore,
        snapshots,
        images,
        manifests,
        settings,
        ..
    } = &section.value;
    if role == Some(Role::None) {
        let hint = "remove it, or make machine.role server or agent";
        reader.key_error(
            section.at,
            "a machine with the role none runs no orchestrator",
            hint,
        );
    }
    if role == Some(Role::Agent) && server.is_absent() {
        let hint = "it looks like https://10.0.0.1:6443";
        reader.missing(
            section.at,
            "server",
            "an agent needs the server that it joins",
            hint,
        );
    }
    let name = match name {
        Given::Absent => Some("k3s".to_owned()),
        Given::Bad => None,
        Given::Is(name) => checked(reader, name, |text| self::name(text)),
    };
    let token = token.is().and_then(|token| {
        checked(reader, token, |token: &Secret| {
            value::token(token.reveal().trim_end())
        })?;
        Some(Secret::new(token.value.reveal().trim_end().to_owned()))
    });
    let server = server.is().map(|server| {
        let (url, port) = checked(reader, server, |text| value::server_url(text))?;
        if !port {
            reader.warning(
                server.at,
                "the URL names no port, so it means port 443",
                "servers listen on 6443",
            );
        }
        Some(url)
    });
    let mut settings = settings.is().map_or_else(BTreeMap::new, |settings| {
        self::settings(reader, &settings.value)
    });
    fields::add(reader, role, section, &mut settings);
    let only_servers = [
        datastore.is().map(|it| it.at),
        manifests.is().map(|it| it.at),
    ];
    for at in only_servers.into_iter().flatten() {
        if role == Some(Role::Agent) {
            let hint = "remove it: an agent is told by its server";
            reader.key_error(at, "only a server takes it", hint);
        }
    }
    if let (Some(_), Some(copies)) = (datastore.is(), snapshots.is()) {
        let hint = "remove it: the database is copied where it is";
        reader.key_error(copies.at, "only the cluster's own etcd is copied", hint);
    }
    let datastore = memory::datastore(reader, datastore);
    let images = archives::images(reader, images);
    let manifests = memory::manifests(reader, manifests);
    Some(Some(Orchestrator {
        datastore,
        images,
        manifests,
        name: name?,
        token: token?,
        server: server.flatten(),
        settings,
    }))
}

fn name(text: &str) -> Result<String, Wrong> {
    if setting::is_key(text) && !text.ends_with('+') {
        return Ok(text.to_owned());
    }
    Err(Wrong {
        message: format!("{} is not the name of an orchestrator", quote(text)),
        hint: String::new(),
    })
}

fn settings(reader: &mut Reader<'_>, written: &Entries<Any>) -> BTreeMap<String, Json> {
    let mut settings = BTreeMap::new();
    for Located { at, value } in &written.0 {
        let key = reader.key(*at);
        if let Some(reason) = setting::owned(key) {
            reader.key_error(*at, "this key is the OS's own", reason);
        } else if !setting::is_key(key) {
            let hint = if setting::is_key(&dashed(key)) {
                format!("write {}", dashed(key))
            } else {
                "keys are lower case words with dashes between them".to_owned()
            };
            reader.key_error(
                *at,
                format!("{} is not a key of the orchestrator's config", quote(key)),
                &hint,
            );
        } else if let Some(why) = owned_kubelet_arg(key, &value.0) {
            reader.error(*at, "this argument is the OS's own", why);
        } else if let Some((message, hint)) = refused(&value.0) {
            reader.error(*at, message, hint);
        } else {
            settings.insert(key.to_owned(), value.0.clone());
        }
    }
    settings
}

/// Why the kubelet may not be given this, if it may not.
fn owned_kubelet_arg(key: &str, value: &Json) -> Option<&'static str> {
    if key.trim_end_matches('+') != "kubelet-arg" {
        return None;
    }
    let owned = |value: &Json| value.as_str().and_then(setting::owned_kubelet_arg);
    match value {
        Json::Array(values) => values.iter().find_map(owned),
        one => owned(one),
    }
}

/// `--nodeName` and `node_name` are `node-name`.
fn dashed(key: &str) -> String {
    let mut out = String::new();
    for c in key.trim_start_matches('-').chars() {
        match c {
            '_' | ' ' | '.' => out.push('-'),
            c if c.is_ascii_uppercase() => {
                if !out.is_empty() && !out.ends_with('-') {
                    out.push('-');
                }
                out.push(c.to_ascii_lowercase());
            }
            c => out.push(c),
        }
    }
    out
}

/// Every key is a flag in the end: a value, or a list of values.
fn refused(value: &Json) -> Option<(&'static str, &'static str)> {
    let scalar = |value: &Json| matches!(value, Json::String(_) | Json::Number(_) | Json::Bool(_));
    match value {
        Json::Null => Some((
            "expected a value, found nothing",
            "give it a value, or remove the key",
        )),
        Json::Object(_) => Some((
            "expected a value or a list of values, found a map",
            "write it as the command line's flag takes it: [a=b, c=d]",
        )),
        Json::Array(items) if !items.iter().all(scalar) => Some((
            "expected a list of values, found a list within it, a map, or nothing",
            "",
        )),
        _ => None,
    }
}
