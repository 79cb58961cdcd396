//! What osctl does with a node, from the outside: the program itself against a
//! node on loopback.

use crate::desk::Desk;
use crate::node::{Node, Tls, pair};
use serde_json::{Value, json};

/// A desk, a node configured from its secrets, and a context for it.
pub(crate) fn configured() -> (Desk, Node) {
    let desk = Desk::with_secrets();
    let node = Node::start(&Tls::configured(&desk.read("secrets.yaml")));
    let add = [
        "config",
        "add",
        "demo",
        "--secrets",
        "secrets.yaml",
        "--endpoint",
        &node.at(),
    ];
    desk.ok(&add);
    (desk, node)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn version() {
    let (desk, node) = configured();
    let table = desk.ok(&["version"]);
    assert!(
        table.starts_with("NAME") && table.contains("k3s v1.36.3+k3s1"),
        "{table}"
    );
    let both = format!("{0},{0}", node.at());
    let data = json(&desk.ok(&["version", "-o", "json", "-n", &both]));
    assert_eq!(data["nodes"].as_array().unwrap().len(), 2);
    assert_eq!(data["nodes"][0]["kernel"], "6.12.0");
}

#[test]
fn one_node_that_is_away_does_not_hide_the_other() {
    let (desk, node) = configured();
    let run = desk.run(&["version", "-n", &format!("127.0.0.1:1,{}", node.at())]);
    assert_eq!(run.code, 3);
    assert!(
        run.out.contains("1.2.3") && run.err.contains("127.0.0.1:1"),
        "{run:?}"
    );
}

#[test]
fn resources() {
    let (desk, node) = configured();
    assert_eq!(desk.ok(&["get"]), "KIND\naddress\nconfig\nlink\n");
    insta::assert_snapshot!("get_link", desk.ok(&["get", "link"]));
    assert_eq!(
        desk.ok(&["get", "links"]),
        desk.ok(&["get", "link"]),
        "the plural is understood"
    );
    assert_eq!(
        json(&desk.ok(&["get", "link", "eth0", "-o", "json"]))["spec"],
        json!({"up": true})
    );
    assert_eq!(
        json(&desk.ok(&["get", "link", "-o", "json"]))[1]["phase"],
        "pending"
    );
    assert!(
        desk.ok(&["get", "link", "-o", "yaml"])
            .contains("  spec:\n    up: true\n")
    );
    assert!(
        desk.fails(2, &["get", "lnik"])
            .contains("did you mean \"link\"?")
    );
    assert!(desk.fails(1, &["get", "link", "eth9"]).contains("eth9"));
    insta::assert_snapshot!("get_watch", desk.ok(&["get", "link", "--watch"]));
    let events = desk.ok(&["get", "link", "--watch", "-o", "json"]);
    let types: Vec<_> = events
        .lines()
        .map(|line| json(line)["type"].clone())
        .collect();
    assert_eq!(types, ["added", "added", "updated", "removed"]);
    drop(node);
}

#[test]
fn the_stored_config() {
    let (desk, _node) = configured();
    let run = desk.run(&["get", "config"]);
    assert_eq!(run.out, "token: ***\n");
    let told = "generation 7, stored 2027-01-15T08:00:00Z by O=os:admin, CN=demo\n\
                generation 9, stored 2027-01-15T08:01:00Z by O=os:admin, CN=other, waits for the next boot\n";
    assert_eq!(run.err, told);
    assert_eq!(
        desk.ok(&["get", "config", "--show-secrets"]),
        "token: s3cret\n"
    );
    assert_eq!(
        json(&desk.ok(&["get", "config", "-o", "json"]))["generation"],
        7
    );
    desk.fails(2, &["get", "link", "--show-secrets"]);
}

#[test]
fn logs_and_events() {
    let (desk, node) = configured();
    assert_eq!(desk.ok(&["logs", "k3s"]), "one\ntwo\n");
    assert_eq!(desk.ok(&["logs", "k3s", "--tail", "1"]), "two\n");
    assert_eq!(desk.ok(&["logs", "k3s", "-f"]), "one\ntwo\n");
    let both = format!("{0},{0}", node.at());
    let prefixed = format!("{0}: one\n{0}: two\n", node.at());
    assert_eq!(desk.ok(&["logs", "k3s", "-n", &both]), prefixed.repeat(2));
    assert!(
        desk.fails(2, &["logs", "k3s", "-f", "-n", &both])
            .contains("one node")
    );
    assert_eq!(desk.ok(&["dmesg"]), "[    1.500000] hello\n");
    assert_eq!(
        desk.ok(&["events"]),
        "2027-01-15T08:00:00Z  config: applied\n\
         2027-01-15T08:00:00Z  power: drain: 1 evicted\n\
         2027-01-15T08:00:00Z  power: all is down, init goes on\n"
    );
}

#[test]
fn services() {
    let (desk, node) = configured();
    insta::assert_snapshot!("service", desk.ok(&["service"]));
    assert_eq!(desk.ok(&["service", "list"]), desk.ok(&["service"]));
    desk.ok(&["service", "restart", "k3s"]);
    assert_eq!(node.state.lock().unwrap().restarted.as_deref(), Some("k3s"));
    assert!(
        desk.fails(1, &["service", "restart", "k4s"])
            .contains("no service \"k4s\"")
    );
    assert!(
        desk.fails(3, &["shutdown"])
            .contains("machined is starting")
    );
}

#[test]
fn several_nodes_are_changed_only_when_they_are_named() {
    let (desk, node) = configured();
    let add = [
        "config",
        "add",
        "two",
        "--secrets",
        "secrets.yaml",
        "--endpoint",
    ];
    desk.ok(&[&add[..], &[&format!("{},127.0.0.1:1", node.at())]].concat());
    assert!(
        desk.fails(2, &["--context", "two", "reboot"])
            .contains("pick with --node")
    );
    assert!(!node.state.lock().unwrap().rebooted);
    desk.ok(&["--context", "two", "-n", &node.at(), "reboot"]);
    assert!(node.state.lock().unwrap().rebooted);
}

#[test]
fn a_role_that_may_not_is_told_so() {
    let (desk, node) = configured();
    let add = [
        "config",
        "add",
        "reader",
        "--secrets",
        "secrets.yaml",
        "--role",
        "os:reader",
    ];
    desk.ok(&[&add[..], &["--endpoint", &node.at()]].concat());
    let error = desk.fails(4, &["--context", "reader", "reboot"]);
    assert!(
        error.contains("os:operator") && error.contains("hint:"),
        "{error}"
    );
    assert!(!node.state.lock().unwrap().rebooted);
}

#[test]
fn another_clusters_node_is_not_trusted() {
    let (desk, _node) = configured();
    let other = Desk::with_secrets();
    let foreign = Node::start(&Tls::configured(&other.read("secrets.yaml")));
    let error = desk.fails(3, &["version", "-n", &foreign.at()]);
    assert!(
        error.contains("not issued by the CA of context \"demo\""),
        "{error}"
    );
}

#[test]
fn a_node_refuses_certificates_that_are_not_from_its_ca() {
    let (desk, node) = configured();
    let foreign = pair(&Desk::with_secrets().read("secrets.yaml"), "ca");
    desk.write("ca", pair(&desk.read("secrets.yaml"), "ca").0);
    desk.write("cert", foreign.0);
    desk.write("key", foreign.1);
    let files = [
        "--ca",
        "ca",
        "--cert",
        "cert",
        "--key",
        "key",
        "--endpoint",
        &node.at(),
    ];
    desk.ok(&[&["config", "add", "forged"][..], &files].concat());
    let error = desk.fails(4, &["--context", "forged", "version"]);
    assert!(
        error.contains("does not let us in") && error.contains("client certificate"),
        "{error}"
    );
}

#[test]
fn a_stolen_issuer_opens_nothing() {
    let (desk, node) = configured();
    let secrets = desk.read("secrets.yaml");
    let issuer = pair(&secrets, "serverIssuer");
    let signer =
        rcgen::Issuer::from_ca_cert_pem(&issuer.0, rcgen::KeyPair::from_pem(&issuer.1).unwrap())
            .unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::OrganizationName, "os:admin");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let cert = params.signed_by(&key, &signer).unwrap();
    desk.write("ca", pair(&secrets, "ca").0);
    desk.write("cert", format!("{}{}", cert.pem(), issuer.0));
    desk.write("key", key.serialize_pem());
    let files = [
        "--ca",
        "ca",
        "--cert",
        "cert",
        "--key",
        "key",
        "--endpoint",
        &node.at(),
    ];
    desk.ok(&[&["config", "add", "thief"][..], &files].concat());
    desk.fails(4, &["--context", "thief", "reboot"]);
    assert!(!node.state.lock().unwrap().rebooted);
}

