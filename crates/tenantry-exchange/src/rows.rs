//! Users as rows of CSV and JSON Lines, on their way out of a file.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;
use std::str::FromStr;

use serde::Deserialize;
use tenantry::{Email, NewUser, Timestamp};

use crate::decode::Decoder;
use crate::formula::csv_plain;
use crate::{Error, FIELDS, Format, Result, printable};

const EMAIL: usize = 1;

/// No honest row is longer. Without a limit, a file without a line end, or with a quote that is never closed, would be
/// read into memory as a whole.
const ROW_OCTETS_MAX: usize = 64 << 10;
/// How many rows are enough for a chunk: a transaction of them waits for the disk once, and takes some 50 ms.
const CHUNK_ROWS: usize = 5_000;
/// How many octets of the file are enough for a chunk, whatever the number of rows.
const CHUNK_OCTETS: u64 = 1 << 20;

/// A row that was read, good or bad.
#[non_exhaustive]
pub struct Row {
    /// Where it begins in the file, counted from 1.
    pub line: u64,
    original: Original,
    /// The user to import, or why there is none.
    pub user: std::result::Result<NewUser, BadRow>,
}

/// Without what was in the file, which may be anybody's address.
impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Row").field("line", &self.line).finish_non_exhaustive()
    }
}

impl Row {
    /// Returns what was in the file: the line of JSON, or the fields of CSV as one record. It is empty if the line was
    /// too long to be kept.
    #[must_use]
    pub fn original(&self) -> Cow<'_, [u8]> {
        match &self.original {
            Original::Jsonl(line) => Cow::Borrowed(line),
            Original::Csv(record) => {
                let mut csv = csv::WriterBuilder::new().flexible(true).from_writer(Vec::new());
                // Writing to memory fails for no other reason than that there is none.
                let written = csv.write_byte_record(record).is_ok();
                let mut line = csv.into_inner().ok().filter(|_| written).unwrap_or_default();
                line.pop();
                Cow::Owned(line)
            }
        }
    }
}

enum Original {
    Csv(csv::ByteRecord),
    Jsonl(Vec<u8>),
}

/// Why a row is no user.
#[non_exhaustive]
pub struct BadRow {
    /// The address as it is in the row, which may be anything, or nothing.
    pub address: String,
    /// What is wrong, with the name of the field. It has no control characters.
    pub reason: String,
}

/// Without the address.
impl fmt::Debug for BadRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BadRow").field("reason", &self.reason).finish_non_exhaustive()
    }
}

/// Some rows, in the order of the file.
#[derive(Debug)]
#[non_exhaustive]
pub struct Chunk {
    /// The rows.
    pub rows: Vec<Row>,
    /// How much of the file was read up to its end, in octets.
    pub read_octets: u64,
    /// How many rows without any value came up to its end, since the beginning of the file. Blank lines don't count.
    pub empty_rows: u64,
    /// Why nothing follows: the file has ended, or it can't be read any further.
    pub end: Option<Result<()>>,
}

/// Reads the rows of a file one at a time, in constant memory.
///
/// # Examples
///
/// ```
/// use tenantry_exchange::{Format, RowReader};
///
/// let mut reader = RowReader::new(Format::Jsonl, &b"{\"email\":\"ada@example.com\"}\n{}\n"[..])?;
/// let ada = reader.next_row()?.expect("a row");
/// assert_eq!((ada.line, ada.user.is_ok()), (1, true));
/// let nobody = reader.next_row()?.expect("a row");
/// assert_eq!(nobody.user.unwrap_err().reason, "email: missing");
/// assert!(reader.next_row()?.is_none());
/// # Ok::<(), tenantry_exchange::Error>(())
/// ```
pub struct RowReader<R: Read> {
    rows: Rows<R>,
}

enum Rows<R: Read> {
    Csv(Box<CsvRows<R>>),
    Jsonl(JsonlRows<R>),
}

