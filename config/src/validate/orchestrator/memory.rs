//! The rules of where a cluster keeps its memory and how that is copied:
//! `orchestrator.datastore` and `orchestrator.snapshots`; and of what is deployed into it,
//! `orchestrator.manifests`.

use super::{
    super::{checked, first_of, items, tls},
    fields::Field,
};
use crate::{
    Datastore, Secret,
    diagnostic::Problems,
    document::{DatastoreSection, ManifestSection, S3Section, SnapshotsSection},
    read::{Given, Located, Reader},
    tree::{Value, quote},
    value::{self, Wrong},
    yaml,
};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;

/// The databases that K3s speaks to: <https://docs.k3s.io/datastore>.
const SCHEMES: [&str; 6] = ["postgres", "postgresql", "mysql", "http", "https", "nats"];

/// The most snapshots that are kept.
const MOST_KEPT: u32 = 10_000;

pub(super) fn datastore(
    reader: &mut Reader<'_>,
    written: &Given<DatastoreSection>,
) -> Option<Datastore> {
    let section = written.is()?;
    let DatastoreSection {
        endpoint,
        ca,
        cert,
        key,
    } = &section.value;
    let tls = tls(reader, section.at, ca, cert, key);
    let endpoint = endpoint.is()?;
    checked(reader, endpoint, |url: &Secret| database(url.reveal()))?;
    Some(Datastore {
        endpoint: endpoint.value.clone(),
        tls,
    })
}

fn database(url: &str) -> Result<(), Wrong> {
    let known = |first: &str| {
        first
            .split_once("://")
            .is_some_and(|(scheme, rest)| SCHEMES.contains(&scheme) && !rest.is_empty())
    };
    if url.contains(|c: char| c.is_whitespace() || c.is_control()) || !url.split(',').all(known) {
        return Err(
            Wrong::new("this is not the URL of a database").hint(format!(
                "it begins with one of {}",
                SCHEMES.map(|scheme| format!("{scheme}://")).join(", ")
            )),
        );
    }
    Ok(())
}

/// What `orchestrator.snapshots` stands for.
pub(super) fn snapshots(reader: &mut Reader<'_>, section: &Located<SnapshotsSection>) -> Field {
    let mut keys = Vec::new();
    let SnapshotsSection { schedule, keep, s3 } = &section.value;
    let never = schedule.is().is_some_and(|word| word.value == "never");
    if let Some(word) = schedule.is() {
        if never {
            keys.push(("etcd-disable-snapshots", json!(true)));
        } else if let Some(cron) = checked(reader, word, |text| cron(text)) {
            keys.push(("etcd-snapshot-schedule-cron", json!(cron)));
        }
    }
    if let Some(number) = keep.is() {
        match number.value {
            1..=MOST_KEPT => keys.push(("etcd-snapshot-retention", json!(number.value))),
            _ => {
                let message = format!("expected 1 to {MOST_KEPT}, found {}", number.value);
                let hint = "`schedule: never` takes none";
                reader.error(number.at, message, hint);
            }
        }
    }
    if let Some(bucket) = s3.is() {
        keys.extend(self::s3(reader, bucket));
    }
    Field {
        at: section.at,
        name: "snapshots",
        keys,
        agent: false,
    }
}

fn s3(reader: &mut Reader<'_>, section: &Located<S3Section>) -> Vec<(&'static str, Json)> {
    let mut keys = vec![("etcd-s3", json!(true))];
    let S3Section {
        bucket,
        endpoint,
        region,
        folder,
        access_key,
        secret_key,
    } = &section.value;
    for (written, key, parse) in [
        (bucket, "etcd-s3-bucket", self::bucket as fn(&str) -> _),
        (endpoint, "etcd-s3-endpoint", self::endpoint),
        (region, "etcd-s3-region", word),
        (folder, "etcd-s3-folder", word),
    ] {
        if let Some(written) = written.is()
            && let Some(value) = checked(reader, written, |text| parse(text))
        {
            keys.push((key, json!(value)));
        }
    }
    for (has, other, name) in [
        (access_key, secret_key, "secretKey"),
        (secret_key, access_key, "accessKey"),
    ] {
        if has.is().is_some() && other.is_absent() {
            reader.missing(section.at, name, "the two keys go together", "");
        }
    }
    for (secret, key) in [
        (access_key, "etcd-s3-access-key"),
        (secret_key, "etcd-s3-secret-key"),
    ] {
        if let Some(secret) = secret.is()
            && checked(reader, secret, |text: &Secret| word(text.reveal())).is_some()
        {
            keys.push((key, json!(secret.value.reveal())));
        }
    }
    keys
}

