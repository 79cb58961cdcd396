//! The orchestrator's own config, made of ours: pure, and the same text for the same
//! input. The token is never in it but in a file beside it.

use super::payload::Payload;
use crate::store::digest;
use keelson_api::init as proto;
use keelson_config::{Orchestrator, Role};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// What is written and started.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Rendered {
    /// The config file's text.
    pub config: String,
    /// The token file's text. Secret.
    pub token: Zeroizing<String>,
    /// The token file's place.
    pub token_file: PathBuf,
    /// `server` or `agent`.
    pub mode: &'static str,
}

impl Rendered {
    /// What tells one from another, without telling anything else.
    pub(crate) fn digest(&self) -> String {
        digest(format!("{}\0{}\0{}", self.mode, self.config, self.token.as_str()).as_bytes())
    }
}

/// The orchestrator's config; `None` where the role runs none.
pub(crate) fn render(
    payload: &Payload,
    role: Role,
    wanted: &Orchestrator,
    node_name: &str,
) -> Option<Rendered> {
    let mode = match role {
        Role::Server => "server",
        Role::Agent => "agent",
        Role::None => return None,
    };
    let token_file = payload
        .config
        .parent()
        .unwrap_or(Path::new("/"))
        .join("token");
    let mut keys = BTreeMap::from([
        ("node-name".to_owned(), json!(node_name)),
        ("token-file".to_owned(), json!(token_file)),
        ("protect-kernel-defaults".to_owned(), json!(true)),
        (
            "kubelet-arg".to_owned(),
            json!(["volume-plugin-dir=/var/lib/kubelet/volumeplugins"]),
        ),
    ]);
    if role == Role::Server {
        keys.insert("write-kubeconfig-mode".into(), json!("0600"));
        keys.insert("secrets-encryption".into(), json!(true));
        // The first server of a cluster begins it, the others join.
        if wanted.server.is_none() {
            keys.insert("cluster-init".into(), json!(true));
        }
    }
    if let Some(server) = &wanted.server {
        keys.insert("server".into(), json!(server));
    }
    for (key, value) in &wanted.settings {
        // `key+` adds to a list, here as across the orchestrator's own files.
        let adds = key.ends_with('+');
        let key = key.trim_end_matches('+');
        match keys.get_mut(key) {
            // A list of ours is not lost to one of theirs; a later argument wins.
            Some(Value::Array(list)) => append(list, value),
            Some(one) if adds => {
                let mut list = vec![one.take()];
                append(&mut list, value);
                *one = list.into();
            }
            _ => drop(keys.insert(key.to_owned(), value.clone())),
        }
    }
    let token = Zeroizing::new(wanted.token.reveal().to_owned());
    Some(Rendered {
        config: yaml(&keys),
        token,
        token_file,
        mode,
    })
}

fn append(list: &mut Vec<Value>, value: &Value) {
    match value {
        Value::Array(more) => list.extend(more.iter().cloned()),
        Value::Null => {}
        one => list.push(one.clone()),
    }
}

/// One key a line, its value as JSON: a subset of YAML that every reader takes.
fn yaml(keys: &BTreeMap<String, Value>) -> String {
    let mut text =
        String::from("# Rendered by machined from the machine config: changes here are lost.\n");
    for (key, value) in keys {
        let plain = key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && key.bytes().any(|b| b.is_ascii_alphabetic());
        match plain {
            true => text.push_str(key),
            false => text.push_str(&json!(key).to_string()),
        }
        text.push_str(": ");
        text.push_str(&value.to_string());
        text.push('\n');
    }
    text
}

/// What init is asked to start.
pub(crate) fn start(payload: &Payload, mode: &str) -> proto::Start {
    proto::Start {
        cgroup: "orchestrator/main".into(),
        limits: Some(proto::Limits {
            open_files: 1_048_576,
            processes: u64::MAX,
            core_bytes: u64::MAX,
            oom_score_adj: -999,
        }),
        log_file: super::LOG_FILE.into(),
        notify: true,
        ..once(payload, &payload.name, &[mode])
    }
}

