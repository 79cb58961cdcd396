//! Who this machine is: its id, its keys and its certificates, kept in STATE. No
//! private key leaves this file but in [`Credentials`], for apid.
//!
//! ```text
//! identity/machine-id       32 hexadecimal digits, random, made once
//! identity/maintenance.pem  key and self-signed certificate, made once
//! identity/node.pem         key, the leaf from the config's issuer, the issuer
//! ```

use crate::store::{digest, make_private, write_durable};
use keelson_config::Api;
use rcgen::{
    CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ED25519, SanType, SerialNumber,
};
use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _};
use std::{
    collections::BTreeSet,
    fmt, fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use x509_parser::{extensions::GeneralName, prelude::FromDer as _};
use zeroize::Zeroizing;

/// The name that every node's certificate carries, for callers that reach it by
/// another name than its own.
const NODE_NAME: &str = "keelson-node";

/// How long a leaf is valid.
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// How far the clock of a caller may be behind.
const SKEW: Duration = Duration::from_secs(86_400);

/// The moment to make certificates at: the clock's, but never before the image was
/// built, as with a clock that was never set, nor in a year that no certificate can say.
pub(crate) fn sane(clock: SystemTime, build_time: u64) -> SystemTime {
    const YEAR_9000: Duration = Duration::from_secs(221_845_392_000);
    let built = SystemTime::UNIX_EPOCH + Duration::from_secs(build_time).min(YEAR_9000);
    clock.clamp(built, SystemTime::UNIX_EPOCH + YEAR_9000)
}

/// What apid serves with.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// The certificate chain, the leaf first, each DER.
    pub chain: Vec<Vec<u8>>,
    /// The leaf's private key, PKCS#8 DER.
    pub key: Zeroizing<Vec<u8>>,
    /// The CA that client certificates chain to, DER; `None` in maintenance.
    pub client_ca: Option<Vec<u8>>,
}

impl Credentials {
    /// The SHA-256 of the leaf's DER: lower-case hex in pairs with colons.
    pub(crate) fn fingerprint(&self) -> String {
        let hex = digest(self.chain.first().map(Vec::as_slice).unwrap_or_default());
        let mut pairs = String::with_capacity(95);
        for (index, digit) in hex.chars().enumerate() {
            if index > 0 && index % 2 == 0 {
                pairs.push(':');
            }
            pairs.push(digit);
        }
        pairs
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}

/// Why a certificate cannot be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    /// The config's CA or issuer cannot be used.
    #[error("machine.api.{what} cannot be used")]
    Config {
        /// The key of the config.
        what: &'static str,
        /// Why not.
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Making a key or a certificate failed.
    #[error("making a certificate")]
    Make(#[from] rcgen::Error),
    /// The kernel gave no random bytes.
    #[error("reading random bytes")]
    Random(#[from] io::Error),
}

/// How the names in a kept certificate must fit the machine's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// Each name of the machine is in it: while the machine comes up and does not have
    /// its addresses back yet.
    Covering,
    /// And no other.
    Exact,
}

/// What the node's certificate says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    dns: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
}

impl Names {
    /// The names every certificate of this machine carries.
    pub(crate) fn new(machine_id: &str) -> Self {
        let mut names = Names::default();
        for name in [machine_id, NODE_NAME, "localhost"] {
            names.add(name);
        }
        names.addresses.extend([
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ]);
        names
    }

    /// Adds a name or an address. What no certificate can carry is left out.
    pub(crate) fn add(&mut self, name: &str) {
        if let Ok(address) = name.parse() {
            self.addresses.insert(address);
        } else if !name.is_empty()
            && name.len() <= 253
            && name.bytes().all(|b| b.is_ascii_graphic())
        {
            self.dns.insert(name.to_owned());
        }
    }

    fn covers(&self, other: &Names) -> bool {
        self.dns.is_superset(&other.dns) && self.addresses.is_superset(&other.addresses)
    }

    fn sans(&self) -> Result<Vec<SanType>, rcgen::Error> {
        let dns = self
            .dns
            .iter()
            .map(|name| Ok(SanType::DnsName(name.as_str().try_into()?)));
        dns.chain(
            self.addresses
                .iter()
                .map(|address| Ok(SanType::IpAddress(*address))),
        )
        .collect()
    }
}

/// A key with its certificates, as one file holds it.
struct Keyed {
    key: KeyPair,
    chain: Vec<CertificateDer<'static>>,
}

/// Who this machine is.
pub(crate) struct Identity {
    /// Where it is kept; `None` keeps it only as long as machined lives.
    dir: Option<PathBuf>,
    machine_id: String,
    maintenance: Keyed,
    node: Keyed,
}

impl Identity {
    /// Reads what is kept in the folder and makes what is missing or damaged.
    pub(crate) fn load(dir: Option<PathBuf>, now: SystemTime) -> anyhow::Result<Self> {
        if let Some(dir) = &dir {
            make_private(dir)?;
        }
        let machine_id = match read(dir.as_deref(), "machine-id", |text| valid_id(text.trim())) {
            Some(id) => id,
            None => {
                let id = random_id()?;
                save(dir.as_deref(), "machine-id", format!("{id}\n").as_bytes())?;
                id
            }
        };
        let maintenance = match read(dir.as_deref(), "maintenance.pem", parse)
            .filter(|keyed| keyed.chain.len() == 1)
        {
            Some(keyed) => keyed,
            None => {
                let keyed = self_signed(&machine_id, now)?;
                save(dir.as_deref(), "maintenance.pem", write(&keyed).as_bytes())?;
                keyed
            }
        };
        let node = match read(dir.as_deref(), "node.pem", parse) {
            Some(keyed) => keyed,
            None => Keyed {
                key: KeyPair::generate_for(&PKCS_ED25519)?,
                chain: Vec::new(),
            },
        };
        Ok(Identity {
            dir,
            machine_id,
            maintenance,
            node,
        })
    }

