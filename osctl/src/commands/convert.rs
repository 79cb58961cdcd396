//! `osctl convert`.

use crate::{
    check,
    convert::{self, Converted},
    draft,
    error::{Error, Result},
    file::{self, Existing},
    machine_config, output,
    secrets::Secrets,
    yaml,
};
use clap::{Args, ValueEnum};
use keelson_config::Draft;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Turn another system's config into a machine config; needs no node
///
/// What K3s and the machine need is carried over; what could not be is listed on
/// stderr, and the exit code is 0 nevertheless: read the list. Without --secrets the
/// config lacks the section machine.api, so that no node takes it yet; it can be used
/// as a patch: osctl gen config --patch FILE.
#[derive(Debug, Args)]
pub(crate) struct Convert {
    /// What the file is
    #[arg(value_enum)]
    from: From,

    /// The file; `-` is stdin
    file: PathBuf,

    /// The secrets of the cluster, made by `osctl gen secrets`: with them the config
    /// is whole
    #[arg(long, value_name = "FILE")]
    secrets: Option<PathBuf>,

    /// The file to write, readable to you alone; `-` is stdout
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,

    /// Replace the file if it exists
    #[arg(long)]
    force: bool,
}

/// Systems whose configs are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum From {
    /// config.yaml of k3OS
    K3os,
    /// User-data of cloud-init that sets up K3s
    CloudInit,
}

impl Convert {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        let value: Value = yaml::parse(&self.file, &file::read_text(&self.file, check::LIMIT)?)?;
        if !value.is_object() {
            return Err(Error::input(format!(
                "{} is no map of keys",
                self.file.display()
            )));
        }
        let Converted { config, left } = match self.from {
            From::K3os => convert::k3os(&value),
            From::CloudInit => convert::cloud_init(&value),
        };
        let mut config = Draft::from_json(&config);
        if let Some(path) = &self.secrets {
            let api = machine_config::api(&Secrets::read(path)?);
            let api = Draft::from_json(&api).print();
            config = draft::patched(config, &[draft::parse_patch("--secrets", api.as_bytes())?])?;
        }
        let text = config.print();
        for (at, why) in &left {
            output::note(format!("not carried over: {at}: {why}"));
        }
        if self.secrets.is_some() {
            // What is wrong is told; the file is written to be put right.
            if let Err(error) = check::check("the converted config", text.as_bytes(), false) {
                output::note(error.render(output::colour_stderr()).trim_end());
            }
        }
        if self.output == Path::new("-") {
            return output::bytes(text.as_bytes());
        }
        let existing = if self.force {
            Existing::Replace
        } else {
            Existing::Refuse
        };
        file::write_secret(&self.output, text.as_bytes(), existing)?;
        output::note(format!("wrote {}", self.output.display()));
        Ok(())
    }
}
