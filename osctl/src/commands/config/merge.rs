//! `osctl config merge`.

use crate::{
    app::App,
    contexts::Contexts,
    error::{Error, Result},
    output,
};
use clap::Args;
use std::path::PathBuf;

/// Take over the contexts of another file
#[derive(Debug, Args)]
pub(crate) struct Merge {
    /// A file of contexts, for example one that you were given
    file: PathBuf,

    /// Replace contexts of the same name
    #[arg(long)]
    force: bool,
}

impl Merge {
    /// Does it.
    pub(crate) fn run(self, app: &App) -> Result<()> {
        let mut contexts = app.contexts()?;
        let added = merge(&mut contexts, Contexts::read(&self.file)?, self.force)?;
        if added.is_empty() {
            output::note("nothing new");
            return Ok(());
        }
        contexts.save(&app.contexts_path()?)?;
        output::note(format!("added {}", added.join(", ")));
        Ok(())
    }
}

/// Lays the other's contexts over ours; returns the names of those that are new or
/// changed. Our current context stays; where there is none the other's is taken.
fn merge(ours: &mut Contexts, theirs: Contexts, force: bool) -> Result<Vec<String>> {
    let new: Vec<_> = theirs
        .all
        .into_iter()
        .filter(|(name, it)| ours.all.get(name) != Some(it))
        .collect();
    let clashes: Vec<_> = new
        .iter()
        .map(|(name, _)| name.as_str())
        .filter(|name| ours.all.contains_key(*name))
        .collect();
    if !clashes.is_empty() && !force {
        return Err(Error::input(format!(
            "there are other contexts of these names: {}",
            clashes.join(", ")
        ))
        .hint("--force replaces them"));
    }
    if ours.current.is_none() {
        ours.current = theirs.current;
    }
    let names = new.iter().map(|(name, _)| name.clone()).collect();
    ours.all.extend(new);
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contexts::Context;
    use zeroize::Zeroizing;

    fn contexts(current: Option<&str>, all: &[(&str, &str)]) -> Contexts {
        let context = |endpoint: &str| Context {
            endpoints: vec![endpoint.parse().unwrap()],
            ca: String::new(),
            cert: String::new(),
            key: Zeroizing::new(String::new()),
        };
        Contexts {
            current: current.map(str::to_owned),
            all: all
                .iter()
                .map(|(name, endpoint)| ((*name).to_owned(), context(endpoint)))
                .collect(),
        }
    }

    #[test]
    fn merging() {
        let mut ours = contexts(None, &[("a", "a")]);
        assert_eq!(
            merge(
                &mut ours,
                contexts(Some("b"), &[("a", "a"), ("b", "b")]),
                false
            )
            .unwrap(),
            ["b"]
        );
        assert_eq!(ours, contexts(Some("b"), &[("a", "a"), ("b", "b")]));
        assert!(merge(&mut ours, contexts(Some("a"), &[("a", "other")]), false).is_err());
        assert_eq!(
            ours.all["a"].endpoints[0].host(),
            "a",
            "nothing was changed"
        );
        assert_eq!(
            merge(&mut ours, contexts(Some("a"), &[("a", "other")]), true).unwrap(),
            ["a"]
        );
        assert_eq!(ours, contexts(Some("b"), &[("a", "other"), ("b", "b")]));
    }
}
