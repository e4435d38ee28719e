//! A page in the order of logins: of a walk along all users, those who come first.
//!
//! Rejected: an index on the time of the last login. Each login would move an entry of it to
//! another page, while now it changes one page of the table, and a listing by logins is asked for
//! now and then.

use std::collections::BTreeSet;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params_from_iter};

use super::changes;
use super::columns::{USER_COLUMNS, check_order, user};
use super::selection::{STEP_ROWS, Selection};
use crate::domain::search_text::Needle;
use crate::sqlite::functions::RunningStep;
use crate::{ChangesCursor, Cursor, ListQuery, Page, Result};

/// The time by which users are ordered.
macro_rules! login {
    () => {
        "coalesce(last_login_at, created_at)"
    };
}

/// A page in the making.
pub(crate) struct LoginListing {
    sql: String,
    /// ?1 is the place after which the next step begins.
    values: Vec<Value>,
    needle: Option<Needle>,
    limit: usize,
    /// Taken before the first row is read.
    changes_cursor: Option<ChangesCursor>,
    walked_to: i64,
    /// The first users so far, one more than the page holds, by their logins and places.
    first: BTreeSet<(i64, i64)>,
}

impl LoginListing {
    pub(crate) fn new(query: &ListQuery) -> Result<Self> {
        query.check()?;
        let mut selection = Selection::new(Value::Integer(0), &query.filter)?;
        if let Some(cursor) = query.cursor {
            let (login, seq) =
                (selection.bind(cursor.login().unwrap_or(i64::MIN)), selection.bind(cursor.seq()));
            let is_behind = format!(
                concat!("(", login!(), " > ?{} OR (", login!(), " = ?{} AND seq > ?{}))"),
                login, login, seq
            );
            selection.add(is_behind);
        }
        let columns = concat!("seq, ", login!());
        let sql = match selection.prefix(&query.filter)? {
            Some(has_prefix) => selection.with_prefix(columns, &has_prefix),
            None => selection.filtered_walk(columns),
        };
        let Selection { values, needle, .. } = selection;
        Ok(Self {
            sql,
            values,
            needle,
            limit: query.limit,
            changes_cursor: None,
            walked_to: 0,
            first: BTreeSet::new(),
        })
    }

    /// Runs the next step, and returns the page if it is complete.
    pub(crate) fn advance(&mut self, conn: &Connection) -> Result<Option<Page>> {
        let changes_cursor = match self.changes_cursor {
            Some(cursor) => cursor,
            None => *self.changes_cursor.insert(changes::newest_cursor(conn)?),
        };
        let step = RunningStep::begin(self.needle.clone(), STEP_ROWS);
        let mut statement = conn.prepare_cached(&self.sql)?;
        let mut rows = statement.query(params_from_iter(&self.values))?;
        while let Some(row) = rows.next()? {
            let seq = row.get(0)?;
            if step.is_last() {
                // The next step begins with this row, which was let through unseen.
                check_order(self.walked_to, seq - 1, 0)?;
                self.walked_to = seq - 1;
                self.values[0] = Value::Integer(self.walked_to);
                return Ok(None);
            }
            self.first.insert((row.get(1)?, seq));
            if self.first.len() > self.limit + 1 {
                self.first.pop_last();
            }
        }
        self.page(conn, changes_cursor).map(Some)
    }

    /// Reads the users. One who has logged in or was deleted since the walk met them isn't at that
    /// place any more. One who has logged in is behind it now, so the page isn't the last one, even
    /// if the walk met no more users than it holds.
    fn page(&self, conn: &Connection, changes_cursor: ChangesCursor) -> Result<Page> {
        let sql = concat!(
            "SELECT ",
            user_columns!(),
            ", ",
            login!(),
            " FROM users WHERE seq = ?1 AND deleted_at IS NULL"
        );
        let mut statement = conn.prepare_cached(sql)?;
        let mut users = Vec::with_capacity(self.first.len());
        let mut has_more = self.first.len() > self.limit;
        for (login, seq) in self.first.iter().take(self.limit) {
            let found = statement
                .query_row([seq], |row| Ok((user(row)?, row.get::<_, i64>(USER_COLUMNS)?)))
                .optional()?;
            match found {
                Some((user, now)) if now == *login => users.push(user),
                Some(_) => has_more = true,
                None => {}
            }
        }
        let last = self.first.iter().take(self.limit).next_back().filter(|_| has_more);
        let next_cursor = last.map(|(login, seq)| Cursor::after_login(*login, *seq));
        Ok(Page { users, next_cursor, changes_cursor })
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::block_on;

    use super::*;
    use crate::{Filter, NewUser, Order, Store, User, UserId};

    fn query() -> ListQuery {
        let filter = Filter { email_contains: Some("zoe".into()), ..Filter::default() };
        ListQuery { filter, order: Order::LastLogin, limit: 3, ..ListQuery::default() }
    }

    /// Makes a page, and changes the store when the walk has taken its first step.
    fn page_and_meanwhile(store: &Store, change: impl FnOnce(&Store) + Send + 'static) -> Page {
        let mut listing = LoginListing::new(&query()).unwrap();
        let (changed, mut change, mut is_begun) = (store.clone(), Some(change), false);
        let page = block_on(store.engine().search(move |tx| {
            if std::mem::replace(&mut is_begun, true)
                && let Some(change) = change.take()
            {
                change(&changed);
            }
            let page = tx.advance_by_login(&mut listing)?;
            assert!(page.is_none() || change.is_none(), "the walk takes one step");
            Ok(page)
        }));
        page.unwrap()
    }

    fn ids(page: &Page) -> Vec<UserId> {
        page.users.iter().map(|user| user.id).collect()
    }

    /// The story: the walk met a user who logged in before the page was read. The page left them
    /// out, because their place is on a later one, but there was no later one.
    #[test]
    fn a_user_who_logs_in_while_the_last_page_is_made_is_on_a_later_page() {
        let dir = tempfile::tempdir().unwrap();
        let store = block_on(Store::open(dir.path())).unwrap();
        let others = (1..STEP_ROWS).map(|number| format!("u{number}"));
        let locals = ["zoe1".to_owned(), "zoe2".to_owned()].into_iter().chain(others);
        let users = locals
            .chain(["zoe3".to_owned()])
            .map(|local| NewUser::new(format!("{local}@example.com").parse().unwrap()));
        let users: Vec<User> = block_on(store.create_many(users.collect()))
            .unwrap()
            .into_iter()
            .map(Result::unwrap)
            .collect();
        let (first, second, third) = (users[0].id, users[1].id, users[users.len() - 1].id);

        let page = page_and_meanwhile(&store, move |store| {
            block_on(store.record_login(first)).unwrap();
            block_on(store.delete(second)).unwrap();
        });
        assert_eq!(ids(&page), [third]);
        let rest = ListQuery { cursor: page.next_cursor, ..query() };
        assert!(rest.cursor.is_some(), "it isn't the last page");
        let rest = block_on(store.list(&rest)).unwrap();
        assert_eq!((ids(&rest), rest.next_cursor), (vec![first], None));
        // One who is deleted has no place on a later page.
        let page = page_and_meanwhile(&store, move |store| {
            block_on(store.delete(first)).unwrap();
        });
        assert_eq!((ids(&page), page.next_cursor), (vec![third], None));
        block_on(store.close()).unwrap();
    }
}
