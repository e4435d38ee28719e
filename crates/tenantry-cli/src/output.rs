//! Prints users and other records on standard output, in the selected format.

use std::fs::File;
use std::io::{self, BufWriter, Write};

use anstream::AutoStream;
use anstyle::Style;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use tenantry::{ChangesCursor, Cursor, Timestamp, User};
use tenantry_exchange::{escape_formula, printable};
use terminal_size::{Width, terminal_size_of};

use crate::args::FormatName;
use crate::failure::{Exit, Failure};
use crate::human::{self, Record, Rendering};
use crate::stdio::{self, report};
use crate::table::{Kind, Table};

/// The format and the columns of the output.
#[derive(Clone, Copy)]
pub(crate) struct Format<'c> {
    pub(crate) name: FormatName,
    /// The selected fields, in the selected order.
    columns: Option<&'c [String]>,
}

impl<'c> Format<'c> {
    /// Checks the selected columns against the fields that a command prints.
    pub(crate) fn new(
        name: FormatName,
        columns: Option<&'c [String]>,
        printed: Option<&Columns>,
    ) -> Result<Self, Failure> {
        let Some(chosen) = columns else { return Ok(Self { name, columns }) };
        let Some(printed) = printed else {
            return Err(Failure::new(
                Exit::Usage,
                "--columns applies to users, usages, findings and tokens",
            ));
        };
        for (index, column) in chosen.iter().enumerate() {
            if !printed.fields.contains(&column.as_str()) {
                let (column, fields) = (printable(column), printed.fields.join(","));
                let message = format!("there is no column \"{column}\": choose from {fields}");
                return Err(Failure::new(Exit::Usage, message));
            }
            if chosen[..index].contains(column) {
                return Err(Failure::new(
                    Exit::Usage,
                    format!("the column \"{column}\" is named twice"),
                ));
            }
        }
        Ok(Self { name, columns })
    }

    /// Returns the fields to print, out of all.
    fn fields(&self, all: &[&'static str]) -> Vec<&'static str> {
        match self.columns {
            Some(chosen) => chosen
                .iter()
                .filter_map(|column| all.iter().find(|field| *field == column).copied())
                .collect(),
            None => all.to_vec(),
        }
    }

    /// Returns whether the output is one JSON document.
    pub(crate) fn is_json(&self) -> bool {
        self.name == FormatName::Json
    }

    /// Returns the rendering of the values of a table.
    fn rendering(&self) -> Rendering {
        match (self.name, self.columns) {
            (FormatName::Wide, _) => Rendering::Exact,
            (_, Some(_)) => Rendering::Selected,
            (_, None) => Rendering::Brief,
        }
    }
}

/// Prints one user.
pub(crate) fn user(format: Format<'_>, user: &User) -> Result<(), Failure> {
    let fields = format.fields(USERS.fields);
    match format.name {
        FormatName::Csv => {
            let mut list = RecordList::new(format, &USERS)?;
            list.add(std::slice::from_ref(user))?;
            list.finish(&[])
        }
        FormatName::Json | FormatName::Jsonl if format.columns.is_none() => {
            let mut out = Output::stdout()?;
            out.json_line(user)?;
            out.finish()
        }
        _ => {
            let object = object(user)?;
            let mut fields: Vec<_> =
                fields.iter().filter_map(|field| Some((*field, &**object.get(*field)?))).collect();
            if format.name == FormatName::Table && format.columns.is_none() {
                // Values that few users have would be four empty lines for all others.
                fields.retain(|(name, value)| {
                    !OPTIONAL_OF_USER.contains(name) || value.get() != "null"
                });
            }
            raw_record(format, &fields)
        }
    }
}

/// The columns of a list of records.
pub(crate) struct Columns {
    /// The member that holds the list in JSON.
    pub(crate) name: &'static str,
    /// All fields, by their names.
    pub(crate) fields: &'static [&'static str],
    /// The default columns of a table: the most used fields that fit.
    pub(crate) in_table: &'static [&'static str],
}

/// Returns the fields of a user, followed by more.
pub(crate) const fn after_user_fields<const MORE: usize, const ALL: usize>(
    more: [&'static str; MORE],
) -> [&'static str; ALL] {
    let mut all = [""; ALL];
    let mut index = 0;
    while index < ALL {
        all[index] = if index < User::FIELDS.len() {
            User::FIELDS[index]
        } else {
            more[index - User::FIELDS.len()]
        };
        index += 1;
    }
    all
}

pub(crate) const USERS: Columns = Columns {
    name: "users",
    fields: &User::FIELDS,
    in_table: &["id", "email", "created_at", "last_login_at", "storage_path"],
};

/// The lines of a user that are left out if they are empty.
const OPTIONAL_OF_USER: [&str; 4] = ["suspended_at", "external_id", "name", "attributes"];
/// The columns of a table that are left out if they are empty in all rows.
const OPTIONAL: [&str; 5] =
    ["storage_path", "is_being_purged", "unreadable", "user_id", "revoked_at"];

/// Prints a list of records page by page.
pub(crate) struct RecordList<'c> {
    format: Format<'c>,
    columns: &'static Columns,
    fields: Vec<&'static str>,
    out: Output,
    is_first_page: bool,
    /// The rows of a table, which is laid out when all of them are known.
    table: Table,
    /// Whether a row that doesn't fit is printed as a record, because its sentences must not be
    /// cut.
    has_sentences: bool,
    now: Timestamp,
}

