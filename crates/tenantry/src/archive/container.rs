//! The format of backups and of user archives: a tar archive in zstd, whose first file is the
//! manifest.
//!
//! The manifest, `manifest.jsonl`, has a line for the archive as a whole and then one for each
//! entry, in their order. So a reader goes through both side by side, and holds neither in memory.
//! The manifest is written last, since its hashes are known only then. A zstd stream may consist of
//! several frames, and the frame with the manifest is put before the others.
//!
//! An archive may be forged. So a reader takes nothing from it but entries of the manifest, at
//! paths that are valid for the kind of the archive (against path traversal), and no more bytes
//! than the manifest announces (against decompression bombs). Entries may lie only beneath
//! directories of the archive, so that no link in it is ever on the way to a file.
//!
//! Format 1 had only regular files and directories, with a mode and whole seconds. Format 2 has
//! [more](super::pax), and is the one that is written.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use serde::Deserialize;
use tar::EntryType;

use super::entry::{Entry, What};
use super::format::{Kind, Manifest, PATH_BYTES_MAX, damaged};
use super::input::Input;
use super::limits::{
    END_BYTES_MAX, LINE_BYTES_MAX, MANIFEST_BYTES_MAX, NAME_BYTES_MORE, WINDOW_LOG_MAX,
};
use super::pax::{PAX_BYTES_MAX, Records, Sparse};
use super::sparse;
use crate::content::RecordingReader;
use crate::storage::{Attributes, Modified};
use crate::{Error, ErrorKind, Result};

pub(super) const MANIFEST: &str = "manifest.jsonl";
/// The kind of the archive of one user.
pub(super) const USER: &str = "user";
const UNREADABLE: &str = "the archive is damaged, or isn't one of Tenantry's";

/// The part of the first line that identifies the archive.
#[derive(Deserialize)]
struct Head {
    kind: Option<String>,
    format: u32,
}

type Decoder = zstd::Decoder<'static, BufReader<Input>>;

fn open(archive: Input) -> Result<tar::Archive<Decoder>> {
    let mut decoder = zstd::Decoder::new(archive).map_err(unreadable)?;
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(unreadable)?;
    Ok(tar::Archive::new(decoder))
}

/// Returns the first entry of an archive, which has to be a manifest.
fn first<'a>(entries: &mut tar::Entries<'a, Decoder>) -> Result<tar::Entry<'a, Decoder>> {
    let manifest =
        entries.next().ok_or_else(|| damaged("the archive is empty"))?.map_err(unreadable)?;
    if manifest.path_bytes() != MANIFEST.as_bytes()
        || manifest.header().entry_type() != EntryType::Regular
    {
        return Err(damaged(
            "the archive does not begin with a manifest, so it isn't one of Tenantry's",
        ));
    }
    if manifest.header().entry_size().map_err(unreadable)? > MANIFEST_BYTES_MAX {
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
        Some(_) => {
            return incompatible(
                "the archive is of a kind that this version does not know".to_owned(),
            );
        }
    };
    if kind != M::KIND {
        return incompatible(match kind {
            Kind::User => "the file is the archive of one user, and not a backup".to_owned(),
            Kind::Backup => {
                "the file is a backup of a whole store, and not the archive of one user".to_owned()
            }
        });
    }
    if !(1..=M::FORMAT).contains(&format) {
        return incompatible(format!(
            "the archive has the format {format}, and this version knows 1 to {}",
            M::FORMAT
        ));
    }
    M::parse(line)
}

/// Reads the first line of the manifest alone, checked by the checksum of the manifest's frame.
pub(super) fn peek<M: Manifest>(archive: Input) -> Result<M> {
    let mut archive = open(archive)?;
    let mut entries = archive.entries().map_err(unreadable)?.raw(true);
    let mut manifest = first(&mut entries)?;
    let mut lines = Lines { input: BufReader::new(&mut manifest) };
    let line = lines.next_line()?.ok_or_else(|| damaged("the manifest is empty"))?;
    while lines.next_line()?.is_some() {}
    entries.next().transpose().map_err(unreadable)?;
    parse(&line)
}

