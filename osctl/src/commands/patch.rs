//! `osctl patch`.

use crate::{
    app::{App, Maintenance},
    apply::{self, Mode},
    check,
    client::{Session, Target},
    draft,
    error::{Error, Result},
    output,
};
use clap::Args;
use keelson_api::v1::ApplyConfigRequest;
use std::path::PathBuf;

/// Change parts of a node's config
///
/// The node's config is read, the patches are applied to it here, what differs is
/// shown, and the result is sent back: only if nobody else has changed the config in
/// between. It is written anew in the order of the reference, without comments;
/// `osctl edit` keeps them. Patches are those of `osctl gen config --patch`.
///
/// It needs the role os:admin, for it sees the config's secrets. Example:
///   osctl patch -n server-1 -p 'machine: {sysctls: {vm.max_map_count: "262144"}}'
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Patch {
    /// A patch; may be given more than once; `-` is stdin
    #[arg(
        short,
        long = "file",
        value_name = "FILE",
        required_unless_present = "patches"
    )]
    files: Vec<PathBuf>,

    /// A patch as it stands here; those in files are applied first
    #[arg(short, long = "patch", value_name = "YAML")]
    patches: Vec<String>,

    /// Only tell what would change and what the node would do
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    when: apply::When,

    /// With --mode try: keep the config as soon as the node answers under it, without
    /// asking
    #[arg(short, long)]
    yes: bool,
}

impl Patch {
    /// Does it.
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        self.when.check()?;
        let mut patches = Vec::new();
        for path in &self.files {
            patches.push(draft::patch(path)?);
        }
        for (index, text) in self.patches.iter().enumerate() {
            let name = match index {
                0 => "--patch".to_owned(),
                more => format!("--patch #{}", more + 1),
            };
            patches.push(draft::parse_patch(&name, text.as_bytes())?);
        }
        for target in app.named_targets(&Maintenance::default())? {
            self.patch(&target, &patches).await?;
        }
        Ok(())
    }

    async fn patch(&self, target: &Target, patches: &[keelson_config::Patch]) -> Result<()> {
        let session = Session::open(target).await?;
        let node = session.endpoint();
        let stored = apply::stored(&session).await?;
        let before = draft::parse(&format!("the config of {node}"), &stored.config)?;
        let after = draft::patched(before.clone(), patches)?;
        let changes = before.changes(&after);
        if changes.is_empty() {
            return output::line(format!("{node}: the patch changes nothing"));
        }
        output::line(format!("{node}, config {}:", stored.generation))?;
        output::bytes(draft::lines(&changes, output::colour_stdout()).as_bytes())?;
        let text = after.print();
        let name = format!("{node}.yaml");
        check::check(&name, text.as_bytes(), false)
            .map_err(|error: Error| error.hint("nothing was changed: look at the patches"))?;
        let request = self.when.on(ApplyConfigRequest {
            config: text.as_bytes().to_vec(),
            dry_run: self.dry_run,
            file_name: name,
            expected_generation: stored.generation,
            ..Default::default()
        });
        let response = apply::send(&session, request).await?;
        apply::tell(&session, &response, self.when.mode, self.dry_run)?;
        if self.when.mode == Mode::Try && !self.dry_run {
            apply::keep(target, &self.when, self.yes).await?;
        }
        Ok(())
    }
}
