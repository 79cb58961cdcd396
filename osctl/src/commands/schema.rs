//! `osctl schema`.

use crate::{error::Result, output};
use clap::Args;

/// Write the JSON Schema of the machine config, for your editor
///
/// Editors with a YAML language server complete and check a config that begins with
///   # yaml-language-server: $schema=machine.schema.json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Schema {}

impl Schema {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        output::line(format!("{:#}", keelson_config::schema()))
    }
}
