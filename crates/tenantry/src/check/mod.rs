//! Comparing the rows of a store with its directories, and repairing whatever can be repaired
//! without losing data.

mod repair;
mod report;
mod survey;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tracing::instrument;

use crate::Result;
use crate::engine::{ENGINE_FILES, Inspection, schema_failure};
use crate::options::Options;
use crate::progress::{Monitor, Progress, ProgressReply, STEPS_BETWEEN};
use crate::storage::Storage;
use crate::thread::on_thread;
pub use repair::{RepairOptions, RepairReport, repair, repair_with_progress};
pub use report::{CheckReport, Finding, FindingKind};
use survey::{Survey, inspect_database, inspect_identity, unreadable};

/// Number of passes; only findings of every pass are reported. Between passes the lock is released,
/// so that a writer can finish its changes of the file system.
const PASSES: u32 = 4;
/// The longest pass that may hold the write lock, for which writers have to wait.
const HOLDING_MAX: Duration = Duration::from_millis(250);
/// How long the second pass waits for the intents that the first one found.
const INTENTS_TIMEOUT: Duration = Duration::from_secs(1);

/// Compares the rows of the store in a data directory with its directories, and changes nothing.
///
/// Other processes and threads may use the store during the check. It takes as long as reading the
/// database and the metadata of every user's directory does, and runs on a thread of its own. A
/// check that finds anything repeats its pass, up to three times, and reports only findings of
/// every pass: a change that another process has just begun isn't a finding. If a pass is short,
/// the later ones hold the write lock.
///
/// # Errors
///
/// `StoreMissing`, `Incompatible`, `Busy`, `Io`, `ReadOnly`, `PermissionDenied`, and `Corrupt` if
/// the database can't be read at all.
///
/// # Examples
///
/// ```
/// # futures_lite::future::block_on(async {
/// # let dir = tempfile::tempdir()?;
/// # tenantry::Store::open(dir.path()).await?.close().await?;
/// let report = tenantry::check(dir.path()).await?;
/// assert!(report.findings.is_empty());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub async fn check(data_dir: impl Into<PathBuf>) -> Result<CheckReport> {
    check_with_progress(data_dir, |_| {}).await
}

/// Checks as [`check`] does, and reports its progress.
///
/// `progress` is called with the number of users and of entries of the pass so far; both are 0
/// while SQLite checks its database, which takes about as long as reading it twice. A callback that
/// returns [`ControlFlow::Break`](std::ops::ControlFlow) ends the check.
///
/// # Errors
///
/// Those of [`check`]; `Cancelled` if the callback ended it.
///
/// # Examples
///
/// ```
/// # futures_lite::future::block_on(async {
/// # let dir = tempfile::tempdir()?;
/// # let store = tenantry::Store::open(dir.path()).await?;
/// # store.create(tenantry::NewUser::new("ada@example.com".parse()?)).await?;
/// # store.close().await?;
/// let report = tenantry::check_with_progress(dir.path(), |progress| {
///     println!("{} users, {} entries", progress.users, progress.entries);
/// })
/// .await?;
/// assert_eq!(report.users, 1);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[instrument(level = "debug", skip_all)]
pub async fn check_with_progress<R: ProgressReply>(
    data_dir: impl Into<PathBuf>,
    progress: impl Fn(Progress) -> R + Send + 'static,
) -> Result<CheckReport> {
    run(data_dir.into(), Monitor::new(progress)).await
}

/// Checks on a thread of its own.
async fn run(data_dir: PathBuf, monitor: Monitor) -> Result<CheckReport> {
    on_thread(move || monitor.explain(check_in_passes(data_dir, &monitor)))
        .await?
        .map_err(schema_failure)
}

