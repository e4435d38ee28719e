//! `tenantry user list` and `user count`.

use serde_json::json;
use tenantry::{Cursor, ListQuery, Store};

use crate::args::{FilterArgs, List};
use crate::data_dir::DataDir;
use crate::failure::Failure;
use crate::output::{self, Format, RecordList, USERS};
use crate::session::finish;

pub(super) async fn run(dir: &DataDir, format: Format<'_>, args: List) -> Result<(), Failure> {
    let all = args.all;
    let query = ListQuery {
        limit: args.limit.into(),
        cursor: args.cursor.map(|cursor| cursor.parse::<Cursor>()).transpose()?,
        filter: args.filter.parse()?,
        order: args.sort.into(),
    };
    let store = dir.open().await?;
    let printed = print(&store, format, query, all).await;
    finish(&store, printed).await
}

pub(super) async fn print(
    store: &Store,
    format: Format<'_>,
    mut query: ListQuery,
    all: bool,
) -> Result<(), Failure> {
    let mut list = RecordList::new(format, &USERS)?;
    let mut changes = None;
    loop {
        let page = store.list(&query).await?;
        let changes = *changes.get_or_insert(page.changes_cursor);
        list.add(&page.users)?;
        match page.next_cursor {
            Some(cursor) if all => query.cursor = Some(cursor),
            next => return list.finish_page(next, changes),
        }
    }
}

pub(super) async fn count(
    dir: &DataDir,
    format: Format<'_>,
    args: FilterArgs,
) -> Result<(), Failure> {
    let filter = args.parse()?;
    let store = dir.open().await?;
    let counted = store.count_where(&filter).await.map_err(Failure::from);
    let count = finish(&store, counted).await?;
    output::record(format, &[("users", json!(count))])
}
