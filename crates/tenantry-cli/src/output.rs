//! Users and other records on standard output, in the format that was asked for.

use std::io::{self, BufWriter, Write};

use anstyle::Style;
use comfy_table::{ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
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
        Format::Csv => {
            let mut csv = csv::Writer::from_writer(&mut out.writer);
            csv.write_record(rows::FIELDS).and_then(|()| rows::write_csv(&mut csv, user)).map_err(csv_failure)?;
        }
    }
    out.finish()
}

/// How a list of records is printed.
pub(crate) struct Columns {
    /// The member that holds the list in JSON.
    pub(crate) name: &'static str,
    /// The fields, as they are called everywhere.
    pub(crate) fields: &'static [&'static str],
    /// Those that a table shows: what people look for, and what fits.
    pub(crate) in_table: &'static [&'static str],
}

pub(crate) const USERS: Columns = Columns {
    name: "users",
    fields: &rows::FIELDS,
    in_table: &["id", "email", "created_at", "last_login_at", "storage_path"],
};

/// A list of records that is printed as it comes, page by page.
pub(crate) struct RecordList {
    format: Format,
    columns: &'static Columns,
    out: Output,
    is_first_page: bool,
    /// The rows of a table, which can't be laid out before all are there.
    table: Table,
}

impl RecordList {
    pub(crate) fn new(format: Format, columns: &'static Columns) -> Self {
        Self { format, columns, out: Output::stdout(), is_first_page: true, table: Table::new() }
    }

    pub(crate) fn add<T: Serialize>(&mut self, records: &[T]) -> Result<(), Failure> {
        let Columns { name, fields, in_table } = self.columns;
        match self.format {
            Format::Table => {
                for record in records {
                    self.table.add_row(values(in_table, record)?.iter().map(|value| rows::printable(value)));
                }
            }
            Format::Json => {
                if self.is_first_page {
                    self.out.text(&format!("{{\"{name}\":["))?;
                }
                for (index, record) in records.iter().enumerate() {
                    if index > 0 || !self.is_first_page {
                        self.out.text(",")?;
                    }
                    self.out.json(record)?;
                }
            }
            Format::Jsonl => records.iter().try_for_each(|record| self.out.json_line(record))?,
            Format::Csv => {
                let mut csv = csv::Writer::from_writer(&mut self.out.writer);
                if self.is_first_page {
                    csv.write_record(*fields).map_err(csv_failure)?;
                }
                for record in records {
                    let values = values(fields, record)?;
                    csv.write_record(values.iter().map(|value| rows::csv_safe(value).into_owned()))
                        .map_err(csv_failure)?;
                }
                csv.flush().map_err(failure)?;
            }
        }
        self.is_first_page = false;
        Ok(())
    }

    /// Ends the list, of which a page was added at least, be it empty, with what else the JSON document holds.
    pub(crate) fn finish(mut self, members: &[(&str, serde_json::Value)]) -> Result<(), Failure> {
        match self.format {
            Format::Table if !self.table.is_empty() => {
                self.table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
                self.table.set_header(self.columns.in_table);
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
                let members: Vec<String> = members.iter().map(|(name, value)| format!(",\"{name}\":{value}")).collect();
                self.out.text(&format!("]{}}}\n", members.concat()))?;
            }
            Format::Table | Format::Jsonl | Format::Csv => {}
        }
        self.out.finish()
    }

    /// Ends a list that may go on at a cursor.
    pub(crate) fn finish_page(self, next: Option<Cursor>) -> Result<(), Failure> {
        let is_json = self.format == Format::Json;
        self.finish(&[("next_cursor", next.map(|cursor| cursor.to_string()).into())])?;
        if let Some(cursor) = next.filter(|_| !is_json) {
            anstream::eprintln!("more users follow: repeat with --cursor {cursor}, or use --all");
        }
        Ok(())
    }
}

/// The values of these fields of a record as texts. What is `null` or an empty list is empty.
fn values<T: Serialize>(fields: &[&str], record: &T) -> Result<Vec<String>, Failure> {
    let record = serde_json::to_value(record).map_err(|error| failure(error.into()))?;
    let text = |field: &&str| match &record[*field] {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    Ok(fields.iter().map(text).collect())
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

    fn json(&mut self, record: &impl Serialize) -> Result<(), Failure> {
        serde_json::to_writer(&mut self.writer, record).map_err(|error| failure(error.into()))
    }

    fn json_line(&mut self, record: &impl Serialize) -> Result<(), Failure> {
        self.json(record)?;
        self.text("\n")
    }

    fn record(&mut self, fields: impl Iterator<Item = (&'static str, String)>) -> Result<(), Failure> {
        let bold = Style::new().bold();
        for (name, value) in fields {
            let width = if value.is_empty() { 0 } else { 16 };
            let value = rows::printable(&value);
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
