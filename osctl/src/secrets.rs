//! The secrets of a cluster: one file, from which every machine's config and every
//! client certificate is made. Who has it owns the cluster.

use crate::{
    certs::{self, Pair},
    error::{Error, Result},
    file, yaml,
};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Deserializer};
use std::{fmt, path::Path};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use zeroize::Zeroizing;

/// The version of the file that is written, and the only one that is read.
const FORMAT_VERSION: u32 = 1;

/// The secrets of a cluster. `Debug` shows none of them.
pub(crate) struct Secrets {
    /// 32 hexadecimal digits that tell this cluster from every other.
    pub(crate) cluster_id: String,
    /// When they were made.
    pub(crate) created: OffsetDateTime,
    /// The CA of everyone who may call a machine.
    pub(crate) root: Pair,
    /// Makes the machines' server certificates.
    pub(crate) server_issuer: Pair,
    /// Joins servers to the cluster.
    pub(crate) token: Zeroizing<String>,
    /// Joins agents to the cluster.
    pub(crate) agent_token: Zeroizing<String>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets {{ cluster_id: {:?}, *** }}", self.cluster_id)
    }
}

/// The file as written. Texts that are secret are cleared when it is dropped.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    format_version: u32,
    cluster: Cluster,
    ca: KeyedCert,
    server_issuer: KeyedCert,
    orchestrator: Tokens,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cluster {
    id: String,
    created: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyedCert {
    cert: String,
    #[serde(deserialize_with = "secret")]
    key: Zeroizing<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Tokens {
    #[serde(deserialize_with = "secret")]
    token: Zeroizing<String>,
    #[serde(deserialize_with = "secret")]
    agent_token: Zeroizing<String>,
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(deserializer).map(Zeroizing::new)
}

impl Secrets {
    /// Makes new ones.
    pub(crate) fn generate(now: OffsetDateTime) -> Result<Secrets> {
        let random = SystemRandom::new();
        let cluster_id = random_hex(&random, 16)?.to_string();
        // What is written has whole seconds, and so has what is read.
        let now = now.replace_nanosecond(0).unwrap_or(now);
        let root = certs::root_ca(&cluster_id, now)?;
        let server_issuer = certs::server_issuer(&root, &cluster_id, now)?;
        Ok(Secrets {
            token: random_hex(&random, 32)?,
            agent_token: random_hex(&random, 32)?,
            cluster_id,
            created: now,
            root,
            server_issuer,
        })
    }

    /// Reads the file.
    pub(crate) fn read(path: &Path) -> Result<Secrets> {
        let text = Zeroizing::new(file::read_text(path, 1 << 20)?);
        Secrets::parse(path, &text)
            .map_err(|error| error.hint("`osctl gen secrets` makes such a file"))
    }

    /// Reads the file's text; `path` is only used in messages.
    fn parse(path: &Path, text: &str) -> Result<Secrets> {
        let document: Document = yaml::parse(path, text)?;
        let invalid = |what: &str| {
            Error::input(format!("{} is not a secrets file", path.display())).cause(what)
        };
        if document.format_version != FORMAT_VERSION {
            return Err(invalid(&format!(
                "its formatVersion is {}, and this osctl knows {FORMAT_VERSION}",
                document.format_version
            )));
        }
        for (name, pair) in [
            ("ca", &document.ca),
            ("serverIssuer", &document.server_issuer),
        ] {
            if !certs::belongs(&pair.cert, &pair.key) {
                return Err(invalid(&format!(
                    "in {name}, cert and key do not belong together"
                )));
            }
        }
        Ok(Secrets {
            cluster_id: document.cluster.id,
            created: OffsetDateTime::parse(&document.cluster.created, &Rfc3339).map_err(|_| {
                invalid("cluster.created is not a time such as 2026-01-31T12:00:00Z")
            })?,
            root: document.ca.into(),
            server_issuer: document.server_issuer.into(),
            token: document.orchestrator.token,
            agent_token: document.orchestrator.agent_token,
        })
    }

    /// The file's text.
    pub(crate) fn to_text(&self) -> Result<Zeroizing<String>> {
        let created = self
            .created
            .format(&Rfc3339)
            .map_err(|error| Error::failed("cannot write the time").cause(error))?;
        let block = |pem: &str| {
            Zeroizing::new(
                pem.lines()
                    .map(|line| format!("    {line}\n"))
                    .collect::<String>(),
            )
        };
        Ok(Zeroizing::new(format!(
            "\
# The secrets of one cluster, made by `osctl gen secrets`.
# Whoever has this file owns the cluster: keep it as you keep a private key, and
# keep a copy, for nothing can make it again.
formatVersion: {FORMAT_VERSION}
cluster:
  id: \"{id}\"
  created: \"{created}\"
# The root of trust: it signs the certificates of everyone who may call a machine.
# Its key never leaves this file.
ca:
  cert: |
{ca_cert}  key: |
{ca_key}# Signs the machines' own server certificates, and cannot sign any other. Every
# machine's config holds it.
serverIssuer:
  cert: |
{issuer_cert}  key: |
{issuer_key}# What joins machines to the orchestrator's cluster: servers with the first,
# agents with the second.
orchestrator:
  token: \"{token}\"
  agentToken: \"{agent_token}\"
",
            id = self.cluster_id,
            ca_cert = *block(&self.root.cert),
            ca_key = *block(&self.root.key),
            issuer_cert = *block(&self.server_issuer.cert),
            issuer_key = *block(&self.server_issuer.key),
            token = *self.token,
            agent_token = *self.agent_token,
        )))
    }
}

impl From<KeyedCert> for Pair {
    fn from(document: KeyedCert) -> Pair {
        Pair {
            cert: document.cert,
            key: document.key,
        }
    }
}

fn random_hex(random: &SystemRandom, bytes: usize) -> Result<Zeroizing<String>> {
    let mut buffer = Zeroizing::new(vec![0; bytes]);
    random
        .fill(&mut buffer)
        .map_err(|_| Error::failed("this system gives no random numbers"))?;
    Ok(Zeroizing::new(
        buffer.iter().map(|byte| format!("{byte:02x}")).collect(),
    ))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Secrets for other modules' tests.
    pub(crate) fn sample() -> Secrets {
        Secrets::generate(OffsetDateTime::now_utc()).unwrap()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let made = sample();
        let text = made.to_text().unwrap();
        let read = Secrets::parse(Path::new("secrets.yaml"), &text).unwrap();
        assert_eq!(*read.to_text().unwrap(), *text);
        assert_eq!(read.cluster_id.len(), 32);
        assert_ne!(*made.token, *made.agent_token);
    }

    #[test]
    fn debug_shows_no_secret() {
        let secrets = sample();
        let shown = format!("{secrets:?}");
        assert!(
            shown.contains("***") && !shown.contains("PRIVATE") && !shown.contains(&*secrets.token)
        );
    }

    #[test]
    fn a_mixed_up_file_is_refused_without_showing_it() {
        let text = sample().to_text().unwrap().to_string();
        let other = sample().to_text().unwrap().to_string();
        let key = |text: &str| text[text.find("-----BEGIN PRIVATE").unwrap()..][..200].to_owned();
        let cases = [
            (
                "another version",
                text.replace("formatVersion: 1", "formatVersion: 2"),
            ),
            (
                "the key of another",
                text.replacen(&key(&text), &key(&other), 1),
            ),
            ("an unknown key", format!("{text}more: {}\n", "s3cret")),
            ("not YAML", "{{{{ s3cret".to_owned()),
        ];
        for (rule, text) in cases {
            let error = Secrets::parse(Path::new("secrets.yaml"), &text).unwrap_err();
            assert_eq!(error.kind(), crate::error::Kind::Input, "{rule}");
            assert!(
                !error.render(false).contains("s3cret"),
                "{rule}: {}",
                error.render(false)
            );
        }
    }
}
