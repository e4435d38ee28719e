//! A line of the manifest, which describes an entry of the archive.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::format::{Manifest, PATH_BYTES_MAX};
use crate::content::Content;

/// The type of an entry that is neither a file nor a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Special {
    Symlink,
    /// Another name of an earlier file.
    HardLink,
    Pipe,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Relative to the data directory. A path that isn't UTF-8 is in `path_hex`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    path_hex: Option<String>,
    pub(super) mode: u32,
    /// Files have this, and no other entry does.
    #[serde(flatten)]
    pub(super) content: Option<Content>,
    /// For a sparse file, the size of its map and data in the archive, whose hash is the one above.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) stored: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    kind: Option<Special>,
    /// The target of a symbolic link, or the path of the entry that a hard link is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    target_hex: Option<String>,
}

/// The type of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Directory,
    File,
    Symlink(PathBuf),
    HardLink(PathBuf),
    Pipe,
}

impl Entry {
    pub(super) fn new(path: &Path, mode: u32, what: &What) -> Self {
        let (kind, target) = match what {
            What::Directory | What::File => (None, None),
            What::Pipe => (Some(Special::Pipe), None),
            What::Symlink(target) => (Some(Special::Symlink), Some(target)),
            What::HardLink(target) => (Some(Special::HardLink), Some(target)),
        };
        let (path, path_hex) = named(path);
        let (target, target_hex) = target.map_or((None, None), |target| named(target));
        Self { path, path_hex, mode, content: None, stored: None, kind, target, target_hex }
    }

    pub(super) fn for_file(path: &Path, mode: u32, content: Content, stored: Option<u64>) -> Self {
        Self { content: Some(content), stored, ..Self::new(path, mode, &What::File) }
    }

    /// Returns its type, unless the line is contradictory, or unknown in this format.
    pub(super) fn what(&self, format: u32) -> Option<What> {
        let is_old = self.kind.is_none()
            && self.stored.is_none()
            && self.target.is_none()
            && self.target_hex.is_none();
        if format < 2 && !is_old {
            return None;
        }
        let target = match (&self.target, &self.target_hex) {
            (None, None) => None,
            (text, hex) => Some(path(text.as_deref(), hex.as_deref())?),
        };
        Some(match (self.kind, &self.content, self.stored, target) {
            (None, None, None, None) => What::Directory,
            (None, Some(_), _, None) => What::File,
            (Some(Special::Pipe), None, None, None) => What::Pipe,
            (Some(Special::Symlink), None, None, Some(target)) if is_target(&target) => {
                What::Symlink(target)
            }
            (Some(Special::HardLink), None, None, Some(target)) if is_plain(&target) => {
                What::HardLink(target)
            }
            _ => return None,
        })
    }

    pub(super) fn is_dir(&self) -> bool {
        self.kind.is_none() && self.content.is_none()
    }

    /// Returns the content, if it is a file without holes.
    pub(super) fn plain(&self) -> Option<&Content> {
        self.content.as_ref().filter(|_| self.stored.is_none())
    }

    /// Returns the path, if an archive of this kind may have it.
    pub(super) fn path<M: Manifest>(&self) -> Option<PathBuf> {
        let path = path(self.path.as_deref(), self.path_hex.as_deref())?;
        (is_plain(&path) && M::is_place(&path, self.is_dir())).then_some(path)
    }
}

/// Returns a path as text or, if it isn't UTF-8, in hexadecimal digits.
fn named(path: &Path) -> (Option<String>, Option<String>) {
    match path.to_str() {
        Some(text) => (Some(text.to_owned()), None),
        None => (
            None,
            Some(path.as_os_str().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect()),
        ),
    }
}

fn path(text: Option<&str>, hex: Option<&str>) -> Option<PathBuf> {
    match (text, hex) {
        (Some(text), None) => Some(text.into()),
        (None, Some(hex)) => Some(OsString::from_vec(unhex(hex)?).into()),
        _ => None,
    }
}

/// Returns whether a path is relative and leads only downwards, against path traversal.
fn is_plain(path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    path.components().all(|component| matches!(component, Component::Normal(_)))
        // `components` normalizes the path.
        && path.components().collect::<PathBuf>().as_os_str() == path.as_os_str()
        && bytes.len() <= PATH_BYTES_MAX
        && !bytes.contains(&0)
}

/// Returns whether a symbolic link can have this target.
fn is_target(target: &Path) -> bool {
    let bytes = target.as_os_str().as_bytes();
    !bytes.is_empty() && bytes.len() < LINK_BYTES_MAX && !bytes.contains(&0)
}

/// Linux's limit for a symbolic link (`PATH_MAX`).
const LINK_BYTES_MAX: usize = 4_096;

fn unhex(hex: &str) -> Option<Vec<u8>> {
    if !hex.len().is_multiple_of(2) || !hex.is_ascii() {
        return None;
    }
    (0..hex.len())
        .step_by(2)
        .map(|start| u8::from_str_radix(&hex[start..start + 2], 16).ok())
        .collect()
}