/// Minute, hour, day, month and weekday, or a word for some of them: cron(8).
fn cron(text: &str) -> Result<String, Wrong> {
    const WORDS: [&str; 7] = [
        "@yearly",
        "@annually",
        "@monthly",
        "@weekly",
        "@daily",
        "@midnight",
        "@hourly",
    ];
    const MONTHS: &str = "jan feb mar apr may jun jul aug sep oct nov dec";
    const DAYS: &str = "sun mon tue wed thu fri sat";
    let fields: Vec<&str> = text.split_whitespace().collect();
    let ranges = [
        (0, 59, ""),
        (0, 23, ""),
        (1, 31, ""),
        (1, 12, MONTHS),
        (0, 6, DAYS),
    ];
    let good = WORDS.contains(&text)
        || fields.len() == ranges.len()
            && fields
                .iter()
                .zip(ranges)
                .all(|(field, range)| cron_field(field, range));
    if good {
        return Ok(fields.join(" "));
    }
    Err(
        Wrong::new(format!("{} is not a time as cron says it", quote(text)))
            .hint("minute, hour, day, month, weekday: `30 3 * * *` is half past three each night"),
    )
}

/// `*`, a number, a range, with a step if need be, and lists of these.
fn cron_field(field: &str, (least, most, names): (u32, u32, &str)) -> bool {
    let value = |text: &str| {
        let named = names
            .split_whitespace()
            .position(|name| name.eq_ignore_ascii_case(text))
            .map(|place| place as u32 + least);
        named
            .or_else(|| text.parse().ok())
            .filter(|value| (least..=most).contains(value))
    };
    field.split(',').all(|part| {
        let (span, step) = part
            .split_once('/')
            .map_or((part, None), |(a, b)| (a, Some(b)));
        let stepped = step.is_none_or(|step| step.parse::<u32>().is_ok_and(|step| step > 0));
        let spanned = match span.split_once('-') {
            Some((from, to)) => matches!((value(from), value(to)), (Some(a), Some(b)) if a <= b),
            None => span == "*" || value(span).is_some(),
        };
        stepped && spanned
    })
}

/// <https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html>
fn bucket(text: &str) -> Result<String, Wrong> {
    let good = (3..=63).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.');
    if good {
        return Ok(text.to_owned());
    }
    Err(
        Wrong::new(format!("{} is not the name of a bucket", quote(text)))
            .hint("3 to 63 small letters, digits, dashes and dots"),
    )
}

fn endpoint(text: &str) -> Result<String, Wrong> {
    value::server_url(&format!("https://{text}"))
        .map(|_| text.to_owned())
        .map_err(|_| {
            Wrong::new(format!("{} is not a host", quote(text)))
                .hint("write the name alone, with its port if it has one: s3.example.com")
        })
}

fn word(text: &str) -> Result<String, Wrong> {
    if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Wrong::new("expected one word"));
    }
    Ok(text.to_owned())
}

/// What is deployed, by its name.
pub(super) fn manifests(
    reader: &mut Reader<'_>,
    written: &Given<Vec<Located<ManifestSection>>>,
) -> BTreeMap<String, Secret> {
    let mut seen = BTreeMap::new();
    let mut manifests = BTreeMap::new();
    for manifest in items(written) {
        let (name, content) = (&manifest.value.name, &manifest.value.content);
        let content = content.is().and_then(|content| {
            checked(reader, content, |text: &Secret| objects(text.reveal()))?;
            Some(content.value.clone())
        });
        if let Some(name) = name.is()
            && let Some(known_as) = checked(reader, name, |text| manifest_name(text))
            && first_of(reader, &mut seen, known_as.clone(), name.at)
            && let Some(content) = content
        {
            manifests.insert(known_as, content);
        }
    }
    manifests
}

fn manifest_name(text: &str) -> Result<String, Wrong> {
    if value::is_plain_name(text) {
        return Ok(text.to_owned());
    }
    Err(
        Wrong::new(format!("{} is not the name of a manifest", quote(text)))
            .hint("small letters and digits, and dashes between them"),
    )
}

/// Whether a text is Kubernetes objects: YAML documents with an apiVersion and a kind each.
fn objects(text: &str) -> Result<(), Wrong> {
    let mut number = 0;
    for document in documents(text) {
        let empty = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
        if document.lines().all(empty) {
            continue;
        }
        number += 1;
        let mut problems = Problems::default();
        let tree = yaml::tree(&document, &mut problems).filter(|_| !problems.has_errors());
        let root = tree
            .as_ref()
            .and_then(|tree| Some(&tree.node(tree.root()?).value));
        let Some(Value::Map(keys)) = root else {
            return Err(Wrong::new(format!("object {number} is not a map in YAML"))
                .hint("anchors and tags are not taken here"));
        };
        for wanted in ["apiVersion", "kind"] {
            let has = keys.iter().any(|&at| {
                tree.as_ref()
                    .is_some_and(|tree| tree.key(at) == Some(wanted))
            });
            if !has {
                return Err(Wrong::new(format!("object {number} has no {wanted}")));
            }
        }
    }
    if number == 0 {
        return Err(Wrong::new("there is no object in it").hint("remove it"));
    }
    Ok(())
}

/// The documents of a YAML stream, divided at the lines that are `---`.
fn documents(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for line in text.lines() {
        match (line.trim_end() == "---", documents.last_mut()) {
            (false, Some(last)) => {
                last.push_str(line);
                last.push('\n');
            }
            _ => documents.push(String::new()),
        }
    }
    documents
}
