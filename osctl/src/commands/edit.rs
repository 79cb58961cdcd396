//! `osctl edit`.

use crate::{
    app::{App, Maintenance},
    apply::{self, Mode},
    check,
    client::Session,
    draft,
    error::{Error, Result},
    file::{self, Existing},
    output,
};
use clap::Args;
use keelson_api::v1::{ApplyConfigRequest, ApplyConfigResponse};
use std::{
    env, fs,
    io::{BufRead, IsTerminal},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::Command,
};
use zeroize::Zeroizing;

/// Lines of ours at the top of the file begin with this.
const MARK: &str = "#:";

/// Change a node's config in your editor
///
/// The config opens as it is stored, with its comments and its secrets, in $VISUAL,
/// $EDITOR or vi. When the editor ends, what differs and what the node would do are
/// shown, and after a yes the config is sent: only if nobody else has changed it in
/// between. With mistakes in it, it opens again with them at its top.
///
/// It needs the role os:admin, for it shows the config's secrets.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Edit {
    /// Do not ask before it is sent, nor, with --mode try, before it is kept
    #[arg(short, long)]
    yes: bool,

    /// Only tell what would change and what the node would do
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    when: apply::When,
}

impl Edit {
    /// Does it.
    pub(crate) async fn run(self, app: &App) -> Result<()> {
        self.when.check()?;
        let target = app.target(&Maintenance::default())?;
        let stored = apply::stored(&Session::open(&target).await?).await?;
        let before = Zeroizing::new(String::from_utf8(stored.config).map_err(|_| {
            Error::failed("the node's config is not text")
                .hint("send one with `osctl apply-config`")
        })?);
        let name = format!("{}.yaml", target.endpoint);
        let desk = Desk::new(&name)?;
        let mut header = format!(
            "{MARK} The config of {}, generation {}.\n\
             {MARK} Save and leave the editor to go on. Lines that begin with {MARK} are not kept.\n",
            target.endpoint, stored.generation
        );
        let mut body = before.clone();
        loop {
            let edited = desk.edit(&header, &body)?;
            if edited.trim().is_empty() || *edited == *before {
                return output::line("nothing was changed");
            }
            let again = *edited == *body;
            body = edited;
            let outcome = keelson_config::parse(&name, body.as_bytes());
            let mut wrong: Vec<String> = Vec::new();
            if outcome.machine.is_none() {
                wrong.extend(outcome.diagnostics.iter().map(|it| it.to_string()));
            } else {
                let request = |dry_run| {
                    self.when.on(ApplyConfigRequest {
                        config: body.as_bytes().to_vec(),
                        dry_run,
                        file_name: name.clone(),
                        expected_generation: stored.generation,
                        ..Default::default()
                    })
                };
                // While one edits, a connection may be lost.
                let session = Session::open(&target).await?;
                let planned = apply::send(&session, request(true)).await;
                let planned = planned.map_err(|error| desk.kept(error))?;
                if apply::is_refused(&planned) {
                    wrong.extend(planned.diagnostics.iter().map(|it| it.rendered.clone()));
                } else {
                    if !self.agreed(&session, &before, &body, &planned)? {
                        return Err(desk.kept(Error::input("nothing was sent")));
                    }
                    if self.dry_run {
                        return Ok(());
                    }
                    let session = Session::open(&target).await;
                    let session = session.map_err(|error| desk.kept(error))?;
                    let response = apply::send(&session, request(false)).await;
                    let response = response.map_err(|error| desk.kept(error))?;
                    apply::tell(&session, &response, self.when.mode, false)?;
                    if self.when.mode == Mode::Try {
                        apply::keep(&target, &self.when, self.yes).await?;
                    }
                    return Ok(());
                }
            }
            if again {
                for text in wrong {
                    output::note(text.trim_end());
                }
                return Err(desk.kept(Error::input("the config is not valid, and stayed so")));
            }
            header = with_mistakes(&wrong);
        }
    }