    /// The machine's stable id: 32 hexadecimal digits.
    pub(crate) fn machine_id(&self) -> &str {
        &self.machine_id
    }

    /// What apid serves with until there is a config.
    pub(crate) fn maintenance(&self) -> Credentials {
        credentials(&self.maintenance, None)
    }

    /// What apid serves with under a config: the kept leaf as long as it is good, else
    /// a new one, with the reason why it was made.
    pub(crate) fn serving(
        &mut self,
        api: &Api,
        names: &Names,
        fit: Fit,
        now: SystemTime,
    ) -> Result<(Credentials, Option<&'static str>), IdentityError> {
        let bad = |what| {
            move |cause: rustls_pki_types::pem::Error| IdentityError::Config {
                what,
                cause: Box::new(cause),
            }
        };
        let client_ca = CertificateDer::from_pem_slice(api.ca.as_bytes()).map_err(bad("ca"))?;
        let issuer_cert = CertificateDer::from_pem_slice(api.issuer.cert.as_bytes())
            .map_err(bad("issuer.cert"))?;
        let reason = self.stale(&issuer_cert, names, fit, now);
        if reason.is_some() {
            let leaf = sign(api, &issuer_cert, names, now, &self.node.key)?;
            self.node.chain = vec![leaf, issuer_cert];
            // A leaf that cannot be kept still serves: the next machined makes another.
            if let Err(error) = save(
                self.dir.as_deref(),
                "node.pem",
                write(&self.node).as_bytes(),
            ) {
                tracing::warn!("keeping the node's certificate: {error}");
            }
        }
        Ok((credentials(&self.node, Some(client_ca.to_vec())), reason))
    }

    /// Why the kept leaf cannot serve; `None` if it can.
    fn stale(
        &self,
        issuer: &CertificateDer<'_>,
        names: &Names,
        fit: Fit,
        now: SystemTime,
    ) -> Option<&'static str> {
        let [leaf, by] = self.node.chain.as_slice() else {
            return Some("there was none");
        };
        if by != issuer {
            return Some("the issuer changed");
        }
        let Some(leaf) = Leaf::read(leaf) else {
            return Some("the kept one was damaged");
        };
        leaf.stale(names, fit, self.node.key.public_key_raw(), now)
    }
}

/// Whether callers that trust the config's CA will trust what its issuer issues: a
/// config where this fails would lock everybody out. Clocks do not matter.
pub(crate) fn check(api: &Api) -> Result<(), IdentityError> {
    let wrong = |what| move |cause| IdentityError::Config { what, cause };
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(api.ca.as_bytes()) {
        let ca = ca.map_err(|cause| wrong("ca")(cause.into()))?;
        roots.add(ca).map_err(|cause| wrong("ca")(cause.into()))?;
    }
    let issuer = CertificateDer::from_pem_slice(api.issuer.cert.as_bytes())
        .map_err(|cause| wrong("issuer.cert")(cause.into()))?;
    let moment = x509_parser::certificate::X509Certificate::from_der(&issuer)
        .map_err(|cause| wrong("issuer.cert")(cause.to_string().into()))
        .map(|(_, certificate)| {
            certificate
                .validity()
                .not_before
                .timestamp()
                .saturating_add(60)
        })?;
    // A certificate for a moment in which the issuer was valid.
    let moment = sane(SystemTime::UNIX_EPOCH, u64::try_from(moment).unwrap_or(0));
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let leaf = sign(api, &issuer, &Names::new("check"), moment, &key)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|cause| wrong("ca")(cause.into()))?;
    let name =
        ServerName::try_from(NODE_NAME).map_err(|cause| wrong("issuer.cert")(cause.into()))?;
    let at = moment
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    verifier
        .verify_server_cert(&leaf, &[issuer], &name, &[], UnixTime::since_unix_epoch(at))
        .map(drop)
        .map_err(|cause| {
            wrong("issuer.cert")(format!("the CA does not trust what it issues: {cause}").into())
        })
}

