//! The endpoints that an orchestrator answers on, and the certificates for them.

use crate::write_private;
use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair,
};
use rustls::{ServerConfig, ServerConnection, Stream};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

/// The nodes of its cluster, which has one.
const NODES: &str = r#"{"kind": "NodeList", "items": [{"metadata": {"name": "node-1"}}]}"#;

/// Certificates and keys, PEM but for the server's own.
pub(crate) struct Tls {
    /// The CA.
    pub ca: String,
    /// The administrator's certificate and key.
    pub admin: (String, String),
    server: (CertificateDer<'static>, Vec<u8>),
}

/// Makes a CA, the server's and the administrator's certificate, anew at each
/// start, and writes them where K3s does.
pub(crate) fn certificates(dir: &Path) -> Result<Tls> {
    let mut params = CertificateParams::new(Vec::new())?;
    params
        .distinguished_name
        .push(DnType::CommonName, "standin-server-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;

    let names = ["localhost", "kubernetes", "127.0.0.1"]
        .map(str::to_owned)
        .to_vec();
    let mut params = CertificateParams::new(names)?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let server_key = KeyPair::generate()?;
    let server = params.signed_by(&server_key, &ca)?;

    let mut params = CertificateParams::new(Vec::new())?;
    params
        .distinguished_name
        .push(DnType::CommonName, "system:admin");
    params
        .distinguished_name
        .push(DnType::OrganizationName, "system:masters");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let admin_key = KeyPair::generate()?;
    let admin = params.signed_by(&admin_key, &ca)?;

    let tls = Tls {
        ca: ca.pem(),
        admin: (admin.pem(), admin_key.serialize_pem()),
        server: (server.der().clone(), server_key.serialize_der()),
    };
    write_private(&dir.join("server-ca.crt"), &tls.ca)?;
    write_private(&dir.join("client-admin.crt"), &tls.admin.0)?;
    write_private(&dir.join("client-admin.key"), &tls.admin.1)?;
    Ok(tls)
}

/// A kubeconfig in K3s's shape. Its values are PEM in place of base64: nobody
/// connects with it.
pub(crate) fn kubeconfig(tls: &Tls) -> String {
    let pem = |text: &str| {
        text.lines()
            .map(|line| format!("      {line}\n"))
            .collect::<String>()
    };
    format!(
        "apiVersion: v1\nkind: Config\nclusters:\n- name: default\n  cluster:\n    server: https://127.0.0.1:6443\n    \
         certificate-authority-data: |\n{}contexts:\n- name: default\n  context:\n    cluster: default\n    user: default\n\
         current-context: default\nusers:\n- name: default\n  user:\n    client-certificate-data: |\n{}    client-key-data: |\n{}",
        pem(&tls.ca),
        pem(&tls.admin.0),
        pem(&tls.admin.1),
    )
}

/// The control plane's endpoints, on 6443 over TLS.
pub(crate) fn control_plane(tls: Tls) -> Result<()> {
    let (certificate, key) = tls.server;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate],
            PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key)),
        )?;
    let config = Arc::new(config);
    let ca = Arc::new(tls.ca);
    accept("0.0.0.0:6443", move |mut stream| {
        let mut connection = ServerConnection::new(config.clone())?;
        let mut stream = Stream::new(&mut connection, &mut stream);
        answer(&mut stream, |path| match path {
            "/ping" => Some("pong".to_owned()),
            "/cacerts" => Some(ca.to_string()),
            "/readyz" | "/livez" => Some("ok".to_owned()),
            _ if path.starts_with("/api/v1/nodes?") => Some(NODES.to_owned()),
            _ => None,
        })?;
        stream.conn.send_close_notify();
        stream.flush()?;
        Ok(())
    })
}

/// The kubelet's health endpoint.
pub(crate) fn kubelet() -> Result<()> {
    accept("127.0.0.1:10248", |mut stream| {
        answer(&mut stream, |path| {
            (path == "/healthz").then(|| "ok".to_owned())
        })
    })
}

/// Answers each connection in a thread of its own.
fn accept(
    address: &'static str,
    answer: impl Fn(TcpStream) -> Result<()> + Send + Sync + 'static,
) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("listening on {address}"))?;
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answer.clone();
            thread::spawn(move || {
                let answered = stream
                    .set_read_timeout(Some(Duration::from_secs(5)))
                    .map_err(Into::into)
                    .and_then(|()| answer(stream));
                if let Err(error) = answered {
                    // Both go to one log, and standard error would be written in pieces, with
                    // what others say between them.
                    println!("standin: {address}: {error:#}");
                }
            });
        }
    });
    Ok(())
}

/// Reads one HTTP/1.1 request and answers it.
fn answer(stream: &mut (impl Read + Write), body: impl Fn(&str) -> Option<String>) -> Result<()> {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && request.len() < 8192 {
        if stream.read(&mut byte)? == 0 {
            return Ok(());
        }
        request.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&request);
    let path = text.split_ascii_whitespace().nth(1).unwrap_or("/");
    let (status, body) = body(path).map_or(("404 Not Found", "not found".to_owned()), |body| {
        ("200 OK", body)
    });
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )?;
    stream.flush()?;
    Ok(())
}
