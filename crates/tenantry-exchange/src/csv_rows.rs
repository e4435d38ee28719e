//! Reads rows of CSV, as spreadsheets and directory services write it.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};
use std::rc::Rc;

use tenantry::{NewUser, User};

use crate::columns::{Columns, Omissions, cut, may_be_address};
use crate::decode::Decoder;
use crate::error::read_failure;
use crate::fields::{EMAIL, Fields, not_utf8};
use crate::formula::unescape_formula;
use crate::row::{BadRow, IO_BYTES, Original, ROW_BYTES_MAX, Row};
use crate::{Error, Result};

/// How many bytes may be read for one row: the longest row, and one buffer that the reader reads
/// ahead.
const BUDGET_BYTES: usize = ROW_BYTES_MAX + IO_BYTES;
/// The separators of columns, the usual one first. Spreadsheets write semicolons in locales with a
/// decimal comma, and tabs on the clipboard.
const SEPARATORS: [u8; 3] = [b',', b';', b'\t'];
/// The line that `Export-Csv` of Windows PowerShell puts before the header.
const TYPE_OF_POWERSHELL: &[u8] = b"#TYPE ";

pub(crate) struct CsvRows<R: Read> {
    csv: csv::Reader<Lines<R>>,
    flow: Rc<Flow>,
    separator: u8,
    /// For each column up to the last named one, the index of its field in [`User::FIELDS`].
    columns: Vec<Option<usize>>,
    pub(crate) omissions: Omissions,
    pub(crate) bytes_read: Rc<Cell<u64>>,
}

impl<R: Read> CsvRows<R> {
    pub(crate) fn new(columns: Columns, input: R) -> Result<Self> {
        let flow = Rc::new(Flow::default());
        flow.budget.set(BUDGET_BYTES);
        let input = Decoder::new(input).map_err(|error| read_failure(error, 1))?;
        let bytes_read = input.bytes_read();
        let mut input = BufReader::with_capacity(IO_BYTES, input);
        let mut omissions = Omissions::default();
        let (head, separator) = read_head(&mut input, &columns, &mut omissions)?;
        let mut csv = csv::ReaderBuilder::new()
            .flexible(true)
            .delimiter(separator)
            .buffer_capacity(IO_BYTES)
            // By default \r ends a line too, and then the reader's line numbers depend on how many
            // \n it has seen, which may or may not include the one of this row.
            .terminator(csv::Terminator::Any(b'\n'))
            .from_reader(Lines::new(Cursor::new(head).chain(input), separator, Rc::clone(&flow)));
        let header = csv.byte_headers().map_err(|error| csv_failure(error, 1, &flow))?.clone();
        let next_line = csv.position().line();
        let line = next_line.saturating_sub(1).max(1);
        if flow.ended_open.get() {
            return Err(Error::invalid(flow.opened.get(), NEVER_CLOSED));
        }
        if flow.take_stray(next_line).is_some() {
            return Err(Error::invalid(line, STRAY));
        }
        let columns = assign(&header, &columns, &mut omissions)
            .map_err(|reason| Error::Header { line, reason })?;
        Ok(Self { csv, flow, separator, columns, omissions, bytes_read })
    }

