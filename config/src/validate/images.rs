//! The rules of `machine.registries` and `machine.files`: where images come from, and what
//! the orchestrator's parts read beside its config.

use super::{checked, first_of, items, tls};
use crate::{
    Mirror, Registries, RegistryHost, Secret,
    document::{FileSection, RegistriesSection, RegistryHostSection},
    read::{Entries, Given, Located, Reader},
    tree::quote,
    value::{self, Wrong},
};
use std::collections::BTreeMap;

/// Below these files may be put.
const FOLDERS: [&str; 3] = [
    "/etc/rancher/k3s/",
    "/var/lib/rancher/k3s/agent/etc/",
    "/var/lib/rancher/k3s/agent/pod-manifests/",
];

/// What the OS or the orchestrator writes below them, and what to do instead.
const OWNED: [(&str, &str); 7] = [
    ("/etc/rancher/k3s/config.yaml", "set orchestrator.settings"),
    (
        "/etc/rancher/k3s/config.yaml.d",
        "set orchestrator.settings",
    ),
    ("/etc/rancher/k3s/registries.yaml", "set machine.registries"),
    (
        "/etc/rancher/k3s/k3s.yaml",
        "get it with `osctl kubeconfig`",
    ),
    ("/etc/rancher/k3s/token", "set orchestrator.token"),
    ("/etc/rancher/k3s/tls", "use another name"),
    (
        "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
        "the orchestrator writes it; put a template beside it, config-v3.toml.tmpl",
    ),
];

/// The longest path.
const LONGEST: usize = 255;

pub(super) fn registries(
    reader: &mut Reader<'_>,
    written: &Given<RegistriesSection>,
) -> Registries {
    let mut registries = Registries::default();
    let Some(section) = written.is() else {
        return registries;
    };
    let mut seen = BTreeMap::new();
    for mirror in items(&section.value.mirrors) {
        let Some(registry) = mirror.value.registry.is() else {
            continue;
        };
        let name = checked(reader, registry, |text| match text.as_str() {
            "*" => Ok(text.clone()),
            _ => host_and_port(text),
        });
        let mut asked = BTreeMap::new();
        let mut endpoints = Vec::new();
        for endpoint in items(&mirror.value.endpoints) {
            if let Some(url) = checked(reader, endpoint, |text| endpoint_url(text))
                && first_of(reader, &mut asked, url.clone(), endpoint.at)
            {
                endpoints.push(url);
            }
        }
        if let Some(list) = mirror.value.endpoints.is()
            && reader.is_empty(list.at)
        {
            let hint = "name one, or remove the mirror";
            reader.error(list.at, "no URL is asked in its place", hint);
        }
        let rewrites = rewrites(reader, &mirror.value.rewrites);
        if let Some(name) = name
            && first_of(reader, &mut seen, name.clone(), registry.at)
        {
            let mirror = Mirror {
                endpoints,
                rewrites,
            };
            registries.mirrors.insert(name, mirror);
        }
    }
    let mut seen = BTreeMap::new();
    for host in items(&section.value.hosts) {
        let found = self::host(reader, host);
        let Some(name) = host.value.host.is() else {
            continue;
        };
        if let Some(known_as) = checked(reader, name, |text| host_and_port(text))
            && first_of(reader, &mut seen, known_as.clone(), name.at)
        {
            registries.hosts.insert(known_as, found);
        }
    }
    registries
}

fn host(reader: &mut Reader<'_>, written: &Located<RegistryHostSection>) -> RegistryHost {
    let RegistryHostSection {
        host: _,
        username,
        password,
        ca,
        cert,
        key,
        insecure,
    } = &written.value;
    match (username.is(), password.is()) {
        (Some(name), None) if password.is_absent() => {
            reader.key_error(name.at, "a username without a password", "set `password`");
        }
        (None, Some(word)) if username.is_absent() => {
            let hint = "set `username`; many registries take any where the password is a token";
            reader.key_error(word.at, "a password without a username", hint);
        }
        _ => {}
    }
    let login = username
        .is()
        .zip(password.is())
        .map(|(name, word)| (name.value.clone(), word.value.clone()));
    let insecure = insecure.is().filter(|word| word.value);
    if let (Some(word), Some(_)) = (insecure, ca.is()) {
        let hint = "keep `ca`, which is the safe one";
        reader.key_error(word.at, "then nobody looks at its CA", hint);
    }
    RegistryHost {
        login,
        tls: tls(reader, written.at, ca, cert, key),
        insecure: insecure.is_some(),
    }
}

/// `host[:port]`.
fn host_and_port(text: &str) -> Result<String, Wrong> {
    if text.contains("://") || text.contains('/') {
        return Err(
            Wrong::new(format!("{} is not the name of a host", quote(text)))
                .hint("write the name alone, with its port if it has one"),
        );
    }
    value::server_url(&format!("https://{text}"))
        .map(|_| text.to_owned())
        .map_err(|_| {
            Wrong::new(format!("{} is not the name of a host", quote(text)))
                .hint("it looks like registry.example.com or registry.example.com:5000")
        })
}

