//! `tenantry user history`.

use tenantry::{ChangesCursor, Store, UserId};

use crate::data_dir::DataDir;
use crate::failure::{Exit, Failure};
use crate::output::{Columns, Format, RecordList};
use crate::session::finish;
use crate::stdio::report;
use crate::user_ref::UserRef;

pub(crate) const CHANGES: Columns = Columns {
    name: "changes",
    fields: &["cursor", "seq", "at", "kind", "user_id", "version", "actor"],
    in_table: &["at", "kind", "version", "actor"],
};

pub(super) async fn run(
    dir: &DataDir,
    format: Format<'_>,
    user: &str,
    cursor: Option<String>,
    limit: u16,
) -> Result<(), Failure> {
    let user = UserRef::parse(user)?;
    let cursor = cursor.map(|cursor| cursor.parse::<ChangesCursor>()).transpose()?;
    let store = dir.open().await?;
    let printed = print(&store, format, &user, cursor, limit.into()).await;
    finish(&store, printed).await
}

async fn print(
    store: &Store,
    format: Format<'_>,
    user: &UserRef,
    cursor: Option<ChangesCursor>,
    limit: usize,
) -> Result<(), Failure> {
    let page = store.history(id_of(store, user).await?, cursor.as_ref(), limit).await?;
    if page.changes.is_empty() && cursor.is_none() {
        return Err(Failure::new(
            Exit::NotFound,
            "there is no such user, or no change of them is kept any more",
        ));
    }
    let mut list = RecordList::new(format, &CHANGES)?;
    list.add(&page.changes)?;
    list.finish(&[("next_cursor", page.next_cursor.map(|cursor| cursor.to_string()).into())])?;
    if let Some(cursor) = page.next_cursor.filter(|_| !format.is_json()) {
        report!("older changes follow: repeat with --cursor {cursor}");
    }
    Ok(())
}

/// Returns the id of a user who lives, is in the trash or, if they are named by it, was purged.
async fn id_of(store: &Store, user: &UserRef) -> Result<UserId, Failure> {
    let email = match user {
        UserRef::Id(id) => return Ok(*id),
        UserRef::Email(email) => email,
    };
    if let Some(user) = store.get_by_email(email).await? {
        return Ok(user.id);
    }
    match store.find_in_trash(email).await?.as_slice() {
        [trashed] => Ok(trashed.user.id),
        [] => user.find_in(store).await.map(|user| user.id),
        _ => Err(Failure::new(
            Exit::Conflict,
            "several users in the trash have this address; `tenantry trash list` shows their ids",
        )),
    }
}
