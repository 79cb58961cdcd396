//! Makes the config of one machine from the secrets of its cluster: the values
//! here, their text with its comments in [`render`]. The same inputs make the same
//! bytes.

mod render;

use crate::{
    draft,
    error::{Error, Result},
    secrets::Secrets,
};
use clap::ValueEnum;
use keelson_config::{Draft, Patch};
use serde_json::{Map, Value, json};
use std::fmt;
use zeroize::Zeroizing;

/// What the machine is in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Runs the control plane, and pods
    Server,
    /// Runs pods
    Agent,
    /// Runs no orchestrator
    None,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Server => "server",
            Role::Agent => "agent",
            Role::None => "none",
        })
    }
}

/// What a config is made for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The cluster's name, for people.
    pub(crate) cluster: String,
    /// What the machine is in it.
    pub(crate) role: Role,
    /// The machine's fixed name.
    pub(crate) hostname: Option<String>,
    /// The URL of the server to join.
    pub(crate) server: Option<String>,
    /// Which orchestrator runs.
    pub(crate) orchestrator: String,
}

/// The config's text. The patches are applied one after the other.
pub(crate) fn generate(
    secrets: &Secrets,
    wanted: &Wanted,
    patches: &[Patch],
) -> Result<Zeroizing<String>> {
    let config = Draft::from_json(&values(secrets, wanted)?);
    let config = draft::patched(config, patches)?.to_json();
    let header = format!(
        "\
# The config of one Keelson machine. Everything that can be set on it is set here.
# Made by `osctl gen config` for cluster {:?}, role {}.
#
#   osctl validate FILE             says whether it is valid
#   osctl apply-config -f FILE      sends it to the machine, which then follows it
#
# It holds secrets: keep it as you keep a private key.
",
        wanted.cluster, wanted.role
    );
    Ok(Zeroizing::new(header + &render::render(&config)?))
}

/// The part of a config that says who may call the machine.
pub(crate) fn api(secrets: &Secrets) -> Value {
    json!({ "machine": { "api": {
        "ca": secrets.root.cert,
        "issuer": { "cert": secrets.server_issuer.cert, "key": *secrets.server_issuer.key },
    }}})
}

fn values(secrets: &Secrets, wanted: &Wanted) -> Result<Value> {
    let mut machine = api(secrets)["machine"].take();
    machine["role"] = json!(wanted.role.to_string());
    if let Some(hostname) = &wanted.hostname {
        machine["hostname"] = json!(hostname);
    }
    let mut config = json!({
        "apiVersion": "keelson.dev/v1alpha1",
        "kind": "Machine",
        "machine": machine,
    });
    if wanted.role != Role::None {
        config["orchestrator"] = orchestrator(secrets, wanted)?;
    }
    Ok(config)
}

fn orchestrator(secrets: &Secrets, wanted: &Wanted) -> Result<Value> {
    // K3s can tell its agents' token from its servers'; another orchestrator has one.
    let two_tokens = wanted.orchestrator == "k3s";
    let mut orchestrator = Map::new();
    orchestrator.insert("name".to_owned(), json!(wanted.orchestrator));
    match wanted.role {
        Role::Agent => {
            if wanted.server.is_none() {
                return Err(Error::input("an agent needs a server to join")
                    .hint("name it: --endpoint https://SERVER:6443"));
            }
            let token = if two_tokens {
                &secrets.agent_token
            } else {
                &secrets.token
            };
            orchestrator.insert("token".to_owned(), json!(**token));
        }
        Role::Server | Role::None => {
            orchestrator.insert("token".to_owned(), json!(*secrets.token));
            if two_tokens {
                orchestrator.insert(
                    "settings".to_owned(),
                    json!({ "agent-token": *secrets.agent_token }),
                );
            }
        }
    }
    if let Some(server) = &wanted.server {
        orchestrator.insert("server".to_owned(), json!(server_url(server)?));
    }
    Ok(Value::Object(orchestrator))
}

