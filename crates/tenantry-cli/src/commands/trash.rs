//! `tenantry trash …`.

use tenantry::{ListQuery, Store, Timestamp, TrashQuery, TrashedUser, User};

use crate::args::TrashCommand;
use crate::data_dir::DataDir;
use crate::failure::Failure;
use crate::output::{Columns, Format, RecordList, after_user_fields};
use crate::session::finish;

pub(crate) const TRASHED_USERS: Columns = Columns {
    name: "users",
    fields: &after_user_fields::<2, { User::FIELDS.len() + 2 }>(["deleted_at", "is_being_purged"]),
    in_table: &["id", "email", "deleted_at", "storage_path", "is_being_purged"],
};

pub(crate) async fn run(
    dir: &DataDir,
    format: Format<'_>,
    command: TrashCommand,
) -> Result<(), Failure> {
    let TrashCommand::List = command;
    let store = dir.open().await?;
    let listed = list(&store, format, None).await;
    finish(&store, listed).await
}

/// Prints the users in the trash, or those who were deleted before a time.
pub(super) async fn list(
    store: &Store,
    format: Format<'_>,
    deleted_before: Option<Timestamp>,
) -> Result<(), Failure> {
    let mut list = RecordList::new(format, &TRASHED_USERS)?;
    each_page(store, deleted_before, |users| list.add(users)).await?;
    list.finish(&[])
}

/// Visits the users in the trash page by page, or those who were deleted before a time.
pub(super) async fn each_page(
    store: &Store,
    deleted_before: Option<Timestamp>,
    mut visit: impl FnMut(&[TrashedUser]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut query =
        TrashQuery { limit: ListQuery::MAX_LIMIT, deleted_before, ..TrashQuery::default() };
    loop {
        let page = store.list_trash(&query).await?;
        visit(&page.users)?;
        if page.next_cursor.is_none() {
            return Ok(());
        }
        query.cursor = page.next_cursor;
    }
}
