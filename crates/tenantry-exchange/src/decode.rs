//! Decodes the text of a file of users: strips a byte order mark, converts UTF-16 to UTF-8, and
//! identifies files that aren't text.

use std::cell::Cell;
use std::io::{self, BufReader, Chain, Cursor, Read};
use std::rc::Rc;

use crate::row::IO_BYTES;

/// The length of the longest signature below.
const SIGNATURE_BYTES_MAX: u64 = 12;

/// Formats that people mistake for a file of users, by their first bytes.
const FOREIGN: [(&[u8], &str); 14] = [
    (b"PK\x03\x04", "a ZIP archive, such as an .xlsx or .ods spreadsheet: save it as CSV"),
    (b"\xd0\xcf\x11\xe0", "an .xls spreadsheet: save it as CSV"),
    (b"\x1f\x8b", "compressed with gzip: decompress it"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: decompress it"),
    (b"\xfd7zXZ\0", "compressed with xz: decompress it"),
    (b"SQLite f", "a SQLite database: export it as CSV"),
    (b"%PDF-", "a PDF document: save it as CSV"),
    (b"\xff\xfe\0\0", "UTF-32: save it as UTF-8"),
    (b"\0\0\xfe\xff", "UTF-32: save it as UTF-8"),
    (b"\0\0\0\0", "filled with NUL bytes, as after a crash: get another copy"),
    (b"BZh", "compressed with bzip2: decompress it"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it"),
    (b"PAR1", "a Parquet file: save it as CSV"),
    (b"Obj\x01", "an Avro file: save it as JSON"),
];

/// The same for formats of text, after a byte order mark and spaces, ignoring case.
const FOREIGN_TEXT: [(&[u8], &str); 4] = [
    (b"<", "HTML or XML, which some programs save under the name of a spreadsheet: save it as CSV"),
    (b"{\\rtf", "an RTF document: save it as CSV"),
    (b"begin:vcard", "a vCard file: export CSV"),
    (b"dn: ", "LDIF: export CSV"),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Utf8,
    Utf16(Endian),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Endian {
    Little,
    Big,
}

/// Reads a file as UTF-8. Text that isn't UTF-16 is passed through unchecked.
pub(crate) struct Decoder<R: Read> {
    input: BufReader<Counted<Chain<Cursor<Vec<u8>>, R>>>,
    encoding: Encoding,
    /// The bytes of a character that the caller's buffer had no room for.
    rest: Cursor<Vec<u8>>,
    /// The failure to report after the text that was already returned.
    failure: Option<io::Error>,
}

impl<R: Read> Decoder<R> {
    /// Identifies the encoding by the first bytes, however few of them each read returns.
    ///
    /// # Errors
    ///
    /// `InvalidData` if the file isn't text; the message says what it is.
    pub(crate) fn new(mut input: R) -> io::Result<Self> {
        let mut start = Vec::new();
        (&mut input).take(SIGNATURE_BYTES_MAX).read_to_end(&mut start)?;
        if let Some((_, what)) = FOREIGN.iter().find(|(signature, _)| start.starts_with(signature))
        {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the file is {what}")));
        }
        let (mark_bytes, encoding) = match start.as_slice() {
            // A program may have added a mark to a file that had one.
            [0xef, 0xbb, 0xbf, rest @ ..] => (3 * (1 + utf8_marks(rest)), Encoding::Utf8),
            [0xff, 0xfe, ..] => (2, Encoding::Utf16(Endian::Little)),
            [0xfe, 0xff, ..] => (2, Encoding::Utf16(Endian::Big)),
            [0, other, ..] | [other, 0, ..] if *other != 0 => {
                let what = "the file is UTF-16 without a byte order mark: save it as UTF-8";
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            _ => (0, Encoding::Utf8),
        };
        start.drain(..mark_bytes);
        let text = start.trim_ascii_start().to_ascii_lowercase();
        if let Some((_, what)) =
            FOREIGN_TEXT.iter().find(|(signature, _)| text.starts_with(signature))
        {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the file is {what}")));
        }
        let bytes = Rc::new(Cell::new(mark_bytes as u64));
        let input = Counted { input: Cursor::new(start).chain(input), bytes };
        let input = BufReader::with_capacity(IO_BYTES, input);
        Ok(Self { input, encoding, rest: Cursor::default(), failure: None })
    }

    /// Returns the counter of the bytes that have been read so far.
    pub(crate) fn bytes_read(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.input.get_ref().bytes)
    }

    /// Returns the next unit of UTF-16, or `None` at the end.
    fn unit(&mut self, endian: Endian) -> io::Result<Option<u16>> {
        let mut unit = Vec::with_capacity(2);
        (&mut self.input).take(2).read_to_end(&mut unit)?;
        match (unit.as_slice(), endian) {
            ([], _) => Ok(None),
            (&[low, high], Endian::Little) | (&[high, low], Endian::Big) => {
                Ok(Some(u16::from_be_bytes([high, low])))
            }
            _ => Err(malformed("the file is UTF-16 and ends within a character")),
        }
    }

    fn character(&mut self, endian: Endian) -> io::Result<Option<char>> {
        let Some(first) = self.unit(endian)? else { return Ok(None) };
        let mut units = vec![first];
        if (0xd800..0xdc00).contains(&first) {
            units.extend(self.unit(endian)?);
        }
        match char::decode_utf16(units).next() {
            Some(Ok(character)) => Ok(Some(character)),
            _ => Err(malformed("the file is UTF-16 and has half of a surrogate pair here")),
        }
    }
}

/// Returns how many UTF-8 byte order marks a text begins with.
fn utf8_marks(text: &[u8]) -> usize {
    text.chunks(3).take_while(|bytes| *bytes == "\u{feff}".as_bytes()).count()
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Encoding::Utf16(endian) = self.encoding else { return self.input.read(buffer) };
        let mut length = self.rest.read(buffer)?;
        while length < buffer.len() {
            // Return the text of a pipe before waiting for more of it.
            if length > 0 && self.input.buffer().len() < 4 {
                break;
            }
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            let character = match self.character(endian) {
                Ok(Some(character)) => character,
                Ok(None) => break,
                Err(failure) if length > 0 && failure.kind() == io::ErrorKind::InvalidData => {
                    // The rows before the failure are good.
                    self.failure = Some(failure);
                    break;
                }
                Err(failure) => return Err(failure),
            };
            let mut bytes = [0; 4];
            self.rest = Cursor::new(character.encode_utf8(&mut bytes).as_bytes().to_vec());
            length += self.rest.read(&mut buffer[length..])?;
        }
        Ok(length)
    }
}

/// Counts the bytes that were read.
struct Counted<R> {
    input: R,
    bytes: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.bytes.set(self.bytes.get() + read as u64);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns one byte a read, as a slow pipe may.
    struct Trickle<'a>(&'a [u8]);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.0.len().min(1).min(buffer.len());
            self.0.read(&mut buffer[..length])
        }
    }

    fn decoded(bytes: &[u8]) -> io::Result<String> {
        let mut text = String::new();
        Decoder::new(Trickle(bytes))?.read_to_string(&mut text)?;
        let mut whole = String::new();
        Decoder::new(bytes)?.read_to_string(&mut whole)?;
        assert_eq!(text, whole);
        Ok(text)
    }

    #[test]
    fn byte_order_marks_in_pieces_are_recognised_and_utf16_is_decoded() {
        let text = "email\nада@example.com\n𝒳\u{feff}";
        let utf16 = |to: fn(u16) -> [u8; 2]| {
            format!("\u{feff}{text}").encode_utf16().flat_map(to).collect::<Vec<_>>()
        };
        for bytes in [
            text.as_bytes().to_vec(),
            format!("\u{feff}{text}").into_bytes(),
            format!("\u{feff}\u{feff}\u{feff}{text}").into_bytes(),
            utf16(u16::to_le_bytes),
            utf16(u16::to_be_bytes),
        ] {
            assert_eq!(decoded(&bytes).expect("text"), text);
        }
        for bytes in [&b""[..], b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"] {
            assert_eq!(decoded(bytes).expect("no text"), "");
        }
        assert_eq!(decoded(b"a").expect("text"), "a");
    }

    #[test]
    fn text_decodes_into_a_buffer_of_any_size() {
        let bytes: Vec<_> = "\u{feff}a𝒳б\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut decoder = Decoder::new(bytes.as_slice()).expect("text");
        let mut text = Vec::new();
        let mut one = [0];
        while decoder.read(&mut one).expect("text") == 1 {
            text.push(one[0]);
        }
        assert_eq!(text, "a𝒳б\n".as_bytes());
    }

    #[test]
    fn broken_utf16_and_files_that_are_not_text_are_named() {
        for (bytes, what) in [
            (&b"\xff\xfea\0\x00\xd8b\0c\0"[..], "half of a surrogate pair"),
            (b"\xff\xfea\0\x00\xdc", "half of a surrogate pair"),
            (b"\xff\xfea\0b", "UTF-16"),
            (b"e\0m\0", "UTF-16 without a byte order mark"),
            (b"\0e\0m", "UTF-16 without a byte order mark"),
            (b"PK\x03\x04....", ".xlsx"),
            (b"\x1f\x8b\x08", "gzip"),
            (b"\xff\xfe\0\0e\0\0\0", "UTF-32"),
            (b"\0\0\0\0\0\0", "filled with NUL"),
            (b"BZh91AY", "bzip2"),
            (b"7z\xbc\xaf\x27\x1c", "7z"),
            (b"PAR1\x15", "Parquet"),
            (b"Obj\x01\x04", "Avro"),
            (b"\xef\xbb\xbf\r\n <!DOCTYPE html>", "HTML or XML"),
            (b"<?xml version", "HTML or XML"),
            (b"{\\rtf1\\ansi", "RTF"),
            (b"BEGIN:VCARD\r\n", "vCard"),
            (b"dn: cn=ada", "LDIF"),
        ] {
            let failure = decoded(bytes).expect_err(what);
            assert_eq!(failure.kind(), io::ErrorKind::InvalidData);
            assert!(failure.to_string().contains(what), "{failure}");
        }
    }
}