#[test]
fn an_expired_certificate_is_told_so() {
    let (desk, node) = configured();
    let ca = pair(&desk.read("secrets.yaml"), "ca");
    let signer =
        rcgen::Issuer::from_ca_cert_pem(&ca.0, rcgen::KeyPair::from_pem(&ca.1).unwrap()).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    desk.write("ca", &ca.0);
    desk.write("cert", params.signed_by(&key, &signer).unwrap().pem());
    desk.write("key", key.serialize_pem());
    let files = [
        "--ca",
        "ca",
        "--cert",
        "cert",
        "--key",
        "key",
        "--endpoint",
        &node.at(),
    ];
    desk.ok(&[&["config", "add", "old"][..], &files].concat());
    assert!(
        desk.ok(&["config", "list"])
            .contains("2021-01-01 (expired)")
    );
    assert!(
        desk.fails(4, &["--context", "old", "version"])
            .contains("has expired")
    );
}

#[test]
fn what_is_no_node_at_all() {
    let (desk, _node) = configured();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
    });
    let error = desk.fails(3, &["version", "-n", &address]);
    assert!(
        error.contains("TLS 1.3") && error.contains("API's port"),
        "{error}"
    );
    thread.join().unwrap();
    assert!(
        desk.fails(3, &["version", "-n", "127.0.0.1:1"])
            .contains("refused")
    );
    assert!(
        desk.fails(3, &["version", "-n", "no-such-host.invalid"])
            .contains("is the name right?")
    );
}

