//! `tenantry user list`.

use tenantry::{Cursor, Filter, ListQuery, Store};

use crate::args::List;
use crate::data_dir::DataDir;
use crate::failure::Failure;
use crate::moment::{ago, time};
use crate::output::{Format, RecordList, USERS};
use crate::session::finish;

pub(super) async fn run(dir: &DataDir, format: Format<'_>, args: List) -> Result<(), Failure> {
    let all = args.all;
    let query = query(args)?;
    let store = dir.open().await?;
    let printed = print(&store, format, query, all).await;
    finish(&store, printed).await
}

fn query(args: List) -> Result<ListQuery, Failure> {
    let time = |text: Option<String>| text.map(|text| time(&text)).transpose();
    Ok(ListQuery {
        limit: args.limit.into(),
        cursor: args.cursor.map(|cursor| cursor.parse::<Cursor>()).transpose()?,
        filter: Filter {
            email_prefix: args.email_prefix,
            email_contains: args.contains,
            created_after: time(args.created_after)?,
            created_before: time(args.created_before)?,
            inactive_since: args.inactive_for.map(|duration| ago(&duration)).transpose()?,
            never_logged_in: args.never_logged_in,
            suspended: match (args.suspended, args.not_suspended) {
                (false, false) => None,
                (is_suspended, _) => Some(is_suspended),
            },
            external_id: args.external_id.map(|id| id.parse()).transpose()?,
        },
    })
}

async fn print(store: &Store, format: Format<'_>, mut query: ListQuery, all: bool) -> Result<(), Failure> {
    let mut list = RecordList::new(format, &USERS)?;
    loop {
        let page = store.list(&query).await?;
        list.add(&page.users)?;
        match page.next_cursor {
            Some(cursor) if all => query.cursor = Some(cursor),
            next => return list.finish_page(next),
        }
    }
}