impl<'c> RecordList<'c> {
    pub(crate) fn new(format: Format<'c>, columns: &'static Columns) -> Result<Self, Failure> {
        let fields = match format.name {
            FormatName::Table => format.fields(if format.columns.is_some() {
                columns.fields
            } else {
                columns.in_table
            }),
            _ => format.fields(columns.fields),
        };
        let mut table = Table::new();
        for field in &fields {
            table.add_column(
                field,
                kind(field),
                format.rendering() == Rendering::Brief && OPTIONAL.contains(field),
            );
        }
        Ok(Self {
            format,
            columns,
            fields,
            out: Output::stdout()?,
            is_first_page: true,
            table,
            has_sentences: columns.fields.contains(&"detail"),
            now: human::now(),
        })
    }

    pub(crate) fn add<T: Serialize>(&mut self, records: &[T]) -> Result<(), Failure> {
        match self.format.name {
            FormatName::Table | FormatName::Wide => self.add_to_table(records)?,
            FormatName::Json => {
                if self.is_first_page {
                    self.out.text(&format!("{{\"{}\":[", self.columns.name))?;
                }
                for (index, record) in records.iter().enumerate() {
                    if index > 0 || !self.is_first_page {
                        self.out.text(",")?;
                    }
                    self.add_json(record)?;
                }
            }
            FormatName::Jsonl => {
                for record in records {
                    self.add_json(record)?;
                    self.out.text("\n")?;
                }
            }
            FormatName::Csv => self.add_csv(records)?,
        }
        self.is_first_page = false;
        Ok(())
    }

    fn add_to_table<T: Serialize>(&mut self, records: &[T]) -> Result<(), Failure> {
        let rendering = self.format.rendering();
        for record in records {
            let record = object(record)?;
            let cell = |field: &&str| printable(&human::text(&record, field, rendering, self.now));
            self.table.add_row(self.fields.iter().map(cell).collect());
        }
        Ok(())
    }

    fn add_json<T: Serialize>(&mut self, record: &T) -> Result<(), Failure> {
        if self.format.columns.is_none() {
            return self.out.json(record);
        }
        let object = object(record)?;
        let text = json_object(
            self.fields
                .iter()
                .map(|field| (*field, object.get(*field).map_or("null", |it| it.get()))),
        );
        self.out.text(&text)
    }

    fn add_csv<T: Serialize>(&mut self, records: &[T]) -> Result<(), Failure> {
        let mut csv = csv::Writer::from_writer(&mut self.out.writer);
        if self.is_first_page {
            csv.write_record(&self.fields).map_err(csv_failure)?;
        }
        for record in records {
            let record = object(record)?;
            let value = |field: &&str| {
                escape_formula(&human::text(&record, field, Rendering::Exact, self.now))
                    .into_owned()
            };
            csv.write_record(self.fields.iter().map(value)).map_err(csv_failure)?;
        }
        csv.flush().map_err(failure)
    }

    /// Ends the list, with further members of the JSON document. At least one page must have been
    /// added, even if it is empty.
    pub(crate) fn finish(mut self, members: &[(&str, Value)]) -> Result<(), Failure> {
        match self.format.name {
            FormatName::Table | FormatName::Wide => self.print_table()?,
            FormatName::Json => {
                let members: Vec<String> =
                    members.iter().map(|(name, value)| format!(",\"{name}\":{value}")).collect();
                self.out.text(&format!("]{}}}\n", members.concat()))?;
            }
            FormatName::Jsonl | FormatName::Csv => {}
        }
        self.out.finish()?;
        let is_table = matches!(self.format.name, FormatName::Table | FormatName::Wide);
        if is_table && self.table.is_empty() && !self.has_sentences {
            report!("no {}", self.columns.name);
        }
        Ok(())
    }

    fn print_table(&mut self) -> Result<(), Failure> {
        // The command reports in a sentence that there are no findings.
        if self.has_sentences && self.table.is_empty() {
            return Ok(());
        }
        let available = match self.format.name {
            FormatName::Table => {
                terminal_size_of(io::stdout()).map(|(Width(columns), _)| usize::from(columns))
            }
            _ => None,
        };
        if self.has_sentences && available.is_some_and(|available| !self.table.fits(available)) {
            for (index, record) in self.table.records().enumerate() {
                if index > 0 {
                    self.out.text("\n")?;
                }
                self.out.record(record.filter(|(_, value)| !value.is_empty()))?;
            }
            return Ok(());
        }
        let bold = Style::new().bold();
        for (index, line) in self.table.lines(available).enumerate() {
            if index == 0 {
                self.out.text(&format!("{bold}{line}{bold:#}\n"))?;
            } else {
                self.out.text(&line)?;
                self.out.text("\n")?;
            }
        }
        Ok(())
    }

