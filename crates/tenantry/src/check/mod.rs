//! Checking a store against its directories, and repairing what can be repaired without losing anything.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};
use tracing::instrument;

use crate::options::Options;
use crate::sqlite::{Action, Inspection, Owner, Row, of_schema};
use crate::storage::{DirectoryState, EntryKind, Marker, Orphan, Storage, blocked_root, is_own_file, user_of_work};
use crate::thread::on_thread;
use crate::{Error, ErrorKind, Result, StoragePath, Store, UserId};

/// What is wrong with a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// What kind of thing is wrong.
    pub kind: FindingKind,
    /// The user whom it is about, if it is about one.
    pub user: Option<UserId>,
    /// The path within the data directory that it is about, if it is about one. Serialized, bytes that aren't UTF-8 are
    /// escaped as `\xff`.
    #[serde(serialize_with = "serialize_path")]
    pub path: Option<PathBuf>,
    /// What there is to say besides. No address.
    pub detail: String,
}

/// The kinds of [`Finding`]. Serialized and displayed in snake case: `directory_lost`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FindingKind {
    /// The database and `storage/` belong to different stores. Nothing else is looked at then.
    IdentityDiffers,
    /// `storage/`, or the marker in it that says whose it is, is missing: it may not be mounted. The directories aren't
    /// looked at then.
    IdentityMissing,
    /// SQLite's [integrity check](https://sqlite.org/pragma.html#pragma_integrity_check) found this, or an index holds what
    /// its table doesn't.
    DatabaseDamaged,
    /// A row refers to another that isn't there.
    ReferenceDangling,
    /// The key of a user isn't that of their address.
    KeyDiffers,
    /// The storage path of a user isn't one, or equals or lies within somebody else's.
    PathOverlaps,
    /// The directory of a user was made and is missing.
    DirectoryLost,
    /// The directory of a user is there, at the path that is derived from their id, but their row doesn't know.
    DirectoryUnrecorded,
    /// A directory is at the path that was chosen for a user, but they were never [given](crate::Store::adopt) it.
    DirectoryUnadopted,
    /// Something in `storage/` belongs to no user.
    DirectoryOrphaned,
    /// A symbolic link, or something else that isn't a directory, stands on the way to a user's directory.
    PathBlocked,
    /// A directory of the store can be used by others than its owner, or not by its owner.
    WrongMode,
    /// A directory or a file of the store belongs to somebody else than the store.
    WrongOwner,
    /// What a crash or a failure left to be done in the file system.
    IntentUnfinished,
    /// The directory of a user in the trash was made and is missing.
    TrashLost,
    /// Something in `trash/` belongs to no user in the trash.
    TrashOrphaned,
}

impl FindingKind {
    /// What a [repair](repair) does about it, if it does anything.
    #[must_use]
    pub fn repair(self) -> Option<&'static str> {
        match self {
            Self::IntentUnfinished => Some("finish it"),
            Self::DirectoryUnrecorded => Some("record it"),
            Self::DirectoryOrphaned | Self::TrashOrphaned => Some("move it to quarantine"),
            Self::WrongMode => Some("set the mode to 0700"),
            Self::WrongOwner => Some("as root, give it to the owner"),
            _ => None,
        }
    }
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// What a [check](check) came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// What is wrong; nothing if all is well.
    pub findings: Vec<Finding>,
    /// How many users were looked at.
    pub users: u64,
    /// How many users in the trash.
    pub trashed: u64,
    /// How many directories there are, of users or of nobody.
    pub directories: u64,
    /// How many of them belong to nobody. One that holds directories counts as so many: it may be those of many users.
    pub orphaned: u64,
}

impl Report {
    fn add(&mut self, kind: FindingKind, user: Option<UserId>, path: Option<PathBuf>, detail: impl Into<String>) {
        self.findings.push(Finding { kind, user, path, detail: detail.into() });
    }

    fn has(&self, kind: FindingKind) -> bool {
        self.findings.iter().any(|finding| finding.kind == kind)
    }
}

/// What a [repair](repair) may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepairOptions {
    /// Do nothing, and only say what would be done.
    pub dry_run: bool,
    /// Move what belongs to nobody to quarantine even if it is more than 10 % of all directories.
    pub even_if_many: bool,
    /// [Open](crate::Builder::allow_network_fs) the store also on a network file system.
    pub allow_network_fs: bool,
}

