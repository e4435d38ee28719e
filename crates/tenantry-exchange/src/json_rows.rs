//! Reads rows of JSON: one object a line, or the elements of one array.

use std::cell::Cell;
use std::io::{BufRead, BufReader, Chain, Cursor, Read};
use std::rc::Rc;

use crate::columns::{Columns, Omissions};
use crate::decode::Decoder;
use crate::error::read_failure;
use crate::fields::{address_in, parse_object};
use crate::row::{BadRow, IO_BYTES, Original, ROW_BYTES_MAX, Row};
use crate::{Error, Result};

/// How far into a file the array of users is searched, after other members of the object that holds
/// it.
const LAYOUT_BYTES_MAX: usize = 4 << 10;
/// The member that holds the users in the output of `tenantry user list --format json`, and in
/// exports of Firebase and Keycloak.
const USERS: &[u8] = b"users";

pub(crate) struct JsonRows<R: Read> {
    input: Chain<Cursor<Vec<u8>>, BufReader<Decoder<R>>>,
    columns: Columns,
    pub(crate) omissions: Omissions,
    layout: Layout,
    /// The current line, counted from 1.
    line: u64,
    /// How many elements of the array have been started.
    element: u64,
    pub(crate) bytes_read: Rc<Cell<u64>>,
}

/// The arrangement of the objects in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layout {
    /// One object a line.
    Lines,
    /// The elements of an array, which begins after `start` bytes and may be a member of an object.
    Array { start: usize, is_member: bool },
    /// The array has been read to its end.
    Ended,
}

impl<R: Read> JsonRows<R> {
    pub(crate) fn new(columns: Columns, input: R) -> Result<Self> {
        let input = Decoder::new(input).map_err(|error| read_failure(error, 1))?;
        let bytes_read = input.bytes_read();
        let mut input = BufReader::with_capacity(IO_BYTES, input);
        let mut head = Vec::new();
        let layout = loop {
            let available = input.fill_buf().map_err(|error| read_failure(error, 1))?;
            let length = available.len();
            head.extend_from_slice(available);
            input.consume(length);
            match layout(&head) {
                Some(layout) => break layout,
                None if length == 0 || head.len() >= LAYOUT_BYTES_MAX => break Layout::Lines,
                None => {}
            }
        };
        let mut rows = Self {
            input: Cursor::new(head).chain(input),
            columns,
            omissions: Omissions::default(),
            layout,
            line: 0,
            element: 0,
            bytes_read,
        };
        if let Layout::Array { start, .. } = layout {
            rows.line = 1;
            for _ in 0..start {
                rows.peek()?;
                rows.advance();
            }
        }
        Ok(rows)
    }

    pub(crate) fn next(&mut self) -> Result<Option<Row>> {
        match self.layout {
            Layout::Lines => self.next_line(),
            Layout::Array { is_member, .. } => self.next_element(is_member),
            Layout::Ended => Ok(None),
        }
    }

    fn next_line(&mut self) -> Result<Option<Row>> {
        loop {
            let line = self.line + 1;
            let failed = |error| read_failure(error, line);
            let mut text = Vec::new();
            let mut limited = (&mut self.input).take(ROW_BYTES_MAX as u64 + 1);
            limited.read_until(b'\n', &mut text).map_err(failed)?;
            if text.is_empty() {
                return Ok(None);
            }
            self.line = line;
            if text.len() > ROW_BYTES_MAX {
                if !text.ends_with(b"\n") {
                    self.input.skip_until(b'\n').map_err(failed)?;
                }
                return Ok(Some(too_long(line, None, "the line")));
            }
            while text.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                text.pop();
            }
            // Concatenated files have one byte order mark each.
            let mark_bytes = if text.starts_with("\u{feff}".as_bytes()) { 3 } else { 0 };
            if text[mark_bytes..].iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            return Ok(Some(self.row(line, None, text, mark_bytes)));
        }
    }

    fn next_element(&mut self, is_member: bool) -> Result<Option<Row>> {
        let mut byte = self.peek_solid()?;
        if byte == Some(b']') {
            self.advance();
            self.end_array(is_member)?;
            return Ok(None);
        }
        if self.element > 0 && byte.is_some() {
            if byte != Some(b',') {
                let reason = format!(
                    "a comma or ] is needed after element {} of the JSON array",
                    self.element
                );
                return Err(Error::invalid(self.line, reason));
            }
            self.advance();
            byte = self.peek_solid()?;
        }
        match byte {
            None => {
                return Err(Error::invalid(
                    self.line,
                    "the JSON array isn't closed: the file ends within it",
                ));
            }
            Some(b',' | b']') => {
                let reason = format!(
                    "a comma without an element before or after it, after element {}",
                    self.element
                );
                return Err(Error::invalid(self.line, reason));
            }
            Some(_) => {}
        }
        self.element += 1;
        let (line, element) = (self.line, Some(self.element));
        let mut text = Vec::new();
        let is_whole = self.read_value(&mut text)?;
        Ok(Some(if is_whole {
            self.row(line, element, text, 0)
        } else {
            too_long(line, element, "the element")
        }))
    }

    /// Reads the text of one JSON value, and returns whether all of it was kept.
    fn read_value(&mut self, text: &mut Vec<u8>) -> Result<bool> {
        let line = self.line;
        let element = self.element;
        let mut scan = Scan::default();
        let mut is_whole = true;
        loop {
            let Some(byte) = self.peek()? else {
                return Err(Error::invalid(
                    line,
                    format!("the file ends within element {element} of the JSON array"),
                ));
            };
            if scan.is_in_string && byte == b'\n' {
                let reason = format!(
                    "a string in element {element} of the JSON array isn't closed on its line"
                );
                return Err(Error::invalid(self.line, reason));
            }
            if scan.ends_before(byte) {
                break;
            }
            self.advance();
            is_whole &= text.len() < ROW_BYTES_MAX;
            if is_whole {
                text.push(byte);
            }
            if scan.ends_with(byte) {
                break;
            }
        }
        text.truncate(text.trim_ascii_end().len());
        Ok(is_whole)
    }

    /// Reads the rest after the array: other members of the object that holds it, and then nothing.
    fn end_array(&mut self, is_member: bool) -> Result<()> {
        if is_member {
            let mut scan = Scan { depth: 1, ..Scan::default() };
            loop {
                let Some(byte) = self.peek()? else {
                    return Err(Error::invalid(
                        self.line,
                        "the JSON object around the array isn't closed",
                    ));
                };
                self.advance();
                if scan.ends_with(byte) {
                    break;
                }
            }
        }
        if self.peek_solid()?.is_some() {
            return Err(Error::invalid(self.line, "text after the end of the JSON array"));
        }
        self.layout = Layout::Ended;
        Ok(())
    }

    fn row(&mut self, line: u64, element: Option<u64>, text: Vec<u8>, mark_bytes: usize) -> Row {
        let object = &text[mark_bytes..];
        let user = parse_object(object, &self.columns, &mut self.omissions)
            .map_err(|reason| BadRow { address: address_in(object, &self.columns), reason });
        Row { line, element, original: Original::Json(text), user }
    }

    /// Returns the next byte without consuming it.
    fn peek(&mut self) -> Result<Option<u8>> {
        let line = self.line;
        self.input
            .fill_buf()
            .map(|available| available.first().copied())
            .map_err(|error| read_failure(error, line))
    }

    /// Consumes the byte that was peeked at.
    fn advance(&mut self) {
        if let Ok(&[byte, ..]) = self.input.fill_buf() {
            self.line += u64::from(byte == b'\n');
            self.input.consume(1);
        }
    }

    /// Skips spaces, and returns the next byte without consuming it.
    fn peek_solid(&mut self) -> Result<Option<u8>> {
        loop {
            match self.peek()? {
                Some(byte) if byte.is_ascii_whitespace() => self.advance(),
                byte => return Ok(byte),
            }
        }
    }
}