    pub(crate) fn next(&mut self) -> Result<Option<Row>> {
        let mut record = csv::ByteRecord::new();
        loop {
            // The bytes that the reader has in its buffer were counted against an earlier row.
            self.flow.budget.set(BUDGET_BYTES);
            let line = self.csv.position().line();
            let read = self.csv.read_byte_record(&mut record);
            if !read.map_err(|error| csv_failure(error, line, &self.flow))? {
                return Ok(None);
            }
            if record.iter().any(|field| !field.is_empty()) {
                break;
            }
            // Spreadsheets write empty rows as separators only.
            self.omissions.empty_rows += 1;
        }
        // The reader is at the beginning of the next line. It only knows where it began to read for
        // this row, which is before any blank lines.
        let line_ends: u64 = record.as_slice().iter().map(|byte| u64::from(*byte == b'\n')).sum();
        let next_line = self.csv.position().line();
        if self.flow.ended_open.get() {
            return Err(Error::invalid(self.flow.opened.get(), NEVER_CLOSED));
        }
        let line = next_line - 1 - line_ends;
        let parsed = match self.flow.take_stray(next_line) {
            Some(stray) if stray == line => Err(STRAY.to_owned()),
            Some(stray) => Err(format!("{STRAY}, in line {stray}")),
            None => self.parse(&record),
        };
        let user = parsed.map_err(|reason| {
            let email = self.columns.iter().position(|field| *field == Some(EMAIL));
            let email = email.and_then(|column| record.get(column)).unwrap_or_default();
            BadRow { address: String::from_utf8_lossy(email).into_owned(), reason }
        });
        let original = Original::Csv { record, separator: self.separator };
        Ok(Some(Row { line, element: None, original, user }))
    }

    fn parse(&mut self, record: &csv::ByteRecord) -> std::result::Result<NewUser, String> {
        let columns = self.columns.len();
        if record.len() < columns || record.iter().skip(columns).any(|field| !field.is_empty()) {
            return Err(format!("the row has {} fields and the header {columns}", record.len()));
        }
        let empty_columns = (record.len() - columns) as u64;
        self.omissions.empty_columns = self.omissions.empty_columns.max(empty_columns);
        let mut fields = Fields::default();
        for (field, value) in self.columns.iter().zip(record) {
            let Some(field) = *field else { continue };
            let value = std::str::from_utf8(value).map_err(|_| {
                format!("{}: {}", User::FIELDS[field], not_utf8(value).unwrap_or_default())
            })?;
            fields.texts[field] = Some(Cow::Borrowed(unescape_formula(value)));
        }
        fields.into_user()
    }
}

/// Reads up to the first line of the header. Returns the text, in which other lines before the
/// header are blank, and the separator.
fn read_head(
    input: &mut impl BufRead,
    columns: &Columns,
    omissions: &mut Omissions,
) -> Result<(Vec<u8>, u8)> {
    let mut head = Vec::new();
    let mut line = 1;
    let mut named = None;
    loop {
        let mut text = Vec::new();
        let mut limited = input.take(ROW_BYTES_MAX as u64);
        limited.read_until(b'\n', &mut text).map_err(|error| read_failure(error, line))?;
        let first = text.trim_ascii_end();
        let is_empty = first.iter().all(|byte| matches!(byte, b' ' | b'\t' | b',' | b';'))
            && text.ends_with(b"\n");
        if let Some(separator) = named_separator(first) {
            named = Some(separator);
        } else if is_empty {
            omissions.empty_rows += u64::from(!first.is_empty());
        } else if !first.starts_with(TYPE_OF_POWERSHELL) {
            check_line_ends(&text).map_err(|reason| Error::invalid(line, reason))?;
            let separator = named.unwrap_or_else(|| detect_separator(first, columns));
            head.extend(text);
            return Ok((head, separator));
        }
        head.push(b'\n');
        line += 1;
        if head.len() > ROW_BYTES_MAX {
            return Err(Error::invalid(1, "the file begins with more than 1 MiB of blank lines"));
        }
    }
}

/// Returns the separator that a line `sep=;` names. Excel reads this line at the beginning of a
/// file, and writes it back.
fn named_separator(line: &[u8]) -> Option<u8> {
    let line = line.strip_prefix(b"\"").and_then(|line| line.strip_suffix(b"\"")).unwrap_or(line);
    match line {
        // A tab was trimmed from the end of the line.
        _ if line.eq_ignore_ascii_case(b"sep=") => Some(b'\t'),
        [name @ .., separator] if name.eq_ignore_ascii_case(b"sep=") => Some(*separator)
            .filter(|separator| separator.is_ascii() && !b"\"'\r\n".contains(separator)),
        _ => None,
    }
}