/// Reads a whole archive, and visits each entry if it agrees with the manifest. A file's hash is
/// known only at the end of its reader.
pub(super) fn read<M: Manifest>(
    archive: Input,
    temp_dir: &Path,
    mut visit: impl FnMut(&M, &Path, &Entry, &Details, &mut dyn Read) -> Result<()>,
) -> Result<M> {
    let mut archive = open(archive)?;
    let mut entries = archive.entries().map_err(unreadable)?.raw(true);
    let mut manifest = first(&mut entries)?;
    let mut spool = BufWriter::new(tempfile::tempfile_in(temp_dir).map_err(unspooled)?);
    let mut lines = Lines { input: BufReader::new(&mut manifest) };
    while let Some(line) = lines.next_line()? {
        spool.write_all(&line).map_err(unspooled)?;
    }
    // The checksum of the manifest's frame comes before the second entry. The manifest isn't used
    // before that.
    let second = entries.next().transpose().map_err(unreadable)?;
    let mut entries = second.map(Ok).into_iter().chain(entries);
    let mut lines = Lines { input: BufReader::new(rewound(spool).map_err(unspooled)?) };
    let manifest: M = parse(&lines.next_line()?.ok_or_else(|| damaged("the manifest is empty"))?)?;

    let (announced, format) = (manifest.totals(), manifest.format());
    let (mut files, mut bytes) = (0, 0_u64);
    while let Some(entry) = lines.next::<Entry>()? {
        let path = entry.path::<M>().ok_or_else(|| {
            damaged("the manifest announces a path that isn't valid in such an archive")
        })?;
        let what = entry.what(format).ok_or_else(|| {
            damaged("the manifest announces an entry that isn't valid in such an archive")
        })?;
        let mut found = next(&mut entries, format)?;
        if !found.is_announced(&path, &entry, &what) {
            return Err(damaged("the archive holds something else than its manifest announces"));
        }
        if let Some(content) = &entry.content {
            files += 1;
            bytes = bytes.saturating_add(content.size);
            // Before anything of it is written, in case it is a decompression bomb.
            if files > announced.0 || bytes > announced.1 {
                return Err(damaged("the manifest lists more than it announces"));
            }
        }
        let details = Details { what, attributes: found.attributes(&entry) };
        let mut input = RecordingReader::new(&mut found.entry);
        match visit(&manifest, &path, &entry, &details, &mut input) {
            Err(error) if input.failure().is_some() => {
                return Err(damaged(UNREADABLE).with_source(error));
            }
            visited => visited?,
        }
    }
    if entries.next().is_some() {
        return Err(damaged("the archive holds more than its manifest announces"));
    }
    // Up to the end, where the last checksum is. A tar archive ends with zeroes.
    let mut rest = Vec::new();
    archive.into_inner().take(END_BYTES_MAX + 1).read_to_end(&mut rest).map_err(unreadable)?;
    if rest.len() as u64 > END_BYTES_MAX || rest.iter().any(|byte| *byte != 0) {
        return Err(damaged("the archive has data after its end"));
    }
    if (files, bytes) != announced {
        return Err(damaged("the manifest announces another number of files than it lists"));
    }
    Ok(manifest)
}

/// The type of an entry, and its metadata.
pub(super) struct Details {
    pub(super) what: What,
    pub(super) attributes: Attributes,
}

/// An entry, with the headers before it.
struct Found<'a, R: Read> {
    entry: tar::Entry<'a, R>,
    name: Option<Vec<u8>>,
    target: Option<Vec<u8>>,
    records: Option<Records>,
}

/// Reads up to the next entry that isn't a header.
fn next<'a, R: Read>(
    entries: &mut impl Iterator<Item = io::Result<tar::Entry<'a, R>>>,
    format: u32,
) -> Result<Found<'a, R>> {
    let (mut name, mut target, mut records) = (None, None, None);
    loop {
        let mut entry = entries
            .next()
            .ok_or_else(|| damaged("the archive ends too early"))?
            .map_err(unreadable)?;
        let is_twice = match entry.header().entry_type() {
            EntryType::GNULongName => name.replace(text(&mut entry)?).is_some(),
            EntryType::GNULongLink if format >= 2 => target.replace(text(&mut entry)?).is_some(),
            EntryType::XHeader if format >= 2 => {
                let bytes = limited(&mut entry, PAX_BYTES_MAX)?;
                records.replace(Records::parse(&bytes)?).is_some()
            }
            _ => return Ok(Found { entry, name, target, records }),
        };
        if is_twice {
            return Err(damaged("an entry of the archive has two names or headers"));
        }
    }
}

