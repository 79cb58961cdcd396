//! The orchestrator's own config, made of ours: pure, and the same text for the same
//! input. The token is never in it but in a file beside it.

mod files;

use super::payload::Payload;
use crate::store::digest;
use keelson_api::init as proto;
use keelson_config::{Machine, Orchestrator, Role, Secret};
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
    /// What the config puts into its environment. Secret.
    pub env: BTreeMap<String, Zeroizing<String>>,
    /// The CAs that it trusts beside the image's, PEM.
    pub cas: String,
    /// What it and its parts read beside that. Secret.
    pub files: Files,
}

/// Texts of files, by their place.
pub(crate) type Files = BTreeMap<PathBuf, Zeroizing<String>>;

impl Rendered {
    /// What tells one from another, without telling anything else.
    pub(crate) fn digest(&self) -> String {
        let mut text = Zeroizing::new(format!(
            "{}\0{}\0{}",
            self.mode,
            self.config,
            self.token.as_str()
        ));
        // What was not there in earlier releases is not in their digests.
        if !self.env.is_empty() || !self.cas.is_empty() {
            for (name, value) in &self.env {
                text.push_str(&format!("\0{name}={}", value.as_str()));
            }
            text.push('\0');
            text.push_str(&self.cas);
        }
        for (path, content) in &self.files {
            text.push_str(&format!("\0{}\0{}", path.display(), content.as_str()));
        }
        digest(text.as_bytes())
    }
}

/// The orchestrator's config; `None` where the machine runs none.
pub(crate) fn render(payload: &Payload, machine: &Machine, node_name: &str) -> Option<Rendered> {
    let wanted = machine.orchestrator.as_ref()?;
    let role = machine.role;
    let mode = match role {
        Role::Server => "server",
        Role::Agent => "agent",
        Role::None => return None,
    };
    let home = payload.config.parent().unwrap_or(Path::new("/"));
    let token_file = home.join("token");
    let mut keys = BTreeMap::from([
        ("node-name".to_owned(), json!(node_name)),
        ("token-file".to_owned(), json!(token_file)),
        ("protect-kernel-defaults".to_owned(), json!(true)),
        (
            "kubelet-arg".to_owned(),
            // With it the kubelet starts beside the swap that the config may want, now or later.
            json!([
                "volume-plugin-dir=/var/lib/kubelet/volumeplugins",
                "fail-swap-on=false"
            ]),
        ),
    ]);
    if role == Role::Server {
        keys.insert("write-kubeconfig-mode".into(), json!("0600"));
        keys.insert("secrets-encryption".into(), json!(true));
        if let Some(shared) = &machine.network.virtual_address {
            keys.insert("tls-san".into(), json!([shared.address]));
        }
        // The first server of a cluster begins it, the others join.
        if wanted.server.is_none() && wanted.datastore.is_none() {
            keys.insert("cluster-init".into(), json!(true));
        }
    }
    let mut files = files::files(payload, machine, wanted);
    if let Some(datastore) = &wanted.datastore {
        let endpoint = json!(datastore.endpoint.reveal());
        keys.insert("datastore-endpoint".into(), endpoint);
        let places = files::tls(&mut files, home, "datastore", &datastore.tls);
        for (key, place) in [
            ("datastore-cafile", places.ca),
            ("datastore-certfile", places.cert),
            ("datastore-keyfile", places.key),
        ] {
            if let Some(place) = place {
                keys.insert(key.into(), json!(place));
            }
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
        env: environment(machine),
        cas: machine.egress.trusted_cas.concat(),
        files,
    })
}

/// Whether the orchestrator runs the same under two configs: all that [`render`] and the
/// node's name hang on.
pub(crate) fn is_same(one: &Machine, other: &Machine) -> bool {
    let parts = |machine: &Machine| {
        (
            machine.role,
            machine.orchestrator.clone().map(|it| Orchestrator {
                // They are the noun image's, and nothing is started anew for them.
                images: Vec::new(),
                ..it
            }),
            machine.hostname.clone(),
            machine.egress.clone(),
            machine.env.clone(),
            machine.registries.clone(),
            machine.files.clone(),
            machine
                .network
                .virtual_address
                .as_ref()
                .map(|it| it.address),
            files::pods_swap(machine),
        )
    };
    parts(one) == parts(other)
}

