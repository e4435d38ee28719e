//! The SQL of a page.
//!
//! Without an email prefix a page is a walk along the table in the order of creation, which the
//! filter picks from. With a filter that few users meet the walk may be long, so it goes in bounded
//! steps, between which it can be given up. A step is a statement over a window of places in the
//! order. SQLite leaves out the rows that the filter doesn't match, since handing each of them to
//! Rust would take longer than the match. A prefix is looked up in the index of the keys, and what
//! it finds is put in order.
//!
//! Without any filter the walk skips the users in the trash. There may be many, so it is bounded by
//! their number.

use std::mem;

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::columns::{USER_COLUMNS, check_order, user};
use crate::domain::search_text::{Fragment, KeyPrefix};
use crate::sqlite::functions::SHOWN;

use crate::{Cursor, ListQuery, Page, Result, User};

/// How many places one step of a walk spans, and so the most rows it inspects: about 1 ms of work.
const STEP_PLACES: i64 = 4_096;
/// The columns after those of a user.
const SEQ: usize = USER_COLUMNS;
const IS_DELETED: usize = USER_COLUMNS + 1;

/// Returns the pattern of
/// [GLOB](https://sqlite.org/lang_expr.html#the_like_glob_regexp_match_and_extract_operators) that
/// matches the texts which hold this one.
fn containing(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 2);
    pattern.push('*');
    for c in text.chars() {
        match c {
            '*' | '?' | '[' => pattern.extend(['[', c, ']']),
            c => pattern.push(c),
        }
    }
    pattern.push('*');
    pattern
}

/// A page in the making.
pub(crate) struct Listing {
    sql: String,
    /// ?1 is the place to begin at; the filter's come after.
    values: Vec<Value>,
    limit: usize,
    /// If the page is made in steps: the index among the values of the last place of a step.
    step_end: Option<usize>,
    users: Vec<User>,
    last_seq: i64,
    /// Where the walk has come to.
    walked_to: i64,
    has_more: bool,
}

