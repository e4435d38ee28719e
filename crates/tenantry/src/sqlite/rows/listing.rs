//! The SQL of a page.
//!
//! Without an email prefix a page is a walk along the table in the order of creation, which the
//! filter picks from. With a filter that few users meet the walk may be long, so it goes in bounded
//! steps, between which it can be given up. A step is a statement that ends by itself after a
//! number of rows: one of the conditions counts them. SQLite leaves out the rows that the filter
//! doesn't match, since handing each of them to Rust would take longer than the match. A prefix is
//! looked up in the index of the keys, and the users found are put in order. A walk for an external
//! id goes along its index.
//!
//! A walk for a fragment searches the addresses, by a [`Needle`] that rejects nearly all rows; the
//! rest are compared in full. If the filter seems to pick so few users that the walk goes to the
//! end, another thread may take the second half of it.
//!
//! Rejected: a step that is a window of places in the order (a comparison a row, and a lookup for
//! each step, since gaps are of any length), and a search in the index of the keys (it is half as
//! large, but SQLite prepares a seek of the table for each key, which takes as long).
//!
//! Without any filter the walk skips the users in the trash. There may be many, so it is bounded by
//! their number.

use std::mem;

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::changes;
use super::columns::{USER_COLUMNS, check_order, user};
use super::selection::{STEP_ROWS, Selection};
use crate::domain::change::FeedId;
use crate::domain::search_text::Needle;
use crate::sqlite::functions::RunningStep;
use crate::{ChangesCursor, Cursor, ListQuery, Page, Result, User};

/// How many rows are worth a second thread: waking it takes as long as a tenth of a step.
const SPLIT_MIN: i64 = 4 * STEP_ROWS as i64;
/// The columns after those of a user.
const SEQ: usize = USER_COLUMNS;
const IS_DELETED: usize = USER_COLUMNS + 1;

/// A page in the making.
pub(crate) struct Listing {
    sql: String,
    /// ?1 is the place to begin at; the filter's come after.
    values: Vec<Value>,
    limit: usize,
    needle: Option<Needle>,
    /// How many rows the walk has inspected.
    inspected: usize,
    /// Whether this is a walk that isn't divided yet.
    is_whole_walk: bool,
    /// Where the second half begins, if there is one.
    until: i64,
    /// The places of the users, in a second half.
    places: Option<Vec<i64>>,
    users: Vec<User>,
    last_seq: i64,
    /// Where the walk has come to.
    walked_to: i64,
    has_more: bool,
    /// The end of the change feed before the first step.
    changes_cursor: Option<ChangesCursor>,
}

impl Listing {
    pub(crate) fn new(query: &ListQuery) -> Result<Self> {
        query.check()?;
        let after = query.cursor.map_or(0, Cursor::seq);
        let mut selection = Selection::new(Value::Integer(after), &query.filter)?;
        let has_prefix = selection.prefix(&query.filter)?;
        let is_whole_walk =
            has_prefix.is_none() && selection.is_walk_of_table() && !query.filter.is_empty();
        let columns = concat!(user_columns!(), ", seq, 0");
        let sql = match has_prefix {
            Some(has_prefix) => selection.search(columns, &has_prefix, query.limit),
            None if query.filter.is_empty() => selection.walk(),
            None => selection.filtered_walk(columns),
        };
        let Selection { values, needle, .. } = selection;
        Ok(Self {
            sql,
            values,
            limit: query.limit,
            needle,
            inspected: 0,
            is_whole_walk,
            until: i64::MAX,
            places: None,
            users: Vec::new(),
            last_seq: after,
            walked_to: after,
            has_more: false,
            changes_cursor: None,
        })
    }

    /// Runs the next step, and returns the page if it is complete.
    pub(crate) fn advance(&mut self, conn: &Connection) -> Result<Option<Page>> {
        Ok(self.step(conn)?.then(|| self.page()))
    }

