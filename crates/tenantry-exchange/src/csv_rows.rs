//! Rows of CSV, as spreadsheets and directories write it.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};
use std::rc::Rc;

use tenantry::NewUser;

use crate::columns::{Columns, PassedOver, cut};
use crate::decode::Decoder;
use crate::error::file_failure;
use crate::fields::{EMAIL, Fields, not_utf8};
use crate::formula::csv_plain;
use crate::row::{BadRow, IO_OCTETS, Original, ROW_OCTETS_MAX, Row};
use crate::{Error, FIELDS, Result};

/// How many octets may be read for one row: those of the longest, and what the reader takes beyond
/// it.
const BUDGET_OCTETS: usize = ROW_OCTETS_MAX + IO_OCTETS;
/// What separates the columns, the usual first: a semicolon where the decimal point is a comma, and
/// a tab in what is copied.
const SEPARATORS: [u8; 3] = [b',', b';', b'\t'];
/// The line that `Export-Csv` of Windows PowerShell puts before the header.
const TYPE_OF_POWERSHELL: &[u8] = b"#TYPE ";

pub(crate) struct CsvRows<R: Read> {
    csv: csv::Reader<Lines<R>>,
    flow: Rc<Flow>,
    separator: u8,
    /// For each column of the file up to the last one with a name, which of [`FIELDS`] it is, if it
    /// is any.
    columns: Vec<Option<usize>>,
    pub(crate) passed_over: PassedOver,
    pub(crate) read_octets: Rc<Cell<u64>>,
}

impl<R: Read> CsvRows<R> {
    pub(crate) fn new(columns: Columns, input: R) -> Result<Self> {
        let flow = Rc::new(Flow::default());
        flow.budget.set(BUDGET_OCTETS);
        let input = Decoder::new(input).map_err(|error| file_failure(error, 1))?;
        let read_octets = input.read_octets();
        let mut input = BufReader::with_capacity(IO_OCTETS, input);
        let mut passed_over = PassedOver::default();
        let (head, separator) = read_head(&mut input, &columns, &mut passed_over)?;
        let mut csv = csv::ReaderBuilder::new()
            .flexible(true)
            .delimiter(separator)
            .buffer_capacity(IO_OCTETS)
            // With the default, which takes \r too, the reader's line numbers are those of the \n
            // it has seen so far, which may or may not be that of the row.
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
        let columns = assign(&header, &columns, &mut passed_over).map_err(|reason| Error::Header { line, reason })?;
        Ok(Self { csv, flow, separator, columns, passed_over, read_octets })
    }

    pub(crate) fn next(&mut self) -> Result<Option<Row>> {
        let mut record = csv::ByteRecord::new();
        loop {
            // What the reader has in its buffer already was paid for before.
            self.flow.budget.set(BUDGET_OCTETS);
            let line = self.csv.position().line();
            let read = self.csv.read_byte_record(&mut record);
            if !read.map_err(|error| csv_failure(error, line, &self.flow))? {
                return Ok(None);
            }
            if record.iter().any(|field| !field.is_empty()) {
                break;
            }
            // Spreadsheets leave rows of separators alone behind.
            self.passed_over.empty_rows += 1;
        }
        // The reader stands at the beginning of the next line, and knows where it began to look for
        // this row: before any blank lines.
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
        self.passed_over.empty_columns = self.passed_over.empty_columns.max(empty_columns);
        let mut fields = Fields::default();
        for (field, value) in self.columns.iter().zip(record) {
            let Some(field) = *field else { continue };
            let value = std::str::from_utf8(value)
                .map_err(|_| format!("{}: {}", FIELDS[field], not_utf8(value).unwrap_or_default()))?;
            fields.values[field] = Some(Cow::Borrowed(csv_plain(value)));
        }
        fields.into_user()
    }
}

/// Reads the lines before the header, which are replaced by blank ones, and the line with which the
/// header begins, and returns them and what separates the columns.
fn read_head(input: &mut impl BufRead, columns: &Columns, passed_over: &mut PassedOver) -> Result<(Vec<u8>, u8)> {
    let mut head = Vec::new();
    let mut line = 1;
    let mut named = None;
    loop {
        let mut text = Vec::new();
        let mut limited = input.take(ROW_OCTETS_MAX as u64);
        limited.read_until(b'\n', &mut text).map_err(|error| file_failure(error, line))?;
        let first = text.trim_ascii_end();
        let is_empty = first.iter().all(|octet| matches!(octet, b' ' | b'\t' | b',' | b';')) && text.ends_with(b"\n");
        if let Some(separator) = named_separator(first) {
            named = Some(separator);
        } else if is_empty {
            passed_over.empty_rows += u64::from(!first.is_empty());
        } else if !first.starts_with(TYPE_OF_POWERSHELL) {
            check_line_ends(&text).map_err(|reason| Error::invalid(line, reason))?;
            let separator = named.unwrap_or_else(|| detect_separator(first, columns));
            head.extend(text);
            return Ok((head, separator));
        }
        head.push(b'\n');
        line += 1;
        if head.len() > ROW_OCTETS_MAX {
            return Err(Error::invalid(1, "the file begins with more blank lines than any spreadsheet has"));
        }
    }
}

/// Returns what the line `sep=;` says, with which Excel is told the separator, and which Excel
/// leaves at the beginning.
fn named_separator(line: &[u8]) -> Option<u8> {
    let line = line.strip_prefix(b"\"").and_then(|line| line.strip_suffix(b"\"")).unwrap_or(line);
    match line {
        // A tab at the end of the line was taken off with it.
        _ if line.eq_ignore_ascii_case(b"sep=") => Some(b'\t'),
        [name @ .., separator] if name.eq_ignore_ascii_case(b"sep=") => {
            Some(*separator).filter(|separator| separator.is_ascii() && !b"\"'\r\n".contains(separator))
        }
        _ => None,
    }
}