fn too_long(line: u64, element: Option<u64>, what: &str) -> Row {
    let user =
        Err(BadRow { address: String::new(), reason: format!("{what} is longer than 1 MiB") });
    Row { line, element, original: Original::Json(Vec::new()), user }
}

/// Finds the end of a JSON value without keeping a copy.
#[derive(Default)]
struct Scan {
    depth: u64,
    is_in_string: bool,
    is_escaped: bool,
}

impl Scan {
    /// Returns whether the value ended before this byte: a number in an array ends at the comma or
    /// the bracket.
    fn ends_before(&self, byte: u8) -> bool {
        self.depth == 0 && !self.is_in_string && matches!(byte, b',' | b']' | b'}')
    }

    /// Advances by one byte, and returns whether the value ends with it.
    fn ends_with(&mut self, byte: u8) -> bool {
        if self.is_in_string {
            match byte {
                _ if self.is_escaped => self.is_escaped = false,
                b'\\' => self.is_escaped = true,
                b'"' => self.is_in_string = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.is_in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                return self.depth == 0;
            }
            _ => {}
        }
        false
    }
}

/// Returns the layout of a file that begins with `head`, or `None` if that is too short to decide.
fn layout(head: &[u8]) -> Option<Layout> {
    let mut at = solid(head, 0)?;
    if head[at] == b'[' {
        return Some(Layout::Array { start: at + 1, is_member: false });
    }
    if head[at] != b'{' {
        return Some(Layout::Lines);
    }
    loop {
        // After the brace, or after the comma after another member.
        at = solid(head, at + 1)?;
        if head[at] != b'"' {
            return Some(Layout::Lines);
        }
        let name_end = value_end(head, at)?;
        let name = &head[at + 1..name_end - 1];
        at = solid(head, name_end)?;
        if head[at] != b':' {
            return Some(Layout::Lines);
        }
        at = solid(head, at + 1)?;
        if name == USERS && head[at] == b'[' {
            return Some(Layout::Array { start: at + 1, is_member: true });
        }
        at = solid(head, value_end(head, at)?)?;
        if head[at] != b',' {
            return Some(Layout::Lines);
        }
    }
}

/// Returns the index of the next byte that isn't a space.
fn solid(head: &[u8], from: usize) -> Option<usize> {
    head.get(from..)?
        .iter()
        .position(|byte| !byte.is_ascii_whitespace())
        .map(|offset| from + offset)
}

/// Returns the index behind the value that begins at `from`.
fn value_end(head: &[u8], from: usize) -> Option<usize> {
    let mut scan = Scan::default();
    for (offset, byte) in head.iter().enumerate().skip(from) {
        if scan.ends_before(*byte) {
            return Some(offset);
        }
        let was_in_string = scan.is_in_string;
        if scan.ends_with(*byte) || (scan.depth == 0 && was_in_string && !scan.is_in_string) {
            return Some(offset + 1);
        }
    }
    None
}