/// Reads a path that is too long for a header.
fn text(entry: &mut impl Read) -> Result<Vec<u8>> {
    let mut text = limited(entry, PATH_BYTES_MAX as u64 + NAME_BYTES_MORE)?;
    text.pop_if(|last| *last == 0);
    Ok(text)
}

/// Reads the content of an entry, up to a limit.
fn limited(entry: &mut impl Read, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry.take(limit + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > limit {
        return Err(damaged("a header of the archive is longer than any that Tenantry writes"));
    }
    Ok(bytes)
}

impl<R: Read> Found<'_, R> {
    /// Returns whether it agrees with the manifest.
    fn is_announced(&self, path: &Path, entry: &Entry, what: &What) -> bool {
        let header = self.entry.header();
        let sparse = entry.content.as_ref().filter(|_| entry.stored.is_some());
        let path_in_header =
            if sparse.is_some() { sparse::placeholder(path) } else { path.to_owned() };
        let name = self.name.clone().unwrap_or_else(|| self.entry.path_bytes().into_owned());
        let in_header = header.link_name_bytes().unwrap_or_default();
        let target = self.target.as_deref().unwrap_or(&in_header);
        let (kind, target_announced) = match what {
            What::Directory => (EntryType::Directory, None),
            What::File => (EntryType::Regular, None),
            What::Pipe => (EntryType::Fifo, None),
            What::Symlink(target) => (EntryType::Symlink, Some(target)),
            What::HardLink(target) => (EntryType::Link, Some(target)),
        };
        let size =
            entry.stored.or(entry.content.as_ref().map(|content| content.size)).unwrap_or_default();
        let is_target = match target_announced {
            Some(announced) => target == announced.as_os_str().as_bytes(),
            None => self.target.is_none(),
        };
        name.strip_suffix(b"/").unwrap_or(&name) == path_in_header.as_os_str().as_bytes()
            && header.entry_type() == kind
            && header.entry_size().is_ok_and(|found| found == size)
            && is_target
            && self.records.as_ref().and_then(|records| records.sparse.as_ref())
                == sparse.map(|content| Sparse::new(path, content.size)).as_ref()
    }

    /// Returns its metadata.
    fn attributes(&mut self, entry: &Entry) -> Attributes {
        let records = self.records.take().unwrap_or_default();
        let header = self.entry.header();
        let in_header = || Modified {
            seconds: header
                .mtime()
                .ok()
                .and_then(|time| i64::try_from(time).ok())
                .unwrap_or_default(),
            nanoseconds: 0,
        };
        let id =
            |id: io::Result<u64>| id.ok().and_then(|id| u32::try_from(id).ok()).unwrap_or_default();
        Attributes {
            mode: entry.mode,
            owner: id(header.uid()),
            group: id(header.gid()),
            modified: records.modified.unwrap_or_else(in_header),
            extended: records.extended,
        }
    }
}

pub(super) fn rewound(file: BufWriter<File>) -> io::Result<File> {
    let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.rewind()?;
    Ok(file)
}

/// The lines of a manifest.
struct Lines<R> {
    input: BufReader<R>,
}

impl<R: Read> Lines<R> {
    fn next_line(&mut self) -> Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let limit = LINE_BYTES_MAX as u64;
        self.input.by_ref().take(limit).read_until(b'\n', &mut line).map_err(unreadable)?;
        match line.last() {
            None => Ok(None),
            Some(b'\n') => Ok(Some(line)),
            Some(_) => Err(damaged("a line of the manifest is too long or cut off")),
        }
    }

    fn next<T: for<'de> Deserialize<'de>>(&mut self) -> Result<Option<T>> {
        let Some(line) = self.next_line()? else { return Ok(None) };
        understand(&line).map(Some)
    }
}

/// Parses a line of a manifest.
pub(super) fn understand<T: for<'de> Deserialize<'de>>(line: &[u8]) -> Result<T> {
    let understood = serde_json::from_slice(line);
    understood.map_err(|error| damaged("a line of the manifest can't be parsed").with_source(error))
}

fn unreadable(error: io::Error) -> Error {
    damaged(UNREADABLE).with_source(error)
}

fn unspooled(error: io::Error) -> Error {
    crate::storage::file_error(error, "the temporary file for the manifest can't be written")
}

pub(super) fn unwritable(error: io::Error) -> Error {
    crate::storage::file_error(error, "the archive can't be written")
}
