//! What the orchestrator and its parts read beside its config: the registries' file, the
//! certificates that it and the config name, what is deployed, and the config's own files.
//! Pure.

use super::{Files, Payload};
use keelson_config::{Machine, Orchestrator, Registries, Role, TlsFiles};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// A part of the kubelet's config, below the orchestrator's data: the kubelet has no argument
/// for it. <https://docs.k3s.io/installation/configuration#kubelet-configuration-files>,
/// <https://kubernetes.io/docs/concepts/cluster-administration/swap-memory-management/>
const KUBELET_SWAP: &str = "agent/etc/kubelet.conf.d/50-keelson-swap.conf";

/// Whether pods may be swapped out.
pub(super) fn pods_swap(machine: &Machine) -> bool {
    machine.swap.is_some_and(|swap| swap.pods)
}

/// All of them but the certificates of the datastore.
pub(super) fn files(payload: &Payload, machine: &Machine, wanted: &Orchestrator) -> Files {
    let home = payload.config.parent().unwrap_or(Path::new("/"));
    let copied = |text: &str| Zeroizing::new(text.to_owned());
    let mut files = Files::new();
    for (path, content) in &machine.files {
        files.insert(path.into(), copied(content.reveal()));
    }
    if machine.registries != Registries::default() {
        let text = registries(&mut files, home, &machine.registries);
        files.insert(home.join("registries.yaml"), text);
    }
    if pods_swap(machine) {
        let path = payload.data_dir.join(KUBELET_SWAP);
        let text = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "memorySwap": {"swapBehavior": "LimitedSwap"},
        });
        files.insert(path, Zeroizing::new(format!("{text:#}\n")));
    }
    if machine.role == Role::Server {
        let folder = payload.data_dir.join("server/manifests");
        for (name, content) in &wanted.manifests {
            let path = folder.join(format!("keelson-{name}.yaml"));
            files.insert(path, copied(content.reveal()));
        }
    }
    files
}

/// Where the files of a connection are.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// Adds the certificates of a connection.
pub(super) fn tls(files: &mut Files, home: &Path, name: &str, tls: &TlsFiles) -> Places {
    let mut add = |what: &str, text: &str| {
        let path = home.join("tls").join(format!("{name}-{what}.pem"));
        files.insert(path.clone(), Zeroizing::new(text.to_owned()));
        path
    };
    let own = tls.own.as_ref();
    Places {
        ca: tls.ca.as_ref().map(|pem| add("ca", pem)),
        cert: own.map(|own| add("cert", &own.cert)),
        key: own.map(|own| add("key", own.key.reveal())),
    }
}