/// Returns the first separator that gives the header a column for the address, or else the usual
/// one.
fn detect_separator(header: &[u8], columns: &Columns) -> u8 {
    let has_email = |separator: &u8| {
        let mut csv =
            csv::ReaderBuilder::new().has_headers(false).delimiter(*separator).from_reader(header);
        let record =
            csv.byte_records().next().and_then(std::result::Result::ok).unwrap_or_default();
        record.iter().any(|name| columns.field(&String::from_utf8_lossy(name)) == Some(EMAIL))
    };
    SEPARATORS.into_iter().find(has_email).unwrap_or(SEPARATORS[0])
}

/// Refuses a file whose lines end in CR alone, since all of it would be the header.
fn check_line_ends(header: &[u8]) -> std::result::Result<(), &'static str> {
    let mut is_quoted = false;
    for pair in header.windows(2) {
        is_quoted ^= pair[0] == b'"';
        if pair[0] == b'\r' && !is_quoted && !matches!(pair[1], b'\r' | b'\n') {
            return Err(
                "the lines end in CR alone, as on classic Mac OS: save the file with LF or CRLF",
            );
        }
    }
    Ok(())
}

/// Returns the index in [`User::FIELDS`] for each column up to the last named one. Unnamed columns
/// at the end are left out, since spreadsheets write them; others are unknown columns.
fn assign(
    header: &csv::ByteRecord,
    columns: &Columns,
    omissions: &mut Omissions,
) -> std::result::Result<Vec<Option<usize>>, String> {
    let names: Vec<_> = header.iter().map(|name| String::from_utf8_lossy(name)).collect();
    let named = names.iter().rposition(|name| !name.trim().is_empty()).map_or(0, |last| last + 1);
    omissions.empty_columns = (names.len() - named) as u64;
    let assigned: Vec<_> = names[..named].iter().map(|name| columns.field(name)).collect();
    if assigned.iter().all(Option::is_none) && names.iter().any(|name| name.contains('@')) {
        return Err(
            "the first line has values and no names of columns: the file has no header".to_owned()
        );
    }
    for (column, name) in names[..named].iter().enumerate() {
        match assigned[column] {
            Some(field) if assigned[..column].contains(&Some(field)) => {
                return Err(format!("the column {} appears twice", User::FIELDS[field]));
            }
            Some(_) => {}
            None if columns.ignores_unknown() => omissions.ignore_column(name),
            None => {
                if let Some(reason) = not_utf8(&header[column]) {
                    return Err(format!("the name of column {}: {reason}", column + 1));
                }
                let columns = User::FIELDS.join(", ");
                if may_be_address(name) {
                    let number = column + 1;
                    return Err(format!("column {number} is unknown; the columns are {columns}"));
                }
                return Err(format!("unknown column {:?}; the columns are {columns}", cut(name)));
            }
        }
    }
    if let Some((field, name)) =
        columns.mapped().find(|(field, name)| !name.is_empty() && !assigned.contains(&Some(*field)))
    {
        return Err(format!(
            "there is no column {:?}, which is mapped to {}",
            cut(name),
            User::FIELDS[field]
        ));
    }
    if !assigned.contains(&Some(EMAIL)) {
        return Err("there is no column email".to_owned());
    }
    Ok(assigned)
}

/// The reason to reject a row whose quoted field goes on after the closing quote: the value is
/// ambiguous.
pub(crate) const STRAY: &str = "text after a closing quote; a quote within quotes is written twice";
const NEVER_CLOSED: &str = "a quote is opened here and never closed";

/// Feeds text to the CSV reader: within the budget, because the reader has no limit, and with LF as
/// the only line end. It tracks quotes as the reader does, because the reader silently accepts text
/// after a closing quote.
struct Lines<R: Read> {
    input: Chain<Cursor<Vec<u8>>, BufReader<Decoder<R>>>,
    separator: u8,
    flow: Rc<Flow>,
    place: InRow,
    /// Whether the last byte was a CR, which may begin a line end.
    has_cr: bool,
    line: u64,
    last: u8,
}