impl<R: Read> RowReader<R> {
    /// Begins to read.
    ///
    /// # Errors
    ///
    /// `Invalid` if the file isn't text, or has a header that can't be used; `Io` as `input` has it.
    pub fn new(format: Format, input: R) -> Result<Self> {
        let rows = match format {
            Format::Csv => Rows::Csv(Box::new(CsvRows::new(input)?)),
            Format::Jsonl => Rows::Jsonl(JsonlRows::new(input)?),
        };
        Ok(Self { rows })
    }

    /// Returns the next row, or `None` after the last.
    ///
    /// # Errors
    ///
    /// `Invalid` and `Io`. They are of the file, not of a row: nothing can be read after them.
    pub fn next_row(&mut self) -> Result<Option<Row>> {
        match &mut self.rows {
            Rows::Csv(rows) => rows.next(),
            Rows::Jsonl(rows) => rows.next(),
        }
    }

    /// Returns as many of the next rows as one transaction should take, and why nothing follows if that is so.
    ///
    /// # Errors
    ///
    /// As [`next_row`](Self::next_row), if there is no row before. Otherwise the failure is the chunk's
    /// [`end`](Chunk::end).
    pub fn next_chunk(&mut self) -> Result<Chunk> {
        let mut rows = Vec::new();
        let read_before = self.read_octets();
        let end = loop {
            if rows.len() == CHUNK_ROWS || self.read_octets() - read_before >= CHUNK_OCTETS {
                break None;
            }
            match self.next_row() {
                Ok(Some(row)) => rows.push(row),
                Ok(None) => break Some(Ok(())),
                // The good rows before it are good all the same.
                Err(error) if !rows.is_empty() => break Some(Err(error)),
                Err(error) => return Err(error),
            }
        };
        Ok(Chunk { rows, read_octets: self.read_octets(), empty_rows: self.empty_rows(), end })
    }

    /// Returns how much of the file was read so far, in octets.
    #[must_use]
    pub fn read_octets(&self) -> u64 {
        match &self.rows {
            Rows::Csv(rows) => rows.read_octets.get(),
            Rows::Jsonl(rows) => rows.read_octets.get(),
        }
    }

    /// Returns how many rows without any value were passed over so far. Blank lines don't count.
    #[must_use]
    pub fn empty_rows(&self) -> u64 {
        match &self.rows {
            Rows::Csv(rows) => rows.empty_rows,
            Rows::Jsonl(_) => 0,
        }
    }
}

struct CsvRows<R: Read> {
    csv: csv::Reader<Lines<R>>,
    flow: Rc<Flow>,
    /// For each column of the file that has a name, which of [`FIELDS`] it is.
    columns: Vec<usize>,
    empty_rows: u64,
    read_octets: Rc<Cell<u64>>,
}

impl<R: Read> CsvRows<R> {
    fn new(input: R) -> Result<Self> {
        let flow = Rc::new(Flow::default());
        flow.budget.set(2 * ROW_OCTETS_MAX);
        let input = Decoder::new(input).map_err(|error| file_failure(error, 1))?;
        let read_octets = input.read_octets();
        let mut csv = csv::ReaderBuilder::new()
            .flexible(true)
            .buffer_capacity(ROW_OCTETS_MAX)
            // With the default, which takes \r too, the reader's line numbers are those of the \n it has seen so far,
            // which may or may not be that of the row.
            .terminator(csv::Terminator::Any(b'\n'))
            .from_reader(Lines::new(input, Rc::clone(&flow)));
        let header = csv.byte_headers().map_err(|error| csv_failure(error, 1))?.clone();
        if flow.take_stray(csv.position().line()).is_some() {
            return Err(Error::invalid(1, STRAY));
        }
        Ok(Self { csv, flow, columns: columns(&header)?, empty_rows: 0, read_octets })
    }