/// What init is asked for when the program is to do one thing and end.
pub(crate) fn once(payload: &Payload, name: &str, args: &[&str]) -> proto::Start {
    let own = payload
        .path
        .iter()
        .map(|dir| dir.to_string_lossy().into_owned());
    let path: Vec<String> = own
        .chain(["/usr/sbin".to_owned(), "/usr/bin".to_owned()])
        .collect();
    let mut env = payload.env.clone();
    env.insert("PATH".into(), path.join(":"));
    // With it the orchestrator believes that systemd runs the cgroups.
    env.remove("INVOCATION_ID");
    let mut argv = vec![payload.exec.to_string_lossy().into_owned()];
    argv.extend(args.iter().map(|&arg| arg.to_owned()));
    proto::Start {
        name: name.to_owned(),
        argv,
        env,
        cgroup: format!("orchestrator/{name}"),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orchestrator::payload::tests::payload;
    use keelson_config::Secret;

    fn wanted(server: Option<&str>, settings: Value) -> Orchestrator {
        let Value::Object(settings) = settings else {
            panic!("settings are an object")
        };
        Orchestrator {
            name: "kubernetes-standin".into(),
            token: Secret::new("s3cret".into()),
            server: server.map(str::to_owned),
            settings: settings.into_iter().collect(),
        }
    }

    #[test]
    fn golden_texts() {
        let settings = json!({
            "disable": ["traefik"], "kubelet-arg": ["max-pods=20"], "node-label": "a=b",
            "secrets-encryption": false, "odd key": "line\nbreak",
            "kubelet-arg+": "v=2", "node-label+": ["c=d"], "tls-san+": ["x"],
        });
        let cases = [
            ("first-server", Role::Server, wanted(None, json!({}))),
            (
                "joining-server",
                Role::Server,
                wanted(Some("https://10.0.0.1:6443"), json!({})),
            ),
            (
                "agent",
                Role::Agent,
                wanted(Some("https://10.0.0.1:6443"), json!({})),
            ),
            ("settings", Role::Server, wanted(None, settings)),
        ];
        let mut text = String::new();
        for (name, role, wanted) in cases {
            let rendered = render(&payload(), role, &wanted, "server-1").unwrap();
            text.push_str(&format!(
                "## {name}: {}\n{}\n",
                rendered.mode, rendered.config
            ));
            assert!(!rendered.config.contains("s3cret"), "{name}");
        }
        insta::assert_snapshot!(text);
    }

    #[test]
    fn the_role_none_runs_nothing() {
        assert!(render(&payload(), Role::None, &wanted(None, json!({})), "n").is_none());
    }

    #[test]
    fn the_digest_changes_with_each_part() {
        let base = render(&payload(), Role::Server, &wanted(None, json!({})), "n").unwrap();
        let again = render(&payload(), Role::Server, &wanted(None, json!({})), "n").unwrap();
        assert_eq!(base.digest(), again.digest());
        let mut token = wanted(None, json!({}));
        token.token = Secret::new("other".into());
        for other in [
            render(&payload(), Role::Server, &token, "n"),
            render(&payload(), Role::Server, &wanted(None, json!({})), "m"),
            render(
                &payload(),
                Role::Server,
                &wanted(None, json!({"debug": true})),
                "n",
            ),
        ] {
            assert_ne!(base.digest(), other.unwrap().digest());
        }
    }

    #[test]
    fn what_init_is_asked_for() {
        let mut payload = payload();
        payload.env.insert("INVOCATION_ID".into(), "1".into());
        let start = start(&payload, "server");
        assert_eq!(
            start.argv,
            ["/usr/lib/orchestrator/bin/kubernetes-standin", "server"]
        );
        assert_eq!(
            start.env["PATH"],
            "/usr/lib/orchestrator/bin:/usr/sbin:/usr/bin"
        );
        assert_eq!(start.env["LD_LIBRARY_PATH"], "/usr/lib/orchestrator/lib");
        assert!(!start.env.contains_key("INVOCATION_ID"));
    }
}
