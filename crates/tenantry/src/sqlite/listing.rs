//! The SQL of a page.
//!
//! Without an email prefix a page is a walk along the table in the order of creation, which the filter picks from. With
//! a filter that few users meet the walk may be long, so it goes in bounded steps, between which the caller's executor
//! gets its turn. A prefix is looked up in the index of the keys, and what it finds is put in order.

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::users::{check_order, columns, from_row};
use crate::{Cursor, ListQuery, Page, Result, User, email};

/// How many rows one step of a walk looks at: with a filter, about 1 ms of work.
const STEP_ROWS: usize = 4_096;
/// The columns after those of a user.
const SEQ: usize = 8;
const MATCHES: usize = 9;

/// A page in the making.
pub(crate) struct Listing {
    sql: String,
    /// ?1 is the place to begin at; the filter's come after.
    values: Vec<Value>,
    limit: usize,
    /// Whether rows may be left out.
    is_filtered: bool,
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
            let (in_key, in_address) = email::key_fragment(text)?;
            let (key, address) = (bind(Value::Text(in_key)), bind(Value::Text(in_address)));
            conditions.push(format!("(instr(email_key, ?{key}) OR instr(email, ?{key}) OR instr(email, ?{address}))"));
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
        let is_filtered = !conditions.is_empty();
        if !is_filtered {
            conditions.push("1".to_owned());
        }
        let matches = conditions.join(" AND ");

        let columns = columns!();
        let sql = match filter.email_prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
            None => format!("SELECT {columns}, seq, {matches} FROM users WHERE seq > ?1 ORDER BY seq"),
            Some(prefix) => {
                let prefix = email::key_prefix(prefix)?;
                // Above every text with this prefix: no address holds this code point, which is never assigned.
                let end = bind(Value::Text(format!("{prefix}\u{10FFFF}")));
                let start = bind(Value::Text(prefix));
                let one_more = bind(Value::Integer(i64::try_from(query.limit + 1).unwrap_or(i64::MAX)));
                // The plus signs keep the planner from walking the table instead of the index.
                format!(
                    "SELECT {columns}, seq, 1 FROM users WHERE seq IN (
                        SELECT seq FROM users
                        WHERE email_key >= ?{start} AND email_key < ?{end} AND +seq > ?1 AND {matches}
                        ORDER BY +seq LIMIT ?{one_more}
                    ) ORDER BY seq"
                )
            }
        };
        Ok(Self {
            sql,
            values,
            limit: query.limit,
            is_filtered,
            users: Vec::new(),
            last_seq: after,
            walked_to: after,
            has_more: false,
        })
    }

    /// Goes on by a step, and says whether the page is complete.
    pub(crate) fn advance(&mut self, conn: &Connection) -> Result<bool> {
        let mut statement = conn.prepare_cached(&self.sql)?;
        let mut rows = statement.query(params_from_iter(&self.values))?;
        let mut looked_at = 0;
        while let Some(row) = rows.next()? {
            let seq = row.get(SEQ)?;
            check_order(self.walked_to, seq, SEQ)?;
            self.walked_to = seq;
            if !self.is_filtered || row.get(MATCHES)? {
                if self.users.len() == self.limit {
                    self.has_more = true;
                    return Ok(true);
                }
                self.users.push(from_row(row)?);
                self.last_seq = seq;
            }
            looked_at += 1;
            if looked_at == STEP_ROWS {
                self.values[0] = seq.into();
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(crate) fn into_page(self) -> Page {
        Page { users: self.users, next_cursor: self.has_more.then(|| Cursor::after(self.last_seq)) }
    }

    #[cfg(test)]
    pub(super) fn sql(&self) -> &str {
        &self.sql
    }
}