    fn next(&mut self) -> Result<Option<Row>> {
        let mut record = csv::ByteRecord::new();
        loop {
            // What the reader has in its buffer already was paid for before.
            self.flow.budget.set(2 * ROW_OCTETS_MAX);
            let line = self.csv.position().line();
            if !self.csv.read_byte_record(&mut record).map_err(|error| csv_failure(error, line))? {
                return Ok(None);
            }
            if record.iter().any(|field| !field.is_empty()) {
                break;
            }
            // Spreadsheets leave rows of commas alone behind.
            self.empty_rows += 1;
        }
        // The reader stands at the beginning of the next line, and knows where it began to look for this row: before
        // any blank lines.
        let line_ends: u64 = record.as_slice().iter().map(|byte| u64::from(*byte == b'\n')).sum();
        let next_line = self.csv.position().line();
        if self.flow.ended_open.get() {
            // The file ended within this row, and the end of its last line stands in the row instead of after it.
            let line = next_line - line_ends;
            return Err(Error::invalid(line, "a quote is opened here and never closed"));
        }
        let line = next_line - 1 - line_ends;
        let parsed = match self.flow.take_stray(next_line) {
            Some(stray) if stray == line => Err(STRAY.to_owned()),
            Some(stray) => Err(format!("{STRAY}, in line {stray}")),
            None => self.parse(&record),
        };
        let user = parsed.map_err(|reason| {
            let email = self.columns.iter().position(|field| *field == EMAIL).and_then(|column| record.get(column));
            BadRow { address: String::from_utf8_lossy(email.unwrap_or_default()).into_owned(), reason }
        });
        Ok(Some(Row { line, original: Original::Csv(record), user }))
    }

    fn parse(&self, record: &csv::ByteRecord) -> std::result::Result<NewUser, String> {
        if record.len() < self.columns.len() || record.iter().skip(self.columns.len()).any(|field| !field.is_empty()) {
            return Err(format!("the row has {} fields and the header {}", record.len(), self.columns.len()));
        }
        let mut fields = Fields::default();
        for (field, value) in self.columns.iter().zip(record) {
            let name = FIELDS[*field];
            let value = std::str::from_utf8(value).map_err(|_| format!("{name}: not UTF-8"))?;
            // An empty field is one that isn't there, except where there must be one.
            if value.is_empty() && name != "email" {
                continue;
            }
            let value = Some(Cow::Borrowed(csv_plain(value)));
            match name {
                "id" => fields.id = value,
                "email" => fields.email = value,
                "created_at" => fields.created_at = value,
                "last_login_at" => fields.last_login_at = value,
                "storage_path" => fields.storage_path = value,
                "updated_at" => fields.updated_at = value,
                _ => fields.version = Some(parse("version", value.as_deref().unwrap_or_default())?),
            }
        }
        fields.into_user()
    }
}

/// For each column that has a name, which of [`FIELDS`] it is. Columns without a name are passed over at the end only,
/// where spreadsheets leave them behind.
fn columns(header: &csv::ByteRecord) -> Result<Vec<usize>> {
    let names: Vec<_> = header.iter().map(|name| String::from_utf8_lossy(name)).collect();
    let named = names.iter().rposition(|name| !name.trim().is_empty()).map_or(0, |last| last + 1);
    let mut columns = Vec::with_capacity(named);
    for name in &names[..named] {
        let Some(field) = FIELDS.iter().position(|field| field.eq_ignore_ascii_case(name.trim())) else {
            let separators = if name.contains([';', '\t']) { " and are separated by commas" } else { "" };
            let columns = FIELDS.join(", ");
            return Err(Error::invalid(1, format!("unknown column {name:?}; the columns are {columns}{separators}")));
        };
        if columns.contains(&field) {
            return Err(Error::invalid(1, format!("the column {} is there twice", FIELDS[field])));
        }
        columns.push(field);
    }
    if !columns.contains(&EMAIL) {
        return Err(Error::invalid(1, "there is no column email"));
    }
    Ok(columns)
}

struct JsonlRows<R: Read> {
    input: BufReader<Decoder<R>>,
    line: u64,
    read_octets: Rc<Cell<u64>>,
}

impl<R: Read> JsonlRows<R> {
    fn new(input: R) -> Result<Self> {
        let input = Decoder::new(input).map_err(|error| file_failure(error, 1))?;
        let read_octets = input.read_octets();
        Ok(Self { input: BufReader::with_capacity(ROW_OCTETS_MAX, input), line: 0, read_octets })
    }