impl Listing {
    pub(crate) fn new(query: &ListQuery) -> Result<Self> {
        query.check()?;
        let after = query.cursor.map_or(0, Cursor::seq);
        let mut values = vec![Value::Integer(after)];
        let mut bind = |value: Value| {
            values.push(value);
            values.len()
        };

        let mut conditions = Vec::new();
        let filter = &query.filter;
        if let Some(text) = filter.email_contains.as_deref().filter(|text| !text.is_empty()) {
            let Fragment { in_key, in_address, in_shown } = Fragment::new(text)?;
            let differs = in_address != in_key;
            let [key, address] = [in_key, in_address].map(|text| bind(Value::Text(containing(&text))));
            let shown = bind(Value::Text(in_shown));
            // Most addresses are their own keys and of ASCII: they are searched once, whatever else
            // there is to ask. GLOB is faster than instr. The plus signs keep SQLite from preparing
            // the statement anew for each step.
            let mut holds = format!("email GLOB +?{key} OR (email_folded IS NOT NULL AND email_folded GLOB +?{key})");
            if differs {
                holds += &format!(" OR email GLOB +?{address}");
            }
            // A key with such labels is shown in another form, and has a skeleton if that isn't
            // ASCII.
            let has_labels = "skeleton IS NOT NULL AND instr(email_key, 'xn--')";
            conditions.push(format!("({holds} OR ({has_labels} AND instr({SHOWN}(email_key), ?{shown})))"));
        }
        if let Some(moment) = filter.created_after {
            conditions.push(format!("created_at >= ?{}", bind(moment.as_unix_us().into())));
        }
        if let Some(moment) = filter.created_before {
            conditions.push(format!("created_at < ?{}", bind(moment.as_unix_us().into())));
        }
        if let Some(moment) = filter.inactive_since {
            conditions.push(format!("coalesce(last_login_at, created_at) < ?{}", bind(moment.as_unix_us().into())));
        }
        if filter.never_logged_in {
            conditions.push("last_login_at IS NULL".to_owned());
        }
        let columns = user_columns!();
        let mut step_end = None;
        let sql = match filter.email_prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
            None if conditions.is_empty() => {
                format!("SELECT {columns}, seq, deleted_at IS NOT NULL FROM users WHERE seq > ?1 ORDER BY seq")
            }
            None => {
                let end = bind(Value::Null);
                step_end = Some(end - 1);
                let matches = conditions.join(" AND ");
                format!(
                    "SELECT {columns}, seq, 0 FROM users
                     WHERE seq > ?1 AND seq <= ?{end} AND {matches} AND deleted_at IS NULL ORDER BY seq"
                )
            }
            Some(prefix) => {
                conditions.push("+seq > ?1".to_owned());
                let matches = conditions.join(" AND ");
                let mut begins_with = |prefix: String| {
                    // Above every text with this prefix: no address holds this code point, which is
                    // never assigned.
                    let end = bind(Value::Text(format!("{prefix}\u{10FFFF}")));
                    let start = bind(Value::Text(prefix));
                    // In each branch of an OR, so that each can use the index, which is of the
                    // living.
                    format!("(email_key >= ?{start} AND email_key < ?{end} AND deleted_at IS NULL)")
                };
                let has_prefix = match KeyPrefix::new(prefix)? {
                    KeyPrefix::Key(prefix) => begins_with(prefix),
                    KeyPrefix::Shown { near, shown } => {
                        let near = near.map(begins_with).join(" OR ");
                        let shown = bind(Value::Text(shown));
                        format!("({near}) AND substr({SHOWN}(email_key), 1, length(?{shown})) = ?{shown}")
                    }
                };
                let one_more = bind(Value::Integer(i64::try_from(query.limit + 1).unwrap_or(i64::MAX)));
                // The plus signs keep the planner from walking the table instead of the index.
                format!(
                    "SELECT {columns}, seq, 0 FROM users WHERE seq IN (
                        SELECT seq FROM users
                        WHERE {has_prefix} AND {matches}
                        ORDER BY +seq LIMIT ?{one_more}
                    ) ORDER BY seq"
                )
            }
        };
        Ok(Self {
            sql,
            values,
            limit: query.limit,
            step_end,
            users: Vec::new(),
            last_seq: after,
            walked_to: after,
            has_more: false,
        })
    }

    /// Runs the next step, and returns the page if it is complete.
    pub(crate) fn advance(&mut self, conn: &Connection) -> Result<Option<Page>> {
        if let Some(end) = self.step_end
            && !self.begin_step(conn, end)?
        {
            return Ok(Some(self.page()));
        }
        let mut statement = conn.prepare_cached(&self.sql)?;
        let mut rows = statement.query(params_from_iter(&self.values))?;
        let mut skipped = 0;
        while let Some(row) = rows.next()? {
            let seq = row.get(SEQ)?;
            check_order(self.walked_to, seq, SEQ)?;
            self.walked_to = seq;
            if row.get(IS_DELETED)? {
                skipped += 1;
                if skipped == STEP_PLACES {
                    self.values[0] = seq.into();
                    return Ok(None);
                }
                continue;
            }
            if self.users.len() == self.limit {
                self.has_more = true;
                return Ok(Some(self.page()));
            }
            self.users.push(user(row)?);
            self.last_seq = seq;
        }
        Ok(if self.step_end.is_some() { None } else { Some(self.page()) })
    }

    /// Moves the window of places to the next user. Returns whether there is one.
    ///
    /// A window that began where the last one ended could be empty, and a gap in the places is as
    /// long as it likes.
    fn begin_step(&mut self, conn: &Connection, end: usize) -> Result<bool> {
        let before = match self.values[end] {
            Value::Integer(end) => end,
            _ => self.walked_to,
        };
        let mut statement = conn.prepare_cached("SELECT min(seq) FROM users WHERE seq > ?1")?;
        let Some(first) = statement.query_row([before], |row| row.get::<_, Option<i64>>(0))? else {
            return Ok(false);
        };
        check_order(before, first, 0)?;
        self.walked_to = first - 1;
        self.values[0] = self.walked_to.into();
        self.values[end] = first.saturating_add(STEP_PLACES - 1).into();
        Ok(true)
    }

    fn page(&mut self) -> Page {
        Page { users: mem::take(&mut self.users), next_cursor: self.has_more.then(|| Cursor::after(self.last_seq)) }
    }

    #[cfg(test)]
    pub(crate) fn sql(&self) -> &str {
        &self.sql
    }
}