/// What a [repair](repair) came to.
#[derive(Debug)]
#[non_exhaustive]
pub struct Repaired {
    /// What was found first. Each finding whose kind has a [repair](FindingKind::repair) was repaired, or would be.
    pub before: Report,
    /// After a dry run, why the repair itself would be refused.
    pub refusal: Option<Error>,
    /// What could not be repaired though it ought to be, and why.
    pub failures: Vec<(Finding, Error)>,
    /// What a check found afterwards; `None` after a dry run.
    pub after: Option<Report>,
}

/// How often a check looks before it tells what it has seen every time. Between two looks under the lock, whoever has
/// written comes to what is to follow in the file system.
const LOOKS: u32 = 4;
/// How long a look may take at the most if others are to wait for it.
const HOLDING_MAX: Duration = Duration::from_millis(250);
/// How long a check waits for somebody to finish what it has seen them at.
const PATIENCE: Duration = Duration::from_secs(1);

/// Reads everything in the store in this data directory, and changes nothing. Others may use it meanwhile.
///
/// It takes as long as reading the database and looking at every user's directory does, and runs on a thread of its own.
/// If it finds anything it waits a little, looks again, and tells what it has seen every time: what somebody was just about to
/// do is no finding. If a look takes no longer than a moment, others can't write during the later ones.
///
/// Errors: `StoreMissing`, `Incompatible`, `Busy`, `Io`, `ReadOnly`, and `Corrupt` if the database can't be read at all.
pub async fn check(data_dir: impl Into<PathBuf>) -> Result<Report> {
    check_with_progress(data_dir, |_| {}).await
}

/// Checks as [`check`] does, and reports how far it is, from the thread that it runs on.
///
/// # Examples
///
/// ```
/// # futures_lite::future::block_on(async {
/// # let dir = tempfile::tempdir()?;
/// # let store = tenantry::Store::open(dir.path()).await?;
/// # store.create(tenantry::NewUser::new("ada@example.com".parse()?)).await?;
/// # store.close().await?;
/// let report = tenantry::check_with_progress(dir.path(), |checking| println!("{checking:?}")).await?;
/// assert!(report.findings.is_empty());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[instrument(level = "debug", skip_all)]
pub async fn check_with_progress(
    data_dir: impl Into<PathBuf>,
    progress: impl Fn(Checking) + Send + 'static,
) -> Result<Report> {
    let data_dir = data_dir.into();
    on_thread(move || check_repeatedly(data_dir, &progress)).await?.map_err(of_schema)
}

/// How far a [check](check_with_progress) is. A check that finds something begins anew, up to three times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Checking {
    /// SQLite checks its database, which takes as long as reading it twice or so.
    Database,
    /// So many users were compared with their directories, those in the trash included.
    Users(u64),
    /// So many entries of `storage/` and `trash/` were compared with the users.
    Entries(u64),
}

/// Does what loses nothing: finishes what was begun, sets modes, records directories that are there, and
/// moves what belongs to nobody to `quarantine/`, each with a note of where it came from. It deletes nothing.
///
/// Errors: those of [`check`] and of opening the store; `Incompatible` if the database and `storage/` belong to different
/// stores; `StorageUnavailable` if the latter is missing; `Corrupt` if the database is damaged; `TooManyOrphans`.
/// In the last four cases nothing was changed.
pub async fn repair(data_dir: impl Into<PathBuf>, options: RepairOptions) -> Result<Repaired> {
    repair_with_progress(data_dir, options, |_| {}).await
}

/// Repairs as [`repair`] does, and reports how far the checks are that it makes before and after.
///
/// # Examples
///
/// ```
/// # futures_lite::future::block_on(async {
/// # let dir = tempfile::tempdir()?;
/// # tenantry::Store::open(dir.path()).await?.close().await?;
/// let options = tenantry::RepairOptions::default();
/// let repaired = tenantry::repair_with_progress(dir.path(), options, |_| {}).await?;
/// assert!(repaired.before.findings.is_empty());
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[instrument(level = "debug", skip_all)]
pub async fn repair_with_progress(
    data_dir: impl Into<PathBuf>,
    options: RepairOptions,
    progress: impl Fn(Checking) + Clone + Send + 'static,
) -> Result<Repaired> {
    let data_dir = data_dir.into();
    let before = check_with_progress(&data_dir, progress.clone()).await?;
    let refusal = refuse_if_unsafe(&before, options).err();
    if options.dry_run {
        return Ok(Repaired { before, refusal, failures: Vec::new(), after: None });
    }
    if let Some(refusal) = refusal {
        return Err(refusal);
    }
    // Opening it finishes what can be finished.
    let opening = Store::builder(&data_dir).create_if_missing(false).allow_network_fs(options.allow_network_fs);
    let store = opening.open().await?;
    let mut failures = Vec::new();
    for finding in &before.findings {
        if let Err(error) = repair_one(&store, finding).await {
            failures.push((finding.clone(), error));
        }
    }
    store.close().await?;
    Ok(Repaired { before, refusal: None, failures, after: Some(check_with_progress(data_dir, progress).await?) })
}

