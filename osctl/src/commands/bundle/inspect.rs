//! `osctl bundle inspect`.

use crate::{
    error::{Error, Result},
    output::{self, FormatArg},
};
use clap::Args;
use keelson_disk::{
    bundle::{Head, Manifest},
    verity::hex,
};
use serde_json::{Value, json};
use std::path::PathBuf;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// Show what a bundle says of itself
///
/// Only its head is read, and nothing is proved: `osctl bundle verify` does that.
#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// The bundle; `-` is stdin
    #[arg(value_name = "FILE")]
    file: PathBuf,

    #[command(flatten)]
    format: FormatArg,
}

impl Inspect {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        let mut source = super::open(&self.file)?;
        let refused = |error| super::refused(&self.file, &error);
        let head = Head::read(&mut source).map_err(refused)?;
        let manifest = head.manifest().map_err(refused)?;
        let signers: Vec<String> = head.signers().iter().map(ToString::to_string).collect();
        // The manifest as it is: a newer builder may have said more than is known here.
        let whole: Value = serde_json::from_slice(head.manifest_bytes())
            .map_err(|error| Error::input("cannot read the manifest").cause(error))?;
        let data = json!({ "manifest": whole, "signedBy": signers });
        output::data(self.format.format, &data, || {
            let rows = rows(&manifest, &signers);
            let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
            rows.iter()
                .map(|(name, value)| format!("{name:width$}   {value}\n"))
                .collect()
        })
    }
}

fn rows(manifest: &Manifest, signers: &[String]) -> Vec<(&'static str, String)> {
    let (uki, image) = (&manifest.uki, &manifest.image);
    let orchestrator = manifest.orchestrator.as_ref();
    vec![
        ("version", manifest.version.to_string()),
        ("architecture", manifest.arch.clone()),
        ("variant", manifest.variant.clone()),
        (
            "orchestrator",
            orchestrator.map_or("none".to_owned(), |it| {
                format!("{} {}", it.name, it.version)
            }),
        ),
        ("security floor", manifest.security_floor.to_string()),
        ("built", time(manifest.build_time)),
        ("root hash", hex(&manifest.root.root_hash)),
        (
            "root image",
            format!("{} bytes, {} unpacked", image.bytes, image.unpacked_bytes),
        ),
        ("UKI", format!("{} bytes", uki.bytes)),
        (
            "signed by",
            match signers {
                [] => "nobody".to_owned(),
                signers => format!("{} (not checked)", signers.join(", ")),
            },
        ),
    ]
}

/// A time as text; one beyond all calendars as its number.
fn time(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| seconds.to_string())
}
