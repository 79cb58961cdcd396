//! What osctl writes to stdout: text, tables like kubectl's, YAML and JSON. A
//! reader that goes away ends the program quietly. Nothing else prints to stdout.

use crate::error::{Error, Kind, Result};
use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets::NOTHING};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// How data is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Columns, for a person.
    #[default]
    Table,
    /// YAML.
    Yaml,
    /// JSON, for a program.
    Json,
}

/// The option that chooses the format.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct FormatArg {
    /// How to show it
    #[arg(
        short = 'o',
        long = "output",
        value_name = "FORMAT",
        value_enum,
        default_value_t
    )]
    pub(crate) format: Format,
}

/// Writes to stdout as it is.
pub(crate) fn bytes(bytes: &[u8]) -> Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Error::told(Kind::Closed),
            _ => Error::failed("cannot write the output").cause(error),
        })
}

/// Writes one line to stdout.
pub(crate) fn line(text: impl AsRef<str>) -> Result<()> {
    bytes(format!("{}\n", text.as_ref()).as_bytes())
}

/// Writes a note to stderr: for the person, not for what reads stdout.
pub(crate) fn note(text: impl AsRef<str>) {
    // Where nobody listens there is nobody to tell.
    writeln!(io::stderr(), "{}", text.as_ref()).ok();
}

/// Writes data in the format asked for; `table` is only called for a table.
pub(crate) fn data<T: Serialize>(
    format: Format,
    data: &T,
    table: impl FnOnce() -> String,
) -> Result<()> {
    match format {
        Format::Table => bytes(table().as_bytes()),
        Format::Yaml => bytes(crate::yaml::to_text(data)?.as_bytes()),
        Format::Json => serde_json::to_string_pretty(data)
            .map_err(|error| Error::failed("cannot write JSON").cause(error))
            .and_then(line),
    }
}

/// A table without borders: upper-case headers, three spaces between columns,
/// each line ended. A table without rows is its header.
pub(crate) fn table<H: AsRef<str>>(headers: &[H], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(headers.iter().map(|header| header.as_ref().to_uppercase()));
    for row in rows {
        // A line break or a control character would break the columns (or the terminal).
        table.add_row(
            row.iter()
                .map(|cell| cell.replace(|c: char| c.is_control(), " ")),
        );
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table
        .lines()
        .map(|line| format!("{}\n", line.trim_end()))
        .collect()
}

/// A table whose first column is the node; left out where there is only one.
pub(crate) fn node_table(nodes: usize, headers: &[&str], rows: &[Vec<String>]) -> String {
    if nodes > 1 {
        return table(headers, rows);
    }
    let rows: Vec<_> = rows
        .iter()
        .map(|row| row[1.min(row.len())..].to_vec())
        .collect();
    table(&headers[1.min(headers.len())..], &rows)
}

/// Whether colours may be used on stderr.
pub(crate) fn colour_stderr() -> bool {
    colours_wanted() && io::stderr().is_terminal()
}

/// Whether colours may be used on stdout.
pub(crate) fn colour_stdout() -> bool {
    colours_wanted() && io::stdout().is_terminal()
}

/// <https://no-color.org>, and terminals that cannot.
fn colours_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_has_no_trailing_space() {
        let rows = [
            vec!["k3s".to_owned(), "running".to_owned(), String::new()],
            vec![
                "machined".to_owned(),
                "running".to_owned(),
                "two\nlines".to_owned(),
            ],
        ];
        assert_eq!(
            table(&["name", "state", "message"], &rows),
            "NAME       STATE     MESSAGE\nk3s        running\nmachined   running   two lines\n"
        );
        assert_eq!(table(&["name"], &[]), "NAME\n");
    }
}