/// Refuses a repair that would believe what isn't to be believed.
fn refuse_if_unsafe(report: &Report, options: RepairOptions) -> Result<()> {
    let refuse = |kind, message: String| Err(Error::new(kind, format!("{message}; nothing was repaired")));
    for finding in &report.findings {
        match finding.kind {
            FindingKind::IdentityDiffers => return refuse(ErrorKind::Incompatible, finding.detail.clone()),
            FindingKind::IdentityMissing => return refuse(ErrorKind::StorageUnavailable, finding.detail.clone()),
            FindingKind::DatabaseDamaged => {
                return refuse(ErrorKind::Corrupt, "the database is damaged: restore a backup".to_owned());
            }
            _ => {}
        }
    }
    let Report { orphaned, directories, .. } = report;
    if orphaned * 10 > *directories && !options.even_if_many {
        return refuse(
            ErrorKind::TooManyOrphans,
            format!("{orphaned} of {directories} directories seem to belong to nobody, which is more than 10 %"),
        );
    }
    Ok(())
}

async fn repair_one(store: &Store, finding: &Finding) -> Result<()> {
    let path = finding.path.clone().unwrap_or_default();
    match finding.kind {
        FindingKind::WrongMode => store.engine().storage()?.make_private(&path),
        FindingKind::WrongOwner => store.engine().storage()?.give_to_owner(&path),
        FindingKind::DirectoryUnrecorded => match finding.user {
            Some(user) => store.engine().operate(move |tx| tx.record_directory(user)).await,
            None => Ok(()),
        },
        FindingKind::DirectoryOrphaned | FindingKind::TrashOrphaned => {
            let Some(orphan) = Storage::orphan(&path) else { return Ok(()) };
            store.engine().operate(move |tx| tx.quarantine(&orphan)).await.map(drop)
        }
        _ => Ok(()),
    }
}

fn check_repeatedly(data_dir: PathBuf, progress: &dyn Fn(Checking)) -> Result<Report> {
    let options = Options::existing(data_dir);
    let inspection = Inspection::open(&options)?;
    let began = Instant::now();
    let (mut report, mut intents) = check_once(&inspection, &options.data_dir, false, progress)?;
    let holding = began.elapsed() < HOLDING_MAX;
    let mut patience = PATIENCE;
    for _ in 1..if holding { LOOKS } else { 2 } {
        if report.findings.is_empty() {
            break;
        }
        // What somebody is just about to do is done soon.
        inspection.end_look()?;
        inspection.wait_for(&intents, patience)?;
        patience = Duration::ZERO;
        let again;
        (again, intents) = check_once(&inspection, &options.data_dir, holding, progress)?;
        let seen_again = |finding: &Finding| again.findings.contains(finding);
        report = Report { findings: report.findings.into_iter().filter(seen_again).collect(), ..again };
    }
    confirm(&inspection, &options.data_dir, &mut report)?;
    report.findings.sort_by(|one, other| (one.kind, &one.path, one.user).cmp(&(other.kind, &other.path, other.user)));
    Ok(report)
}

