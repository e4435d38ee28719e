//! The format of backups and of the archive of one user: a tar archive in zstd, whose first file is the manifest.
//!
//! The manifest, `manifest.jsonl`, has a line for the archive as a whole and then one for each entry that follows, in the order
//! in which they follow. So reading goes through both side by side, and holds neither in memory. It is written last, as its
//! hashes are known only then: a zstd stream may consist of frames one after the other, and the frame with the manifest
//! is put before the frame with the rest.
//!
//! An archive that is read may be made by anybody. So nothing is taken from it but what the manifest announces,
//! regular files and directories at paths that an archive of its kind has, and no more octets than announced.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use tar::{EntryType, Header};

use crate::content::Content;
use crate::{Error, ErrorKind, Result};

const MANIFEST: &str = "manifest.jsonl";
/// The kind of the archive of one user.
pub(super) const USER: &str = "user";
/// The longest path of an entry: what one system call takes, with some room for what it is relative to.
pub(super) const PATH_OCTETS_MAX: usize = 4_000;
/// No honest line of a manifest is longer.
const LINE_OCTETS_MAX: usize = 64 << 10;
/// The largest manifest: some 20 million entries. It is unpacked before anything in it is known.
const MANIFEST_OCTETS_MAX: u64 = 4 << 30;
/// Of an archive that is read: zstd's own limit for what a decoder has to hold, 128 MiB.
const WINDOW_LOG_MAX: u32 = 27;
/// Slower is hardly smaller: <https://facebook.github.io/zstd/#benchmarks>.
const LEVEL: i32 = 3;
const BLOCK: u64 = 512;
/// How many octets may follow the last entry: tar programs fill up to 20 blocks.
const END_OCTETS_MAX: u64 = 20 * BLOCK;
const UNREADABLE: &str = "the archive is damaged, or none of Tenantry's";

/// What an archive is of. A backup's manifest doesn't say so; every other does, in the field `kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Backup,
    User,
}

/// The first line of a manifest: what the archive is as a whole.
pub(super) trait Manifest: Serialize + Sized {
    const KIND: Kind;
    /// The version of the format of this kind that is written and read.
    const FORMAT: u32;

    /// Reads the line, of which it is known that it is of this kind and format.
    fn parse(line: &[u8]) -> Result<Self>;

    /// How many files there are, and the sum of their lengths.
    fn totals(&self) -> (u64, u64);

    /// Whether something may be at this path, which is relative and has neither `.` nor `..` in it.
    fn is_place(path: &Path, is_dir: bool) -> bool;
}

/// As much of the first line as tells what it is.
#[derive(Deserialize)]
struct Head {
    kind: Option<String>,
    format: u32,
}

/// A further line of the manifest: an entry of the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Relative to the data directory. What isn't UTF-8 is in `path_hex`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    path_hex: Option<String>,
    pub(super) mode: u32,
    /// A directory has none of these.
    #[serde(flatten)]
    pub(super) content: Option<Content>,
}

impl Entry {
    pub(super) fn new(path: &Path, mode: u32, content: Option<Content>) -> Self {
        let (text, hex) = match path.to_str() {
            Some(text) => (Some(text.to_owned()), None),
            None => (None, Some(path.as_os_str().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect())),
        };
        Self { path: text, path_hex: hex, mode, content }
    }

    /// The path, if it is one that an archive of this kind may hold.
    fn path<M: Manifest>(&self) -> Option<PathBuf> {
        let path: PathBuf = match (&self.path, &self.path_hex) {
            (Some(text), None) => text.into(),
            (None, Some(hex)) => OsString::from_vec(unhex(hex)?).into(),
            _ => return None,
        };
        let bytes = path.as_os_str().as_bytes();
        let is_plain = path.components().all(|component| matches!(component, Component::Normal(_)))
            // `components` skips what it takes for superfluous.
            && path.components().collect::<PathBuf>().as_os_str() == path.as_os_str()
            && bytes.len() <= PATH_OCTETS_MAX
            && !bytes.contains(&0);
        (is_plain && M::is_place(&path, self.content.is_none())).then_some(path)
    }
}

