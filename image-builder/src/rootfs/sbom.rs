//! The bill of materials: what the image is made of, as SPDX 2.3 JSON. Packages and versions in,
//! text out; the same image gives the same text.

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::arch::Arch;
use crate::packages::Package;

/// The orchestrator as the bill names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) sha256: String,
}

/// What the bill is about.
#[derive(Clone, Debug)]
pub(super) struct Bill<'a> {
    pub(super) version: &'a str,
    pub(super) build_time: u64,
    pub(super) arch: Arch,
    pub(super) release: &'a str,
    /// Debian packages of which something is in the image.
    pub(super) packages: &'a [Package],
    /// Our own programs: name and digest.
    pub(super) programs: &'a [Part],
    pub(super) orchestrator: Option<&'a Part>,
}

/// The text of the bill.
pub(super) fn text(bill: &Bill<'_>) -> anyhow::Result<String> {
    let created = i64::try_from(bill.build_time)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
        .format(&Rfc3339)?;
    let mut parts = vec![json!({
        "SPDXID": "SPDXRef-Image",
        "name": "keelson",
        "versionInfo": bill.version,
        "supplier": "Organization: Keelson",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "primaryPackagePurpose": "OPERATING-SYSTEM",
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
    })];
    let mut sorted: Vec<&Package> = bill.packages.iter().collect();
    sorted.sort_by(|a, b| a.name.cmp(&b.name));
    parts.extend(
        sorted
            .into_iter()
            .map(|package| debian(package, bill.release)),
    );
    parts.extend(bill.programs.iter().map(|part| own(part, "Apache-2.0")));
    parts.extend(bill.orchestrator.map(|part| own(part, "NOASSERTION")));
    let contains: Vec<Value> = parts[1..]
        .iter()
        .map(|part| {
            json!({
                "spdxElementId": "SPDXRef-Image",
                "relationshipType": "CONTAINS",
                "relatedSpdxElement": part["SPDXID"],
            })
        })
        .collect();
    let mut relationships = vec![json!({
        "spdxElementId": "SPDXRef-DOCUMENT",
        "relationshipType": "DESCRIBES",
        "relatedSpdxElement": "SPDXRef-Image",
    })];
    relationships.extend(contains);
    // The name of a document must be its own: the digest of what it says makes it so.
    let digest = crate::packages::bytes_sha256(serde_json::to_string(&parts)?.as_bytes());
    let document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": format!("keelson-{}-{}", bill.version, bill.arch.name()),
        "documentNamespace": format!(
            "https://keelson.dev/spdx/{}/{}/{digest}", bill.version, bill.arch.name()
        ),
        "creationInfo": {"created": created, "creators": ["Tool: keelson-image-builder"]},
        "packages": parts,
        "relationships": relationships,
    });
    Ok(serde_json::to_string_pretty(&document)? + "\n")
}

fn debian(package: &Package, release: &str) -> Value {
    let Package {
        name,
        version,
        architecture,
        sha256,
        ..
    } = package;
    json!({
        "SPDXID": format!("SPDXRef-Debian-{}", identifier(name)),
        "name": name,
        "versionInfo": version,
        "supplier": "Organization: Debian",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "checksums": [{"algorithm": "SHA256", "checksumValue": sha256}],
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": format!(
                "pkg:deb/debian/{}@{}?arch={architecture}&distro={release}",
                encoded(name),
                encoded(version)
            ),
        }],
    })
}

fn own(part: &Part, licence: &str) -> Value {
    json!({
        "SPDXID": format!("SPDXRef-Part-{}", identifier(&part.name)),
        "name": part.name,
        "versionInfo": part.version,
        "supplier": "NOASSERTION",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": false,
        "checksums": [{"algorithm": "SHA256", "checksumValue": part.sha256}],
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": licence,
        "copyrightText": "NOASSERTION",
    })
}

/// SPDX identifiers are letters, digits, `.` and `-`.
fn identifier(name: &str) -> String {
    name.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '.' {
                c
            } else {
                '-'
            }
        })
        .collect()
}

/// Percent encoding as package URLs want it.
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bill_of_a_small_image() {
        let packages = [Package {
            name: "conntrack".to_string(),
            version: "1:1.4.8-2+b1".to_string(),
            architecture: "amd64".to_string(),
            sha256: "ab".repeat(32),
            filename: "pool/main/c/conntrack.deb".to_string(),
            depends: String::new(),
        }];
        let part = |name: &str| Part {
            name: name.to_string(),
            version: "1.0".to_string(),
            sha256: "cd".repeat(32),
        };
        let orchestrator = part("k3s");
        let programs = [part("init")];
        let bill = Bill {
            version: "0.1.0",
            build_time: 1_760_000_000,
            arch: Arch::Amd64,
            release: "trixie",
            packages: &packages,
            programs: &programs,
            orchestrator: Some(&orchestrator),
        };
        insta::assert_snapshot!(text(&bill).expect("serialises"));
    }
}
