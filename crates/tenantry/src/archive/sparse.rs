//! The map of a sparse file in an archive, in the version 1.0 of [GNU tar's
//! format](https://www.gnu.org/software/tar/manual/html_node/PAX-1.html).
//!
//! The map precedes the data in the content of the entry: the number of segments, then the offset
//! and the length of each, each number on a line of its own, padded to a whole block.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::format::{BLOCK, damaged};
use crate::Result;
use crate::storage::{SEGMENTS_MAX, Segment};

/// The digits of the largest number.
const DIGITS_MAX: usize = 20;

/// Returns the name under which programs that don't know the format unpack the map and the data, as
/// GNU tar forms it.
pub(super) fn placeholder(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or(OsStr::new(""));
    path.with_file_name("GNUSparseFile.0").join(name)
}

/// Returns the map of a file of this length with these segments.
pub(super) fn map(segments: &[Segment], length: u64) -> Vec<u8> {
    // The last segment ends where the file does, even if it is empty.
    let ends = segments.last().is_some_and(|last| last.end() == length);
    let end = (!ends).then_some(Segment { offset: length, length: 0 });
    let count = segments.len() + usize::from(!ends);
    let mut map = format!("{count}\n").into_bytes();
    for Segment { offset, length } in segments.iter().chain(&end) {
        map.extend_from_slice(format!("{offset}\n{length}\n").as_bytes());
    }
    map.resize(map.len().next_multiple_of(BLOCK as usize), 0);
    map
}

/// Reads the map of a file of this length that has `stored` bytes in the archive, the map included.
pub(super) fn read_map(input: &mut dyn Read, length: u64, stored: u64) -> Result<Vec<Segment>> {
    let mut numbers = Numbers { input, bytes: 0 };
    let count = usize::try_from(numbers.next()?)
        .ok()
        .filter(|count| (1..=SEGMENTS_MAX + 1).contains(count));
    let count =
        count.ok_or_else(|| damaged("the map of a sparse file has too many pieces or none"))?;
    let mut segments: Vec<Segment> = Vec::new();
    let (mut end, mut data) = (0_u64, 0_u64);
    for _ in 0..count {
        let segment = Segment { offset: numbers.next()?, length: numbers.next()? };
        let next = segment.offset.checked_add(segment.length);
        match next {
            Some(next) if segment.offset >= end && next <= length => end = next,
            _ => {
                return Err(damaged(
                    "the map of a sparse file has pieces that overlap or lie beyond its end",
                ));
            }
        }
        data += segment.length;
        segments.push(segment);
    }
    numbers.skip_padding()?;
    // The sum can't overflow: the segments don't overlap, and none is larger than the file.
    if end != length || numbers.bytes.checked_add(data) != Some(stored) {
        return Err(damaged("the map of a sparse file is not what the archive holds of it"));
    }
    segments.retain(|segment| segment.length > 0);
    Ok(segments)
}

struct Numbers<'i> {
    input: &'i mut dyn Read,
    /// The number of bytes that were read.
    bytes: u64,
}

impl Numbers<'_> {
    fn byte(&mut self) -> Result<u8> {
        let mut byte = [0];
        self.input.read_exact(&mut byte).map_err(unreadable)?;
        self.bytes += 1;
        Ok(byte[0])
    }

    fn next(&mut self) -> Result<u64> {
        let mut digits = String::new();
        loop {
            match self.byte()? {
                b'\n' => break,
                digit @ b'0'..=b'9' if digits.len() < DIGITS_MAX => digits.push(char::from(digit)),
                _ => {
                    return Err(damaged(
                        "the map of a sparse file holds something else than numbers",
                    ));
                }
            }
        }
        digits
            .parse()
            .map_err(|_| damaged("the map of a sparse file holds something else than numbers"))
    }

    fn skip_padding(&mut self) -> Result<()> {
        while !self.bytes.is_multiple_of(BLOCK) {
            if self.byte()? != 0 {
                return Err(damaged(
                    "the map of a sparse file is followed by something else than its data",
                ));
            }
        }
        Ok(())
    }
}

fn unreadable(error: io::Error) -> crate::Error {
    damaged("the map of a sparse file is cut off").with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(numbers: &[(u64, u64)]) -> Vec<Segment> {
        numbers
            .iter()
            .map(|(offset, length)| Segment { offset: *offset, length: *length })
            .collect()
    }

    #[test]
    fn a_map_is_read_as_it_was_written() {
        for (numbers, length) in [
            (&[][..], 1),
            (&[], u64::MAX >> 1),
            (&[(0, 4_096)], 1 << 40),
            (&[(4_096, 4_096)], 8_192),
            (&[(0, 1), (10, 5), (100, 1)], 101),
        ] {
            let segments = segments(numbers);
            let map = map(&segments, length);
            assert_eq!(map.len() % 512, 0);
            let stored = map.len() as u64 + numbers.iter().map(|(_, length)| length).sum::<u64>();
            assert_eq!(read_map(&mut &*map, length, stored).unwrap(), segments, "{numbers:?}");
            assert!(read_map(&mut &*map, length, stored + 1).is_err());
            assert!(read_map(&mut &*map, length - 1, stored).is_err());
            assert!(read_map(&mut &map[..map.len() - 1], length, stored).is_err());
        }
    }

    #[test]
    fn a_map_that_means_nothing_is_refused() {
        for text in [
            "",
            "\n",
            "0\n",
            "x\n",
            "-1\n",
            "1\n",
            "1\n0\n",
            "1\n5\n6\n",
            "2\n0\n5\n4\n6\n",
            "2\n5\n5\n0\n5\n",
            "1\n18446744073709551615\n2\n",
            "1\n18446744073709551616\n0\n",
            "99999999\n0\n10\n",
            "1\n000000000000000000000\n10\n",
            "1\n0\n9\n",
        ] {
            let mut map = text.as_bytes().to_vec();
            map.resize(512, 0);
            for data in [0, 5, 6, 9, 10, 11] {
                assert!(read_map(&mut &*map, 10, 512 + data).is_err(), "{text:?}");
            }
        }
        let mut padded = b"1\n0\n10\n".to_vec();
        padded.resize(512, 0);
        assert!(read_map(&mut &*padded, 10, 522).is_ok());
        padded[511] = 1;
        assert!(read_map(&mut &*padded, 10, 522).is_err());
    }
}