fn unhex(hex: &str) -> Option<Vec<u8>> {
    if !hex.len().is_multiple_of(2) || !hex.is_ascii() {
        return None;
    }
    (0..hex.len()).step_by(2).map(|start| u8::from_str_radix(&hex[start..start + 2], 16).ok()).collect()
}

/// The archive but for its manifest, while it is written.
pub(super) struct Body {
    archive: tar::Builder<zstd::Encoder<'static, BufWriter<File>>>,
    lines: BufWriter<File>,
    pub(super) files: u64,
    pub(super) bytes: u64,
}

impl Body {
    /// Writes into temporary files in this directory.
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        let file = BufWriter::new(tempfile::tempfile_in(dir)?);
        let archive = tar::Builder::new(encoder(file)?);
        Ok(Self { archive, lines: BufWriter::new(tempfile::tempfile_in(dir)?), files: 0, bytes: 0 })
    }

    pub(super) fn directory(&mut self, path: &Path, mode: u32) -> io::Result<()> {
        let mut header = header(EntryType::Directory, mode, 0, 0);
        self.archive.append_data(&mut header, path, io::empty())?;
        self.line(&Entry::new(path, mode, None))
    }

    /// Takes a file of which it is known how long it is and what its hash is.
    pub(super) fn file(
        &mut self,
        path: &Path,
        mode: u32,
        modified_at: u64,
        content: Content,
        input: impl Read,
    ) -> io::Result<()> {
        let mut header = header(EntryType::Regular, mode, content.size, modified_at);
        self.archive.append_data(&mut header, path, input)?;
        self.files += 1;
        self.bytes += content.size;
        self.line(&Entry::new(path, mode, Some(content)))
    }

    fn line(&mut self, entry: &Entry) -> io::Result<()> {
        serde_json::to_writer(&mut self.lines, entry)?;
        self.lines.write_all(b"\n")
    }

    /// Writes the manifest and then everything else.
    pub(super) fn finish(self, manifest: &impl Manifest, output: &mut File) -> io::Result<()> {
        let mut first_line = serde_json::to_vec(manifest)?;
        first_line.push(b'\n');
        let mut lines = rewound(self.lines)?;
        let length = first_line.len() as u64 + lines.metadata()?.len();
        if length > MANIFEST_OCTETS_MAX {
            return Err(io::Error::other("there are more files than an archive can list"));
        }
        let mut frame = encoder(output)?;
        let mut header = header(EntryType::Regular, 0o600, length, 0);
        header.set_path(MANIFEST)?;
        header.set_cksum();
        frame.write_all(header.as_bytes())?;
        frame.write_all(&first_line)?;
        io::copy(&mut lines, &mut frame)?;
        let padding = (BLOCK - length % BLOCK) % BLOCK;
        io::copy(&mut io::repeat(0).take(padding), &mut frame)?;
        let output = frame.finish()?;
        let mut body = rewound(self.archive.into_inner()?.finish()?)?;
        io::copy(&mut body, output)?;
        Ok(())
    }
}

fn encoder<W: Write>(output: W) -> io::Result<zstd::Encoder<'static, W>> {
    let mut encoder = zstd::Encoder::new(output, LEVEL)?;
    encoder.include_checksum(true)?;
    Ok(encoder)
}

fn rewound(file: BufWriter<File>) -> io::Result<File> {
    let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.rewind()?;
    Ok(file)
}

fn header(kind: EntryType, mode: u32, size: u64, modified_at: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(modified_at);
    header
}

type Decoder = zstd::Decoder<'static, BufReader<File>>;

fn open(archive: File) -> Result<tar::Archive<Decoder>> {
    let mut decoder = zstd::Decoder::new(archive).map_err(unreadable)?;
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(unreadable)?;
    Ok(tar::Archive::new(decoder))
}