fn check_in_passes(data_dir: PathBuf, monitor: &Monitor) -> Result<CheckReport> {
    let options = Options::existing(data_dir);
    let mut inspection = Inspection::open(&options)?;
    let asked = monitor.clone();
    inspection.end_if(STEPS_BETWEEN, move || asked.is_ended())?;
    let began = Instant::now();
    let (mut report, mut intents) = check_once(&inspection, &options.data_dir, false, monitor)?;
    let holding = began.elapsed() < HOLDING_MAX;
    let mut timeout = INTENTS_TIMEOUT;
    for _ in 1..if holding { PASSES } else { 2 } {
        if report.findings.is_empty() {
            break;
        }
        // A change that was under way during the first pass is likely done soon.
        inspection.end_pass()?;
        inspection.wait_for(&intents, timeout)?;
        timeout = Duration::ZERO;
        let again;
        (again, intents) = check_once(&inspection, &options.data_dir, holding, monitor)?;
        let seen_again = |finding: &Finding| again.findings.contains(finding);
        report = CheckReport {
            findings: report.findings.into_iter().filter(seen_again).collect(),
            ..again
        };
    }
    confirm(&inspection, &options.data_dir, &mut report)?;
    report.findings.sort_by(|one, other| {
        (one.kind, &one.path, one.user).cmp(&(other.kind, &other.path, other.user))
    });
    Ok(report)
}

/// Makes one pass. Returns the numbers of the intents that it found, too.
fn check_once(
    inspection: &Inspection,
    data_dir: &Path,
    holding: bool,
    monitor: &Monitor,
) -> Result<(CheckReport, Vec<i64>)> {
    inspection.begin_pass(holding)?;
    monitor.report(Progress::default())?;
    let mut report = CheckReport::default();
    inspect_database(inspection, &mut report)?;
    if report.has(FindingKind::DatabaseDamaged) {
        return Ok((report, Vec::new()));
    }
    let storage = inspect_identity(inspection, data_dir, &mut report)?;
    if report.has(FindingKind::IdentityDiffers) {
        return Ok((report, Vec::new()));
    }
    let owner =
        storage.as_ref().map(Storage::owner).transpose().map_err(unreadable)?.unwrap_or_default();
    let mut survey = Survey::new(inspection, owner, report, monitor);
    let intents = survey.intents(storage.as_ref())?;
    survey.rows(storage.as_ref())?;
    if !holding {
        // The rest looks up single rows as they are at that time, so the WAL can be truncated
        // again.
        inspection.end_pass()?;
    }
    if let Some(storage) = &storage {
        survey.roots(storage)?;
        survey.storage(storage)?;
        survey.trash(storage)?;
    }
    Ok((survey.report, intents))
}

/// Re-checks, under the write lock, each finding that a concurrent move could explain. It takes a
/// moment even for a store that is too large to hold the lock during a pass.
fn confirm(inspection: &Inspection, data_dir: &Path, report: &mut CheckReport) -> Result<()> {
    if !report.findings.iter().any(Finding::may_be_a_move) {
        return Ok(());
    }
    inspection.begin_pass(true)?;
    let Some(storage) = Storage::open_existing(data_dir, ENGINE_FILES).map_err(unreadable)? else {
        return Ok(());
    };
    let began = Instant::now();
    report.findings.retain(|finding| {
        use FindingKind::{DirectoryLost, DirectoryUnrecorded, TrashLost};
        let is_true = match (finding.kind, finding.user, &finding.path) {
            // So many findings aren't the result of a concurrent move.
            _ if !finding.may_be_a_move() || began.elapsed() > HOLDING_MAX => Ok(true),
            (DirectoryLost | TrashLost, Some(user), _) => inspection.is_lost(&storage, user),
            (DirectoryUnrecorded, Some(user), _) => inspection.is_unrecorded(user),
            (_, _, Some(path)) => inspection.is_orphaned(&storage, path),
            _ => Ok(true),
        };
        // A finding that can't be re-checked was seen in every pass.
        is_true.unwrap_or(true)
    });
    inspection.end_pass()
}

/// Checks a database alone, without its directories.
pub(crate) fn check_database(inspection: &Inspection) -> Result<CheckReport> {
    let mut report = CheckReport::default();
    inspect_database(inspection, &mut report).map_err(schema_failure)?;
    if report.findings.is_empty() {
        let monitor = Monitor::silent();
        let mut survey = Survey::new(inspection, 0, report, &monitor);
        survey.rows(None)?;
        report = survey.report;
    }
    Ok(report)
}
