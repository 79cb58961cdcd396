//! `osctl internal-docs`: the reference page docs/osctl.md, made from the help.

use crate::{cli::Cli, error::Result, output};
use clap::{Args, Command, CommandFactory};

/// Write the command reference as Markdown
#[derive(Debug, Args)]
pub(crate) struct InternalDocs {}

impl InternalDocs {
    /// Does it.
    pub(crate) fn run(self) -> Result<()> {
        output::bytes(page().as_bytes())
    }
}

/// The whole page.
fn page() -> String {
    let mut root = Cli::command().term_width(90).disable_help_subcommand(true);
    root.build();
    let mut page = String::from(
        "# osctl\n\n<!-- Made by `osctl internal-docs` from the help texts: change those. -->\n",
    );
    section(&mut root, "", 2, &mut page);
    page
}

fn section(command: &mut Command, parent: &str, level: usize, page: &mut String) {
    let name = format!("{parent}{}", command.get_name());
    // The global options are told once, on top.
    let hide = |arg: clap::Arg| {
        if arg.is_global_set() {
            arg.hide(true)
        } else {
            arg
        }
    };
    let help = match parent {
        "" => command.render_long_help(),
        _ => command.clone().mut_args(hide).render_long_help(),
    }
    .to_string();
    let help: String = help
        .lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect();
    page.push_str(&format!(
        "\n{} {name}\n\n```text\n{}\n```\n",
        "#".repeat(level),
        help.trim()
    ));
    for sub in command
        .get_subcommands_mut()
        .filter(|sub| !sub.is_hide_set())
    {
        section(sub, &format!("{name} "), 3, page);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_the_tree_is_this_one() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/osctl.md");
        let there = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            there == page(),
            "make it anew: osctl internal-docs > docs/osctl.md"
        );
    }
}