/// Looks at each thing again that may have been moved to and fro during the looks, and meanwhile nobody writes. That takes
/// a moment, also where a whole look takes too long for that.
fn confirm(inspection: &Inspection, data_dir: &Path, report: &mut Report) -> Result<()> {
    let moves = |finding: &Finding| {
        use FindingKind::{DirectoryLost, DirectoryOrphaned, DirectoryUnrecorded, TrashLost, TrashOrphaned};
        matches!(finding.kind, DirectoryLost | TrashLost | DirectoryUnrecorded | DirectoryOrphaned | TrashOrphaned)
    };
    if !report.findings.iter().any(moves) {
        return Ok(());
    }
    inspection.look_anew(true)?;
    let Some(storage) = Storage::open_existing(data_dir).map_err(failed)? else { return Ok(()) };
    let began = Instant::now();
    let mut confirmed = Vec::new();
    for finding in report.findings.drain(..) {
        let still = match (finding.kind, finding.user, &finding.path) {
            // Where so much is wrong, nobody was just moving it.
            _ if !moves(&finding) || began.elapsed() > HOLDING_MAX => Ok(true),
            (FindingKind::DirectoryLost | FindingKind::TrashLost, Some(user), _) => inspection.is_lost(&storage, user),
            (FindingKind::DirectoryUnrecorded, Some(user), _) => inspection.is_unrecorded(user),
            (_, _, Some(path)) => inspection.is_orphaned(&storage, path),
            _ => Ok(true),
        };
        // What can't be looked at again was seen all the same.
        let is_so = still.unwrap_or(true);
        if is_so {
            confirmed.push(finding);
        }
    }
    report.findings = confirmed;
    inspection.end_look()
}

/// What is wrong with a database, whatever its directories.
pub(crate) fn check_database(inspection: &Inspection) -> Result<Report> {
    let mut report = Report::default();
    look_at_database(inspection, &mut report).map_err(of_schema)?;
    if report.findings.is_empty() {
        let mut survey = Survey::new(inspection, report, &|_| {});
        survey.rows(None)?;
        report = survey.report;
    }
    Ok(report)
}

/// What SQLite finds wrong. If it is damaged, what else is read from it isn't to be believed, and may not even be readable.
fn look_at_database(inspection: &Inspection, report: &mut Report) -> Result<()> {
    for damage in inspection.damages()? {
        report.add(FindingKind::DatabaseDamaged, None, None, damage);
    }
    if report.findings.is_empty() {
        for reference in inspection.dangling_references()? {
            report.add(FindingKind::ReferenceDangling, None, None, reference);
        }
    }
    Ok(())
}

/// Looks once, and answers also which intents there are, by number.
fn check_once(
    inspection: &Inspection,
    data_dir: &Path,
    holding: bool,
    progress: &dyn Fn(Checking),
) -> Result<(Report, Vec<i64>)> {
    inspection.look_anew(holding)?;
    progress(Checking::Database);
    let mut report = Report::default();
    look_at_database(inspection, &mut report)?;
    if report.has(FindingKind::DatabaseDamaged) {
        return Ok((report, Vec::new()));
    }
    let storage = look_at_identity(inspection, data_dir, &mut report)?;
    if report.has(FindingKind::IdentityDiffers) {
        return Ok((report, Vec::new()));
    }
    let owner = storage.as_ref().map(Storage::owner).transpose().map_err(failed)?;
    let mut survey = Survey { owner: owner.unwrap_or_default(), ..Survey::new(inspection, report, progress) };
    let intents = survey.intents(storage.as_ref())?;
    survey.rows(storage.as_ref())?;
    if !holding {
        // From here on single rows are looked up, as they are then: the log can be cut again.
        inspection.end_look()?;
    }
    if let Some(storage) = &storage {
        for (name, found) in storage.files_of_others().map_err(failed)? {
            let detail = differing_owner(found, survey.owner);
            survey.report.add(FindingKind::WrongOwner, None, Some(name.into()), detail);
        }
        for name in storage.mounted_roots().map_err(failed)? {
            let detail = "a file system is mounted on it, and no directory can be moved to or from another: mount one for the whole data directory";
            survey.report.add(FindingKind::PathBlocked, None, Some(name.into()), detail);
        }
        for root in storage.roots().map_err(failed)? {
            survey.rights(root.kind, None, || PathBuf::from(&root.name));
        }
        survey.walk(storage)?;
        survey.trash(storage)?;
    }
    Ok((survey.report, intents))
}

