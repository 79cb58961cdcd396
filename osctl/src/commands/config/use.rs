//! `osctl config use`.

use crate::{app::App, error::Result, output};
use clap::Args;

/// Choose the context that is used where none is named
#[derive(Debug, Args)]
pub(crate) struct Use {
    /// The context's name
    name: String,
}

impl Use {
    /// Does it.
    pub(crate) fn run(self, app: &App) -> Result<()> {
        let mut contexts = app.contexts()?;
        contexts.pick(Some(&self.name))?;
        contexts.current = Some(self.name.clone());
        contexts.save(&app.contexts_path()?)?;
        output::note(format!("the current context is {:?}", self.name));
        Ok(())
    }
}
