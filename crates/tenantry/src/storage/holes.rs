//! The data and the holes of sparse files.

use std::fs::File;
use std::io;

use rustix::fs::{self, SeekFrom, Stat};
use rustix::io::Errno;

/// The largest number of segments of a sparse file: its map is held in memory.
pub(crate) const SEGMENTS_MAX: usize = 1 << 18;
/// Smaller holes aren't worth a segment. It is the usual block size of a file system.
const HOLE_BYTES_MIN: u64 = 4_096;

/// A part of a file that isn't a hole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

impl Segment {
    pub(crate) fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }
}

/// Segments of a file, at most [`SEGMENTS_MAX`]: if there are more, the smallest holes count as
/// data.
#[derive(Default)]
struct Segments {
    segments: Vec<Segment>,
    hole_min: u64,
}

impl Segments {
    fn push(&mut self, start: u64, end: u64) {
        self.hole_min = self.hole_min.max(HOLE_BYTES_MIN);
        match self.segments.last_mut() {
            Some(last) if start - last.end() < self.hole_min => last.length = end - last.offset,
            _ => self.segments.push(Segment { offset: start, length: end - start }),
        }
        if self.segments.len() > SEGMENTS_MAX {
            self.hole_min *= 2;
            for segment in std::mem::take(&mut self.segments) {
                self.push(segment.offset, segment.end());
            }
        }
    }
}

/// Finds the segments of a file that had this metadata when it was opened.
pub(super) fn segments(file: &File, stat: &Stat) -> io::Result<Vec<Segment>> {
    let length = u64::try_from(stat.st_size).unwrap_or_default();
    let is_allocated = u64::try_from(stat.st_blocks).unwrap_or_default() * 512 >= length;
    if is_allocated || length < HOLE_BYTES_MIN {
        return Ok(vec![Segment { offset: 0, length }]);
    }
    let mut found = Segments::default();
    let mut here = 0;
    while let Some((start, end)) = data_from(file, here, length)? {
        if end <= here {
            // The file is being truncated, which the final comparison notices.
            break;
        }
        found.push(start, end);
        here = end;
    }
    Ok(found.segments)
}

/// Returns the next part of a file that isn't a hole.
pub(super) fn data_from(file: &File, at: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= size {
        return Ok(None);
    }
    let start = match fs::seek(file, SeekFrom::Data(at)) {
        Err(Errno::NXIO) => return Ok(None),
        // The file system doesn't report holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((at, size))),
        start => start?,
    };
    let end = fs::seek(file, SeekFrom::Hole(start))?;
    Ok((start < size).then_some((start, end.min(size))))
}