    /// Runs the next step, and returns whether it was the last.
    pub(crate) fn step(&mut self, conn: &Connection) -> Result<bool> {
        if self.changes_cursor.is_none() {
            // Before any row: what is committed in between is repeated by the feed, and not missed.
            self.changes_cursor = Some(changes::newest_cursor(conn)?);
        }
        let step = RunningStep::begin(self.needle.clone(), STEP_ROWS);
        let mut statement = conn.prepare_cached(&self.sql)?;
        let mut rows = statement.query(params_from_iter(&self.values))?;
        let mut skipped = 0;
        while let Some(row) = rows.next()? {
            let seq = row.get(SEQ)?;
            check_order(self.walked_to, seq, SEQ)?;
            if seq > self.until {
                return Ok(true);
            }
            if step.is_last() {
                // The next step begins with this row, which was let through unseen.
                self.inspected += STEP_ROWS;
                self.walked_to = seq - 1;
                self.values[0] = self.walked_to.into();
                return Ok(false);
            }
            self.walked_to = seq;
            if row.get(IS_DELETED)? {
                skipped += 1;
                if skipped == STEP_ROWS {
                    self.values[0] = seq.into();
                    return Ok(false);
                }
                continue;
            }
            if self.is_full() {
                self.has_more = true;
                return Ok(true);
            }
            self.users.push(user(row)?);
            self.last_seq = seq;
            if let Some(places) = &mut self.places {
                places.push(seq);
            }
        }
        Ok(true)
    }

    /// Returns the second half of a walk that seems to go to the end, and makes this the first
    /// half.
    pub(crate) fn split(&mut self, conn: &Connection) -> Result<Option<Self>> {
        if !self.is_whole_walk || self.inspected == 0 {
            return Ok(None);
        }
        let mut statement = conn.prepare_cached("SELECT max(seq) FROM users")?;
        let last: i64 = statement.query_row([], |row| row.get::<_, Option<i64>>(0))?.unwrap_or(0);
        let rest = last.saturating_sub(self.walked_to);
        // As many rows as hold one user more, for each that is missing.
        let missing = self.limit + 1 - self.users.len();
        let expected = missing.saturating_mul(self.inspected) / (self.users.len() + 1);
        if rest < SPLIT_MIN || i64::try_from(expected).is_ok_and(|expected| expected < rest) {
            return Ok(None);
        }
        self.is_whole_walk = false;
        self.until = self.walked_to + rest / 2;
        let mut values = self.values.clone();
        values[0] = self.until.into();
        Ok(Some(Self {
            sql: self.sql.clone(),
            values,
            limit: self.limit - self.users.len(),
            needle: self.needle.clone(),
            inspected: 0,
            is_whole_walk: false,
            until: i64::MAX,
            places: Some(Vec::new()),
            users: Vec::new(),
            last_seq: self.until,
            walked_to: self.until,
            has_more: false,
            changes_cursor: self.changes_cursor,
        }))
    }

    /// Returns whether the page has no room for another user.
    pub(crate) fn is_full(&self) -> bool {
        self.users.len() == self.limit
    }

    /// Returns whether another page follows, as far as is known.
    pub(crate) fn has_more(&self) -> bool {
        self.has_more
    }

    /// Completes the first half with the second.
    pub(crate) fn append(&mut self, second: Self) {
        let places = second.places.unwrap_or_default();
        let room = self.limit - self.users.len();
        self.has_more = second.has_more || second.users.len() > room;
        if let Some(last) = places.into_iter().take(room).next_back() {
            self.last_seq = last;
        }
        self.users.extend(second.users.into_iter().take(room));
    }

    pub(crate) fn page(&mut self) -> Page {
        Page {
            users: mem::take(&mut self.users),
            next_cursor: self.has_more.then(|| Cursor::after(self.last_seq)),
            changes_cursor: self.changes_cursor.unwrap_or_else(|| FeedId::default().beginning()),
        }
    }

    #[cfg(test)]
    pub(crate) fn sql(&self) -> &str {
        &self.sql
    }
}
