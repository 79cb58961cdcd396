//! The API without `osctl`: for calls that `osctl` would never make.

use anyhow::{Context as _, Result};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _};
use std::{fs, io, net::SocketAddr, path::Path, sync::Arc, time::Duration};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

/// A client certificate and its key.
pub struct Identity {
    /// The chain, the leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The leaf's key.
    pub key: PrivateKeyDer<'static>,
}

impl Identity {
    /// The certificate and key in a file of `osctl` that holds one context.
    pub fn of_context(file: &Path) -> Result<Identity> {
        let text = fs::read_to_string(file)?;
        let part = |name: &str| {
            text.split(&format!("\n    {name}: |"))
                .nth(1)
                .unwrap_or_default()
        };
        let unindented = |part: &str| part.replace("\n      ", "\n");
        let cert = unindented(part("cert"));
        let key = unindented(part("key"));
        let leaf = CertificateDer::from_pem_slice(cert.as_bytes())
            .with_context(|| format!("reading the certificate in {}", file.display()))?;
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .with_context(|| format!("reading the key in {}", file.display()))?;
        Ok(Identity {
            chain: vec![leaf],
            key,
        })
    }
}

/// Connects as this client, or as nobody. Whoever answers is believed: what the
/// node lets in is under test here, what `osctl` believes is tested with `osctl`.
pub async fn connect(address: SocketAddr, identity: Option<Identity>) -> Result<Channel> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)));
    let mut tls = match identity {
        Some(Identity { chain, key }) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![b"h2".to_vec()];
    let connector = TlsConnector::from(Arc::new(tls));
    let name = ServerName::try_from("keelson-node")?;
    let endpoint = Endpoint::from_static("http://node");
    let connecting = endpoint.connect_with_connector(tower::service_fn(move |_| {
        let (connector, name) = (connector.clone(), name.clone());
        async move {
            let stream = connector
                .connect(name, TcpStream::connect(address).await?)
                .await?;
            Ok::<_, io::Error>(TokioIo::new(stream))
        }
    }));
    timeout(Duration::from_secs(30), connecting)
        .await
        .context("connecting took more than 30 s")?
        .context("connecting")
}

/// Believes any certificate, but not that somebody else holds its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General(
            "TLS 1.2 is not spoken here".to_owned(),
        ))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