/// The first entry of an archive, which has to be a manifest.
fn first<'a>(entries: &mut tar::Entries<'a, Decoder>) -> Result<tar::Entry<'a, Decoder>> {
    let manifest = entries.next().ok_or_else(|| damaged("the archive is empty"))?.map_err(unreadable)?;
    if manifest.path_bytes() != MANIFEST.as_bytes() || manifest.header().entry_type() != EntryType::Regular {
        return Err(damaged("the archive does not begin with a manifest: it is none of Tenantry's"));
    }
    if manifest.header().entry_size().map_err(unreadable)? > MANIFEST_OCTETS_MAX {
        return Err(damaged("the manifest is larger than any that Tenantry makes"));
    }
    Ok(manifest)
}

/// Reads the first line of a manifest.
fn parse<M: Manifest>(line: &[u8]) -> Result<M> {
    let Head { kind, format } = understand(line)?;
    let incompatible = |message| Err(Error::new(ErrorKind::Incompatible, message));
    let kind = match kind.as_deref() {
        None => Kind::Backup,
        Some(USER) => Kind::User,
        Some(_) => return incompatible("the archive is of a kind that this program does not know".to_owned()),
    };
    if kind != M::KIND {
        return incompatible(match kind {
            Kind::User => {
                "it is the archive of one user and no backup: `tenantry user import-archive` takes it".to_owned()
            }
            Kind::Backup => {
                "it is a backup of a whole store, not the archive of one user: `tenantry backup restore` takes it"
                    .to_owned()
            }
        });
    }
    if format != M::FORMAT {
        return incompatible(format!("the archive has the format {format}, and this program knows {}", M::FORMAT));
    }
    M::parse(line)
}

/// Reads the first line of the manifest alone. What comes of it is as good as the checksum of the manifest's frame.
pub(super) fn peek<M: Manifest>(archive: File) -> Result<M> {
    let mut archive = open(archive)?;
    let mut entries = archive.entries().map_err(unreadable)?.raw(true);
    let mut manifest = first(&mut entries)?;
    let mut lines = Lines { input: BufReader::new(&mut manifest) };
    let line = lines.next_octets()?.ok_or_else(|| damaged("the manifest is empty"))?;
    while lines.next_octets()?.is_some() {}
    entries.next().transpose().map_err(unreadable)?;
    parse(&line)
}