    fn next(&mut self) -> Result<Option<Row>> {
        loop {
            let line = self.line + 1;
            let failed = |error| file_failure(error, line);
            let mut text = Vec::new();
            let mut limited = (&mut self.input).take(ROW_OCTETS_MAX as u64 + 1);
            limited.read_until(b'\n', &mut text).map_err(failed)?;
            if text.is_empty() {
                return Ok(None);
            }
            self.line = line;
            if text.len() > ROW_OCTETS_MAX {
                if !text.ends_with(b"\n") {
                    self.input.skip_until(b'\n').map_err(failed)?;
                }
                let reason = "the line is longer than 64 KiB".to_owned();
                let user = Err(BadRow { address: String::new(), reason });
                return Ok(Some(Row { line, original: Original::Jsonl(Vec::new()), user }));
            }
            while text.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                text.pop();
            }
            if text.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let user = parse_json(&text).map_err(|reason| {
                let json = serde_json::from_slice::<serde_json::Value>(&text).unwrap_or_default();
                let email = json.get("email").and_then(serde_json::Value::as_str);
                BadRow { address: email.unwrap_or_default().to_owned(), reason }
            });
            return Ok(Some(Row { line, original: Original::Jsonl(text), user }));
        }
    }
}

fn parse_json(text: &[u8]) -> std::result::Result<NewUser, String> {
    // A derived Deserialize takes an array of the fields' values as well.
    if text.trim_ascii_start().first() != Some(&b'{') {
        return Err(match text.trim_ascii_start().first() {
            Some(b'[') => "a JSON array where a JSON object is needed".to_owned(),
            _ => "not a JSON object; for a CSV file say --from csv".to_owned(),
        });
    }
    let fields: Fields<'_> = serde_json::from_slice(text).map_err(|error| {
        // It says "at line 1", which is not the line of the file.
        let error = error.to_string();
        let reason = error.rsplit_once(" at line 1").map_or(error.as_str(), |(reason, _)| reason);
        format!("not a user as a JSON object: {}", printable(reason))
    })?;
    fields.into_user()
}

/// The fields of a row as they stand in the file. They are parsed one by one, so that the name of the field can be
/// told with what is wrong with it.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'row> {
    #[serde(borrow)]
    id: Option<Cow<'row, str>>,
    #[serde(borrow)]
    email: Option<Cow<'row, str>>,
    #[serde(borrow)]
    created_at: Option<Cow<'row, str>>,
    #[serde(borrow)]
    last_login_at: Option<Cow<'row, str>>,
    #[serde(borrow)]
    storage_path: Option<Cow<'row, str>>,
    #[serde(borrow)]
    updated_at: Option<Cow<'row, str>>,
    version: Option<u64>,
}

impl Fields<'_> {
    fn into_user(self) -> std::result::Result<NewUser, String> {
        let email = self.email.ok_or("email: missing")?;
        let email: Email = parse("email", &email)?;
        let time = |name, value: Option<Cow<'_, str>>| value.map(|value| parse_time(name, &value)).transpose();
        Ok(NewUser {
            id: self.id.map(|id| parse("id", &id)).transpose()?,
            storage_path: self.storage_path.map(|path| parse("storage_path", &path)).transpose()?,
            created_at: time("created_at", self.created_at)?,
            last_login_at: time("last_login_at", self.last_login_at)?,
            updated_at: time("updated_at", self.updated_at)?,
            version: self.version,
            ..NewUser::new(email)
        })
    }
}

fn parse<T: FromStr<Err: std::fmt::Display>>(name: &str, value: &str) -> std::result::Result<T, String> {
    value.parse().map_err(|error| format!("{name}: {error}"))
}

fn parse_time(name: &str, value: &str) -> std::result::Result<Timestamp, String> {
    parse(name, value).map_err(|reason| {
        let is_leap_second =
            value.get(16..19) == Some(":60") && value.replacen(":60", ":59", 1).parse::<Timestamp>().is_ok();
        if is_leap_second { format!("{name}: a leap second, which can't be stored") } else { reason }
    })
}

