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

use super::columns::{USER_COLUMNS, check_order, user};
use crate::domain::search_text::{Fragment, KeyPrefix, Needle};
use crate::sqlite::functions::{IS_CANDIDATE, IS_LAST, RunningStep, SHOWN};
use crate::{Cursor, Filter, ListQuery, Page, Result, User};

/// How many rows one step of a walk inspects: less than 1 ms of work.
const STEP_ROWS: usize = 4_096;
/// How many rows are worth a second thread: waking it takes as long as a tenth of a step.
const SPLIT_MIN: i64 = 4 * STEP_ROWS as i64;
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

/// The conditions of a filter in SQL, with the values of their parameters.
struct Selection {
    conditions: Vec<String>,
    values: Vec<Value>,
    needle: Option<Needle>,
    /// The parameter of the external id, if there is that condition. It isn't among the others,
    /// since it says where to walk: in an index that has the living alone, in the order of
    /// creation.
    external_id: Option<usize>,
}

impl Selection {
    /// Returns a selection without conditions. Its walk begins after this place.
    fn new(after: i64) -> Self {
        Self { conditions: Vec::new(), values: vec![Value::Integer(after)], needle: None, external_id: None }
    }

    /// Adds a value, and returns the number of its parameter.
    fn bind(&mut self, value: impl Into<Value>) -> usize {
        self.values.push(value.into());
        self.values.len()
    }

    fn add_filter(&mut self, filter: &Filter) -> Result<()> {
        if let Some(text) = filter.email_contains.as_deref().filter(|text| !text.is_empty()) {
            self.add_fragment(Fragment::new(text)?);
        }
        let moments = [
            ("created_at >=", filter.created_after),
            ("created_at <", filter.created_before),
            ("coalesce(last_login_at, created_at) <", filter.inactive_since),
        ];
        for (comparison, moment) in moments {
            if let Some(moment) = moment {
                let number = self.bind(moment.as_unix_us());
                self.conditions.push(format!("{comparison} ?{number}"));
            }
        }
        if filter.never_logged_in {
            self.conditions.push("last_login_at IS NULL".to_owned());
        }
        if let Some(is_suspended) = filter.suspended {
            self.conditions.push(format!("suspended_at IS {}NULL", if is_suspended { "NOT " } else { "" }));
        }
        self.external_id = filter.external_id.as_ref().map(|id| self.bind(id.to_string()));
        Ok(())
    }

    fn add_fragment(&mut self, fragment: Fragment) {
        self.needle = Some(fragment.needle());
        let Fragment { in_key, in_address, in_shown } = fragment;
        let differs = in_address != in_key;
        let [key, address] = [in_key, in_address].map(|text| self.bind(containing(&text)));
        let shown = self.bind(in_shown);
        // Most addresses are their own keys and of ASCII: they are searched once, whatever else
        // there is to ask. GLOB is faster than instr. The plus signs keep SQLite from preparing
        // the statement anew for each step.
        let mut holds = format!("email GLOB +?{key} OR (email_folded IS NOT NULL AND email_folded GLOB +?{key})");
        if differs {
            holds += &format!(" OR email GLOB +?{address}");
        }
        // A key with such labels is shown in another form, and has a skeleton if that isn't ASCII.
        let has_labels = "skeleton IS NOT NULL AND instr(email_key, 'xn--')";
        self.conditions.push(format!("({holds} OR ({has_labels} AND instr({SHOWN}(email_key), ?{shown})))"));
    }

    /// Returns the statement of a walk without any filter.
    fn walk(&self) -> String {
        let columns = user_columns!();
        format!("SELECT {columns}, seq, deleted_at IS NOT NULL FROM users WHERE seq > ?1 ORDER BY seq")
    }

    /// Returns the statement of a step of a walk that picks from the table.
    fn filtered_walk(&self) -> String {
        let (columns, conditions) = (user_columns!(), &self.conditions);
        let matches: String = conditions.iter().map(|condition| format!("{condition} AND ")).collect();
        let walked = match self.external_id {
            Some(number) => format!("external_id = ?{number} AND deleted_at IS NULL AND "),
            None => String::new(),
        };
        format!(
            "SELECT {columns}, seq, 0 FROM users
             WHERE seq > ?1 AND {walked}{IS_CANDIDATE}(email)
                 AND ({IS_LAST}() OR ({matches}deleted_at IS NULL))
             ORDER BY seq"
        )
    }

    /// Returns the statement that looks a prefix up in the index of the keys.
    fn search(&mut self, prefix: &str, limit: usize) -> Result<String> {
        self.conditions.push("+seq > ?1".to_owned());
        self.conditions.extend(self.external_id.map(|number| format!("external_id = ?{number}")));
        let has_prefix = match KeyPrefix::new(prefix)? {
            KeyPrefix::Key(prefix) => self.begins_with(prefix),
            KeyPrefix::Shown { near, shown } => {
                let near = near.map(|prefix| self.begins_with(prefix)).join(" OR ");
                let shown = self.bind(shown);
                format!("({near}) AND substr({SHOWN}(email_key), 1, length(?{shown})) = ?{shown}")
            }
        };
        let one_more = self.bind(i64::try_from(limit + 1).unwrap_or(i64::MAX));
        let (columns, matches) = (user_columns!(), self.conditions.join(" AND "));
        // The plus signs keep the planner from walking the table instead of the index.
        Ok(format!(
            "SELECT {columns}, seq, 0 FROM users WHERE seq IN (
                SELECT seq FROM users
                WHERE {has_prefix} AND {matches}
                ORDER BY +seq LIMIT ?{one_more}
            ) ORDER BY seq"
        ))
    }

    /// Returns the condition that a key begins with this.
    fn begins_with(&mut self, prefix: String) -> String {
        // Above every text with this prefix: no address holds this code point, which is never
        // assigned.
        let end = self.bind(format!("{prefix}\u{10FFFF}"));
        let start = self.bind(prefix);
        // In each branch of an OR, so that each can use the index, which is of the living.
        format!("(email_key >= ?{start} AND email_key < ?{end} AND deleted_at IS NULL)")
    }
}

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
}

impl Listing {
    pub(crate) fn new(query: &ListQuery) -> Result<Self> {
        query.check()?;
        let after = query.cursor.map_or(0, Cursor::seq);
        let mut selection = Selection::new(after);
        selection.add_filter(&query.filter)?;
        let prefix = query.filter.email_prefix.as_deref().filter(|prefix| !prefix.is_empty());
        let is_looked_up = prefix.is_some() || selection.external_id.is_some();
        let is_whole_walk = !is_looked_up && !selection.conditions.is_empty();
        let sql = match prefix {
            Some(prefix) => selection.search(prefix, query.limit)?,
            None if is_looked_up || is_whole_walk => selection.filtered_walk(),
            None => selection.walk(),
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
        })
    }

    /// Runs the next step, and returns the page if it is complete.
    pub(crate) fn advance(&mut self, conn: &Connection) -> Result<Option<Page>> {
        Ok(self.step(conn)?.then(|| self.page()))
    }

    /// Runs the next step, and returns whether it was the last.
    pub(crate) fn step(&mut self, conn: &Connection) -> Result<bool> {
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
        Page { users: mem::take(&mut self.users), next_cursor: self.has_more.then(|| Cursor::after(self.last_seq)) }
    }

    #[cfg(test)]
    pub(crate) fn sql(&self) -> &str {
        &self.sql
    }
}