/// Reads an archive from its beginning to its end, and hands over each entry once it is clear that the manifest announces it.
/// The hash of a file is right only when the reader has come to its end.
pub(super) fn read<M: Manifest>(
    archive: File,
    temp_dir: &Path,
    mut visit: impl FnMut(&M, &Path, &Entry, u64, &mut dyn Read) -> Result<()>,
) -> Result<M> {
    let mut archive = open(archive)?;
    let mut entries = archive.entries().map_err(unreadable)?.raw(true);
    let mut manifest = first(&mut entries)?;
    let mut spool = BufWriter::new(tempfile::tempfile_in(temp_dir).map_err(unwritable)?);
    let mut lines = Lines { input: BufReader::new(&mut manifest) };
    while let Some(line) = lines.next_octets()? {
        spool.write_all(&line).map_err(unwritable)?;
    }
    // The checksum of the manifest's frame is met on the way to what follows: before that, none of it is believed.
    let second = entries.next().transpose().map_err(unreadable)?;
    let mut entries = second.map(Ok).into_iter().chain(entries);
    let mut lines = Lines { input: BufReader::new(rewound(spool).map_err(unwritable)?) };
    let manifest: M = parse(&lines.next_octets()?.ok_or_else(|| damaged("the manifest is empty"))?)?;

    let announced = manifest.totals();
    let (mut files, mut bytes) = (0, 0_u64);
    while let Some(entry) = lines.next::<Entry>()? {
        let path =
            entry.path::<M>().ok_or_else(|| damaged("the manifest announces a path that no such archive has"))?;
        let mut long_name = None;
        let mut found = loop {
            let mut found = entries.next().ok_or_else(|| damaged("the archive ends too early"))?.map_err(unreadable)?;
            if found.header().entry_type() != EntryType::GNULongName {
                break found;
            }
            let mut name = Vec::new();
            found.by_ref().take(PATH_OCTETS_MAX as u64 + 1).read_to_end(&mut name).map_err(unreadable)?;
            name.pop_if(|last| *last == 0);
            if long_name.replace(name).is_some() {
                return Err(damaged("an entry of the archive has two names"));
            }
        };
        let name = long_name.unwrap_or_else(|| found.path_bytes().into_owned());
        let kind = found.header().entry_type();
        let size = found.header().entry_size().map_err(unreadable)?;
        let is_announced = name.strip_suffix(b"/").unwrap_or(&name) == path.as_os_str().as_bytes()
            && match &entry.content {
                None => kind == EntryType::Directory && size == 0,
                Some(content) => kind == EntryType::Regular && size == content.size,
            };
        if !is_announced {
            return Err(damaged("the archive holds something else than its manifest announces"));
        }
        if let Some(content) = &entry.content {
            files += 1;
            bytes = bytes.saturating_add(content.size);
            // Before anything of it is written.
            if files > announced.0 || bytes > announced.1 {
                return Err(damaged("the manifest lists more than it announces"));
            }
        }
        let modified_at = found.header().mtime().unwrap_or_default();
        let mut octets = Noted { input: &mut found, has_failed: false };
        match visit(&manifest, &path, &entry, modified_at, &mut octets) {
            Err(error) if octets.has_failed => return Err(damaged(UNREADABLE).with_source(error)),
            visited => visited?,
        }
    }
    if entries.next().is_some() {
        return Err(damaged("the archive holds more than its manifest announces"));
    }
    // To the end, where the checksum of all that was read stands. What ends a tar archive is zeroes.
    let mut rest = Vec::new();
    archive.into_inner().take(END_OCTETS_MAX + 1).read_to_end(&mut rest).map_err(unreadable)?;
    if rest.len() as u64 > END_OCTETS_MAX || rest.iter().any(|octet| *octet != 0) {
        return Err(damaged("there is something after the end of the archive"));
    }
    if (files, bytes) != announced {
        return Err(damaged("the manifest announces another number of files than it lists"));
    }
    Ok(manifest)
}

/// Notes whether reading failed, so that this is told from a failure to write what was read.
struct Noted<R> {
    input: R,
    has_failed: bool,
}

impl<R: Read> Read for Noted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer);
        self.has_failed |= read.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::Interrupted);
        read
    }
}

/// The lines of a manifest.
struct Lines<R> {
    input: BufReader<R>,
}

impl<R: Read> Lines<R> {
    fn next_octets(&mut self) -> Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let limit = LINE_OCTETS_MAX as u64;
        self.input.by_ref().take(limit).read_until(b'\n', &mut line).map_err(unreadable)?;
        match line.last() {
            None => Ok(None),
            Some(b'\n') => Ok(Some(line)),
            Some(_) => Err(damaged("a line of the manifest is too long or cut off")),
        }
    }

    fn next<T: for<'de> Deserialize<'de>>(&mut self) -> Result<Option<T>> {
        let Some(line) = self.next_octets()? else { return Ok(None) };
        understand(&line).map(Some)
    }
}

/// A line of a manifest.
pub(super) fn understand<T: for<'de> Deserialize<'de>>(line: &[u8]) -> Result<T> {
    let understood = serde_json::from_slice(line);
    understood.map_err(|error| damaged("a line of the manifest can't be understood").with_source(error))
}

pub(super) fn damaged(message: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

fn unreadable(error: io::Error) -> Error {
    damaged(UNREADABLE).with_source(error)
}

pub(super) fn unwritable(error: io::Error) -> Error {
    crate::storage::file_error(error, "the archive can't be written")
}
