//! `tenantry backup list` and `backup restore --user`: lists and restores the users in a backup.

use std::path::Path;

use serde::Serialize;
use serde_json::json;
use tenantry::{
    BackupContents, ErrorKind, ListQuery, RestoreUserOptions, RestoredUser, Timestamp, TrashQuery,
    User, UserBefore, UserId, open_backup,
};
use tenantry_exchange::printable;

use crate::commands::archive_report::{Progress, explain, fail_if_incomplete, report_left_out};
use crate::data_dir::DataDir;
use crate::failure::{Exit, Failure};
use crate::output::{self, Columns, Format, RecordList, after_user_fields, pluralize};
use crate::session::finish;
use crate::stdio::{self, report};
use crate::user_ref::UserRef;

pub(crate) const BACKUP_USERS: Columns = Columns {
    name: "users",
    fields: &after_user_fields::<1, { User::FIELDS.len() + 1 }>(["deleted_at"]),
    in_table: &["id", "email", "created_at", "deleted_at", "storage_path"],
};

/// The options of a restore.
#[derive(Clone, Copy)]
pub(crate) struct Options {
    pub(crate) even_if_purged: bool,
    pub(crate) dry_run: bool,
}

/// A user in a backup.
#[derive(Serialize)]
struct BackupUser {
    #[serde(flatten)]
    user: User,
    /// `null` if the user wasn't in the trash.
    deleted_at: Option<Timestamp>,
}

pub(crate) async fn list(
    format: Format<'_>,
    file: &Path,
    user: Option<&str>,
) -> Result<(), Failure> {
    let wanted = user.map(UserRef::parse).transpose()?;
    let file = stdio::input(file);
    let failed = |error| explain(error, file, "nothing was listed");
    let backup = open_backup(file).await.map_err(failed)?;
    let mut list = RecordList::new(format, &BACKUP_USERS)?;
    let mut found = false;
    each(&backup, |users| {
        let wanted: Vec<&BackupUser> =
            users.iter().filter(|user| is_wanted(wanted.as_ref(), &user.user)).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        found = true;
        list.add(&wanted)
    })?;
    if wanted.is_some() && !found {
        return Err(not_in(file));
    }
    if !found {
        // Even an empty list has a header.
        list.add::<BackupUser>(&[])?;
    }
    list.finish(&[])
}

fn not_in(file: &Path) -> Failure {
    let file = printable(&file.to_string_lossy());
    Failure::new(
        Exit::NotFound,
        format!("there is no such user in {file}; `tenantry backup list` shows who is in it"),
    )
}

fn is_wanted(wanted: Option<&UserRef>, user: &User) -> bool {
    match wanted {
        None => true,
        Some(UserRef::Id(id)) => user.id == *id,
        // Addresses with equal keys belong to one user.
        Some(UserRef::Email(email)) => user.email.key() == email.key(),
    }
}