/// What is wrong with a row whose quoted field goes on behind its quotes: which part is the value, nobody can tell.
const STRAY: &str = "text after a closing quote; a quote within quotes is written twice";

/// Lines of text for the CSV reader, which has no limit of its own: no more than the budget, and every line with an end
/// that is LF alone. It follows the quotes as the reader does, which is too lenient to report what it finds behind them.
struct Lines<R: Read> {
    input: BufReader<Decoder<R>>,
    flow: Rc<Flow>,
    place: InRow,
    /// Whether a CR was read that may be the beginning of a line end.
    has_cr: bool,
    line: u64,
    last: u8,
}

/// Where in a row of CSV the last octet was.
#[derive(Clone, Copy, PartialEq, Eq)]
enum InRow {
    FieldStart,
    Unquoted,
    Quoted,
    /// Behind a quote within quotes, which ends the field or is the first of two.
    QuoteInQuoted,
}

#[derive(Default)]
struct Flow {
    /// How many octets may still be read before the row must have ended.
    budget: Cell<usize>,
    /// Whether the file has ended within quotes.
    ended_open: Cell<bool>,
    /// The lines that have text after a closing quote, of the rows that the reader hasn't returned yet.
    strays: RefCell<VecDeque<u64>>,
}

impl Flow {
    /// The first line before `next_line` with text after a closing quote. All before `next_line` are forgotten.
    fn take_stray(&self, next_line: u64) -> Option<u64> {
        let mut strays = self.strays.borrow_mut();
        let first = strays.front().copied().filter(|line| *line < next_line);
        while strays.front().is_some_and(|line| *line < next_line) {
            strays.pop_front();
        }
        first
    }
}

impl<R: Read> Lines<R> {
    fn new(input: Decoder<R>, flow: Rc<Flow>) -> Self {
        let input = BufReader::with_capacity(ROW_OCTETS_MAX, input);
        Self { input, flow, place: InRow::FieldStart, has_cr: false, line: 1, last: b'\n' }
    }

    /// Follows one octet that the reader will get.
    fn follow(&mut self, octet: u8) {
        self.place = match (self.place, octet) {
            (InRow::Quoted, b'"') => InRow::QuoteInQuoted,
            (InRow::Quoted, _) | (InRow::FieldStart | InRow::QuoteInQuoted, b'"') => InRow::Quoted,
            (_, b',' | b'\n') => InRow::FieldStart,
            (InRow::QuoteInQuoted, _) => {
                let mut strays = self.flow.strays.borrow_mut();
                if strays.back() != Some(&self.line) {
                    strays.push_back(self.line);
                }
                InRow::Unquoted
            }
            (InRow::FieldStart | InRow::Unquoted, _) => InRow::Unquoted,
        };
        self.line += u64::from(octet == b'\n');
        self.last = octet;
    }

    /// Takes octets of the file into the buffer, which has room for two at least.
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut length = 0;
        while length == 0 {
            let available = self.input.fill_buf()?;
            if available.is_empty() {
                return Ok(0);
            }
            let octets = available[..available.len().min(buffer.len() - 1)].to_vec();
            self.input.consume(octets.len());
            for octet in octets {
                if std::mem::take(&mut self.has_cr) && octet != b'\n' {
                    self.follow(b'\r');
                    buffer[length] = b'\r';
                    length += 1;
                }
                if octet == b'\r' && self.place != InRow::Quoted {
                    self.has_cr = true;
                    continue;
                }
                self.follow(octet);
                buffer[length] = octet;
                length += 1;
            }
        }
        Ok(length)
    }
}

impl<R: Read> Read for Lines<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let budget = self.flow.budget.get();
        // A CR that was held back comes with what follows it.
        if budget < 2 {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        let length = buffer.len().min(budget);
        let mut read = self.take(&mut buffer[..length])?;
        if read == 0 {
            self.flow.ended_open.set(self.place == InRow::Quoted);
            let has_cr = std::mem::take(&mut self.has_cr);
            if self.last != b'\n' || has_cr {
                // A CR at the very end is a line end that was cut off.
                self.follow(b'\n');
                buffer[0] = b'\n';
                read = 1;
            }
        }
        self.flow.budget.set(budget - read);
        Ok(read)
    }
}

