//! The fields of `orchestrator` that stand for keys of the orchestrator's own config:
//! what their values may be, and which keys they become. Whoever reads the machine
//! finds them among the settings.

use super::super::{checked, first_of, items};
use crate::{
    Role,
    document::{CniWord, OrchestratorSection},
    read::{Entries, Given, Located, Reader, TextOrNumber},
    setting,
    tree::{NodeId, quote},
    value::{self, Wrong},
};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;

/// The key of the networks of the pods.
pub(in crate::validate) const CLUSTER_CIDRS: &str = "cluster-cidr";
/// The key of the networks of the services.
pub(in crate::validate) const SERVICE_CIDRS: &str = "service-cidr";

/// A field that is written, as keys of the orchestrator's config.
pub(super) struct Field {
    pub(super) at: NodeId,
    pub(super) name: &'static str,
    pub(super) keys: Vec<(&'static str, Json)>,
    /// Whether an agent takes it too.
    pub(super) agent: bool,
}

/// Adds what the fields stand for. A key that is set in both places is an error.
pub(super) fn add(
    reader: &mut Reader<'_>,
    role: Option<Role>,
    section: &Located<OrchestratorSection>,
    settings: &mut BTreeMap<String, Json>,
) {
    for field in fields(reader, &section.value, settings) {
        let Field {
            at,
            name,
            keys,
            agent,
        } = field;
        if role == Some(Role::Agent) && !agent {
            let hint = "remove it: an agent is told by its server";
            reader.key_error(at, "only a server takes it", hint);
        }
        for (key, value) in keys {
            let twice = [key.to_owned(), format!("{key}+")]
                .into_iter()
                .find(|key| settings.contains_key(key));
            match twice {
                Some(twice) => {
                    let message = format!("orchestrator.settings.{twice} sets the same");
                    reader.key_error(at, message, &format!("keep `{name}`, or the setting"));
                }
                None => drop(settings.insert(key.to_owned(), value)),
            }
        }
    }
}

fn fields(
    reader: &mut Reader<'_>,
    section: &OrchestratorSection,
    settings: &BTreeMap<String, Json>,
) -> Vec<Field> {
    let OrchestratorSection {
        labels,
        taints,
        cluster_cidrs,
        service_cidrs,
        cni,
        disable,
        sans,
        kubelet_args,
        snapshots,
        ..
    } = section;
    let mut found = Vec::new();
    let mut push = |at, name, agent, keys| {
        found.push(Field {
            at,
            name,
            keys,
            agent,
        });
    };
    if let Some(labels) = labels.is() {
        let given = pairs(reader, &labels.value, label_key, label_value);
        push(
            labels.at,
            "labels",
            true,
            vec![("node-label", json!(given))],
        );
    }
    if let Some(list) = taints.is() {
        let taints = self::taints(reader, taints);
        push(list.at, "taints", true, vec![("node-taint", json!(taints))]);
    }
    for (list, name, key) in [
        (cluster_cidrs, "clusterCIDRs", CLUSTER_CIDRS),
        (service_cidrs, "serviceCIDRs", SERVICE_CIDRS),
    ] {
        if let Some(written) = list.is() {
            let networks = texts(reader, list, |text| {
                value::network(text).map(|cidr| cidr.to_string())
            });
            if networks.is_empty() && reader.is_empty(written.at) {
                let hint = "remove the key for the default";
                reader.error(written.at, "no network is named", hint);
            }
            push(
                written.at,
                name,
                false,
                vec![(key, json!(networks.join(",")))],
            );
        }
    }
    if let Some(word) = cni.is() {
        let keys = match word.value {
            CniWord::Flannel => {
                // Which of its backends it takes may be a setting; that it takes none may not.
                if settings.get("flannel-backend") == Some(&json!("none")) {
                    let message = "orchestrator.settings.flannel-backend says that there is none";
                    reader.key_error(word.at, message, "keep `cni`, or the setting");
                }
                Vec::new()
            }
            CniWord::None => vec![
                ("flannel-backend", json!("none")),
                ("disable-network-policy", json!(true)),
            ],
        };
        push(word.at, "cni", false, keys);
    }
    if let Some(list) = disable.is() {
        let parts = texts(reader, disable, part);
        push(list.at, "disable", false, vec![("disable", json!(parts))]);
    }
    if let Some(list) = sans.is() {
        let names = texts(reader, sans, value::host);
        push(list.at, "sans", false, vec![("tls-san", json!(names))]);
    }
    if let Some(map) = kubelet_args.is() {
        let args = pairs(reader, &map.value, kubelet_arg, one_line);
        push(
            map.at,
            "kubeletArgs",
            true,
            vec![("kubelet-arg", json!(args))],
        );
    }
    if let Some(section) = snapshots.is() {
        found.push(super::memory::snapshots(reader, section));
    }
    found
}

/// The good values of a list, none of them twice.
fn texts(
    reader: &mut Reader<'_>,
    list: &Given<Vec<Located<String>>>,
    parse: impl Fn(&str) -> Result<String, Wrong>,
) -> Vec<String> {
    let mut seen = BTreeMap::new();
    let mut values = Vec::new();
    for item in items(list) {
        if let Some(value) = checked(reader, item, |text| parse(text))
            && first_of(reader, &mut seen, value.clone(), item.at)
        {
            values.push(value);
        }
    }
    values
}

/// The good entries of a map, as `key=value`.
fn pairs(
    reader: &mut Reader<'_>,
    map: &Entries<TextOrNumber>,
    key: impl Fn(&str) -> Result<(), Wrong>,
    value: impl Fn(&str) -> Result<(), Wrong>,
) -> Vec<String> {
    let mut found = Vec::new();
    for entry in &map.0 {
        let name = reader.key(entry.at).to_owned();
        if let Err(Wrong { message, hint }) = key(&name) {
            reader.key_error(entry.at, message, &hint);
        } else if checked(reader, entry, |text| value(&text.0)).is_some() {
            found.push(format!("{name}={}", entry.value.0));
        }
    }
    found
}

fn wrong(message: String, hint: &str) -> Wrong {
    Wrong::new(message).hint(hint)
}

/// The name of a label that a node may give itself.
/// <https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/>
fn label_key(text: &str) -> Result<(), Wrong> {
    if !is_qualified(text) {
        let hint = "a name looks like disk or example.com/disk";
        return Err(wrong(
            format!("{} is not the name of a label", quote(text)),
            hint,
        ));
    }
    // The kubelet may set only some of Kubernetes's own; with another it does not start.
    let prefix = text.split_once('/').map_or("", |(prefix, _)| prefix);
    let own = ["kubernetes.io", "k8s.io"]
        .iter()
        .any(|own| prefix == *own || prefix.ends_with(&format!(".{own}")));
    let free = ["kubelet.kubernetes.io", "node.kubernetes.io"]
        .iter()
        .any(|free| prefix == *free || prefix.ends_with(&format!(".{free}")));
    // IsKubeletLabel in k8s.io/kubelet/pkg/apis/well_known_labels.go.
    let known = [
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
    ];
    if own && !free && !known.contains(&text) {
        let hint = "a node may not give itself this one: use `kubectl label` once it has joined";
        return Err(wrong(format!("{} is Kubernetes's own", quote(text)), hint));
    }
    Ok(())
}

fn label_value(text: &str) -> Result<(), Wrong> {
    if text.is_empty() || is_label_name(text) {
        return Ok(());
    }
    let hint =
        "at most 63 letters, digits, dashes, underscores and dots; a letter or digit at both ends";
    Err(wrong(
        format!("{} is not the value of a label", quote(text)),
        hint,
    ))
}

/// A DNS subdomain and a slash, if any, and a name of at most 63 characters.
fn is_qualified(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    let part = |part: &str| {
        is_name(part, |c| c == '-') && !part.contains(|c: char| c.is_ascii_uppercase())
    };
    prefix.is_none_or(|prefix| prefix.len() <= 253 && prefix.split('.').all(part))
        && is_label_name(name)
}

fn is_label_name(text: &str) -> bool {
    text.len() <= 63 && is_name(text, |c| matches!(c, '-' | '_' | '.'))
}

/// Letters and digits, and between them what is allowed beside.
fn is_name(text: &str, beside: impl Fn(char) -> bool) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || beside(c))
}

