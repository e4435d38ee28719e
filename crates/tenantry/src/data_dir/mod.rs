//! The data directory as the file system has it: whether it can be written, on which file system it
//! is, which process has the store open, and whether the files are still those that were opened.
//!
//! The names of the files come from the engine.

pub(crate) mod access;
pub(crate) mod lock;
pub(crate) mod network_fs;
pub(crate) mod sigxfsz;
pub(crate) mod watch;