/// Visits the users in a backup page by page: first the living ones in the order of creation, then
/// those in the trash.
fn each(
    backup: &BackupContents,
    mut visit: impl FnMut(&[BackupUser]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut query = ListQuery { limit: ListQuery::MAX_LIMIT, ..ListQuery::default() };
    loop {
        let page = backup.list(&query)?;
        let users: Vec<_> =
            page.users.into_iter().map(|user| BackupUser { user, deleted_at: None }).collect();
        visit(&users)?;
        query.cursor = page.next_cursor;
        if query.cursor.is_none() {
            break;
        }
    }
    let mut query = TrashQuery { limit: ListQuery::MAX_LIMIT, ..TrashQuery::default() };
    loop {
        let page = backup.list_trash(&query)?;
        let trashed_user = |trashed: tenantry::TrashedUser| BackupUser {
            user: trashed.user,
            deleted_at: Some(trashed.deleted_at),
        };
        let users: Vec<_> = page.users.into_iter().map(trashed_user).collect();
        visit(&users)?;
        query.cursor = page.next_cursor;
        if query.cursor.is_none() {
            return Ok(());
        }
    }
}

pub(crate) async fn restore(
    dir: &DataDir,
    format: Format<'_>,
    file: &Path,
    user: &str,
    options: Options,
) -> Result<(), Failure> {
    let wanted = UserRef::parse(user)?;
    stdio::refuse_stream(file, "the backup is")?;
    let backup =
        open_backup(file).await.map_err(|error| explain(error, file, "nothing was restored"))?;
    let id = find(&backup, &wanted, file)?;
    let store_id = backup.manifest().store_id;
    let store = dir.open().await?;
    let progress = Progress::new();
    let Options { even_if_purged, dry_run } = options;
    let how = RestoreUserOptions { even_if_purged, dry_run };
    let restored = store.restore_user(backup, id, how, progress.callback()).await;
    progress.end();
    let restored = finish(&store, restored.map_err(|error| restore_failure(error, file))).await?;
    let fields = [
        ("file", json!(file.display().to_string())),
        ("store_id", json!(store_id.to_string())),
        ("id", json!(restored.user.id)),
        ("email", json!(restored.user.email)),
        ("storage_path", json!(restored.user.storage_path)),
        ("before", json!(restored.before)),
        ("files", json!(restored.files)),
        ("bytes", json!(restored.bytes)),
        ("same", json!(restored.same)),
        ("kept", json!(restored.kept)),
        ("dry_run", json!(dry_run)),
    ];
    output::record(format, &fields)
        .map_err(|failure| failure.with_outcome("the user was restored"))?;
    report(&restored, id, dry_run);
    report_left_out(&restored.left_out);
    fail_if_incomplete(restored.incomplete, "the user was restored")
}

/// Returns the id of a user in a backup. Several users in the trash may have had one address.
fn find(backup: &BackupContents, wanted: &UserRef, file: &Path) -> Result<UserId, Failure> {
    if let UserRef::Email(email) = wanted
        && let Some(user) = backup.get_by_email(email)?
    {
        return Ok(user.id);
    }
    let mut ids = Vec::new();
    each(backup, |users| {
        ids.extend(
            users
                .iter()
                .map(|user| &user.user)
                .filter(|user| is_wanted(Some(wanted), user))
                .map(|user| user.id),
        );
        Ok(())
    })?;
    match ids[..] {
        [] => Err(not_in(file)),
        [id] => Ok(id),
        _ => {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            let message = format!(
                "several users in the trash had this address; name one by the id: {}",
                ids.join(", ")
            );
            Err(Failure::new(Exit::Conflict, message))
        }
    }
}

fn restore_failure(error: tenantry::Error, file: &Path) -> Failure {
    let conflict =
        |message: String| Failure::new(Exit::Conflict, format!("{message}; nothing was restored"));
    match error.kind() {
        ErrorKind::EmailTaken => {
            let by = error.taken_by().map(|other| format!(": {other}")).unwrap_or_default();
            conflict(format!("another user has the email address now{by}"))
        }
        ErrorKind::IdTaken => {
            conflict(format!("{error}; --even-if-purged brings them back with a new one"))
        }
        ErrorKind::Corrupt | ErrorKind::Incompatible | ErrorKind::Cancelled => {
            explain(error, file, "nothing was restored")
        }
        _ => Failure::from(error),
    }
}

/// Reports the restored user, and the files that were kept.
fn report(restored: &RestoredUser, id: UserId, dry_run: bool) {
    let RestoredUser { user, files, kept, kept_paths, before, .. } = restored;
    for path in kept_paths {
        report!("kept, because it differs from the backup: {}", printable(&path.to_string_lossy()));
    }
    if *kept > kept_paths.len() as u64 {
        report!("and {} more", kept - kept_paths.len() as u64);
    }
    let from = match before {
        UserBefore::Trashed => " from the trash",
        UserBefore::Purged if user.id != id => " with a new id",
        _ => "",
    };
    let would = if dry_run { "would restore" } else { "restored" };
    report!("{would} {}{from}, with {}", printable(user.email.as_str()), pluralize(*files, "file"));
}
