//! How this node reaches the API server: a server as the cluster's administrator, an
//! agent as its own kubelet, with nothing but what the orchestrator keeps on disk.

use super::client::{Client, PATIENCE};
use anyhow::{Context as _, Result, bail};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

/// The port of the API server of this machine.
const PORT: u16 = 6443;

/// What this node is in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// It runs an API server.
    Server,
    /// It asks one elsewhere.
    Agent,
}

/// Who asks, as files.
struct Credentials {
    address: SocketAddr,
    ca: PathBuf,
    cert: PathBuf,
    key: PathBuf,
}

/// A client with this node's own credentials.
pub(crate) fn client(data_dir: &Path, role: Role) -> Result<Client> {
    let credentials = match role {
        Role::Server => admin(data_dir),
        Role::Agent => kubelet(&data_dir.join("agent/kubelet.kubeconfig"))?,
    };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&credentials.ca)? {
        roots.add(certificate)?;
    }
    let key = PrivateKeyDer::from_pem_file(&credentials.key)
        .with_context(|| format!("reading {}", credentials.key.display()))?;
    let tls = builder(roots)?.with_client_auth_cert(certificates(&credentials.cert)?, key)?;
    Ok(Client {
        address: credentials.address,
        tls: Arc::new(tls),
        patience: PATIENCE,
    })
}

/// A client that trusts the server's CA and is nobody.
pub(crate) fn anonymous(data_dir: &Path) -> Result<Client> {
    let admin = admin(data_dir);
    let mut roots = RootCertStore::empty();
    for certificate in certificates(&admin.ca)? {
        roots.add(certificate)?;
    }
    Ok(Client {
        address: admin.address,
        tls: Arc::new(builder(roots)?.with_no_client_auth()),
        patience: PATIENCE,
    })
}

fn builder(
    roots: RootCertStore,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots))
}

fn admin(data_dir: &Path) -> Credentials {
    let tls = data_dir.join("server/tls");
    Credentials {
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)),
        ca: tls.join("server-ca.crt"),
        cert: tls.join("client-admin.crt"),
        key: tls.join("client-admin.key"),
    }
}

fn kubelet(kubeconfig: &Path) -> Result<Credentials> {
    let text = fs::read_to_string(kubeconfig)
        .with_context(|| format!("reading {}", kubeconfig.display()))?;
    parse(&text).with_context(|| format!("in {}", kubeconfig.display()))
}

/// Reads a kubeconfig of one cluster and one user, which is what an orchestrator writes
/// for its kubelet: each key stands there once, on a line of its own.
fn parse(text: &str) -> Result<Credentials> {
    let value = |key: &str| {
        let mut values = text.lines().filter_map(|line| {
            let line = line.trim_start_matches([' ', '-']);
            Some(line.strip_prefix(key)?.strip_prefix(':')?.trim())
        });
        match (values.next(), values.next()) {
            (Some(value), None) => Ok(value.trim_matches(['"', '\''])),
            (None, _) => bail!("there is no {key}"),
            (Some(_), Some(_)) => bail!("there is more than one {key}"),
        }
    };
    let server = value("server")?;
    let authority = server
        .strip_prefix("https://")
        .and_then(|rest| rest.split('/').next())
        .with_context(|| format!("{server} is not an https URL"))?;
    let address = authority
        .parse()
        .or_else(|_| {
            let host = authority.trim_start_matches('[').trim_end_matches(']');
            host.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 443))
        })
        .with_context(|| format!("{server} names no address"))?;
    Ok(Credentials {
        address,
        ca: value("certificate-authority")?.into(),
        cert: value("client-certificate")?.into(),
        key: value("client-key")?.into(),
    })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let reading = || format!("reading {}", path.display());
    CertificateDer::pem_file_iter(path)
        .with_context(reading)?
        .collect::<Result<_, _>>()
        .with_context(reading)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBECONFIG: &str = "apiVersion: v1
clusters:
- cluster:
    server: https://127.0.0.1:6444
    certificate-authority: /var/lib/rancher/k3s/agent/server-ca.crt
  name: local
contexts:
- context:
    cluster: local
    namespace: default
    user: user
  name: Default
current-context: Default
kind: Config
preferences: {}
users:
- name: user
  user:
    client-certificate: /var/lib/rancher/k3s/agent/client-kubelet.crt
    client-key: /var/lib/rancher/k3s/agent/client-kubelet.key
";

    #[test]
    fn a_kubeconfig_as_an_agent_writes_it() {
        let read = parse(KUBECONFIG).unwrap();
        assert_eq!(read.address.to_string(), "127.0.0.1:6444");
        assert_eq!(
            read.key,
            Path::new("/var/lib/rancher/k3s/agent/client-kubelet.key")
        );
    }

    #[test]
    fn servers() {
        let cases = [
            ("https://10.0.0.1:6443", Some("10.0.0.1:6443")),
            ("\"https://[fd00::1]:6443\"", Some("[fd00::1]:6443")),
            ("https://10.0.0.1/", Some("10.0.0.1:443")),
            ("https://[fd00::1]", Some("[fd00::1]:443")),
            ("http://10.0.0.1", None),
            ("https://k8s.example.com", None),
        ];
        for (server, wanted) in cases {
            let text = KUBECONFIG.replace("https://127.0.0.1:6444", server);
            let read = parse(&text).ok().map(|read| read.address.to_string());
            assert_eq!(read.as_deref(), wanted, "{server}");
        }
    }

    #[test]
    fn what_is_ambiguous_or_missing_is_refused() {
        let twice = format!("{KUBECONFIG}    server: https://10.0.0.1\n");
        assert!(parse(&twice).is_err());
        assert!(parse(&KUBECONFIG.replace("client-key", "other")).is_err());
    }
}