/// Has the config's issuer sign a leaf.
fn sign(
    api: &Api,
    issuer: &CertificateDer<'_>,
    names: &Names,
    now: SystemTime,
    key: &KeyPair,
) -> Result<CertificateDer<'static>, IdentityError> {
    let wrong = |what| {
        move |cause: rcgen::Error| IdentityError::Config {
            what,
            cause: Box::new(cause),
        }
    };
    let issuer_key = KeyPair::from_pem(api.issuer.key.reveal()).map_err(wrong("issuer.key"))?;
    let issuer = Issuer::from_ca_cert_der(issuer, issuer_key).map_err(wrong("issuer.cert"))?;
    Ok(leaf_params(names, now)?
        .signed_by(key, &issuer)?
        .der()
        .clone())
}

/// What counts of a leaf.
#[derive(Debug, PartialEq)]
struct Leaf {
    names: Names,
    public_key: Vec<u8>,
    from: SystemTime,
    to: SystemTime,
}

impl Leaf {
    fn read(der: &[u8]) -> Option<Self> {
        let (_, certificate) = x509_parser::certificate::X509Certificate::from_der(der).ok()?;
        let mut names = Names::default();
        for name in &certificate
            .subject_alternative_name()
            .ok()??
            .value
            .general_names
        {
            match name {
                GeneralName::DNSName(name) => drop(names.dns.insert((*name).to_owned())),
                GeneralName::IPAddress(bytes) => drop(names.addresses.insert(address(bytes)?)),
                _ => return None,
            }
        }
        let moment = |time: x509_parser::time::ASN1Time| {
            SystemTime::UNIX_EPOCH
                .checked_add(Duration::from_secs(u64::try_from(time.timestamp()).ok()?))
        };
        let validity = certificate.validity();
        Some(Leaf {
            names,
            public_key: certificate.public_key().subject_public_key.data.to_vec(),
            from: moment(validity.not_before)?,
            to: moment(validity.not_after)?,
        })
    }

    fn stale(
        &self,
        names: &Names,
        fit: Fit,
        public_key: &[u8],
        now: SystemTime,
    ) -> Option<&'static str> {
        let named = match fit {
            Fit::Exact => self.names == *names,
            Fit::Covering => self.names.covers(names),
        };
        let life = self.to.duration_since(self.from).unwrap_or_default();
        if self.public_key != public_key {
            Some("the kept one is for another key")
        } else if !named {
            Some("the machine's names or addresses changed")
        } else if now < self.from {
            Some("the clock was set back")
        } else if now >= self.from + life * 2 / 3 {
            Some("two thirds of its life are over")
        } else {
            None
        }
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

/// What the node's leaf says. A caller's clock may be a day behind.
fn leaf_params(names: &Names, now: SystemTime) -> Result<CertificateParams, IdentityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, NODE_NAME);
    params.subject_alt_names = names.sans()?;
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.serial_number = Some(SerialNumber::from_slice(&random::<16>()?));
    params.not_before = (now - SKEW).into();
    params.not_after = (now + YEAR).into();
    Ok(params)
}

/// The certificate for maintenance mode: callers pin it, so it stays for good.
fn self_signed(machine_id: &str, now: SystemTime) -> Result<Keyed, IdentityError> {
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let mut params = leaf_params(&Names::new(machine_id), now)?;
    params.use_authority_key_identifier_extension = false;
    params.not_after = (now + YEAR * 100).into();
    let certificate = params.self_signed(&key)?;
    Ok(Keyed {
        chain: vec![certificate.der().clone()],
        key,
    })
}

fn credentials(keyed: &Keyed, client_ca: Option<Vec<u8>>) -> Credentials {
    Credentials {
        chain: keyed.chain.iter().map(|der| der.to_vec()).collect(),
        key: Zeroizing::new(keyed.key.serialize_der()),
        client_ca,
    }
}

fn write(keyed: &Keyed) -> Zeroizing<String> {
    let mut text = Zeroizing::new(keyed.key.serialize_pem());
    for certificate in &keyed.chain {
        text.push_str(&pem(certificate));
    }
    text
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in STANDARD.encode(certificate).as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str("-----END CERTIFICATE-----\n");
    text
}

fn parse(text: &str) -> Option<Keyed> {
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).ok()?;
    let key = KeyPair::try_from(&key).ok()?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    Some(Keyed {
        key,
        chain: chain.ok()?,
    })
}

/// A file of the folder; `None` if it is not there or makes no sense.
fn read<T>(dir: Option<&Path>, name: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
    let path = dir?.join(name);
    match fs::read_to_string(&path).map(Zeroizing::new) {
        Ok(text) => {
            let parsed = parse(&text);
            if parsed.is_none() {
                tracing::warn!("{} is damaged: it is made anew", path.display());
            }
            parsed
        }
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!("reading {}: {error}", path.display());
            }
            None
        }
    }
}

fn save(dir: Option<&Path>, name: &str, bytes: &[u8]) -> io::Result<()> {
    dir.map_or(Ok(()), |dir| write_durable(&dir.join(name), bytes))
}

fn valid_id(text: &str) -> Option<String> {
    let valid = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    valid.then(|| text.to_owned())
}

fn random_id() -> Result<String, io::Error> {
    Ok(random::<16>()?
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

/// Random bytes from the kernel.
fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        filled +=
            rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(bytes)
}

#[cfg(test)]
pub(crate) mod tests;