/// The registries' file. JSON is YAML. <https://docs.k3s.io/installation/private-registry>
fn registries(files: &mut Files, home: &Path, registries: &Registries) -> Zeroizing<String> {
    let mirrors: Map<String, Value> = registries
        .mirrors
        .iter()
        .map(|(registry, mirror)| {
            let mut how = Map::from_iter([("endpoint".to_owned(), json!(mirror.endpoints))]);
            if !mirror.rewrites.is_empty() {
                how.insert("rewrite".to_owned(), json!(mirror.rewrites));
            }
            (registry.clone(), how.into())
        })
        .collect();
    let mut configs = Map::new();
    for (host, how) in &registries.hosts {
        let mut config = Map::new();
        if let Some((username, password)) = &how.login {
            let auth = json!({"username": username, "password": password.reveal()});
            config.insert("auth".into(), auth);
        }
        let name = format!("registry-{}", host.replace([':', '[', ']'], "_"));
        let places = tls(files, home, &name, &how.tls);
        let mut connection = Map::new();
        for (key, place) in [
            ("ca_file", places.ca),
            ("cert_file", places.cert),
            ("key_file", places.key),
        ] {
            if let Some(place) = place {
                connection.insert(key.into(), json!(place));
            }
        }
        if how.insecure {
            connection.insert("insecure_skip_verify".into(), json!(true));
        }
        if !connection.is_empty() {
            config.insert("tls".into(), connection.into());
        }
        configs.insert(host.clone(), config.into());
    }
    let all = json!({"mirrors": mirrors, "configs": configs});
    Zeroizing::new(format!("{all:#}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orchestrator::{payload::tests::payload, render::render};
    use keelson_config::parse;

    /// What a config with these lines renders to: its own config, and the files.
    fn rendered(machine: &str, orchestrator: &str) -> (String, Files) {
        let pem =
            |label: &str| format!("-----BEGIN {label}-----\\nMAMCAQE=\\n-----END {label}-----\\n");
        let (cert, key) = (pem("CERTIFICATE"), pem("PRIVATE KEY"));
        let text = format!(
            "apiVersion: keelson.dev/v1alpha1\nkind: Machine\nmachine:\n  role: server\n  \
             api: {{ca: \"{cert}\", issuer: {{cert: \"{cert}\", key: \"{key}\"}}}}\n{machine}\
             orchestrator:\n  token: correct-horse-battery-staple\n{orchestrator}"
        )
        .replace("CERT", &format!("\"{cert}\""))
        .replace(&format!("\"{cert}\"IFICATE"), "CERTIFICATE")
        .replace("KEY!", &format!("\"{key}\""));
        let outcome = parse("machine.yaml", text.as_bytes());
        let machine = outcome
            .machine
            .unwrap_or_else(|| panic!("{:?}", outcome.diagnostics));
        let rendered = render(&payload(), &machine, "node-1").unwrap();
        (rendered.config, rendered.files)
    }

    fn text<'a>(files: &'a Files, path: &str) -> &'a str {
        files.get(Path::new(path)).map_or_else(
            || panic!("{:?} has no {path}", files.keys()),
            |text| text.as_str(),
        )
    }

    /// Shows: machine.registries
    #[test]
    fn registries_are_written_as_the_orchestrator_reads_them() {
        let (_, files) = rendered(
            "  registries:\n    mirrors:\n      - {registry: docker.io, endpoints: [\"https://m.example.com:5000\"], rewrites: {\"^rancher/(.*)\": hub/$1}}\n    \
             hosts:\n      - {host: \"m.example.com:5000\", username: puller, password: hidden, ca: CERT}\n      \
             - {host: own.example.com, cert: CERT, key: KEY!}\n      \
             - {host: plain.example.com, insecure: true}\n",
            "",
        );
        let ca = "/etc/rancher/k3s/tls/registry-m.example.com_5000-ca.pem";
        assert!(text(&files, ca).contains("BEGIN CERTIFICATE"));
        let written: Value =
            serde_json::from_str(text(&files, "/etc/rancher/k3s/registries.yaml")).unwrap();
        let wanted = json!({
            "mirrors": {"docker.io": {
                "endpoint": ["https://m.example.com:5000"],
                "rewrite": {"^rancher/(.*)": "hub/$1"},
            }},
            "configs": {
                "m.example.com:5000": {
                    "auth": {"username": "puller", "password": "hidden"},
                    "tls": {"ca_file": ca},
                },
                "own.example.com": {"tls": {
                    "cert_file": "/etc/rancher/k3s/tls/registry-own.example.com-cert.pem",
                    "key_file": "/etc/rancher/k3s/tls/registry-own.example.com-key.pem",
                }},
                "plain.example.com": {"tls": {"insecure_skip_verify": true}},
            },
        });
        assert_eq!(written, wanted);
    }

    #[test]
    fn without_registries_there_is_no_file() {
        assert!(rendered("", "").1.is_empty());
    }

    /// Shows: machine.files, orchestrator.manifests
    #[test]
    fn manifests_and_files_are_put_where_they_are_read() {
        let (_, files) = rendered(
            "  files: [{path: /etc/rancher/k3s/audit.yaml, content: \"rules: []\"}]\n",
            "  manifests: [{name: sc, content: \"{apiVersion: v1, kind: ConfigMap}\"}]\n",
        );
        let place = "/var/lib/rancher/k3s/server/manifests/keelson-sc.yaml";
        assert!(text(&files, place).contains("ConfigMap"));
        assert_eq!(text(&files, "/etc/rancher/k3s/audit.yaml"), "rules: []");
    }

    /// Shows: orchestrator.datastore
    #[test]
    fn with_a_database_no_cluster_is_begun() {
        let (config, files) = rendered(
            "",
            "  datastore: {endpoint: \"postgres://a:b@db/k\", ca: CERT, cert: CERT, key: KEY!}\n",
        );
        assert!(!config.contains("cluster-init"), "{config}");
        assert!(
            config.contains("datastore-endpoint: \"postgres://a:b@db/k\""),
            "{config}"
        );
        for (key, file) in [("datastore-cafile", "ca"), ("datastore-certfile", "cert")] {
            let line = format!("{key}: \"/etc/rancher/k3s/tls/datastore-{file}.pem\"");
            assert!(config.contains(&line), "{line} is not in {config}");
        }
        let key = "/etc/rancher/k3s/tls/datastore-key.pem";
        assert!(
            config.contains(&format!("datastore-keyfile: \"{key}\"")),
            "{config}"
        );
        assert!(text(&files, key).contains("PRIVATE KEY"));
    }

    /// Shows: orchestrator.snapshots
    #[test]
    fn snapshots_are_keys_of_the_orchestrators_config() {
        let (config, _) = rendered(
            "",
            "  snapshots: {schedule: \"0 */6 * * *\", keep: 9, s3: {bucket: copies, \
             endpoint: s3.example.com, region: here, folder: shop, accessKey: a, secretKey: b}}\n",
        );
        for line in [
            "etcd-snapshot-schedule-cron: \"0 */6 * * *\"",
            "etcd-snapshot-retention: 9",
            "etcd-s3: true",
            "etcd-s3-bucket: \"copies\"",
            "etcd-s3-endpoint: \"s3.example.com\"",
            "etcd-s3-region: \"here\"",
            "etcd-s3-folder: \"shop\"",
            "etcd-s3-access-key: \"a\"",
            "etcd-s3-secret-key: \"b\"",
        ] {
            assert!(config.contains(line), "{line} is not in {config}");
        }
    }

    /// Shows: orchestrator.labels, orchestrator.taints, orchestrator.clusterCIDRs
    /// Shows: orchestrator.serviceCIDRs, orchestrator.cni, orchestrator.disable
    /// Shows: orchestrator.sans, orchestrator.kubeletArgs
    #[test]
    fn fields_are_keys_of_the_orchestrators_config() {
        let (config, _) = rendered(
            "",
            "  labels: {disk: ssd}\n  taints: [\"a=b:NoExecute\"]\n  clusterCIDRs: [10.1.0.0/16]\n  \
             serviceCIDRs: [10.2.0.0/16]\n  cni: none\n  disable: [traefik]\n  sans: [k8s.example.com]\n  \
             kubeletArgs: {max-pods: 200}\n",
        );
        for line in [
            "node-label: [\"disk=ssd\"]",
            "node-taint: [\"a=b:NoExecute\"]",
            "cluster-cidr: \"10.1.0.0/16\"",
            "service-cidr: \"10.2.0.0/16\"",
            "flannel-backend: \"none\"",
            "disable-network-policy: true",
            "disable: [\"traefik\"]",
            "tls-san: [\"k8s.example.com\"]",
            "kubelet-arg: [\"volume-plugin-dir=/var/lib/kubelet/volumeplugins\",\"fail-swap-on=false\",\"max-pods=200\"]",
        ] {
            assert!(config.contains(line), "{line} is not in {config}");
        }
    }
}