#[test]
fn the_kubeconfig_is_merged_into_ones_own() {
    let (desk, node) = configured();
    desk.ok(&["kubeconfig"]);
    assert_eq!(desk.mode(".kube/config"), 0o600);
    insta::assert_snapshot!("kubeconfig", desk.read(".kube/config"));
    let before = desk.read(".kube/config");
    desk.ok(&["kubeconfig"]);
    assert_eq!(desk.read(".kube/config"), before, "twice is as once");
    let server = "https://127.0.0.1:16443";
    assert!(
        desk.fails(2, &["kubeconfig", "--server", server])
            .contains("--force")
    );
    assert_eq!(node.state.lock().unwrap().server, server);
    desk.ok(&["kubeconfig", "--server", server, "--name", "tunnel"]);
    let merged: Value = serde_saphyr::from_str(&desk.read(".kube/config")).unwrap();
    assert_eq!(
        (&merged["clusters"][1]["name"], &merged["current-context"]),
        (&json!("tunnel"), &json!("demo"))
    );
    desk.ok(&["kubeconfig", "-o", "own.yaml"]);
    assert_eq!(
        (desk.mode("own.yaml"), desk.read("own.yaml")),
        (0o600, before.clone())
    );
    desk.fails(2, &["kubeconfig", "-o", "own.yaml"]);
    assert_eq!(desk.ok(&["kubeconfig", "--stdout"]), before);
    desk.write("mine", "not: [a, kubeconfig");
    let run = desk
        .osctl(&["kubeconfig"])
        .env("KUBECONFIG", "mine")
        .output()
        .unwrap();
    assert_eq!(run.status.code(), Some(2));
    assert_eq!(
        desk.read("mine"),
        "not: [a, kubeconfig",
        "what cannot be read is not replaced"
    );
}