/// Returns the first separator with which the header has a column for the address, and else the
/// usual one.
fn detect_separator(header: &[u8], columns: &Columns) -> u8 {
    let has_email = |separator: &u8| {
        let mut csv = csv::ReaderBuilder::new().has_headers(false).delimiter(*separator).from_reader(header);
        let record = csv.byte_records().next().and_then(std::result::Result::ok).unwrap_or_default();
        record.iter().any(|name| columns.field(&String::from_utf8_lossy(name)) == Some(EMAIL))
    };
    SEPARATORS.into_iter().find(has_email).unwrap_or(SEPARATORS[0])
}

/// Refuses a file whose lines end in CR alone, which would be one long header.
fn check_line_ends(header: &[u8]) -> std::result::Result<(), &'static str> {
    let mut is_quoted = false;
    for pair in header.windows(2) {
        is_quoted ^= pair[0] == b'"';
        if pair[0] == b'\r' && !is_quoted && !matches!(pair[1], b'\r' | b'\n') {
            return Err("the lines end in CR alone, as those of classic Mac OS: save the file with LF or CRLF");
        }
    }
    Ok(())
}

/// Returns for each column up to the last one with a name, which of [`FIELDS`] it is. Columns
/// without a name are passed over at the end only, where spreadsheets leave them behind, unless
/// unknown ones are ignored.
fn assign(
    header: &csv::ByteRecord,
    columns: &Columns,
    passed_over: &mut PassedOver,
) -> std::result::Result<Vec<Option<usize>>, String> {
    let names: Vec<_> = header.iter().map(|name| String::from_utf8_lossy(name)).collect();
    let named = names.iter().rposition(|name| !name.trim().is_empty()).map_or(0, |last| last + 1);
    passed_over.empty_columns = (names.len() - named) as u64;
    let assigned: Vec<_> = names[..named].iter().map(|name| columns.field(name)).collect();
    if assigned.iter().all(Option::is_none) && names.iter().any(|name| name.contains('@')) {
        return Err("there are values where the names of the columns are needed: the file has no header".to_owned());
    }
    for (column, name) in names[..named].iter().enumerate() {
        match assigned[column] {
            Some(field) if assigned[..column].contains(&Some(field)) => {
                return Err(format!("the column {} is there twice", FIELDS[field]));
            }
            Some(_) => {}
            None if columns.ignores_unknown() => passed_over.ignore_column(name),
            None => {
                if let Some(reason) = not_utf8(&header[column]) {
                    return Err(format!("the name of column {}: {reason}", column + 1));
                }
                return Err(format!("unknown column {:?}; the columns are {}", cut(name), FIELDS.join(", ")));
            }
        }
    }
    if let Some((field, name)) =
        columns.mapped().find(|(field, name)| !name.is_empty() && !assigned.contains(&Some(*field)))
    {
        return Err(format!("there is no column {:?}, which is to be {}", cut(name), FIELDS[field]));
    }
    if !assigned.contains(&Some(EMAIL)) {
        return Err("there is no column email".to_owned());
    }
    Ok(assigned)
}

/// What is wrong with a row whose quoted field goes on behind its quotes: which part is the value,
/// nobody can tell.
pub(crate) const STRAY: &str = "text after a closing quote; a quote within quotes is written twice";
const NEVER_CLOSED: &str = "a quote is opened here and never closed";

/// Lines of text for the CSV reader, which has no limit of its own: no more than the budget, and
/// every line with an end that is LF alone. It follows the quotes as the reader does, which is too
/// lenient to report what it finds behind them.
struct Lines<R: Read> {
    input: Chain<Cursor<Vec<u8>>, BufReader<Decoder<R>>>,
    separator: u8,
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
    /// The line on which a quote was opened last.
    opened: Cell<u64>,
    /// Whether the last octet was within quotes.
    is_quoted: Cell<bool>,
    /// The lines that have text after a closing quote, of the rows that the reader hasn't returned
    /// yet.
    strays: RefCell<VecDeque<u64>>,
}

impl Flow {
    /// The first line before `next_line` with text after a closing quote. All before `next_line`
    /// are forgotten.
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
    fn new(input: Chain<Cursor<Vec<u8>>, BufReader<Decoder<R>>>, separator: u8, flow: Rc<Flow>) -> Self {
        Self { input, separator, flow, place: InRow::FieldStart, has_cr: false, line: 1, last: b'\n' }
    }

    /// Follows one octet that the reader will get.
    fn follow(&mut self, octet: u8) {
        if self.place == InRow::FieldStart && octet == b'"' {
            self.flow.opened.set(self.line);
        }
        self.place = match (self.place, octet) {
            (InRow::Quoted, b'"') => InRow::QuoteInQuoted,
            (InRow::Quoted, _) | (InRow::FieldStart | InRow::QuoteInQuoted, b'"') => InRow::Quoted,
            (_, octet) if octet == self.separator || octet == b'\n' => InRow::FieldStart,
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

fn csv_failure(error: csv::Error, line: u64, flow: &Flow) -> Error {
    match error.into_kind() {
        csv::ErrorKind::Io(error) if error.kind() == io::ErrorKind::FileTooLarge => match flow.is_quoted.get() {
            true => Error::invalid(flow.opened.get(), "a quote is opened here and not closed within 1 MiB"),
            false => Error::invalid(line, "the row is longer than 1 MiB"),
        },
        csv::ErrorKind::Io(error) => file_failure(error, line),
        _ => Error::invalid(line, "not CSV"),
    }
}
