//! One pass over all rows and directories.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::report::{CheckReport, FindingKind};
use crate::domain::directory::PathState;
use crate::domain::intent::Action;
use crate::engine::{ENGINE_FILES, Inspection, Row};
use crate::ops::intents::path_about;
use crate::progress::{Monitor, Progress};
use crate::storage::{
    DirectoryState, EntryKind, Marker, Orphan, Storage, blocked_root, file_error, is_own_file,
    user_of_copy,
};
use crate::{Error, Result, StoragePath, UserId};

/// Adds what SQLite reports. If the database is damaged, nothing else that is read from it can be
/// relied on.
pub(super) fn inspect_database(inspection: &Inspection, report: &mut CheckReport) -> Result<()> {
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

/// Opens the directories, if they are those of this store.
pub(super) fn inspect_identity(
    inspection: &Inspection,
    data_dir: &Path,
    report: &mut CheckReport,
) -> Result<Option<Storage>> {
    let storage = Storage::open_existing(data_dir, ENGINE_FILES).map_err(unreadable)?;
    let marker = storage.as_ref().map(Storage::marker).transpose().map_err(unreadable)?;
    if let (Some((id, _)), Some((name, detail))) = (inspection.identity()?, blocked_root(data_dir))
    {
        let detail = format!("{detail} (the store's is {id})");
        report.add(FindingKind::IdentityMissing, None, Some(name.into()), detail);
        return Ok(None);
    }
    let missing = |report: &mut CheckReport, detail: String| {
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
            missing(report, format!("the marker in storage/ can't be read: it should hold {id}"))
        }
        (Some((id, true)), None | Some(Marker::Missing)) => missing(
            report,
            format!(
                "storage/ or trash/ is missing or empty: mount it, or restore a backup (only if the files were brought \
                 back by hand, write the line {id} into storage/.tenantry-store)"
            ),
        ),
        // The first opening of the store was interrupted.
        _ => Ok(None),
    }
}

/// A pass over all rows and directories, as they are at one moment, or nearly.
pub(super) struct Survey<'s> {
    inspection: &'s Inspection,
    /// The owner of the store, as a number of the system.
    owner: u32,
    /// Users with an unfinished intent. The intent is the finding, and not the state in which it
    /// left the directory.
    unfinished: HashSet<UserId>,
    /// Those of them whose purge is under way.
    purging: HashSet<UserId>,
    /// Paths within the data directory that are part of a finding already.
    reported: HashSet<PathBuf>,
    /// Where the file system ignores case: each chosen path, and each path above one, by its folded
    /// form.
    spelled: HashMap<String, String>,
    pub(super) report: CheckReport,
    monitor: &'s Monitor,
    progress: Progress,
}

impl<'s> Survey<'s> {
    pub(super) fn new(
        inspection: &'s Inspection,
        owner: u32,
        report: CheckReport,
        monitor: &'s Monitor,
    ) -> Self {
        Self {
            inspection,
            owner,
            unfinished: HashSet::new(),
            purging: HashSet::new(),
            reported: HashSet::new(),
            spelled: HashMap::new(),
            report,
            monitor,
            progress: Progress::default(),
        }
    }

    fn count_entry(&mut self) -> Result<()> {
        self.progress.entries += 1;
        self.monitor.report(self.progress)
    }

    /// Reports unfinished intents, and returns the numbers of all of them.
    pub(super) fn intents(&mut self, storage: Option<&Storage>) -> Result<Vec<i64>> {
        let intents = self.inspection.intents()?;
        // The intents of a purge that is under way aren't findings.
        let no_purge = storage.map(|storage| storage.try_lock_out_purges(Duration::ZERO));
        for intent in &intents {
            let user = intent.action.user();
            self.unfinished.extend(user);
            if let Action::Purge(user) = intent.action {
                self.purging.insert(user);
            }
            self.reported.extend(path_about(&intent.action));
            if matches!(intent.action, Action::Purge(_) | Action::Erase)
                && matches!(no_purge, Some(None))
            {
                continue;
            }
            let detail = format!("{}, recorded at {}", intent.action.name(), intent.recorded_at);
            self.report.add(
                FindingKind::IntentUnfinished,
                user,
                path_about(&intent.action),
                detail,
            );
        }
        Ok(intents.iter().map(|intent| intent.seq).collect())
    }

    /// Checks every row, and the directory that it refers to.
    pub(super) fn rows(&mut self, storage: Option<&Storage>) -> Result<()> {
        let mut chosen: HashMap<String, UserId> = HashMap::new();
        let inspection = self.inspection;
        inspection.each_row(|row| self.row(row, storage, &mut chosen))?;
        for (path, id) in &chosen {
            let above = path.match_indices('/').find_map(|(end, _)| chosen.get(&path[..end]));
            if let Some(other) = above {
                let detail = format!("it lies within that of {other}");
                self.report.add(
                    FindingKind::PathOverlaps,
                    Some(*id),
                    Some(Storage::relative_text(path)),
                    detail,
                );
            }
        }
        Ok(())
    }