/// The good taints of a list. A node has one of a key and an effect.
fn taints(reader: &mut Reader<'_>, list: &Given<Vec<Located<String>>>) -> Vec<String> {
    let mut seen = BTreeMap::new();
    let mut taints = Vec::new();
    for item in items(list) {
        if let Some(known_by) = checked(reader, item, |text| taint(text))
            && first_of(reader, &mut seen, known_by, item.at)
        {
            taints.push(item.value.clone());
        }
    }
    taints
}

/// The key and the effect of `key=value:Effect` or `key:Effect`.
/// <https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/>
fn taint(text: &str) -> Result<(String, String), Wrong> {
    const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    let form = || {
        let hint = "it looks like dedicated=database:NoSchedule";
        wrong(format!("{} is not a taint", quote(text)), hint)
    };
    let (rest, effect) = text.rsplit_once(':').ok_or_else(form)?;
    if !EFFECTS.contains(&effect) {
        let hint = format!("it is one of {}", EFFECTS.join(", "));
        return Err(wrong(
            format!("{} is not the effect of a taint", quote(effect)),
            &hint,
        ));
    }
    let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
    if !is_qualified(key) || label_value(value).is_err() {
        return Err(form());
    }
    Ok((key.to_owned(), effect.to_owned()))
}

/// The name of a part that K3s deploys.
fn part(text: &str) -> Result<String, Wrong> {
    if is_name(text, |c| c == '-') && !text.contains(|c: char| c.is_ascii_uppercase()) {
        return Ok(text.to_owned());
    }
    let hint = "K3s has coredns, servicelb, traefik, local-storage, metrics-server";
    Err(wrong(
        format!("{} is not the name of a part", quote(text)),
        hint,
    ))
}

fn kubelet_arg(text: &str) -> Result<(), Wrong> {
    if let Some(why) = setting::owned_kubelet_arg(text) {
        return Err(wrong("this argument is the OS's own".to_owned(), why));
    }
    if is_name(text, |c| c == '-') && text.starts_with(|c: char| c.is_ascii_lowercase()) {
        return Ok(());
    }
    let hint = match text.trim_start_matches('-') {
        bare if bare != text && !bare.is_empty() => format!("write {bare}"),
        _ => String::new(),
    };
    Err(wrong(
        format!("{} is not an argument of the kubelet", quote(text)),
        &hint,
    ))
}

fn one_line(text: &str) -> Result<(), Wrong> {
    if text.contains(char::is_control) {
        return Err(wrong("the value of an argument is one line".to_owned(), ""));
    }
    Ok(())
}
