//! Decodes the text of a file of users: a byte order mark is taken off, UTF-16 becomes UTF-8, and a
//! file that isn't text is named as what it is.

use std::cell::Cell;
use std::io::{self, BufReader, Chain, Cursor, Read};
use std::rc::Rc;

/// As much as is read from the file at a time.
const BUFFER_OCTETS: usize = 64 << 10;
/// The longest signature below, in octets.
const SIGNATURE_OCTETS_MAX: u64 = 12;

/// Files that people take for a file of users, by the octets with which they begin.
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
    (b"\0\0\0\0", "filled with NUL octets, as one that was cut off by a crash: get another copy"),
    (b"BZh", "compressed with bzip2: decompress it"),
    (b"7z\xbc\xaf", "a 7z archive: unpack it"),
    (b"PAR1", "a Parquet file: save it as CSV"),
    (b"Obj\x01", "an Avro file: save it as JSON"),
];

/// The same for files of text, which may begin with a byte order mark and spaces, in any case.
const FOREIGN_TEXT: [(&[u8], &str); 4] = [
    (b"<", "HTML or XML, as some programs write it under the name of a spreadsheet: save it as CSV"),
    (b"{\\rtf", "a document in RTF: save it as CSV"),
    (b"begin:vcard", "a file of vCards: export CSV"),
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

/// Reads a file as UTF-8, as far as its encoding is known: what claims to be UTF-8 isn't checked.
pub(crate) struct Decoder<R: Read> {
    input: BufReader<Counted<Chain<Cursor<Vec<u8>>, R>>>,
    encoding: Encoding,
    /// The end of a character for which the caller's buffer had no room.
    rest: Cursor<Vec<u8>>,
    /// The failure that comes after the text which was already returned.
    failure: Option<io::Error>,
}

impl<R: Read> Decoder<R> {
    /// Inspects the beginning of the file, in as many pieces as it comes.
    ///
    /// # Errors
    ///
    /// `InvalidData` if the file isn't text; the message says what it is.
    pub(crate) fn new(mut input: R) -> io::Result<Self> {
        let mut start = Vec::new();
        (&mut input).take(SIGNATURE_OCTETS_MAX).read_to_end(&mut start)?;
        if let Some((_, what)) = FOREIGN.iter().find(|(signature, _)| start.starts_with(signature)) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the file is {what}")));
        }
        let (mark_octets, encoding) = match start.as_slice() {
            // A program that adds a mark may have met one that was there.
            [0xef, 0xbb, 0xbf, rest @ ..] => (3 * (1 + utf8_marks(rest)), Encoding::Utf8),
            [0xff, 0xfe, ..] => (2, Encoding::Utf16(Endian::Little)),
            [0xfe, 0xff, ..] => (2, Encoding::Utf16(Endian::Big)),
            [0, other, ..] | [other, 0, ..] if *other != 0 => {
                let what = "the file is UTF-16 without a byte order mark: save it as UTF-8";
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            _ => (0, Encoding::Utf8),
        };
        start.drain(..mark_octets);
        let text = start.trim_ascii_start().to_ascii_lowercase();
        if let Some((_, what)) = FOREIGN_TEXT.iter().find(|(signature, _)| text.starts_with(signature)) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("the file is {what}")));
        }
        let octets = Rc::new(Cell::new(mark_octets as u64));
        let input = Counted { input: Cursor::new(start).chain(input), octets };
        let input = BufReader::with_capacity(BUFFER_OCTETS, input);
        Ok(Self { input, encoding, rest: Cursor::default(), failure: None })
    }

    /// How much of the file was read so far.
    pub(crate) fn read_octets(&self) -> Rc<Cell<u64>> {
        Rc::clone(&self.input.get_ref().octets)
    }

    /// The next unit of UTF-16, or `None` at the end.
    fn unit(&mut self, endian: Endian) -> io::Result<Option<u16>> {
        let mut unit = Vec::with_capacity(2);
        (&mut self.input).take(2).read_to_end(&mut unit)?;
        match (unit.as_slice(), endian) {
            ([], _) => Ok(None),
            (&[low, high], Endian::Little) | (&[high, low], Endian::Big) => Ok(Some(u16::from_be_bytes([high, low]))),
            _ => Err(broken("the file is UTF-16 and ends within a character")),
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
            _ => Err(broken("the file is UTF-16 and has half of a surrogate pair here")),
        }
    }
}

/// How many byte order marks of UTF-8 there are at the beginning.
fn utf8_marks(text: &[u8]) -> usize {
    text.chunks(3).take_while(|octets| *octets == "\u{feff}".as_bytes()).count()
}

fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Encoding::Utf16(endian) = self.encoding else { return self.input.read(buffer) };
        let mut length = self.rest.read(buffer)?;
        while length < buffer.len() {
            // A pipe's reader gets what has come before it waits for more.
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
                    // The rows before it are good all the same.
                    self.failure = Some(failure);
                    break;
                }
                Err(failure) => return Err(failure),
            };
            let mut octets = [0; 4];
            self.rest = Cursor::new(character.encode_utf8(&mut octets).as_bytes().to_vec());
            length += self.rest.read(&mut buffer[length..])?;
        }
        Ok(length)
    }
}

/// Counts the octets that were read.
struct Counted<R> {
    input: R,
    octets: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.octets.set(self.octets.get() + read as u64);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Hands the octets over one at a time, as a slow pipe might.
    struct Trickle<'a>(&'a [u8]);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.0.len().min(1).min(buffer.len());
            self.0.read(&mut buffer[..length])
        }
    }

    fn decoded(octets: &[u8]) -> io::Result<String> {
        let mut text = String::new();
        Decoder::new(Trickle(octets))?.read_to_string(&mut text)?;
        let mut whole = String::new();
        Decoder::new(octets)?.read_to_string(&mut whole)?;
        assert_eq!(text, whole);
        Ok(text)
    }

    #[test]
    fn byte_order_marks_in_pieces_are_recognised_and_utf16_is_decoded() {
        let text = "email\nада@example.com\n𝒳\u{feff}";
        let utf16 = |to: fn(u16) -> [u8; 2]| format!("\u{feff}{text}").encode_utf16().flat_map(to).collect::<Vec<_>>();
        for octets in [
            text.as_bytes().to_vec(),
            format!("\u{feff}{text}").into_bytes(),
            format!("\u{feff}\u{feff}\u{feff}{text}").into_bytes(),
            utf16(u16::to_le_bytes),
            utf16(u16::to_be_bytes),
        ] {
            assert_eq!(decoded(&octets).expect("text"), text);
        }
        for octets in [&b""[..], b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"] {
            assert_eq!(decoded(octets).expect("no text"), "");
        }
        assert_eq!(decoded(b"a").expect("text"), "a");
    }

    #[test]
    fn text_decodes_into_a_buffer_of_any_size() {
        let octets: Vec<_> = "\u{feff}a𝒳б\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut decoder = Decoder::new(octets.as_slice()).expect("text");
        let mut text = Vec::new();
        let mut one = [0];
        while decoder.read(&mut one).expect("text") == 1 {
            text.push(one[0]);
        }
        assert_eq!(text, "a𝒳б\n".as_bytes());
    }

    #[test]
    fn broken_utf16_and_files_that_are_not_text_are_named() {
        for (octets, what) in [
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
            (b"BEGIN:VCARD\r\n", "vCards"),
            (b"dn: cn=ada", "LDIF"),
        ] {
            let failure = decoded(octets).expect_err(what);
            assert_eq!(failure.kind(), io::ErrorKind::InvalidData);
            assert!(failure.to_string().contains(what), "{failure}");
        }
    }
}