/// `http[s]://host[:port][/path]`.
fn rewrites(reader: &mut Reader<'_>, written: &Given<Entries<String>>) -> BTreeMap<String, String> {
    let mut rewrites = BTreeMap::new();
    for rewrite in written.is().map_or(&[][..], |it| &it.value.0) {
        let pattern = reader.key(rewrite.at).to_owned();
        let groups = match groups(&pattern) {
            Ok(groups) => groups,
            Err(wrong) => {
                reader.key_error(rewrite.at, wrong.message, &wrong.hint);
                continue;
            }
        };
        let beyond = rewrite.value.split('$').skip(1).find_map(|rest| {
            let rest = rest.trim_start_matches('{');
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let number: usize = rest[..digits].parse().ok()?;
            (number > groups).then_some(number)
        });
        match beyond {
            Some(number) => {
                let message = format!("${number} stands for a group that the expression has not");
                reader.error(rewrite.at, message, &format!("it has {groups}"));
            }
            None => drop(rewrites.insert(pattern, rewrite.value.clone())),
        }
    }
    rewrites
}

/// How many groups a regular expression has: that they and its sets are closed is all that
/// is looked at here. <https://pkg.go.dev/regexp/syntax>
fn groups(pattern: &str) -> Result<usize, Wrong> {
    let (mut open, mut groups, mut in_set) = (0usize, 0, false);
    let wrong = |why: &str| {
        let message = format!("{} is not a regular expression: {why}", quote(pattern));
        Err(Wrong::new(message))
    };
    let mut letters = pattern.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' if letters.next().is_none() => return wrong("a backslash stands at its end"),
            '\\' => {}
            ']' if in_set => in_set = false,
            _ if in_set => {}
            '[' => in_set = true,
            '(' => {
                open += 1;
                // `(?:…)` is a group without a number.
                groups += usize::from(letters.peek() != Some(&'?'));
            }
            ')' if open == 0 => return wrong("a parenthesis is closed that is not open"),
            ')' => open -= 1,
            _ => {}
        }
    }
    match (open, in_set) {
        _ if pattern.is_empty() => wrong("it is empty"),
        (0, false) => Ok(groups),
        (0, true) => wrong("a set is not closed"),
        _ => wrong("a parenthesis is not closed"),
    }
}

fn endpoint_url(text: &str) -> Result<String, Wrong> {
    let wrong = || {
        Wrong::new(format!("{} is not the URL of a mirror", quote(text)))
            .hint("it looks like https://mirror.example.com or https://mirror.example.com/v2/hub")
    };
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"))
        .ok_or_else(wrong)?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if host.contains('@') {
        return Err(Wrong::new("the URL of a mirror holds a password")
            .hint("set username and password below registries.hosts"));
    }
    let odd = |c: char| c.is_whitespace() || c.is_control() || "?#".contains(c);
    if path.contains(odd) || host_and_port(host).is_err() {
        return Err(wrong());
    }
    Ok(text.to_owned())
}

pub(super) fn files(
    reader: &mut Reader<'_>,
    written: &Given<Vec<Located<FileSection>>>,
) -> BTreeMap<String, Secret> {
    let mut seen = BTreeMap::new();
    let mut files = BTreeMap::new();
    for file in items(written) {
        let (Some(path), Some(content)) = (file.value.path.is(), file.value.content.is()) else {
            continue;
        };
        if let Some(place) = checked(reader, path, |text| place(text))
            && first_of(reader, &mut seen, place.clone(), path.at)
        {
            files.insert(place, content.value.clone());
        }
    }
    // One that is a folder for another cannot be written.
    let folders = |path: &str| {
        let deeper = format!("{path}/");
        files.keys().any(|other| other.starts_with(&deeper))
    };
    for file in items(written) {
        if let Some(path) = file.value.path.is()
            && folders(&path.value)
        {
            let message = "another file is below it, so it is a folder";
            reader.error(path.at, message, "give one of the two another name");
        }
    }
    files
}

fn place(path: &str) -> Result<String, Wrong> {
    let shown = quote(path);
    let plain = path.starts_with('/')
        && path.len() <= LONGEST
        && !path.contains(char::is_control)
        && path[1..]
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..");
    if !plain {
        return Err(Wrong::new(format!("{shown} is not the path of a file"))
            .hint("it begins with a slash, ends with a name, and has no dots on its way"));
    }
    if !FOLDERS.iter().any(|folder| path.starts_with(folder)) {
        return Err(
            Wrong::new(format!("{shown} is a place where no file may be put"))
                .hint(format!("it may be below {}", FOLDERS.join(", "))),
        );
    }
    for (owned, instead) in OWNED {
        let below = path.strip_prefix(owned);
        if below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            return Err(Wrong::new("this file is the OS's own").hint(instead));
        }
    }
    Ok(path.to_owned())
}
