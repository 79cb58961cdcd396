//! `osctl config list`.

use crate::{
    app::App,
    certs,
    error::Result,
    output::{self, FormatArg},
};
use clap::Args;
use serde_json::json;
use time::OffsetDateTime;

/// Show the contexts: where they lead, as what, and until when
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    format: FormatArg,
}

impl List {
    /// Does it.
    pub(crate) fn run(self, app: &App) -> Result<()> {
        let contexts = app.contexts()?;
        let now = OffsetDateTime::now_utc();
        let mut data = Vec::new();
        let mut rows = Vec::new();
        for (name, context) in &contexts.all {
            let current = contexts.current.as_ref() == Some(name);
            let endpoints: Vec<_> = context.endpoints.iter().map(|it| it.to_string()).collect();
            let (role, expires, expired) = match certs::read(&context.cert) {
                Ok(it) => (
                    it.organisation,
                    it.not_after.date().to_string(),
                    it.not_after < now,
                ),
                Err(_) => ("unreadable".to_owned(), "-".to_owned(), false),
            };
            data.push(json!({
                "name": name, "current": current, "endpoints": endpoints, "role": role, "expires": expires,
            }));
            rows.push(vec![
                if current { "*" } else { "" }.to_owned(),
                name.clone(),
                endpoints.join(","),
                role,
                if expired {
                    format!("{expires} (expired)")
                } else {
                    expires
                },
            ]);
        }
        if rows.is_empty() {
            output::note(
                "there is no context yet: osctl config add NAME --secrets secrets.yaml --endpoint HOST",
            );
        }
        output::data(self.format.format, &data, || {
            output::table(&["current", "name", "endpoints", "role", "expires"], &rows)
        })
    }
}
