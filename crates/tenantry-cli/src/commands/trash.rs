//! `tenantry user purge` and `tenantry trash …`.

use tenantry::{Email, ErrorKind, ListQuery, ReadTx, Store, Timestamp, TrashQuery, TrashedUser, User, UserId};
use tenantry_exchange::printable;

use crate::args::{Purge, TrashCommand};
use crate::failure::{Exit, Failure};
use crate::moment::ago;
use crate::output::{self, Columns, Format, RecordList, counted};
use crate::place::Place;
use crate::prompt::confirm;
use crate::session::{did, finish};
use crate::stdio::tell;
use crate::who::Who;

pub(crate) const TRASHED: Columns = Columns {
    name: "users",
    fields: &[
        "id",
        "email",
        "created_at",
        "last_login_at",
        "storage_path",
        "updated_at",
        "version",
        "deleted_at",
        "is_being_purged",
    ],
    in_table: &["id", "email", "deleted_at", "storage_path", "is_being_purged"],
};

pub(crate) async fn run(place: &Place, format: Format<'_>, command: TrashCommand) -> Result<(), Failure> {
    let TrashCommand::List = command;
    let store = place.open().await?;
    let listed = list(&store, format, None).await;
    finish(&store, listed).await
}

/// Lists the users who were deleted before this moment, or all.
async fn list(store: &Store, format: Format<'_>, deleted_before: Option<Timestamp>) -> Result<(), Failure> {
    let mut list = RecordList::new(format, &TRASHED)?;
    store.read(|tx| each_page(tx, deleted_before, |users| list.add(users))).await?;
    list.finish(&[])
}

