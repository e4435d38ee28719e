//! Archives: backups of a whole store, and the archives of one user.
//!
//! Both have one [container](container) format, which [`writer`] writes and [`reader`] reads.

mod backup;
mod backup_contents;
mod body;
mod container;
mod entry;
mod format;
mod input;
mod limits;
mod pax;
mod reader;
mod restore_user;
mod sparse;
mod temporary;
mod user;
mod writer;

pub use backup::{
    Backup, BackupManifest, BackupOptions, RestoreReport, VerifyReport, restore_backup,
    verify_backup,
};
pub use backup_contents::{BackupContents, open_backup};
pub use restore_user::{RestoreUserOptions, RestoredUser, UserBefore};
pub use user::{ExportedUser, ImportedUser, UserManifest, read_user_manifest};
