//! `osctl config remove`.

use crate::{app::App, error::Result, output};
use clap::Args;

/// Remove a context and its certificate
#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// The context's name
    name: String,
}

impl Remove {
    /// Does it.
    pub(crate) fn run(self, app: &App) -> Result<()> {
        let mut contexts = app.contexts()?;
        contexts.pick(Some(&self.name))?;
        contexts.all.remove(&self.name);
        if contexts.current.as_ref() == Some(&self.name) {
            contexts.current = None;
        }
        contexts.save(&app.contexts_path()?)?;
        output::note(format!("removed context {:?}", self.name));
        Ok(())
    }
}