    /// Shows what would happen and asks.
    fn agreed(
        &self,
        session: &Session,
        before: &str,
        after: &str,
        planned: &ApplyConfigResponse,
    ) -> Result<bool> {
        let before = draft::parse("the stored config", before.as_bytes())?;
        let after = draft::parse("the edited config", after.as_bytes())?;
        let changes = before.changes(&after);
        if changes.is_empty() {
            output::line("only comments, order or spaces differ")?;
        }
        output::bytes(draft::lines(&changes, output::colour_stdout()).as_bytes())?;
        apply::tell(session, planned, self.when.mode, true)?;
        if self.yes || self.dry_run {
            return Ok(true);
        }
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            output::note("there is no terminal to ask on: use --yes");
            return Ok(false);
        }
        output::note("send it? [y/N]");
        let mut answer = String::new();
        stdin
            .lock()
            .read_line(&mut answer)
            .map_err(|error| Error::failed("cannot read the answer").cause(error))?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    }
}

fn with_mistakes(wrong: &[String]) -> String {
    let mut header = format!(
        "{MARK} It is not valid; lines are counted below these. Leave it as it is to give up.\n{MARK}\n"
    );
    for line in wrong.iter().flat_map(|text| text.lines()) {
        header.push_str(&format!("{MARK} {line}\n"));
    }
    header
}

/// The text without our lines at its top.
fn without_header(text: &str) -> &str {
    let mut rest = text;
    while rest.starts_with(MARK) {
        rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
    }
    rest
}

/// A folder that nobody else can read, gone afterwards unless something in it would
/// be lost.
struct Desk {
    folder: PathBuf,
    path: PathBuf,
    keep: std::cell::Cell<bool>,
}

impl Desk {
    fn new(name: &str) -> Result<Desk> {
        // A runtime folder is in memory: the config holds secrets.
        let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let parent = runtime
            .filter(|it| it.is_dir())
            .unwrap_or_else(env::temp_dir);
        let folder = parent.join(format!("osctl-edit-{}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(|error| {
                Error::failed(format!("cannot make {}", folder.display())).cause(error)
            })?;
        let path = folder.join(name.replace(['/', ':', '[', ']'], "-"));
        Ok(Desk {
            folder,
            path,
            keep: std::cell::Cell::new(false),
        })
    }

    /// Opens the text in the editor and gives back what was saved.
    fn edit(&self, header: &str, body: &str) -> Result<Zeroizing<String>> {
        let text = Zeroizing::new(format!("{header}{body}"));
        file::write_secret(&self.path, text.as_bytes(), Existing::Replace)?;
        let editor = ["VISUAL", "EDITOR"]
            .iter()
            .find_map(|name| env::var(name).ok().filter(|it| !it.trim().is_empty()))
            .unwrap_or_else(|| "vi".to_owned());
        run(&editor, &self.path)?;
        let edited = Zeroizing::new(file::read_text(&self.path, check::LIMIT)?);
        Ok(Zeroizing::new(without_header(&edited).to_owned()))
    }

    /// The error, with what was edited left where it is.
    fn kept(&self, error: Error) -> Error {
        self.keep.set(true);
        error.cause(format!(
            "what you wrote is kept, with its secrets, in {}",
            self.path.display()
        ))
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        if !self.keep.get()
            && let Err(error) = fs::remove_dir_all(&self.folder)
        {
            let folder = self.folder.display();
            output::note(format!(
                "{folder} holds secrets and could not be removed: {error}"
            ));
        }
    }
}

/// Runs an editor, which may be a command with options.
fn run(editor: &str, path: &Path) -> Result<()> {
    let failed = || Error::failed(format!("the editor {editor:?} failed"));
    let status = Command::new("/bin/sh")
        .arg("-c")
        .arg(format!("{editor} \"$1\""))
        .arg("sh")
        .arg(path)
        .status()
        .map_err(|error| failed().cause(error))?;
    if status.success() {
        return Ok(());
    }
    Err(failed()
        .cause(status)
        .hint("set EDITOR to another; nothing was changed"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_lines_are_not_kept_and_others_are() {
        let header = with_mistakes(&["a.yaml:1:1: error: x\n  1 | a\n".to_owned()]);
        for body in ["a: 1\n#: b\n", "# mine\na: 1\n", ""] {
            assert_eq!(without_header(&format!("{header}{body}")), body);
        }
        assert!(header.lines().all(|line| line.starts_with(MARK)));
    }
}