/// Visits the users who were deleted before this moment, or all, page by page.
fn each_page(
    tx: &ReadTx<'_>,
    deleted_before: Option<Timestamp>,
    mut visit: impl FnMut(&[TrashedUser]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut query = TrashQuery { limit: ListQuery::MAX_LIMIT, deleted_before, ..TrashQuery::default() };
    loop {
        let page = tx.list_trash(&query)?;
        visit(&page.users)?;
        if page.next_cursor.is_none() {
            return Ok(());
        }
        query.cursor = page.next_cursor;
    }
}

/// The id of a user in the trash, who can't be named by an address: others may have it.
fn parse_id(text: &str) -> Result<UserId, Failure> {
    text.parse().map_err(|_| {
        let message = "a user in the trash is named by the id; `tenantry trash list` shows it";
        Failure::new(Exit::Invalid, message)
    })
}

/// Brings a user back. An address names them only if one user in the trash has it.
pub(crate) async fn restore(store: &Store, who: &Who, email: Option<Email>) -> Result<User, Failure> {
    let id = match who {
        Who::Id(id) => *id,
        Who::Email(address) => match &store.find_in_trash(address).await?[..] {
            [] => return Err(Failure::new(Exit::NotFound, "there is no user in the trash with this email address")),
            [trashed] => trashed.user.id,
            several => {
                let ids: Vec<String> = several.iter().map(|trashed| trashed.user.id.to_string()).collect();
                let message = format!(
                    "several users in the trash have this email address, the last deleted first: {}; name one by the id",
                    ids.join(", ")
                );
                return Err(Failure::new(Exit::Invalid, message));
            }
        },
    };
    match store.restore(id, email).await {
        Err(error) if error.kind() == ErrorKind::EmailTaken => {
            let by = error.taken_by().map(|other| format!(": {other}")).unwrap_or_default();
            let message = format!("another user has the email address now{by}; --email gives another");
            Err(Failure::new(Exit::Conflict, message))
        }
        restored => restored.map_err(Failure::from),
    }
}

pub(crate) async fn purge(place: &Place, format: Format<'_>, args: Purge) -> Result<(), Failure> {
    let whom = match (&args.id, &args.older_than) {
        (Some(id), _) => tenantry::Purge::User(parse_id(id)?),
        (None, Some(duration)) => tenantry::Purge::DeletedBefore(ago(duration)?),
        (None, None) => return Err(Failure::new(Exit::Usage, "whom? Name an id, or use --older-than")),
    };
    let store = place.open().await?;
    let purged = match whom {
        tenantry::Purge::User(id) => purge_one(&store, format, &args, id).await,
        tenantry::Purge::DeletedBefore(moment) => purge_older(&store, format, &args, moment).await,
    };
    finish(&store, purged).await
}

async fn purge_one(store: &Store, format: Format<'_>, args: &Purge, id: UserId) -> Result<(), Failure> {
    let (trashed, was_purged) = store.read(|tx| Ok::<_, Failure>((tx.get_trashed(id)?, tx.was_purged(id)?))).await?;
    let Some(trashed) = trashed else {
        // What an earlier purge could not finish may just have been finished by opening the store.
        if was_purged {
            tell!("the user was purged already");
            return Ok(());
        }
        let message = match store.get(id).await? {
            Some(_) => "the user is not in the trash: delete them first",
            None => "there is no user with this id in the trash; `tenantry trash list` lists them",
        };
        return Err(Failure::new(Exit::NotFound, message));
    };
    if args.dry_run {
        let mut list = RecordList::new(format, &TRASHED)?;
        list.add(&[trashed])?;
        return list.finish(&[]);
    }
    confirm(args.yes, "purged", || {
        format!("Destroy {} ({id}) for good, with their files?", printable(trashed.user.email.as_str()))
    })?;
    destroy(store, tenantry::Purge::User(id), &[id]).await
}

async fn purge_older(store: &Store, format: Format<'_>, args: &Purge, moment: Timestamp) -> Result<(), Failure> {
    if args.dry_run {
        return list(store, format, Some(moment)).await;
    }
    let mut whom = Vec::new();
    let noting = |users: &[TrashedUser]| {
        whom.extend(users.iter().map(|trashed| trashed.user.id));
        Ok(())
    };
    store.read(|tx| each_page(tx, Some(moment), noting)).await?;
    if whom.is_empty() && !args.yes {
        tell!("no user was deleted so long ago: there is nothing to purge");
        return Ok(());
    }
    let users = counted(whom.len() as u64, "user");
    confirm(args.yes, "purged", || format!("Destroy {users} for good, with their files?"))?;
    destroy(store, tenantry::Purge::DeletedBefore(moment), &whom).await
}

/// Destroys users, of whom these were there before.
async fn destroy(store: &Store, whom: tenantry::Purge, before: &[UserId]) -> Result<(), Failure> {
    let progress = output::progress(None, "{spinner} {human_pos} files removed");
    let shown = progress.clone();
    let purged = store.purge(whom, move |files| shown.set_position(files)).await;
    progress.finish_and_clear();
    log(store, before).await?;
    let purged = purged?;
    tell!("purged {} and {}", counted(purged.users, "user"), counted(purged.files, "file"));
    for left in &purged.left {
        let path = printable(&left.path.to_string_lossy());
        tell!("could not remove \"{path}\" of {}: {}", left.user, left.error);
    }
    if let Some(error) = purged.not_erased {
        return Err(error.into());
    }
    if !purged.left.is_empty() {
        return Err(Failure::new(
            Exit::Failure,
            "some files could not be removed: their users stay in the trash; see to it that they can be, then repeat",
        ));
    }
    if purged.elsewhere > 0 {
        let message = format!("{} are just being purged by another process", counted(purged.elsewhere, "user"));
        return Err(Failure::new(Exit::Busy, message));
    }
    Ok(())
}

/// Notes in the log which of these users are destroyed, be it that the others couldn't be.
async fn log(store: &Store, before: &[UserId]) -> Result<(), Failure> {
    if !tracing::enabled!(target: "tenantry", tracing::Level::INFO) {
        return Ok(());
    }
    let note = |tx: &ReadTx<'_>| -> Result<(), Failure> {
        for user in before {
            if tx.was_purged(*user)? {
                did("user purge", *user);
            }
        }
        Ok(())
    };
    store.read(note).await
}
