//! Tenantry keeps the users of a multi-tenant application in one SQLite file that is created on
//! first use, and a directory for each of them beside it.
//!
//! Every user is a tenant: an account with a unique email address, a random id, the times of
//! creation and of the last login, and a private directory that is never given to another user.
//! Start with [`Store`]:
//!
//! ```
//! use tenantry::{Email, NewUser, Store};
//!
//! # futures_lite::future::block_on(async {
//! # let dir = tempfile::tempdir()?;
//! # let data_dir = dir.path().join("data");
//! let store = Store::open(data_dir).await?;
//!
//! // A new user is created, in the same step in which the login is recorded.
//! let email: Email = "Ada@Example.com".parse()?;
//! let signed_in = store.sign_in(email).await?;
//! assert!(signed_in.is_new);
//!
//! // Any spelling finds them.
//! let user = store.get_by_email(&"ada@example.com".parse()?).await?;
//! let user = user.expect("she has just signed in");
//! assert_eq!(user.id, signed_in.user.id);
//! assert_eq!(user.email.as_str(), "Ada@Example.com");
//!
//! // The user's files, through a handle that leads nowhere else.
//! let files = store.directory(user.id).await?;
//! files.write("notes.txt", "hello")?;
//!
//! // No other user can have the address.
//! let error = store.create(NewUser::new("ADA@example.com".parse()?)).await.unwrap_err();
//! assert_eq!(error.kind(), tenantry::ErrorKind::EmailTaken);
//!
//! store.close().await?;
//! # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
//! ```
//!
//! It is not an authentication system: it holds no passwords, sessions or roles. It is not a
//! general database either, though an application may keep tables of its own [in the same
//! file](sqlite).
//!
//! # Limits
//!
//! | what | limit |
//! |---|---|
//! | an address | 254 bytes, 64 before the `@` ([`Email`]) |
//! | a storage path | 512 bytes ([`StoragePath`]) |
//! | a name, an external id | 256 characters each ([`Name`], [`ExternalId`]) |
//! | attributes | 16 KiB, 8 levels deep ([`Attributes`]) |
//! | a user's directory | what the file system allows, in names, depth and size |
//! | a page | 1,000 users ([`ListQuery::MAX_LIMIT`]) |
//! | writes in the queue | 1,024, and 16,384 callers waiting for a place in it |
//! | reads at once | 32 |
//! | memory for pages of the database | 32 MB for writing, 2 MB for each read at once, as the store grows |
//! | processes on one store | any number on one machine; never over a network file system |
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | `archives` (default) | backups of a store and archives of a user, with `tar` and `zstd`, a library in C |
//! | `chrono`, `jiff`, `time` | conversions of [`Timestamp`] |
//! | `openapi` | schemas of the values for an OpenAPI document, by `utoipa` |
//!
//! # Modules, in reading order
//!
//! 1. `domain`, `error` and `ambient`: values, and the source of time and randomness.
//! 2. `store`: the contract, with `check` and `archive` beside it.
//! 3. `ops`: the rules.
//! 4. [`sqlite`], the engine, and `storage`, the directories.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(clippy::missing_errors_doc, clippy::missing_panics_doc)]
// A test may tell a long story.
#![cfg_attr(not(test), warn(clippy::too_many_lines))]
#![cfg_attr(
    not(feature = "archives"),
    allow(
        dead_code,
        unused_imports,
        reason = "what archives alone need of the directories and the engine is compiled too"
    )
)]

mod ambient;
#[cfg(feature = "archives")]
mod archive;
mod check;
mod content;
mod data_dir;
mod domain;
mod engine;
mod error;
#[cfg(not(all(feature = "failpoints", debug_assertions)))]
mod failpoint;
#[cfg(all(feature = "failpoints", debug_assertions))]
#[doc(hidden)]
pub mod failpoint;
#[cfg(feature = "openapi")]
mod openapi;
mod ops;
mod options;
mod progress;

pub mod sqlite;
mod storage;
mod store;
mod thread;
mod transaction;

pub use ambient::Ambient;
#[cfg(feature = "archives")]
pub use archive::{
    Backup, BackupContents, BackupManifest, BackupOptions, ExportedUser, ImportedUser,
    RestoreReport, RestoreUserOptions, RestoredUser, UserBefore, UserManifest, VerifyReport,
    open_backup, read_user_manifest, restore_backup, verify_backup,
};
pub use cap_std;
pub use check::{
    CheckReport, Finding, FindingKind, RepairOptions, RepairReport, check, check_with_progress,
    repair, repair_with_progress,
};
pub use domain::actor::Actor;
pub use domain::attributes::Attributes;
pub use domain::change::{Change, ChangeKind, ChangePage, ChangesCursor, HistoryPage};
pub use domain::email::Email;
pub use domain::fields::InvalidField;
pub use domain::list::{Cursor, Filter, ListQuery, Order, Page};
pub use domain::profile::{ExternalId, Name};
pub use domain::request::{Kept, RequestKey};
pub use domain::scope::{Scope, Scopes};
pub use domain::set::Set;
pub use domain::storage_path::StoragePath;
pub use domain::timestamp::Timestamp;
pub use domain::token::{Authentication, NewToken, Token, TokenSecret};
pub use domain::trash::{
    LeftFile, Purge, Purged, TrashPage, TrashQuery, TrashedUser, Usage, UsageChange,
};
pub use domain::user::{NewUser, OnConflict, SignIn, Upserted, User, UserUpdate};
pub use domain::user_id::UserId;
pub use engine::metrics::{Groups, Metrics};
pub use error::{Error, ErrorClass, ErrorKind, Result};
pub use options::Durability;
pub use progress::{Progress, ProgressReply};
pub use store::{
    Builder, BulkOutcome, Follow, OnceStore, Pages, Store, open_dir_beneath, open_file_beneath,
};
pub use transaction::{ReadTx, WriteTx};

pub use uuid;

/// So that the README's example is compiled and run with the others.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// The same for the longer example.
#[cfg(doctest)]
#[doc = include_str!("../docs/tour.md")]
struct Tour;
