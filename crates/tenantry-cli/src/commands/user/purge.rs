//! `tenantry user purge`.

use tenantry::{ReadTx, Store, Timestamp, TrashedUser, UserId};
use tenantry_exchange::printable;

use crate::args::Purge;
use crate::commands::trash::{self, TRASHED_USERS};
use crate::data_dir::DataDir;
use crate::failure::{Exit, Failure};
use crate::moment::ago;
use crate::output::{Format, RecordList, pluralize};
use crate::progress_bar;
use crate::prompt::confirm;
use crate::session::{finish, log_change};
use crate::stdio::report;

pub(super) async fn run(dir: &DataDir, format: Format<'_>, args: Purge) -> Result<(), Failure> {
    let selection = match (&args.id, &args.older_than) {
        (Some(id), _) => tenantry::Purge::User(parse_id(id)?),
        (None, Some(duration)) => tenantry::Purge::DeletedBefore(ago(duration)?),
        (None, None) => return Err(Failure::new(Exit::Usage, "name an id, or use --older-than")),
    };
    let store = dir.open().await?;
    let purged = match selection {
        tenantry::Purge::User(id) => purge_one(&store, format, &args, id).await,
        tenantry::Purge::DeletedBefore(moment) => purge_older(&store, format, &args, moment).await,
    };
    finish(&store, purged).await
}

/// Parses the id of a user in the trash. An address isn't accepted, since another user may have it.
fn parse_id(text: &str) -> Result<UserId, Failure> {
    text.parse().map_err(|_| {
        let message = "a user in the trash is named by the id; `tenantry trash list` shows it";
        Failure::new(Exit::Invalid, message)
    })
}

async fn purge_one(
    store: &Store,
    format: Format<'_>,
    args: &Purge,
    id: UserId,
) -> Result<(), Failure> {
    let (trashed, was_purged) =
        store.read(move |tx| Ok::<_, Failure>((tx.get_trashed(id)?, tx.was_purged(id)?))).await?;
    let Some(trashed) = trashed else {
        // Opening the store may have completed an earlier purge.
        if was_purged {
            report!("the user was purged already");
            return Ok(());
        }
        let message = match store.get(id).await? {
            Some(_) => "the user is not in the trash: delete them first",
            None => "there is no user with this id in the trash; `tenantry trash list` lists them",
        };
        return Err(Failure::new(Exit::NotFound, message));
    };
    if args.dry_run {
        let mut list = RecordList::new(format, &TRASHED_USERS)?;
        list.add(&[trashed])?;
        return list.finish(&[]);
    }
    confirm(args.yes, "purged", || {
        format!(
            "Destroy {} ({id}) for good, with their files?",
            printable(trashed.user.email.as_str())
        )
    })?;
    destroy(store, tenantry::Purge::User(id), &[id]).await
}

async fn purge_older(
    store: &Store,
    format: Format<'_>,
    args: &Purge,
    moment: Timestamp,
) -> Result<(), Failure> {
    if args.dry_run {
        return trash::list(store, format, Some(moment)).await;
    }
    let mut selection = Vec::new();
    let collect = |users: &[TrashedUser]| {
        selection.extend(users.iter().map(|trashed| trashed.user.id));
        Ok(())
    };
    trash::each_page(store, Some(moment), collect).await?;
    if selection.is_empty() && !args.yes {
        report!("no user was deleted that long ago; there is nothing to purge");
        return Ok(());
    }
    let users = pluralize(selection.len() as u64, "user");
    confirm(args.yes, "purged", || format!("Destroy {users} for good, with their files?"))?;
    destroy(store, tenantry::Purge::DeletedBefore(moment), &selection).await
}

/// Destroys users. `before` are the ones that were found before the purge.
async fn destroy(
    store: &Store,
    selection: tenantry::Purge,
    before: &[UserId],
) -> Result<(), Failure> {
    let progress = progress_bar::start(None, "{spinner} {human_pos} files removed");
    let shown = progress.clone();
    let purged = store.purge(selection, move |progress| shown.set_position(progress.files)).await;
    progress.finish_and_clear();
    log(store, before).await?;
    let purged = purged?;
    report!("purged {} and {}", pluralize(purged.users, "user"), pluralize(purged.files, "file"));
    for left in &purged.left {
        let path = printable(&left.path.to_string_lossy());
        report!("could not remove \"{path}\" of {}: {}", left.user, left.error);
    }
    if let Some(error) = purged.not_erased {
        return Err(error.into());
    }
    if !purged.left.is_empty() {
        return Err(Failure::new(
            Exit::Failure,
            "some files could not be removed, so their users stay in the trash; make the files removable, then repeat",
        ));
    }
    if purged.elsewhere > 0 {
        let message = format!("another process is purging {}", pluralize(purged.elsewhere, "user"));
        return Err(Failure::new(Exit::Busy, message));
    }
    Ok(())
}

/// Logs which of these users were destroyed, even if the purge failed for others.
async fn log(store: &Store, before: &[UserId]) -> Result<(), Failure> {
    if !tracing::enabled!(target: "tenantry", tracing::Level::INFO) {
        return Ok(());
    }
    let before = before.to_vec();
    let log_purged = move |tx: &ReadTx<'_>| -> Result<(), Failure> {
        for user in before {
            if tx.was_purged(user)? {
                log_change("user purge", user);
            }
        }
        Ok(())
    };
    store.read(log_purged).await
}
