//! The settings with which a store is opened, for the store and its engine.

use std::path::PathBuf;
use std::time::Duration;

/// How long an operation waits for another process, unless a program chooses otherwise.
pub(crate) const DEFAULT_BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The settings with which a store is opened.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) data_dir: PathBuf,
    pub(crate) create_if_missing: bool,
    pub(crate) durability: Durability,
    pub(crate) busy_timeout: Duration,
    pub(crate) snapshot_before_upgrade: bool,
    pub(crate) allow_network_fs: bool,
}

impl Options {
    pub(crate) fn new(data_dir: PathBuf) -> Self {
        Self {
            data_dir,
            create_if_missing: true,
            durability: Durability::Full,
            busy_timeout: DEFAULT_BUSY_TIMEOUT,
            snapshot_before_upgrade: true,
            allow_network_fs: false,
        }
    }

    /// Returns the options to read a store that exists.
    pub(crate) fn existing(data_dir: PathBuf) -> Self {
        Self { create_if_missing: false, ..Self::new(data_dir) }
    }
}

/// What a write that has returned survives. With either, a crash or a power cut never leaves half a
/// write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// A crash of the program and a power cut: every commit waits for `fsync` (SQLite's
    /// [`synchronous=FULL`](https://sqlite.org/pragma.html#pragma_synchronous)).
    #[default]
    Full,
    /// A crash of the program. A power cut or a crash of the operating system may lose the writes
    /// since the last checkpoint, which can be thousands; the store stays consistent
    /// (`synchronous=NORMAL`).
    Normal,
}
