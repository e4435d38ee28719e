//! Writing an archive: first its entries, then the manifest that is put before them.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tar::{EntryType, Header};

use super::container::{MANIFEST, rewound};
use super::entry::{Entry, What};
use super::format::{BLOCK, Manifest};
use super::limits::MANIFEST_BYTES_MAX;
use super::pax::{Records, Sparse};
use super::sparse;
use crate::content::{Content, HashingReader, RecordingReader};
use crate::progress::Monitor;
use crate::storage::{Attributes, OpenFile, Segment};

/// Two empty blocks end an archive.
const END: [u8; 2 * BLOCK as usize] = [0; 2 * BLOCK as usize];
/// GNU tar's name of an entry that holds the name, or the target, of the next one.
const LONG_NAME: &[u8] = b"././@LongLink";
/// The name under which programs that don't know PAX headers unpack one.
const PAX_NAME: &[u8] = b"././@PaxHeader";
/// Higher levels are slower and hardly smaller: <https://facebook.github.io/zstd/#benchmarks>.
const LEVEL: i32 = 3;
/// Files up to this size are read into memory before they are written, larger ones while they are
/// written.
const IN_MEMORY_BYTES_MAX: u64 = 8 << 20;

/// The part of a finished archive that is copied between two calls of the callback.
const PIECE_BYTES: u64 = 64 << 20;

/// An archive without its manifest.
pub(super) struct Body {
    /// On the file system of the archive, so that both have the same space. Only the encoder writes
    /// to it.
    file: Arc<File>,
    encoder: zstd::Encoder<'static, BufWriter<Arc<File>>>,
    lines: BufWriter<File>,
    pub(super) monitor: Monitor,
    pub(super) files: u64,
    pub(super) bytes: u64,
}

/// The result of an attempt to add a file.
pub(super) enum Attempt {
    Taken,
    /// The file changed while it was read. Nothing of it is in the archive.
    Changed,
    /// The file can't be read. Nothing of it is in the archive.
    Unreadable(io::Error),
}

/// The header of an entry.
struct Head<'h> {
    kind: EntryType,
    path: &'h Path,
    attributes: &'h Attributes,
    /// Its size in the archive.
    stored: u64,
    /// The length of a sparse file.
    sparse: Option<u64>,
    target: &'h Path,
}

impl<'h> Head<'h> {
    fn new(kind: EntryType, path: &'h Path, attributes: &'h Attributes) -> Self {
        Self { kind, path, attributes, stored: 0, sparse: None, target: Path::new("") }
    }
}

impl Body {
    /// Writes into temporary files in this directory.
    pub(super) fn new(dir: &Path, monitor: &Monitor) -> io::Result<Self> {
        let file = Arc::new(tempfile::tempfile_in(dir)?);
        let encoder = encoder(BufWriter::new(Arc::clone(&file)))?;
        let lines = BufWriter::new(tempfile::tempfile_in(dir)?);
        Ok(Self { file, encoder, lines, monitor: monitor.clone(), files: 0, bytes: 0 })
    }

    /// Adds an entry without content.
    pub(super) fn add(
        &mut self,
        path: &Path,
        what: &What,
        attributes: &Attributes,
    ) -> io::Result<()> {
        let (kind, target) = match what {
            What::Directory => (EntryType::Directory, Path::new("")),
            What::Pipe => (EntryType::Fifo, Path::new("")),
            What::Symlink(target) => (EntryType::Symlink, &**target),
            What::HardLink(target) => (EntryType::Link, &**target),
            What::File => return Err(io::Error::other("a file is added with its content")),
        };
        self.head(&Head { target, ..Head::new(kind, path, attributes) })?;
        self.line(&Entry::new(path, attributes.mode, what))
    }

    /// Adds a private file, which no other process changes.
    pub(super) fn image(
        &mut self,
        path: &Path,
        attributes: &Attributes,
        image: &File,
    ) -> io::Result<()> {
        let stored = image.metadata()?.len();
        self.head(&Head { stored, ..Head::new(EntryType::Regular, path, attributes) })?;
        let content = self.write_content(stored, image)?;
        self.took(path, attributes, content, None)
    }

