//! `tenantry backup list` and `backup restore --user`: who is in a backup, and one of them brought
//! back.

use std::path::Path;

use serde::Serialize;
use serde_json::json;
use tenantry::{
    BackupContents, ErrorKind, ListQuery, RestoreUserOptions, RestoredUser, Timestamp, TrashQuery, User, UserBefore,
    UserId, open_backup, restore_user,
};
use tenantry_exchange::printable;

use crate::commands::archive_report::{Progress, explain, name_left_out, refuse_incomplete};
use crate::failure::{Exit, Failure};
use crate::output::{self, Columns, Format, RecordList, counted};
use crate::place::Place;
use crate::session::finish;
use crate::stdio::{self, tell};
use crate::who::Who;

pub(crate) const BACKED_UP: Columns = Columns {
    name: "users",
    fields: &["id", "email", "created_at", "last_login_at", "storage_path", "updated_at", "version", "deleted_at"],
    in_table: &["id", "email", "created_at", "deleted_at", "storage_path"],
};

/// What becomes of a user who is brought back.
#[derive(Clone, Copy)]
pub(crate) struct Options {
    pub(crate) even_if_purged: bool,
    pub(crate) dry_run: bool,
}

/// A user in a backup.
#[derive(Serialize)]
struct BackedUp {
    #[serde(flatten)]
    user: User,
    /// `null` if they weren't in the trash.
    deleted_at: Option<Timestamp>,
}

pub(crate) async fn list(format: Format<'_>, file: &Path, user: Option<&str>) -> Result<(), Failure> {
    let who = user.map(Who::parse).transpose()?;
    let file = stdio::input(file);
    let failed = |error| explain(error, file, "nothing was listed");
    let backup = open_backup(file).await.map_err(failed)?;
    let mut list = RecordList::new(format, &BACKED_UP)?;
    let mut found = false;
    each(&backup, |users| {
        let wanted: Vec<&BackedUp> = users.iter().filter(|user| is_wanted(who.as_ref(), &user.user)).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        found = true;
        list.add(&wanted)
    })?;
    if who.is_some() && !found {
        return Err(not_in(file));
    }
    if !found {
        // A list without anything in it has a header all the same.
        list.add::<BackedUp>(&[])?;
    }
    list.finish(&[])
}

fn not_in(file: &Path) -> Failure {
    let file = printable(&file.to_string_lossy());
    Failure::new(Exit::NotFound, format!("there is no such user in {file}; `tenantry backup list` shows who is in it"))
}

fn is_wanted(who: Option<&Who>, user: &User) -> bool {
    match who {
        None => true,
        Some(Who::Id(id)) => user.id == *id,
        // Addresses that are equal as keys are those of one user.
        Some(Who::Email(email)) => user.email.key() == email.key(),
    }
}

/// Visits everybody in a backup page by page, at least one: first those who weren't in the trash,
/// in the order of creation.
fn each(backup: &BackupContents, mut visit: impl FnMut(&[BackedUp]) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut query = ListQuery { limit: ListQuery::MAX_LIMIT, ..ListQuery::default() };
    loop {
        let page = backup.list(&query)?;
        let users: Vec<_> = page.users.into_iter().map(|user| BackedUp { user, deleted_at: None }).collect();
        visit(&users)?;
        query.cursor = page.next_cursor;
        if query.cursor.is_none() {
            break;
        }
    }
    let mut query = TrashQuery { limit: ListQuery::MAX_LIMIT, ..TrashQuery::default() };
    loop {
        let page = backup.list_trash(&query)?;
        let of_trash =
            |trashed: tenantry::TrashedUser| BackedUp { user: trashed.user, deleted_at: Some(trashed.deleted_at) };
        let users: Vec<_> = page.users.into_iter().map(of_trash).collect();
        visit(&users)?;
        query.cursor = page.next_cursor;
        if query.cursor.is_none() {
            return Ok(());
        }
    }
}

pub(crate) async fn restore(
    place: &Place,
    format: Format<'_>,
    file: &Path,
    user: &str,
    options: Options,
) -> Result<(), Failure> {
    let who = Who::parse(user)?;
    stdio::refuse_stream(file, "the backup is")?;
    let backup = open_backup(file).await.map_err(|error| explain(error, file, "nothing was restored"))?;
    let id = find(&backup, &who, file)?;
    let store_id = backup.manifest().store_id;
    let store = place.open().await?;
    let progress = Progress::new();
    let Options { even_if_purged, dry_run } = options;
    let how = RestoreUserOptions { even_if_purged, dry_run };
    let restored = restore_user(&store, backup, id, how, progress.callback()).await;
    progress.end();
    let restored = finish(&store, restored.map_err(|error| of_restore(error, file))).await?;
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
    output::record(format, &fields).map_err(|failure| failure.saying("the user was restored"))?;
    report(&restored, id, dry_run);
    name_left_out(&restored.left_out);
    refuse_incomplete(restored.incomplete, "the user was restored")
}

/// The id of a user in a backup. An address may be that of several who were in the trash.
fn find(backup: &BackupContents, who: &Who, file: &Path) -> Result<UserId, Failure> {
    if let Who::Email(email) = who
        && let Some(user) = backup.get_by_email(email)?
    {
        return Ok(user.id);
    }
    let mut ids = Vec::new();
    each(backup, |users| {
        ids.extend(users.iter().map(|user| &user.user).filter(|user| is_wanted(Some(who), user)).map(|user| user.id));
        Ok(())
    })?;
    match ids[..] {
        [] => Err(not_in(file)),
        [id] => Ok(id),
        _ => {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            let message =
                format!("several users in the trash had this address: name one by the id: {}", ids.join(", "));
            Err(Failure::new(Exit::Conflict, message))
        }
    }
}

fn of_restore(error: tenantry::Error, file: &Path) -> Failure {
    let conflict = |message: String| Failure::new(Exit::Conflict, format!("{message}; nothing was restored"));
    match error.kind() {
        ErrorKind::EmailTaken => {
            let by = error.taken_by().map(|other| format!(": {other}")).unwrap_or_default();
            conflict(format!("another user has the email address now{by}"))
        }
        ErrorKind::IdTaken => conflict(format!("{error}; --even-if-purged brings them back with a new one")),
        ErrorKind::Corrupt | ErrorKind::Incompatible | ErrorKind::Cancelled => {
            explain(error, file, "nothing was restored")
        }
        _ => Failure::from(error),
    }
}

/// Says what was done, and what wasn't.
fn report(restored: &RestoredUser, id: UserId, dry_run: bool) {
    let RestoredUser { user, files, kept, kept_paths, before, .. } = restored;
    for path in kept_paths {
        tell!("kept, since it differs from what is in the backup: {}", printable(&path.to_string_lossy()));
    }
    if *kept > kept_paths.len() as u64 {
        tell!("and {} more", kept - kept_paths.len() as u64);
    }
    let from = match before {
        UserBefore::Trashed => " from the trash",
        UserBefore::Purged if user.id != id => " with a new id",
        _ => "",
    };
    let would = if dry_run { "would restore" } else { "restored" };
    tell!("{would} {}{from}, with {}", printable(user.email.as_str()), counted(*files, "file"));
}
