//! Generates `api/src/gen/` and `docs/api.md` from the `.proto` files and
//! `docs/reference/` from the config's model, or tells whether they are stale.
//! No protoc is needed: protox compiles the files in this process.

use crate::reference;
use anyhow::{Context, Result, bail};
use prost::Message as _;
use std::{collections::BTreeMap, fs, path::Path};

const PROTOS: [&str; 5] = [
    "keelson/v1/machine.proto",
    "keelson/v1/resource.proto",
    "keelson/v1/upgrade.proto",
    "keelson/init/v1/init.proto",
    "keelson/internal/v1/apid.proto",
];

/// The contracts of others that our programs speak: in neither our API's descriptors
/// nor its reference.
const FOREIGN: [&str; 1] = ["runtime/v1/runtime.proto"];

/// Writes the generated files, or with `check` only compares them.
pub(crate) fn run(root: &Path, check: bool) -> Result<()> {
    let wanted = generate(root)?;
    if check {
        let stale: Vec<_> = wanted
            .iter()
            .filter(|(path, bytes)| fs::read(root.join(path)).ok().as_ref() != Some(bytes))
            .map(|(path, _)| path.clone())
            .collect();
        if !stale.is_empty() {
            bail!("{} stale: run `cargo xtask gen`", stale.join(", "));
        }
        return Ok(());
    }
    fs::create_dir_all(root.join(GEN))?;
    fs::create_dir_all(root.join(REFERENCE))?;
    for (path, bytes) in wanted {
        fs::write(root.join(&path), bytes).with_context(|| format!("writing {path}"))?;
    }
    Ok(())
}

/// Where the generated sources go.
const GEN: &str = "api/src/gen";

/// Where the reference of the config goes.
const REFERENCE: &str = "docs/reference";

/// The generated files by path: Rust sources, the descriptor set, the references.
fn generate(root: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let protos = root.join("api/proto");
    let set = protox::compile(PROTOS, [&protos]).context("compiling the .proto files")?;
    let foreign = protox::compile(FOREIGN, [&protos]).context("compiling the .proto files")?;
    let out = tempfile::tempdir()?;
    for set in [set.clone(), foreign] {
        tonic_prost_build::configure()
            .btree_map(".")
            .client_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
            .server_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
            .out_dir(out.path())
            .compile_fds(set)
            .context("generating Rust from the .proto files")?;
    }
    let mut files = BTreeMap::from([
        (format!("{GEN}/keelson.bin"), set.encode_to_vec()),
        (
            "docs/api.md".to_owned(),
            reference::write(&set).into_bytes(),
        ),
        (
            format!("{REFERENCE}/config.md"),
            keelson_config::reference().into_bytes(),
        ),
        (
            format!("{REFERENCE}/machine.schema.json"),
            format!("{:#}\n", keelson_config::schema()).into_bytes(),
        ),
    ]);
    for entry in fs::read_dir(out.path())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("keelson.") || name.starts_with("runtime.") {
            files.insert(format!("{GEN}/{name}"), fs::read(entry.path())?);
        }
    }
    Ok(files)
}