/// The failure to read a file, which may be what is in it.
fn file_failure(error: io::Error, line: u64) -> Error {
    match error.kind() {
        io::ErrorKind::InvalidData => Error::invalid(line, error.to_string()),
        _ => Error::Io(error),
    }
}

fn csv_failure(error: csv::Error, line: u64) -> Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            Error::invalid(line, "the row is longer than 64 KiB, or a quote in it is never closed")
        }
        csv::ErrorKind::Io(error) => file_failure(error, line),
        _ => Error::invalid(line, "not CSV"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(format: Format, text: &[u8]) -> Vec<(u64, std::result::Result<NewUser, String>)> {
        let mut reader = RowReader::new(format, text).expect("a good header");
        let rows = std::iter::from_fn(|| reader.next_row().expect("a readable file"));
        rows.map(|row| (row.line, row.user.map_err(|bad| bad.reason))).collect()
    }

    #[test]
    fn byte_order_marks_line_ends_and_blank_lines_make_no_difference() {
        let csv = rows(Format::Csv, b"\xef\xbb\xbfemail,id\r\nada@example.com,\r\n\r\n\"bob@example.com\",\n");
        let jsonl = rows(
            Format::Jsonl,
            b"\xef\xbb\xbf{\"email\":\"ada@example.com\"}\r\n\r\n \n{\"email\":\"bob@example.com\"}",
        );
        for rows in [csv, jsonl] {
            let emails: Vec<_> = rows.iter().map(|(_, user)| user.as_ref().unwrap().email.to_string()).collect();
            assert_eq!(emails, ["ada@example.com", "bob@example.com"]);
        }
    }

    #[test]
    fn a_bad_row_says_why_and_the_next_is_read() {
        let csv = rows(Format::Csv, b"email,created_at,version\nada,,\nb@example.com,yesterday,\nc@example.com,,x\nd@example.com\n\xff@example.com,,\n,,\ne@example.com,,\n");
        let reasons: Vec<_> = csv.iter().map(|(line, user)| (*line, user.as_ref().err().map(String::as_str))).collect();
        assert_eq!(
            reasons,
            [
                (2, Some("email: the address has no @")),
                (3, Some("created_at: not an RFC 3339 time such as 2026-11-23T07:30:00Z")),
                (4, Some("version: invalid digit found in string")),
                (5, Some("the row has 1 fields and the header 3")),
                (6, Some("email: not UTF-8")),
                (8, None),
            ]
        );
        let jsonl = rows(
            Format::Jsonl,
            b"{\"mail\":\"a\"}\n{\"email\":\"a@example.com\",\"email\":\"b@example.com\"}\n[]\n{\"email\":7}\n{}\nemail\n{\"email\":\"e@example.com\",\"last_login_at\":null}\n",
        );
        let reasons: Vec<_> = jsonl.iter().map(|(_, user)| user.as_ref().err().map_or("", String::as_str)).collect();
        assert!(
            reasons[0].starts_with("not a user as a JSON object: unknown field `mail`, expected one of `id`, `email`")
        );
        assert_eq!(reasons[2], "a JSON array where a JSON object is needed");
        assert_eq!(reasons[5], "not a JSON object; for a CSV file say --from csv");
        assert_eq!(reasons[1], "not a user as a JSON object: duplicate field `email`");
        assert_eq!(reasons[4], "email: missing");
        assert!(reasons[..6].iter().all(|reason| !reason.is_empty() && !reason.contains("line")), "{reasons:?}");
        assert_eq!(reasons[6], "");
    }

    /// Blank lines, quoted line ends and the last line without one had put the numbers off.
    #[test]
    fn a_line_is_numbered_as_an_editor_would() {
        let text = "email\na@x\n\n\nb@x\n\"c\nc\"\nd@x\n\n\"e\n\ne\"";
        for text in [text.to_owned(), text.replace('\n', "\r\n"), format!("{text}\n"), format!("\u{feff}{text}")] {
            let lines: Vec<_> = rows(Format::Csv, text.as_bytes()).iter().map(|(line, _)| *line).collect();
            assert_eq!(lines, [2, 5, 6, 8, 10], "{text:?}");
        }
        let lines: Vec<_> = rows(Format::Jsonl, b"{}\n\n{}\r\n\r\n{}").iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 3, 5]);
    }

    #[test]
    fn a_quote_that_is_never_closed_is_found_where_it_was_opened() {
        for (text, line) in [
            ("email\n\"ada@example.com", 2),
            ("email\n\"broken@example.com\nx@example.com\n", 2),
            ("email\na@x\n\nb@x\n\"c@x\nd@x\ne@x\n", 5),
        ] {
            let mut reader = CsvRows::new(text.as_bytes()).expect("a good header");
            let failure = std::iter::repeat_with(|| reader.next()).find_map(Result::err);
            let failure = failure.unwrap_or_else(|| panic!("{text:?} was read"));
            assert_eq!(failure.to_string(), format!("line {line}: a quote is opened here and never closed"));
        }
        // One that is closed right behind a line end is another matter, wherever it stands.
        for text in ["email\n\"a@x\n\"\nb@x\n", "email\nb@x\n\"a@x\n\"\n", "email\nb@x\n\"a@x\n\""] {
            let rows = rows(Format::Csv, text.as_bytes());
            assert_eq!(rows.iter().filter(|(_, user)| user.is_err()).count(), 1, "{text:?}");
            assert_eq!(rows.len(), 2, "{text:?}");
        }
    }

    /// `"ada@example.com"x` had become a user with the address ada@example.comx.
    #[test]
    fn text_after_a_closing_quote_is_a_bad_row_in_its_line() {
        for (text, line, reason) in [
            ("email\n\"a@x\"x\nb@x\n", 2, STRAY.to_owned()),
            ("email\nb@x\n\n\"a@x\" \n", 4, STRAY.to_owned()),
            ("email,id\n\"a@x\",\"\"\"\"x\nb@x,\n", 2, STRAY.to_owned()),
            ("email\n\"a@x\"\r\"\nb@x\n", 2, STRAY.to_owned()),
            ("email\nb@x\n\"a\n@x\"x\"y\n", 3, format!("{STRAY}, in line 4")),
        ] {
            let rows = rows(Format::Csv, text.as_bytes());
            let bad: Vec<_> =
                rows.iter().filter_map(|(line, user)| Some((*line, user.as_ref().err()?.clone()))).collect();
            assert_eq!(bad, [(line, reason)], "{text:?}");
            assert_eq!(rows.len(), 2, "{text:?}");
        }
        assert!(CsvRows::new(&b"\"email\"x\n"[..]).is_err());
        for text in ["email,id\r\n\"a@x\",\r\n\"b@x\",\"\"\r\n", "id,\"email\"\n,\"a@x\"\r\n,\"b@x\"\r"] {
            assert!(rows(Format::Csv, text.as_bytes()).iter().all(|(_, user)| user.is_ok()), "{text:?}");
        }
    }

    /// Spreadsheets leave rows and columns of commas alone behind.
    #[test]
    fn rows_and_trailing_columns_without_any_value_are_passed_over_and_rows_counted() {
        let text = b"email,,\n,,\na@x,,\nb@x,,,\n\"\"\n\nc@x\n";
        let mut reader = RowReader::new(Format::Csv, &text[..]).expect("a good header");
        let rows: Vec<_> = std::iter::from_fn(|| reader.next_row().expect("a readable file")).collect();
        assert_eq!(rows.iter().map(|row| row.line).collect::<Vec<_>>(), [3, 4, 7]);
        assert!(rows.iter().all(|row| row.user.is_ok()));
        assert_eq!(reader.empty_rows(), 2);
        // A value there is not passed over, nor is a CR, which had been taken for a blank line.
        for text in ["email,\na@x,value\n", "email\n\"\r\"\n", "email,id\n\r,\n", "email\n \n"] {
            let rows = super::tests::rows(Format::Csv, text.as_bytes());
            assert!(rows.len() == 1 && rows[0].1.is_err(), "{text:?}");
        }
        assert!(CsvRows::new(&b"email,,id\n"[..]).is_err(), "a nameless column between others");
    }

    #[test]
    fn a_leap_second_is_named() {
        let text = b"email,created_at\na@x,2016-12-31T23:59:60Z\nb@x,2016-13-31T23:59:60Z\n";
        let rows = rows(Format::Csv, text);
        assert_eq!(rows[0].1.as_ref().unwrap_err(), "created_at: a leap second, which can't be stored");
        assert!(rows[1].1.as_ref().unwrap_err().contains("not an RFC 3339 time"));
    }

    #[test]
    fn names_of_columns_ignore_case_and_surrounding_space() {
        let rows = rows(Format::Csv, b" Email ,Created_At\r\na@x,2026-01-01T00:00:00Z\r\n");
        assert!(rows[0].1.as_ref().unwrap().created_at.is_some());
    }

    #[test]
    fn utf16_is_read_and_half_a_surrogate_pair_is_found_in_its_line() {
        for format in [Format::Csv, Format::Jsonl] {
            let text = match format {
                Format::Csv => "\u{feff}email\r\na@x\r\nb@x\r\n",
                Format::Jsonl => "\u{feff}{\"email\":\"a@x\"}\r\n{\"email\":\"b@x\"}\r\n",
            };
            let mut octets: Vec<_> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
            assert_eq!(rows(format, &octets).iter().filter(|(_, user)| user.is_ok()).count(), 2);
            octets.extend([0x00, 0xd8, b'\n', 0]);
            let mut reader = RowReader::new(format, octets.as_slice()).expect("a good header");
            let failure = std::iter::repeat_with(|| reader.next_row()).find_map(Result::err).expect("a failure");
            let line = if format == Format::Csv { 4 } else { 3 };
            let message = failure.to_string();
            assert!(message.starts_with(&format!("line {line}: the file is UTF-16 and has half")), "{message}");
        }
    }

    #[test]
    fn a_long_line_of_json_is_passed_over() {
        let long = format!("{{\"email\":\"{}\"}}", "x".repeat(70_000));
        let lines = rows(Format::Jsonl, format!("{long}\n{{\"email\":\"a@x\"}}\n{long}").as_bytes());
        let bad: Vec<_> = lines.iter().map(|(line, user)| (*line, user.is_err())).collect();
        assert_eq!(bad, [(1, true), (2, false), (3, true)]);
    }

    #[test]
    fn what_a_file_says_of_itself_does_nothing_to_a_terminal() {
        let lines = rows(Format::Jsonl, b"{\"email\":\"a@x\",\"\\u001b]0;pwn\\u0007\\nerror: no\":1}");
        let reason = lines[0].1.as_ref().unwrap_err();
        assert!(!reason.chars().any(char::is_control) && reason.contains("pwn"), "{reason}");
    }

    #[test]
    fn a_row_without_end_is_refused_before_it_fills_the_memory() {
        let endless = |start: &str| io::Cursor::new(start.to_owned()).chain(io::repeat(b'x').take(1 << 30));
        let mut reader = CsvRows::new(endless("email\na@example.com\n\"x")).expect("a good header");
        let failure = std::iter::repeat_with(|| reader.next()).find_map(Result::err).expect("a failure");
        let message = failure.to_string();
        assert!(message.starts_with("line 3: the row is longer than 64 KiB"), "{message}");
        assert!(CsvRows::new(endless("email")).is_err());
    }

    #[test]
    fn a_header_is_checked() {
        for header in ["email,mail\n", "id\n", "email,email\n", ""] {
            assert!(matches!(CsvRows::new(header.as_bytes()), Err(Error::Invalid { .. })), "{header:?}");
        }
    }
}
