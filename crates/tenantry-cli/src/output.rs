//! Users on standard output, in the format that was asked for.

use std::io::{self, BufWriter, Write};

use anstyle::Style;
use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use tenantry::{Cursor, User};

use crate::args::Format;
use crate::failure::Failure;
use crate::rows;

/// Prints one user.
pub(crate) fn user(format: Format, user: &User) -> Result<(), Failure> {
    let mut out = Output::stdout();
    match format {
        Format::Table => {
            let fields = rows::FIELDS.iter().zip(rows::values(user)).map(|(name, value)| (*name, value));
            out.record(fields)?;
        }
        Format::Json | Format::Jsonl => out.json_line(user)?,
        Format::Csv => out.csv(true, std::slice::from_ref(user))?,
    }
    out.finish()
}

/// A list of users that is printed as it comes, page by page.
pub(crate) struct UserList {
    format: Format,
    out: Output,
    is_first_page: bool,
    /// The rows of a table, which can't be laid out before all are there.
    table: Table,
}

/// How many of the fields, from the first on, are the columns of a table: those that people look for, and that fit.
const TABLE_COLUMNS: usize = 5;

impl UserList {
    pub(crate) fn new(format: Format) -> Self {
        Self { format, out: Output::stdout(), is_first_page: true, table: Table::new() }
    }

    pub(crate) fn add(&mut self, users: &[User]) -> Result<(), Failure> {
        match self.format {
            Format::Table => {
                for user in users {
                    self.table.add_row(&rows::values(user)[..TABLE_COLUMNS]);
                }
            }
            Format::Json => {
                let mut separator = if self.is_first_page { "{\"users\":[" } else { "," };
                if self.is_first_page && users.is_empty() {
                    self.out.text(separator)?;
                }
                for user in users {
                    self.out.text(separator)?;
                    self.out.json(user)?;
                    separator = ",";
                }
            }
            Format::Jsonl => users.iter().try_for_each(|user| self.out.json_line(user))?,
            Format::Csv => self.out.csv(self.is_first_page, users)?,
        }
        self.is_first_page = false;
        Ok(())
    }

    /// Ends the list, of which a page was added at least, be it empty; `next` is where it would go on.
    pub(crate) fn finish(mut self, next: Option<Cursor>) -> Result<(), Failure> {
        match self.format {
            Format::Table if !self.table.is_empty() => {
                self.table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
                self.table.set_header(&rows::FIELDS[..TABLE_COLUMNS]);
                let bold = Style::new().bold();
                for (index, line) in self.table.lines().enumerate() {
                    // The table pads every cell with a space on either side.
                    let line = line.trim_end().strip_prefix(' ').unwrap_or_default().to_owned();
                    if index == 0 {
                        self.out.text(&format!("{bold}{line}{bold:#}\n"))?;
                    } else {
                        self.out.text(&format!("{line}\n"))?;
                    }
                }
            }
            Format::Json => {
                let next = next.map_or("null".to_owned(), |cursor| format!("\"{cursor}\""));
                self.out.text(&format!("],\"next_cursor\":{next}}}\n"))?;
            }
            Format::Table | Format::Jsonl | Format::Csv => {}
        }
        self.out.finish()?;
        if let Some(cursor) = next.filter(|_| self.format != Format::Json) {
            anstream::eprintln!("more users follow: repeat with --cursor {cursor}, or use --all");
        }
        Ok(())
    }
}

/// Prints one record that isn't a user, whose JSON is given.
pub(crate) fn record(format: Format, fields: &[(&'static str, serde_json::Value)]) -> Result<(), Failure> {
    let mut out = Output::stdout();
    let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    match format {
        Format::Table => out.record(fields.iter().map(|(name, value)| (*name, text(value))))?,
        Format::Json | Format::Jsonl => {
            // As a map of serde_json's it would be sorted by name.
            let members: Vec<String> = fields.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
            out.text(&format!("{{{}}}\n", members.join(",")))?;
        }
        Format::Csv => {
            let mut csv = csv::Writer::from_writer(&mut out.writer);
            csv.write_record(fields.iter().map(|(name, _)| name))
                .and_then(|()| {
                    csv.write_record(fields.iter().map(|(_, value)| rows::csv_safe(&text(value)).into_owned()))
                })
                .map_err(csv_failure)?;
        }
    }
    out.finish()
}

struct Output {
    writer: BufWriter<anstream::AutoStream<io::Stdout>>,
}

impl Output {
    fn stdout() -> Self {
        Self { writer: BufWriter::new(anstream::stdout()) }
    }

    fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.writer.write_all(text.as_bytes()).map_err(failure)
    }

    fn json(&mut self, user: &User) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.writer, user).map_err(|error| failure(error.into()))
    }

    fn json_line(&mut self, user: &User) -> Result<(), Failure> {
        self.json(user)?;
        self.text("\n")
    }

    fn csv(&mut self, with_header: bool, users: &[User]) -> Result<(), Failure> {
        let mut csv = csv::Writer::from_writer(&mut self.writer);
        if with_header {
            csv.write_record(rows::FIELDS).map_err(csv_failure)?;
        }
        users.iter().try_for_each(|user| rows::write_csv(&mut csv, user)).map_err(csv_failure)?;
        csv.flush().map_err(failure)
    }

    fn record(&mut self, fields: impl Iterator<Item = (&'static str, String)>) -> Result<(), Failure> {
        let bold = Style::new().bold();
        for (name, value) in fields {
            let width = if value.is_empty() { 0 } else { 16 };
            self.text(&format!("{bold}{name:<width$}{bold:#}{value}\n"))?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Failure> {
        self.writer.flush().map_err(failure)
    }
}

/// Progress on standard error, if that is a terminal. Without a length there is no end in sight.
pub(crate) fn progress(length: Option<u64>, template: &str) -> ProgressBar {
    let progress = length.map_or_else(ProgressBar::no_length, ProgressBar::new);
    progress.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// A number of things, in words.
pub(crate) fn counted(count: u64, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

fn failure(error: io::Error) -> Failure {
    Failure::io("standard output", &error)
}

fn csv_failure(error: csv::Error) -> Failure {
    failure(rows::io_error(error))
}