    /// Adds a file of a user, if `is_unchanged` agrees afterwards. Fails only if the archive can't
    /// be written.
    ///
    /// A large file is written as it is read, before it is known whether it changes. So it gets a
    /// zstd frame of its own, which is cut off if it does.
    pub(super) fn file(
        &mut self,
        path: &Path,
        source: &OpenFile,
        is_unchanged: &dyn Fn() -> io::Result<bool>,
    ) -> io::Result<Attempt> {
        let segments = match source.segments() {
            Ok(segments) => segments,
            Err(error) => return Ok(Attempt::Unreadable(error)),
        };
        let length = source.length();
        let is_sparse = segments != [Segment { offset: 0, length }];
        let map = if is_sparse { sparse::map(&segments, length) } else { Vec::new() };
        let stored = map.len() as u64 + segments.iter().map(|segment| segment.length).sum::<u64>();
        let sparse = is_sparse.then_some(length);
        let head =
            Head { stored, sparse, ..Head::new(EntryType::Regular, path, &source.attributes) };
        let input = map.chain(source.data(segments));
        if stored <= IN_MEMORY_BYTES_MAX {
            self.small_file(&head, input, is_unchanged)
        } else {
            self.large_file(&head, input, is_unchanged)
        }
    }

    fn small_file(
        &mut self,
        head: &Head<'_>,
        mut input: impl Read,
        is_unchanged: &dyn Fn() -> io::Result<bool>,
    ) -> io::Result<Attempt> {
        let mut bytes = Vec::new();
        match input.read_to_end(&mut bytes).and_then(|_| is_unchanged()) {
            Err(error) => return Ok(Attempt::Unreadable(error)),
            Ok(is_unchanged) if !is_unchanged || bytes.len() as u64 != head.stored => {
                return Ok(Attempt::Changed);
            }
            Ok(_) => {}
        }
        self.head(head)?;
        let content = self.write_content(head.stored, &*bytes)?;
        self.took(head.path, head.attributes, content, head.sparse)?;
        Ok(Attempt::Taken)
    }

    fn large_file(
        &mut self,
        head: &Head<'_>,
        input: impl Read,
        is_unchanged: &dyn Fn() -> io::Result<bool>,
    ) -> io::Result<Attempt> {
        let start = self.end_frame()?;
        self.head(head)?;
        let mut input = RecordingReader::new(input);
        let written = self.write_content(head.stored, &mut input);
        let attempt = match (input.failure(), written) {
            (Some(error), _) => Attempt::Unreadable(error),
            (None, written) => {
                let content = written?;
                match is_unchanged() {
                    Err(error) => Attempt::Unreadable(error),
                    Ok(true) if content.size == head.stored => {
                        self.end_frame()?;
                        self.took(head.path, head.attributes, content, head.sparse)?;
                        return Ok(Attempt::Taken);
                    }
                    Ok(_) => Attempt::Changed,
                }
            }
        };
        self.cut_off(start)?;
        Ok(attempt)
    }

    fn took(
        &mut self,
        path: &Path,
        attributes: &Attributes,
        mut content: Content,
        sparse: Option<u64>,
    ) -> io::Result<()> {
        let stored = sparse.map(|length| std::mem::replace(&mut content.size, length));
        self.files += 1;
        self.bytes = self.bytes.saturating_add(content.size);
        self.line(&Entry::for_file(path, attributes.mode, content, stored))
    }

    fn head(&mut self, head: &Head<'_>) -> io::Result<()> {
        let Attributes { mode, owner, group, modified, extended } = head.attributes;
        let records = Records {
            modified: Some(*modified)
                .filter(|modified| modified.seconds < 0 || modified.nanoseconds > 0),
            extended: extended.clone(),
            sparse: head.sparse.map(|length| Sparse::new(head.path, length)),
        };
        let path: PathBuf = if head.sparse.is_some() {
            sparse::placeholder(head.path)
        } else {
            head.path.to_owned()
        };
        let mut header = header(head.kind, head.stored);
        header.set_mode(*mode);
        header.set_uid((*owner).into());
        header.set_gid((*group).into());
        header.set_mtime(u64::try_from(modified.seconds).unwrap_or_default());
        let (path, target) = (path.as_os_str().as_bytes(), head.target.as_os_str().as_bytes());
        if fill(&mut header.as_old_mut().linkname, target) {
            self.extra(EntryType::GNULongLink, LONG_NAME, &[target, b"\0"].concat())?;
        }
        if fill(&mut header.as_old_mut().name, path) {
            self.extra(EntryType::GNULongName, LONG_NAME, &[path, b"\0"].concat())?;
        }
        let records = records.to_bytes();
        if !records.is_empty() {
            self.extra(EntryType::XHeader, PAX_NAME, &records)?;
        }
        header.set_cksum();
        self.encoder.write_all(header.as_bytes())
    }