/// The directories, if they are those of this store.
fn look_at_identity(inspection: &Inspection, data_dir: &Path, report: &mut Report) -> Result<Option<Storage>> {
    let storage = Storage::open_existing(data_dir).map_err(failed)?;
    let marker = storage.as_ref().map(Storage::marker).transpose().map_err(failed)?;
    if let (Some((id, _)), Some((name, detail))) = (inspection.identity()?, blocked_root(data_dir)) {
        let detail = format!("{detail} (the store's is {id})");
        report.add(FindingKind::IdentityMissing, None, Some(name.into()), detail);
        return Ok(None);
    }
    let missing = |report: &mut Report, detail: String| {
        report.add(FindingKind::IdentityMissing, None, Some("storage".into()), detail);
        Ok(None)
    };
    match (inspection.identity()?, marker) {
        (Some((id, _)), Some(Marker::Id(other))) if id == other => Ok(storage),
        (identity, Some(Marker::Id(other))) => {
            let own = identity.map_or_else(|| "none".to_owned(), |(id, _)| id.to_string());
            let detail = format!("the database is of the store {own}, storage/ of {other}");
            report.add(FindingKind::IdentityDiffers, None, Some("storage".into()), detail);
            Ok(None)
        }
        (Some((id, _)), Some(Marker::Damaged)) => {
            missing(report, format!("the marker in storage/ can't be read: it ought to be {id}"))
        }
        (Some((id, true)), None | Some(Marker::Missing)) => missing(
            report,
            format!(
                "storage/ or trash/ is missing or empty: mount it, or restore a backup (only if you have brought the files back by hand, write the line {id} into storage/.tenantry-store)"
            ),
        ),
        // It was never opened to the end.
        _ => Ok(None),
    }
}

/// A look at all rows and directories, as they are at one moment, or nearly.
struct Survey<'s> {
    inspection: &'s Inspection,
    /// Whose everything ought to be, as the system numbers its users.
    owner: u32,
    /// Users with an unfinished intent: that is the finding, and not what it leaves in the wrong place.
    unfinished: HashSet<UserId>,
    /// Those of them who are just being purged.
    purging: HashSet<UserId>,
    /// Paths within the data directory that are a finding already: an intent is about them, or they are in a user's way.
    told: HashSet<PathBuf>,
    /// Where the file system ignores case, the chosen paths and those above them by what it takes for the same.
    spelled: HashMap<String, String>,
    report: Report,
    progress: &'s dyn Fn(Checking),
    /// How many entries of directories were looked at.
    entries: u64,
}

impl<'s> Survey<'s> {
    fn new(inspection: &'s Inspection, report: Report, progress: &'s dyn Fn(Checking)) -> Self {
        let (unfinished, purging, told) = (HashSet::new(), HashSet::new(), HashSet::new());
        Self { inspection, owner: 0, unfinished, purging, told, spelled: HashMap::new(), report, progress, entries: 0 }
    }

    fn count_entry(&mut self) {
        self.entries += 1;
        (self.progress)(Checking::Entries(self.entries));
    }

    fn intents(&mut self, storage: Option<&Storage>) -> Result<Vec<i64>> {
        let intents = self.inspection.intents()?;
        // What belongs to a purge is no finding while somebody is at it.
        let no_purge = storage.map(|storage| storage.try_lock_out_purges(Duration::ZERO));
        for intent in &intents {
            let user = intent.action.user();
            self.unfinished.extend(user);
            if let Action::Purge(user) = intent.action {
                self.purging.insert(user);
            }
            self.told.extend(intent.action.path());
            if matches!(intent.action, Action::Purge(_) | Action::Erase) && matches!(no_purge, Some(None)) {
                continue;
            }
            let detail = format!("{}, recorded at {}", intent.action.name(), intent.recorded_at);
            self.report.add(FindingKind::IntentUnfinished, user, intent.action.path(), detail);
        }
        Ok(intents.iter().map(|intent| intent.seq).collect())
    }