/// A server's URL, from one or from a host with or without port.
fn server_url(text: &str) -> Result<String> {
    let invalid = || {
        Error::input(format!("{text:?} is not the URL of a server"))
            .hint("it looks like https://10.0.0.1:6443")
    };
    let rest = match text.split_once("://") {
        Some(("https", rest)) => rest,
        Some(_) => return Err(invalid()),
        None => text,
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let endpoint = crate::client::Endpoint::parse(rest, 6443).map_err(|_| invalid())?;
    Ok(format!("https://{endpoint}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{secrets::tests::sample, yaml};
    use std::path::Path;

    fn wanted(role: Role) -> Wanted {
        Wanted {
            cluster: "demo".to_owned(),
            role,
            hostname: Some("node-1".to_owned()),
            server: (role == Role::Agent).then(|| "10.0.0.1".to_owned()),
            orchestrator: "k3s".to_owned(),
        }
    }

    #[test]
    fn every_role_gets_a_valid_config() {
        let secrets = sample();
        for role in [Role::Server, Role::Agent, Role::None] {
            for hostname in [None, Some("node-1".to_owned())] {
                let wanted = Wanted {
                    hostname,
                    ..wanted(role)
                };
                let text = generate(&secrets, &wanted, &[]).unwrap();
                let outcome = keelson_config::parse("machine.yaml", text.as_bytes());
                assert_eq!(outcome.diagnostics, [], "{role}: {}", *text);
                let machine = outcome.machine.unwrap();
                let token = machine.orchestrator.map(|it| it.token.reveal().to_owned());
                assert_eq!(
                    token.as_deref(),
                    match role {
                        Role::Server => Some(&**secrets.token),
                        Role::Agent => Some(&**secrets.agent_token),
                        Role::None => None,
                    }
                );
            }
        }
    }

    #[test]
    fn the_same_inputs_make_the_same_bytes() {
        let secrets = sample();
        let make = || generate(&secrets, &wanted(Role::Server), &[]).unwrap();
        assert_eq!(make(), make());
    }

    #[test]
    fn a_patch_is_in_the_config_and_takes_the_place_of_its_example() {
        let patch = r#"{"machine": {"sysctls": {"vm.max_map_count": "262144"}},
            "network": {"nameservers": ["1.1.1.1"], "links": [{"name": "eth0", "dhcp": {"v4": true}}]}}"#;
        let patch = Patch::read("p", patch.as_bytes()).unwrap();
        let text = generate(&sample(), &wanted(Role::Server), &[patch]).unwrap();
        assert!(
            text.contains("\n  sysctls:\n    vm.max_map_count: \"262144\"\n")
                && !text.contains("# sysctls:"),
            "{}",
            *text
        );
        assert!(
            text.contains("\n    - dhcp:\n        v4: true\n      name: eth0\n"),
            "{}",
            *text
        );
        assert_eq!(keelson_config::parse("x", text.as_bytes()).diagnostics, []);
    }

    #[test]
    fn an_agent_needs_a_server() {
        let wanted = Wanted {
            server: None,
            ..wanted(Role::Agent)
        };
        let error = generate(&sample(), &wanted, &[]).unwrap_err();
        assert_eq!(error.kind(), crate::error::Kind::Input);
    }

    #[test]
    fn another_orchestrator_has_one_token() {
        let secrets = sample();
        for role in [Role::Server, Role::Agent] {
            let wanted = Wanted {
                orchestrator: "other".to_owned(),
                ..wanted(role)
            };
            let text = generate(&secrets, &wanted, &[]).unwrap();
            let value: Value = yaml::parse(Path::new("x"), &text).unwrap();
            assert_eq!(value["orchestrator"]["token"], json!(*secrets.token));
            assert!(!text.contains(&**secrets.agent_token));
        }
    }

    #[test]
    fn a_servers_url_is_completed() {
        for (text, url) in [
            ("10.0.0.1", Some("https://10.0.0.1:6443")),
            ("https://10.0.0.1:7000/", Some("https://10.0.0.1:7000")),
            (
                "https://k8s.example.com",
                Some("https://k8s.example.com:6443"),
            ),
            ("[fd00::1]:6443", Some("https://[fd00::1]:6443")),
            ("http://10.0.0.1", None),
            ("https://10.0.0.1/path", None),
            ("", None),
        ] {
            assert_eq!(server_url(text).ok().as_deref(), url, "{text}");
        }
    }
}