    /// Adds a header for the next entry.
    fn extra(&mut self, kind: EntryType, name: &[u8], bytes: &[u8]) -> io::Result<()> {
        let mut header = header(kind, bytes.len() as u64);
        fill(&mut header.as_old_mut().name, name);
        header.set_cksum();
        self.encoder.write_all(header.as_bytes())?;
        self.write_content(bytes.len() as u64, bytes).map(drop)
    }

    /// Writes the content of an entry. It is shorter than `length` if the input is.
    fn write_content(&mut self, length: u64, input: impl Read) -> io::Result<Content> {
        let mut hashing = HashingReader::new(self.monitor.reader(input));
        io::copy(&mut hashing, &mut self.encoder)?;
        pad(length, &mut self.encoder)?;
        Ok(hashing.content())
    }

    /// Ends the zstd frame, and returns the offset of the next one.
    fn end_frame(&mut self) -> io::Result<u64> {
        let next = encoder(BufWriter::new(Arc::clone(&self.file)))?;
        let ended = std::mem::replace(&mut self.encoder, next);
        ended.finish()?.flush()?;
        (&*self.file).stream_position()
    }

    /// Truncates the file to the beginning of a frame.
    fn cut_off(&mut self, start: u64) -> io::Result<()> {
        let next = encoder(BufWriter::new(Arc::clone(&self.file)))?;
        // Dropping the abandoned frame flushes it, before it is cut off.
        drop(std::mem::replace(&mut self.encoder, next));
        self.file.set_len(start)?;
        (&*self.file).seek(io::SeekFrom::Start(start))?;
        Ok(())
    }

    fn line(&mut self, entry: &Entry) -> io::Result<()> {
        serde_json::to_writer(&mut self.lines, entry)?;
        self.lines.write_all(b"\n")
    }

    /// Writes the manifest, and then everything else.
    pub(super) fn finish(self, manifest: &impl Manifest, output: &mut File) -> io::Result<()> {
        let mut first_line = serde_json::to_vec(manifest)?;
        first_line.push(b'\n');
        let mut lines = rewound(self.lines)?;
        let length = first_line.len() as u64 + lines.metadata()?.len();
        if length > MANIFEST_BYTES_MAX {
            return Err(io::Error::other("there are more files than an archive can list"));
        }
        let mut frame = encoder(output)?;
        let mut header = header(EntryType::Regular, length);
        header.set_mode(0o600);
        header.set_path(MANIFEST)?;
        header.set_cksum();
        frame.write_all(header.as_bytes())?;
        frame.write_all(&first_line)?;
        io::copy(&mut lines, &mut frame)?;
        pad(length, &mut frame)?;
        let output = frame.finish()?;
        let mut encoder = self.encoder;
        encoder.write_all(&END)?;
        encoder.finish()?.flush()?;
        let mut body = &*self.file;
        body.rewind()?;
        // In pieces, which the file system may share instead of copying them.
        while io::copy(&mut Read::take(body, PIECE_BYTES), output)? > 0 {
            self.monitor.check().map_err(io::Error::other)?;
        }
        Ok(())
    }
}

fn encoder<W: Write>(output: W) -> io::Result<zstd::Encoder<'static, W>> {
    let mut encoder = zstd::Encoder::new(output, LEVEL)?;
    encoder.include_checksum(true)?;
    Ok(encoder)
}

fn header(kind: EntryType, size: u64) -> Header {
    // GNU tar understands the map of a sparse file only in a POSIX header, and a long name only in
    // one of its own.
    let is_gnu = matches!(kind, EntryType::GNULongName | EntryType::GNULongLink);
    let mut header = if is_gnu { Header::new_gnu() } else { Header::new_ustar() };
    header.set_entry_type(kind);
    header.set_size(size);
    for set in [Header::set_uid, Header::set_gid, Header::set_mtime] {
        set(&mut header, 0);
    }
    header.set_mode(0);
    header
}

/// Fills the field of a header, and returns whether it is too small.
fn fill(field: &mut [u8; 100], bytes: &[u8]) -> bool {
    let length = bytes.len().min(field.len());
    field[..length].copy_from_slice(&bytes[..length]);
    bytes.len() > field.len()
}

/// Pads the last block of content of this length.
fn pad(length: u64, output: &mut impl Write) -> io::Result<()> {
    io::copy(&mut io::repeat(0).take(length.next_multiple_of(BLOCK) - length), output).map(drop)
}
