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
    /// place any more.
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
        for (login, seq) in self.first.iter().take(self.limit) {
            let found = statement
                .query_row([seq], |row| Ok((user(row)?, row.get::<_, i64>(USER_COLUMNS)?)))
                .optional()?;
            users.extend(found.filter(|(_, now)| now == login).map(|(user, _)| user));
        }
        let has_more = self.first.len() > self.limit;
        let last = self.first.iter().nth(self.limit - 1).filter(|_| has_more);
        let next_cursor = last.map(|(login, seq)| Cursor::after_login(*login, *seq));
        Ok(Page { users, next_cursor, changes_cursor })
    }
}
