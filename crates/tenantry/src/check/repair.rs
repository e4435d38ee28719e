//! Repairing a store.

use std::path::PathBuf;
use std::sync::Arc;

use tracing::instrument;

use super::report::{CheckReport, Finding, FindingKind};
use super::run;
use crate::engine::verbs::{Quarantine, RecordDirectory};
use crate::progress::{Monitor, Progress, ProgressReply};
use crate::storage::Storage;
use crate::thread::on_thread;
use crate::{Error, ErrorKind, Result, Store};

/// A repair is refused if more than one directory in this many is an orphan: it may be the wrong
/// database.
const ORPHANS_REFUSED_ABOVE_ONE_IN: u64 = 10;

/// The permissions of a [repair].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepairOptions {
    /// Change nothing, and only return what a repair would do.
    pub dry_run: bool,
    /// Move orphans to quarantine even if they are more than 10 % of all directories.
    pub even_if_many: bool,
    /// [Open](crate::Builder::allow_network_fs) the store even on a network file system.
    pub allow_network_fs: bool,
}

/// The result of a [repair].
#[derive(Debug)]
#[non_exhaustive]
pub struct RepairReport {
    /// The result of the check before. Each finding whose kind has a [repair](FindingKind::repair)
    /// was repaired, or would be.
    pub before: CheckReport,
    /// After a dry run, the error that the repair itself would return.
    pub refusal: Option<Error>,
    /// Findings whose repair failed, with the reasons.
    pub failures: Vec<(Finding, Error)>,
    /// The result of the check afterwards; `None` after a dry run.
    pub after: Option<CheckReport>,
}

/// Repairs a store without losing data: finishes intents, sets modes, records directories and
/// quarantines orphans.
///
/// An orphan goes to `quarantine/`, with a note that says where it was. A repair deletes nothing.
/// It runs on threads of its own.
///
/// # Errors
///
/// Those of [`check`](crate::check) and of opening the store; `Incompatible` if the database and
/// `storage/` belong to different stores; `StorageUnavailable` if `storage/` is missing; `Corrupt`
/// if the database is damaged; `TooManyOrphans`. In the last four cases nothing was changed.
///
/// # Examples
///
/// ```
/// # futures_lite::future::block_on(async {
/// # let dir = tempfile::tempdir()?;
/// # tenantry::Store::open(dir.path()).await?.close().await?;
/// std::fs::create_dir(dir.path().join("trash/unknown"))?;
/// let options = tenantry::RepairOptions { even_if_many: true, ..Default::default() };
/// let report = tenantry::repair(dir.path(), options).await?;
/// assert_eq!(report.before.orphaned, 1);
/// assert_eq!(report.after.expect("it was no dry run").orphaned, 0);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub async fn repair(data_dir: impl Into<PathBuf>, options: RepairOptions) -> Result<RepairReport> {
    repair_with_progress(data_dir, options, |_| {}).await
}

/// Repairs as [`repair`] does, and reports the progress of the checks before and after.
///
/// A callback that returns [`ControlFlow::Break`](std::ops::ControlFlow) ends the check that is
/// running: before anything is repaired, or after all of it.
///
/// # Errors
///
/// Those of [`repair`]; `Cancelled` if the callback ended it.
///
/// # Examples
///
/// ```
/// # futures_lite::future::block_on(async {
/// # let dir = tempfile::tempdir()?;
/// # tenantry::Store::open(dir.path()).await?.close().await?;
/// let options = tenantry::RepairOptions::default();
/// let report = tenantry::repair_with_progress(dir.path(), options, |_| {}).await?;
/// assert!(report.before.findings.is_empty());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[instrument(level = "debug", skip_all)]
pub async fn repair_with_progress<R: ProgressReply>(
    data_dir: impl Into<PathBuf>,
    options: RepairOptions,
    progress: impl Fn(Progress) -> R + Send + 'static,
) -> Result<RepairReport> {
    let (data_dir, monitor) = (data_dir.into(), Monitor::new(progress));
    let before = run(data_dir.clone(), monitor.clone()).await?;
    let refusal = refuse_if_unsafe(&before, options).err();
    if options.dry_run {
        return Ok(RepairReport { before, refusal, failures: Vec::new(), after: None });
    }
    if let Some(refusal) = refusal {
        return Err(refusal);
    }
    // Opening the store finishes the intents.
    let opening = Store::builder(&data_dir)
        .create_if_missing(false)
        .allow_network_fs(options.allow_network_fs);
    let store = opening.open().await?;
    let mut failures = Vec::new();
    for finding in &before.findings {
        if let Err(error) = repair_one(&store, finding).await {
            failures.push((finding.clone(), error));
        }
    }
    store.close().await?;
    let after = run(data_dir, monitor).await?;
    Ok(RepairReport { before, refusal: None, failures, after: Some(after) })
}

/// Refuses a repair that would rest on a wrong or damaged database.
fn refuse_if_unsafe(report: &CheckReport, options: RepairOptions) -> Result<()> {
    let refuse =
        |kind, message: String| Err(Error::new(kind, format!("{message}; nothing was repaired")));
    for finding in &report.findings {
        match finding.kind {
            FindingKind::IdentityDiffers => {
                return refuse(ErrorKind::Incompatible, finding.detail.clone());
            }
            FindingKind::IdentityMissing => {
                return refuse(ErrorKind::StorageUnavailable, finding.detail.clone());
            }
            FindingKind::DatabaseDamaged => {
                return refuse(
                    ErrorKind::Corrupt,
                    "the database is damaged: restore a backup".to_owned(),
                );
            }
            _ => {}
        }
    }
    let CheckReport { orphaned, directories, .. } = report;
    if orphaned * ORPHANS_REFUSED_ABOVE_ONE_IN > *directories && !options.even_if_many {
        return refuse(
            ErrorKind::TooManyOrphans,
            format!("{orphaned} of {directories} directories are orphans, which is more than 10 %"),
        );
    }
    Ok(())
}

async fn repair_one(store: &Store, finding: &Finding) -> Result<()> {
    let path = finding.path.clone().unwrap_or_default();
    match finding.kind {
        FindingKind::WrongMode => {
            let engine = Arc::clone(store.engine());
            on_thread(move || engine.storage()?.make_private(&path)).await?
        }
        FindingKind::WrongOwner => {
            let engine = Arc::clone(store.engine());
            on_thread(move || engine.storage()?.give_to_owner(&path)).await?
        }
        FindingKind::DirectoryUnrecorded => match finding.user {
            Some(user) => store.apply(RecordDirectory(user)).await,
            None => Ok(()),
        },
        FindingKind::DirectoryOrphaned | FindingKind::TrashOrphaned => {
            let Some(orphan) = Storage::orphan(&path) else { return Ok(()) };
            store.apply(Quarantine(orphan)).await.map(drop)
        }
        _ => Ok(()),
    }
}