    /// Every row, and the directory that it says is there.
    fn rows(&mut self, storage: Option<&Storage>) -> Result<()> {
        let mut chosen: HashMap<String, UserId> = HashMap::new();
        let inspection = self.inspection;
        inspection.each_row(|Row { id, key_fits, path, has_directory, is_trashed }| {
            *if is_trashed { &mut self.report.trashed } else { &mut self.report.users } += 1;
            (self.progress)(Checking::Users(self.report.users + self.report.trashed));
            if !key_fits {
                let detail = "the address is not acceptable, or the key is not that of the address";
                self.report.add(FindingKind::KeyDiffers, Some(id), None, detail);
            }
            let Some(path) = path else {
                self.report.add(FindingKind::PathOverlaps, Some(id), None, "the storage path is not acceptable");
                return Ok(());
            };
            if path != StoragePath::derived(id) {
                if storage.is_some_and(Storage::ignores_case) {
                    self.spelling(id, &path);
                }
                let taken = chosen.insert(path.as_str().to_owned(), id);
                if path.is_reserved() || taken.is_some() {
                    let detail =
                        taken.map_or("the path is reserved".to_owned(), |other| format!("it is also that of {other}"));
                    self.report.add(FindingKind::PathOverlaps, Some(id), Some(Storage::relative(&path)), detail);
                }
            }
            match storage {
                Some(storage) if has_directory && !self.unfinished.contains(&id) => {
                    if is_trashed {
                        self.trashed_directory(storage, id)
                    } else {
                        self.directory(storage, id, &path)
                    }
                }
                _ => Ok(()),
            }
        })?;
        for (path, id) in &chosen {
            let above = path.match_indices('/').find_map(|(end, _)| chosen.get(&path[..end]));
            if let Some(other) = above {
                let path = Storage::relative_text(path);
                self.report.add(
                    FindingKind::PathOverlaps,
                    Some(*id),
                    Some(path),
                    format!("it lies within that of {other}"),
                );
            }
        }
        Ok(())
    }

    /// Whether nobody spells a path otherwise, or a directory above it, where that makes no difference.
    fn spelling(&mut self, id: UserId, path: &StoragePath) {
        for ancestor in path.lineage() {
            let known = self.spelled.entry(StoragePath::folded(ancestor)).or_insert_with(|| ancestor.to_owned());
            if known != ancestor {
                let detail =
                    "the file system takes it, or a directory above it, for one that another user spells otherwise";
                return self.report.add(FindingKind::PathOverlaps, Some(id), Some(Storage::relative(path)), detail);
            }
        }
    }

    fn directory(&mut self, storage: &Storage, id: UserId, path: &StoragePath) -> Result<()> {
        match storage.inspect(path).map_err(failed)? {
            DirectoryState::Directory(rights) => {
                self.report.directories += 1;
                self.rights(EntryKind::Directory(rights), Some(id), || Storage::relative(path));
            }
            DirectoryState::Missing => {
                let detail = "the user's directory was made and is missing: a backup may have it";
                self.report.add(FindingKind::DirectoryLost, Some(id), Some(Storage::relative(path)), detail);
            }
            DirectoryState::Blocked { segments, is_link } => {
                let blocked: Vec<&str> = path.as_str().split('/').take(segments).collect();
                let detail = if is_link { "a symbolic link" } else { "not a directory" };
                let path = Storage::relative_text(&blocked.join("/"));
                self.told.insert(path.clone());
                self.report.add(FindingKind::PathBlocked, Some(id), Some(path), detail);
            }
        }
        Ok(())
    }

    fn trashed_directory(&mut self, storage: &Storage, id: UserId) -> Result<()> {
        if storage.is_in_trash(id).map_err(failed)? {
            self.report.directories += 1;
        } else {
            let path = Storage::relative_trash(id);
            let detail = "the directory of a user in the trash was made and is missing: a backup may have it";
            self.report.add(FindingKind::TrashLost, Some(id), Some(path), detail);
        }
        Ok(())
    }