    /// Ends a list that may continue at a cursor.
    pub(crate) fn finish_page(
        self,
        next: Option<Cursor>,
        changes: ChangesCursor,
    ) -> Result<(), Failure> {
        let is_json = self.format.name == FormatName::Json;
        let next_cursor = next.map(|cursor| cursor.to_string()).into();
        self.finish(&[
            ("next_cursor", next_cursor),
            ("changes_cursor", changes.to_string().into()),
        ])?;
        if let Some(cursor) = next.filter(|_| !is_json) {
            report!("more users follow: repeat with --cursor {cursor}, or use --all");
        }
        Ok(())
    }
}

/// Returns the kind of a field by its name.
fn kind(field: &str) -> Kind {
    match field {
        "id" | "user" | "user_id" => Kind::Id,
        "email" | "storage_path" | "path" | "detail" | "repair" | "external_id" | "name"
        | "attributes" => Kind::Text,
        "files" | "number" | "unreadable" | "version" | "age_seconds" => Kind::Number,
        _ if field.ends_with("_bytes") => Kind::Number,
        _ => Kind::Word,
    }
}

/// Returns the members of a record as they are written in JSON: a value would change the order of
/// the keys and the digits in a user's attributes.
fn object<T: Serialize>(record: &T) -> Result<Record, Failure> {
    let json = serde_json::to_string(record).map_err(|error| failure(error.into()))?;
    serde_json::from_str(&json).map_err(|error| failure(error.into()))
}

/// Formats a JSON object with its members in this order. A map would sort them.
fn json_object<'v>(members: impl Iterator<Item = (&'static str, &'v str)>) -> String {
    let members: Vec<String> = members.map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", members.join(","))
}

/// Prints one record, given as members of JSON.
pub(crate) fn record(format: Format<'_>, fields: &[(&'static str, Value)]) -> Result<(), Failure> {
    let raw = |(name, value): &(&'static str, Value)| Ok((*name, to_raw_value(value)?));
    let fields = fields.iter().map(raw).collect::<serde_json::Result<Vec<_>>>();
    let fields = fields.map_err(|error| failure(error.into()))?;
    raw_record(format, &fields.iter().map(|(name, value)| (*name, &**value)).collect::<Vec<_>>())
}

fn raw_record(format: Format<'_>, fields: &[(&'static str, &RawValue)]) -> Result<(), Failure> {
    let mut out = Output::stdout()?;
    match format.name {
        FormatName::Table | FormatName::Wide => {
            let rendering =
                if format.name == FormatName::Wide { Rendering::Exact } else { Rendering::Full };
            let object: Record = fields
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            let now = human::now();
            let texts: Vec<_> = fields
                .iter()
                .map(|(name, _)| (*name, human::text(&object, name, rendering, now)))
                .collect();
            out.record(texts.iter().map(|(name, text)| (*name, text.as_str())))?;
        }
        FormatName::Json | FormatName::Jsonl => {
            let object = json_object(fields.iter().map(|(name, value)| (*name, value.get())));
            out.text(&object)?;
            out.text("\n")?;
        }
        FormatName::Csv => {
            let mut csv = csv::Writer::from_writer(&mut out.writer);
            let value =
                |(_, value): &(&str, &RawValue)| escape_formula(&human::plain(value)).into_owned();
            csv.write_record(fields.iter().map(|(name, _)| name))
                .and_then(|()| csv.write_record(fields.iter().map(value)))
                .map_err(csv_failure)?;
        }
    }
    out.finish()
}

struct Output {
    writer: BufWriter<AutoStream<File>>,
}

impl Output {
    fn stdout() -> Result<Self, Failure> {
        Ok(Self { writer: BufWriter::new(stdio::stdout()?) })
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

    fn record<'t>(
        &mut self,
        fields: impl Iterator<Item = (&'static str, &'t str)>,
    ) -> Result<(), Failure> {
        let bold = Style::new().bold();
        for (name, value) in fields {
            let width = if value.is_empty() { 0 } else { 16 };
            let value = printable(value);
            self.text(&format!("{bold}{name:<width$}{bold:#}{value}\n"))?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Failure> {
        self.writer.flush().map_err(failure)
    }
}

/// Formats a number of things, such as `1 user` or `2 users`.
pub(crate) fn pluralize(count: u64, thing: &str) -> String {
    if count == 1 { format!("1 {thing}") } else { format!("{count} {thing}s") }
}

fn failure(error: io::Error) -> Failure {
    stdio::failure(&error)
}

fn csv_failure(error: csv::Error) -> Failure {
    // `From` would change the kind, and a broken pipe isn't an error.
    failure(match error.into_kind() {
        csv::ErrorKind::Io(error) => error,
        kind => io::Error::other(format!("{kind:?}")),
    })
}