/// The position of the last byte in a row of CSV.
#[derive(Clone, Copy, PartialEq, Eq)]
enum InRow {
    FieldStart,
    Unquoted,
    Quoted,
    /// After a quote within quotes, which ends the field or is the first of two.
    QuoteInQuoted,
}

#[derive(Default)]
struct Flow {
    /// How many bytes may still be read before the row must end.
    budget: Cell<usize>,
    /// Whether the file ended within quotes.
    ended_open: Cell<bool>,
    /// The line of the last opening quote.
    opened: Cell<u64>,
    /// Whether the last byte was within quotes.
    is_quoted: Cell<bool>,
    /// The lines with text after a closing quote, in rows that the reader hasn't returned yet.
    strays: RefCell<VecDeque<u64>>,
}

impl Flow {
    /// Removes the lines before `next_line`, and returns the first of them.
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
    fn new(
        input: Chain<Cursor<Vec<u8>>, BufReader<Decoder<R>>>,
        separator: u8,
        flow: Rc<Flow>,
    ) -> Self {
        Self {
            input,
            separator,
            flow,
            place: InRow::FieldStart,
            has_cr: false,
            line: 1,
            last: b'\n',
        }
    }

    /// Advances by one byte, which the reader will get.
    fn advance(&mut self, byte: u8) {
        if self.place == InRow::FieldStart && byte == b'"' {
            self.flow.opened.set(self.line);
        }
        self.place = match (self.place, byte) {
            (InRow::Quoted, b'"') => InRow::QuoteInQuoted,
            (InRow::Quoted, _) | (InRow::FieldStart | InRow::QuoteInQuoted, b'"') => InRow::Quoted,
            (_, byte) if byte == self.separator || byte == b'\n' => InRow::FieldStart,
            (InRow::QuoteInQuoted, _) => {
                let mut strays = self.flow.strays.borrow_mut();
                if strays.back() != Some(&self.line) {
                    strays.push_back(self.line);
                }
                InRow::Unquoted
            }
            (InRow::FieldStart | InRow::Unquoted, _) => InRow::Unquoted,
        };
        self.flow.is_quoted.set(self.place == InRow::Quoted);
        self.line += u64::from(byte == b'\n');
        self.last = byte;
    }

    /// Copies bytes of the file into the buffer, which must have room for at least two.
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut length = 0;
        while length == 0 {
            let available = self.input.fill_buf()?;
            if available.is_empty() {
                return Ok(0);
            }
            let bytes = available[..available.len().min(buffer.len() - 1)].to_vec();
            self.input.consume(bytes.len());
            for byte in bytes {
                if std::mem::take(&mut self.has_cr) && byte != b'\n' {
                    self.advance(b'\r');
                    buffer[length] = b'\r';
                    length += 1;
                }
                if byte == b'\r' && self.place != InRow::Quoted {
                    self.has_cr = true;
                    continue;
                }
                self.advance(byte);
                buffer[length] = byte;
                length += 1;
            }
        }
        Ok(length)
    }
}

impl<R: Read> Read for Lines<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let budget = self.flow.budget.get();
        // A CR that was held back is returned together with the next byte.
        if budget < 2 {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        let length = buffer.len().min(budget);
        let mut read = self.take(&mut buffer[..length])?;
        if read == 0 {
            self.flow.ended_open.set(self.place == InRow::Quoted);
            let has_cr = std::mem::take(&mut self.has_cr);
            if self.last != b'\n' || has_cr {
                // A CR at the very end is a truncated line end.
                self.advance(b'\n');
                buffer[0] = b'\n';
                read = 1;
            }
        }
        self.flow.budget.set(budget - read);
        Ok(read)
    }
}

fn csv_failure(error: csv::Error, line: u64, flow: &Flow) -> Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            match flow.is_quoted.get() {
                true => Error::invalid(
                    flow.opened.get(),
                    "a quote is opened here and not closed within 1 MiB",
                ),
                false => Error::invalid(line, "the row is longer than 1 MiB"),
            }
        }
        csv::ErrorKind::Io(error) => read_failure(error, line),
        _ => Error::invalid(line, "not CSV"),
    }
}