    fn row(
        &mut self,
        row: Row,
        storage: Option<&Storage>,
        chosen: &mut HashMap<String, UserId>,
    ) -> Result<()> {
        let Row { id, key_fits, path, has_directory, is_trashed } = row;
        *if is_trashed { &mut self.report.trashed } else { &mut self.report.users } += 1;
        self.progress.users += 1;
        self.monitor.report(self.progress)?;
        if !key_fits {
            let detail = "the address isn't valid, or the key isn't the key of the address";
            self.report.add(FindingKind::KeyDiffers, Some(id), None, detail);
        }
        let Some(path) = path else {
            self.report.add(
                FindingKind::PathOverlaps,
                Some(id),
                None,
                "the storage path isn't valid",
            );
            return Ok(());
        };
        if path != StoragePath::derived(id) {
            self.chosen_path(id, &path, storage, chosen);
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
    }

    fn chosen_path(
        &mut self,
        id: UserId,
        path: &StoragePath,
        storage: Option<&Storage>,
        chosen: &mut HashMap<String, UserId>,
    ) {
        if storage.is_some_and(Storage::ignores_case) {
            self.spelling(id, path);
        }
        let other = chosen.insert(path.as_str().to_owned(), id);
        if path.is_reserved() || other.is_some() {
            let detail = other.map_or("the path is reserved".to_owned(), |other| {
                format!("it is also that of {other}")
            });
            self.report.add(
                FindingKind::PathOverlaps,
                Some(id),
                Some(Storage::relative(path)),
                detail,
            );
        }
    }

    /// Reports a path if another user's path, or a path above one, differs from it only in case.
    fn spelling(&mut self, id: UserId, path: &StoragePath) {
        for ancestor in path.lineage() {
            let known = self
                .spelled
                .entry(StoragePath::folded(ancestor))
                .or_insert_with(|| ancestor.to_owned());
            if known != ancestor {
                let detail = "the file system doesn't distinguish it, or a directory above it, from the path of another \
                              user that is spelled differently";
                return self.report.add(
                    FindingKind::PathOverlaps,
                    Some(id),
                    Some(Storage::relative(path)),
                    detail,
                );
            }
        }
    }

    fn directory(&mut self, storage: &Storage, id: UserId, path: &StoragePath) -> Result<()> {
        match storage.inspect(path).map_err(unreadable)? {
            DirectoryState::Directory(rights) => {
                self.report.directories += 1;
                self.rights(EntryKind::Directory(rights), Some(id), || Storage::relative(path));
            }
            DirectoryState::Missing => {
                let detail = "the user's directory was made and is missing: a backup may have it";
                self.report.add(
                    FindingKind::DirectoryLost,
                    Some(id),
                    Some(Storage::relative(path)),
                    detail,
                );
            }
            DirectoryState::Blocked { segments, is_link } => {
                let blocked: Vec<&str> = path.as_str().split('/').take(segments).collect();
                let detail = if is_link { "a symbolic link" } else { "not a directory" };
                let path = Storage::relative_text(&blocked.join("/"));
                self.reported.insert(path.clone());
                self.report.add(FindingKind::PathBlocked, Some(id), Some(path), detail);
            }
        }
        Ok(())
    }

    fn trashed_directory(&mut self, storage: &Storage, id: UserId) -> Result<()> {
        if storage.is_in_trash(id).map_err(unreadable)? {
            self.report.directories += 1;
        } else {
            let path = Storage::relative_trash(id);
            let detail = "the directory of a user in the trash was made and is missing: a backup may have it";
            self.report.add(FindingKind::TrashLost, Some(id), Some(path), detail);
        }
        Ok(())
    }

    /// Checks the store's own files and directories.
    pub(super) fn roots(&mut self, storage: &Storage) -> Result<()> {
        for (name, found) in storage.files_of_others().map_err(unreadable)? {
            let detail = differing_owner(found, self.owner);
            self.report.add(FindingKind::WrongOwner, None, Some(name.into()), detail);
        }
        for name in storage.mounted_roots().map_err(unreadable)? {
            let detail = "a file system is mounted on it, and no directory can be moved to or from another: mount one \
                          for the whole data directory";
            self.report.add(FindingKind::PathBlocked, None, Some(name.into()), detail);
        }
        for root in storage.roots().map_err(unreadable)? {
            self.rights(root.kind, None, || PathBuf::from(&root.name));
        }
        Ok(())
    }

    /// Checks every entry of `storage/`, down to the users' directories.
    pub(super) fn storage(&mut self, storage: &Storage) -> Result<()> {
        let mut above = vec![String::new()];
        while let Some(parent) = above.pop() {
            for entry in storage.list(&parent).map_err(unreadable)? {
                self.count_entry()?;
                if !(parent.is_empty() && is_own_file(&entry.name)) {
                    let in_storage = Path::new(&parent).join(&entry.name);
                    above.extend(self.entry(storage, in_storage, entry.kind)?);
                }
            }
        }
        Ok(())
    }

    /// Checks one entry. Returns its path if users' directories may be below it.
    fn entry(
        &mut self,
        storage: &Storage,
        in_storage: PathBuf,
        kind: EntryKind,
    ) -> Result<Option<String>> {
        let path = Storage::relative_orphan(&Orphan::InStorage(in_storage.clone()));
        if self.reported.contains(&path)
            || in_storage.file_name().is_some_and(|name| self.is_being_copied(name))
        {
            return Ok(None);
        }
        let text = in_storage.to_str();
        let state = text.map_or(Ok(PathState::Orphan), |text| self.inspection.path_state(text))?;
        match (state, kind) {
            // Checked with the row.
            (PathState::Owned { has_directory: true, .. }, _) => {}
            (PathState::Owned { id, .. } | PathState::Trashed(id), _)
                if self.is_being_moved(id) => {}
            (PathState::Owned { id, .. }, EntryKind::Directory(_)) => {
                let (finding, detail) = if text == Some(StoragePath::derived(id).as_str()) {
                    (
                        FindingKind::DirectoryUnrecorded,
                        "the directory exists, but the user's row says that it doesn't",
                    )
                } else {
                    (
                        FindingKind::DirectoryUnadopted,
                        "the store did not make it: adopt it, or move it away",
                    )
                };
                // A repair that records the directory would find this next.
                self.rights(kind, Some(id), || path.clone());
                self.report.add(finding, Some(id), Some(path), detail);
            }
            (PathState::Above, EntryKind::Directory(_)) => {
                self.rights(kind, None, || path.clone());
                return Ok(text.map(ToOwned::to_owned));
            }
            // Moving it to quarantine would move the directory of that user.
            (PathState::Orphan, _)
                if text
                    .is_some_and(|text| self.spelled.contains_key(&StoragePath::folded(text))) =>
            {
                let detail = "it is spelled differently from the path of a user, but the file system doesn't \
                              distinguish the two";
                self.report.add(FindingKind::PathOverlaps, None, Some(path), detail);
            }
            (state, _) => {
                let (user, detail) = match state {
                    PathState::Trashed(id) => {
                        (Some(id), "the user is in the trash, and their directory with them")
                    }
                    PathState::Owned { id, .. } => {
                        (Some(id), "it isn't a directory, and not the user's")
                    }
                    PathState::Above | PathState::Orphan => (None, "it belongs to no user"),
                };
                self.count_orphan(storage.weight(&path));
                self.report.add(FindingKind::DirectoryOrphaned, user, Some(path), detail);
            }
        }
        Ok(None)
    }

    /// Checks every entry of `trash/`.
    pub(super) fn trash(&mut self, storage: &Storage) -> Result<()> {
        for entry in storage.list_trash().map_err(unreadable)? {
            self.count_entry()?;
            let path = || Storage::relative_orphan(&Orphan::InTrash(entry.name.clone()));
            let id: Option<UserId> = entry.name.to_str().and_then(|name| name.parse().ok());
            let is_unfinished = id.is_some_and(|id| self.unfinished.contains(&id))
                || self.is_being_copied(&entry.name);
            if is_unfinished || self.reported.contains(&path()) {
                continue;
            }
            match self.inspection.is_trashed_directory(&entry.name)? {
                true if matches!(entry.kind, EntryKind::Directory(_)) => {
                    self.rights(entry.kind, id, path)
                }
                _ => {
                    self.count_orphan(1);
                    let detail = "it belongs to no user in the trash";
                    self.report.add(FindingKind::TrashOrphaned, id, Some(path()), detail);
                }
            }
        }
        Ok(())
    }

    /// Whether an intent moves the user's directory. That of a purge only removes what is in the
    /// trash.
    fn is_being_moved(&self, id: UserId) -> bool {
        self.unfinished.contains(&id) && !self.purging.contains(&id)
    }

    /// Whether this is the copy directory of a copy that an unfinished intent makes.
    fn is_being_copied(&self, name: &OsStr) -> bool {
        user_of_copy(name).is_some_and(|user| self.unfinished.contains(&user))
    }

    fn count_orphan(&mut self, directories: u64) {
        self.report.directories += directories;
        self.report.orphaned += directories;
    }

    /// Reports a directory that isn't private, has another owner than the store, or isn't a
    /// directory.
    fn rights(&mut self, kind: EntryKind, user: Option<UserId>, path: impl Fn() -> PathBuf) {
        let EntryKind::Directory(rights) = kind else {
            let detail =
                if kind == EntryKind::Link { "a symbolic link" } else { "not a directory" };
            return self.report.add(FindingKind::PathBlocked, user, Some(path()), detail);
        };
        if !rights.are_private() {
            let detail = format!("the mode is {:04o}, not 0700", rights.mode);
            self.report.add(FindingKind::WrongMode, user, Some(path()), detail);
        }
        if rights.owner != self.owner {
            self.report.add(
                FindingKind::WrongOwner,
                user,
                Some(path()),
                differing_owner(rights.owner, self.owner),
            );
        }
    }
}

fn differing_owner(found: u32, owner: u32) -> String {
    format!("it belongs to the user {found} of the system, the store to {owner}")
}

/// The failure to read the directories of a store.
pub(super) fn unreadable(error: std::io::Error) -> Error {
    file_error(error, "the store's directories can't be read")
}