    /// Everything in `storage/`, down to the users' directories.
    fn walk(&mut self, storage: &Storage) -> Result<()> {
        let mut above = vec![String::new()];
        while let Some(parent) = above.pop() {
            for entry in storage.list(&parent).map_err(failed)? {
                self.count_entry();
                if parent.is_empty() && is_own_file(&entry.name) {
                    continue;
                }
                let in_storage = Path::new(&parent).join(&entry.name);
                let path = Storage::relative_orphan(&Orphan::InStorage(in_storage.clone()));
                if self.told.contains(&path) || self.is_on_its_way(&entry.name) {
                    continue;
                }
                let text = in_storage.to_str();
                let belongs_to = text.map_or(Ok(Owner::Nobody), |text| self.inspection.owner(text))?;
                match (belongs_to, entry.kind) {
                    // What the row says is looked at with the row.
                    (Owner::User { has_directory: true, .. }, _) => {}
                    (Owner::User { id, .. } | Owner::Trashed(id), _)
                        // What a purge removes isn't here.
                        if self.unfinished.contains(&id) && !self.purging.contains(&id) => {}
                    (Owner::User { id, .. }, EntryKind::Directory(_)) => {
                        let (kind, detail) = if text == Some(StoragePath::derived(id).as_str()) {
                            (
                                FindingKind::DirectoryUnrecorded,
                                "the directory is there, but the user's row does not know",
                            )
                        } else {
                            (FindingKind::DirectoryUnadopted, "the store did not make it: adopt it, or move it away")
                        };
                        // Once it is recorded, this would be found of it.
                        self.rights(entry.kind, Some(id), || path.clone());
                        self.report.add(kind, Some(id), Some(path), detail);
                    }
                    (Owner::Above, EntryKind::Directory(_)) => {
                        self.rights(entry.kind, None, || path.clone());
                        above.extend(text.map(ToOwned::to_owned));
                    }
                    // To move it away would be to take the directory of a user.
                    (Owner::Nobody, _) if text.is_some_and(|text| self.spelled.contains_key(&StoragePath::folded(text))) => {
                        let detail = "it is spelled otherwise than the path of a user that the file system takes for the same";
                        self.report.add(FindingKind::PathOverlaps, None, Some(path), detail);
                    }
                    (belongs_to, _) => {
                        let (user, detail) = match belongs_to {
                            Owner::Trashed(id) => (Some(id), "the user is in the trash, and their directory with them"),
                            Owner::User { id, .. } => (Some(id), "it is no directory, and not the user's"),
                            Owner::Above | Owner::Nobody => (None, "it belongs to no user"),
                        };
                        self.count_orphan(storage.weight(&path));
                        self.report.add(FindingKind::DirectoryOrphaned, user, Some(path), detail);
                    }
                }
            }
        }
        Ok(())
    }

    fn trash(&mut self, storage: &Storage) -> Result<()> {
        for entry in storage.list_trash().map_err(failed)? {
            self.count_entry();
            let path = || Storage::relative_orphan(&Orphan::InTrash(entry.name.clone()));
            let id: Option<UserId> = entry.name.to_str().and_then(|name| name.parse().ok());
            let is_unfinished = id.is_some_and(|id| self.unfinished.contains(&id)) || self.is_on_its_way(&entry.name);
            if is_unfinished || self.told.contains(&path()) {
                continue;
            }
            match self.inspection.is_of_trashed(&entry.name)? {
                true if matches!(entry.kind, EntryKind::Directory(_)) => self.rights(entry.kind, id, path),
                _ => {
                    self.count_orphan(1);
                    let detail = "it belongs to no user in the trash";
                    self.report.add(FindingKind::TrashOrphaned, id, Some(path()), detail);
                }
            }
        }
        Ok(())
    }

    /// Whether this is a copy that belongs to an unfinished intent.
    fn is_on_its_way(&self, name: &OsStr) -> bool {
        user_of_work(name).is_some_and(|user| self.unfinished.contains(&user))
    }

    fn count_orphan(&mut self, directories: u64) {
        self.report.directories += directories;
        self.report.orphaned += directories;
    }

    /// Whether a directory is private to its owner, and the owner is the right one.
    fn rights(&mut self, kind: EntryKind, user: Option<UserId>, path: impl Fn() -> PathBuf) {
        let EntryKind::Directory(rights) = kind else {
            let detail = if kind == EntryKind::Link { "a symbolic link" } else { "not a directory" };
            return self.report.add(FindingKind::PathBlocked, user, Some(path()), detail);
        };
        if !rights.are_private() {
            let detail = format!("the mode is {:04o}, not 0700", rights.mode);
            self.report.add(FindingKind::WrongMode, user, Some(path()), detail);
        }
        let owner = self.owner;
        if rights.owner != owner {
            self.report.add(FindingKind::WrongOwner, user, Some(path()), differing_owner(rights.owner, owner));
        }
    }
}

fn differing_owner(found: u32, owner: u32) -> String {
    format!("it belongs to the user {found} of the system, the store to {owner}")
}

fn failed(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, "the store's directories can't be looked at").with_source(error)
}

fn serialize_path<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
    path.as_deref().map(shown).serialize(serializer)
}

/// A path as text, with what isn't UTF-8 escaped.
fn shown(path: &Path) -> String {
    path.to_str().map_or_else(|| path.as_os_str().as_bytes().escape_ascii().to_string(), ToOwned::to_owned)
}