/// What the config puts into the orchestrator's environment.
/// <https://docs.k3s.io/advanced#configuring-an-http-proxy>
fn environment(machine: &Machine) -> BTreeMap<String, Zeroizing<String>> {
    let egress = &machine.egress;
    let copied = |secret: &Secret| Zeroizing::new(secret.reveal().to_owned());
    let mut env: BTreeMap<_, _> = machine
        .env
        .iter()
        .map(|(name, value)| (name.clone(), copied(value)))
        .collect();
    for (name, proxy) in [
        ("HTTP_PROXY", &egress.http_proxy),
        ("HTTPS_PROXY", &egress.https_proxy),
    ] {
        if let Some(proxy) = proxy {
            env.insert(name.to_owned(), copied(proxy));
        }
    }
    if egress.http_proxy.is_some() || egress.https_proxy.is_some() {
        // The orchestrator adds the networks of its cluster itself.
        let own = ["localhost", "127.0.0.0/8", "::1"].map(str::to_owned);
        let all: Vec<String> = own.into_iter().chain(egress.no_proxy.clone()).collect();
        env.insert("NO_PROXY".to_owned(), Zeroizing::new(all.join(",")));
    }
    if !egress.trusted_cas.is_empty() {
        let file = super::TRUSTED_CAS.to_owned();
        env.insert("SSL_CERT_FILE".to_owned(), Zeroizing::new(file));
    }
    env
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
pub(crate) fn start(payload: &Payload, rendered: &Rendered) -> proto::Start {
    let once = once(payload, &payload.name, &[rendered.mode]);
    let mut env = once.env.clone();
    // What the payload and the OS need stays.
    for (name, value) in &rendered.env {
        env.entry(name.clone())
            .or_insert_with(|| value.as_str().to_owned());
    }
    proto::Start {
        env,
        cgroup: "orchestrator/main".into(),
        limits: Some(proto::Limits {
            open_files: 1_048_576,
            processes: u64::MAX,
            core_bytes: u64::MAX,
            oom_score_adj: -999,
        }),
        log_file: super::LOG_FILE.into(),
        notify: true,
        ..once
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
    fn machine(role: Role, orchestrator: Orchestrator) -> Machine {
        Machine {
            role,
            orchestrator: Some(orchestrator),
            ..Machine::maintenance()
        }
    }

    fn wanted(server: Option<&str>, settings: Value) -> Orchestrator {
        let Value::Object(settings) = settings else {
            panic!("settings are an object")
        };
        Orchestrator {
            name: "kubernetes-standin".into(),
            token: Secret::new("s3cret".into()),
            server: server.map(str::to_owned),
            datastore: None,
            images: Vec::new(),
            manifests: BTreeMap::new(),
            settings: settings.into_iter().collect(),
        }
    }

    /// Shows: machine.role, orchestrator.server, orchestrator.token, orchestrator.settings
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
            let rendered = render(&payload(), &machine(role, wanted), "server-1").unwrap();
            text.push_str(&format!(
                "## {name}: {}\n{}\n",
                rendered.mode, rendered.config
            ));
            assert!(!rendered.config.contains("s3cret"), "{name}");
        }
        insta::assert_snapshot!(text);
    }

    /// Shows: network.virtualAddress.address
    #[test]
    fn the_address_that_servers_share_is_in_the_certificate() {
        let wanted = wanted(None, json!({"tls-san": ["k8s.example.com"]}));
        let mut machine = machine(Role::Server, wanted);
        let before = machine.clone();
        machine.network.virtual_address = Some(keelson_config::VirtualAddress {
            address: "10.0.0.10".parse().unwrap(),
            link: None,
        });
        let config = render(&payload(), &machine, "n").unwrap().config;
        let line = r#"tls-san: ["10.0.0.10","k8s.example.com"]"#;
        assert!(config.contains(line), "{config}");
        assert!(!is_same(&before, &machine));
    }

    /// Shows: machine.role
    #[test]
    fn the_role_none_runs_nothing() {
        assert!(
            render(
                &payload(),
                &machine(Role::None, wanted(None, json!({}))),
                "n"
            )
            .is_none()
        );
    }

    #[test]
    fn the_digest_changes_with_each_part() {
        let base = render(
            &payload(),
            &machine(Role::Server, wanted(None, json!({}))),
            "n",
        )
        .unwrap();
        let again = render(
            &payload(),
            &machine(Role::Server, wanted(None, json!({}))),
            "n",
        )
        .unwrap();
        assert_eq!(base.digest(), again.digest());
        let mut token = wanted(None, json!({}));
        token.token = Secret::new("other".into());
        for other in [
            render(&payload(), &machine(Role::Server, token), "n"),
            render(
                &payload(),
                &machine(Role::Server, wanted(None, json!({}))),
                "m",
            ),
            render(
                &payload(),
                &machine(Role::Server, wanted(None, json!({"debug": true}))),
                "n",
            ),
            render(&payload(), &behind_a_proxy(), "n"),
            render(&payload(), &trusting(), "n"),
        ] {
            assert_ne!(base.digest(), other.unwrap().digest());
        }
    }

    fn behind_a_proxy() -> Machine {
        let proxy = |text: &str| Some(Secret::new(text.into()));
        let mut machine = machine(Role::Server, wanted(None, json!({})));
        machine.egress.http_proxy = proxy("http://me:s3cret@proxy:3128");
        machine.egress.https_proxy = proxy("http://proxy:3129");
        machine.egress.no_proxy = vec![".example.com".into()];
        let values = [("GOGC", "50"), ("LD_LIBRARY_PATH", "/evil")];
        machine.env = values
            .map(|(name, value)| (name.to_owned(), Secret::new(value.into())))
            .into();
        machine
    }

    fn trusting() -> Machine {
        let mut machine = machine(Role::Server, wanted(None, json!({})));
        machine.egress.trusted_cas = vec!["one\n".into(), "two\n".into()];
        machine
    }

    /// Shows: machine.proxy, machine.env, machine.trustedCAs
    #[test]
    fn what_the_config_puts_into_the_environment() {
        let payload = payload();
        let rendered = render(&payload, &behind_a_proxy(), "n").unwrap();
        let env = start(&payload, &rendered).env;
        for (name, value) in [
            ("HTTP_PROXY", "http://me:s3cret@proxy:3128"),
            ("HTTPS_PROXY", "http://proxy:3129"),
            ("NO_PROXY", "localhost,127.0.0.0/8,::1,.example.com"),
            ("GOGC", "50"),
            // The payload's own is not lost, whatever gets past the rules.
            ("LD_LIBRARY_PATH", "/usr/lib/orchestrator/lib"),
        ] {
            assert_eq!(env[name], value, "{name}");
        }
        assert!(!rendered.config.contains("s3cret") && !env.contains_key("SSL_CERT_FILE"));
        let rendered = render(&payload, &trusting(), "n").unwrap();
        assert_eq!(rendered.cas, "one\ntwo\n");
        let env = start(&payload, &rendered).env;
        assert_eq!(env["SSL_CERT_FILE"], "/run/keelson/trusted-cas.pem");
        assert!(!env.contains_key("NO_PROXY"));
    }

    fn swapping(pods: bool) -> Machine {
        let mut machine = machine(Role::Server, wanted(None, json!({})));
        machine.swap = Some(keelson_config::Swap {
            size: keelson_config::SwapSize::Percent(25),
            algorithm: keelson_config::ZramAlgorithm::Zstd,
            pods,
        });
        machine
    }

    /// Shows: storage.swap.pods
    #[test]
    fn swap_is_for_pods_only_where_the_config_says_so() {
        let rendered = |machine| render(&payload(), &machine, "n").unwrap();
        let without = rendered(machine(Role::Server, wanted(None, json!({}))));
        assert!(without.config.contains("fail-swap-on=false"));
        assert_eq!(rendered(swapping(false)).digest(), without.digest());
        let with = rendered(swapping(true));
        let (path, text) = with.files.first_key_value().unwrap();
        assert_eq!(
            path,
            Path::new("/var/lib/rancher/k3s/agent/etc/kubelet.conf.d/50-keelson-swap.conf")
        );
        let text: Value = serde_json::from_str(text).unwrap();
        assert_eq!(text["memorySwap"], json!({"swapBehavior": "LimitedSwap"}));
        assert_eq!(text["kind"], "KubeletConfiguration");
    }

    #[test]
    fn what_restarts_it_is_told_before() {
        let base = machine(Role::Server, wanted(None, json!({})));
        assert!(is_same(&base, &base.clone()));
        assert!(is_same(&base, &swapping(false)), "swap alone");
        for (name, other) in [
            ("a proxy", behind_a_proxy()),
            ("a CA", trusting()),
            (
                "a setting",
                machine(Role::Server, wanted(None, json!({"debug": true}))),
            ),
            ("its role", machine(Role::Agent, wanted(None, json!({})))),
            ("swap for pods", swapping(true)),
        ] {
            assert!(!is_same(&base, &other), "{name}");
        }
    }

    #[test]
    fn what_init_is_asked_for() {
        let mut payload = payload();
        payload.env.insert("INVOCATION_ID".into(), "1".into());
        let machine = machine(Role::Server, wanted(None, json!({})));
        let rendered = render(&payload, &machine, "n").unwrap();
        let start = start(&payload, &rendered);
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
