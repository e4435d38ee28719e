//! Statements on the change feed.
//!
//! The numbers of the changes follow each other without a gap, since the writer appends at the end
//! and the retention removes from the beginning. Reading relies on that, and reports a gap as
//! damage instead of skipping what is missing.

use std::time::Duration;

use rusqlite::types::{Type, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::domain::change::{FeedId, NewChange, cursor_expired};
use crate::sqlite::values::blob;
use crate::{
    Actor, Change, ChangeKind, ChangePage, ChangesCursor, Error, ErrorKind, HistoryPage, Result,
    Timestamp, UserId,
};

/// How many changes one step of a search for those of a user goes through: less than 1 ms of work.
const HISTORY_STEP: i64 = 8_192;

/// Which changes are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retention {
    /// Changes that are younger are kept.
    pub(crate) age: Duration,
    /// So many of the newest are kept, however old they are.
    pub(crate) count: i64,
    /// How many are removed at once at most.
    pub(crate) step: i64,
}

/// Appends a change to the feed.
pub(crate) fn insert(conn: &Connection, change: &NewChange, actor: &Actor) -> Result<()> {
    let NewChange { at, kind, user_id, version } = change;
    conn.prepare_cached(
        "INSERT INTO tenantry_changes (at, kind, user_id, version, actor) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![at.as_unix_us(), number_of(*kind), blob(*user_id), version, actor.stored()])?;
    Ok(())
}

fn number_of(kind: ChangeKind) -> i64 {
    i64::try_from(kind.index()).map_or(0, |index| index + 1)
}

/// Removes the oldest changes that needn't be kept, a bounded number of them, and never the newest.
pub(crate) fn trim(conn: &Connection, now: Timestamp, retention: &Retention) -> Result<()> {
    let Some((oldest, newest)) = ends(conn)? else { return Ok(()) };
    let last = oldest.saturating_add(retention.step - 1).min(newest - retention.count.max(1));
    if last < oldest {
        return Ok(());
    }
    let horizon = now.saturating_sub(retention.age).as_unix_us();
    // Times aren't in order if the clock was set back, and nothing may go that is behind a change
    // which stays. A time that is far ahead says nothing of the age: a clock that was ahead once
    // would end all removal for years.
    let ahead = now.saturating_add(Timestamp::CLOCK_AHEAD_MAX).as_unix_us();
    let young = "SELECT min(seq) FROM tenantry_changes
                 WHERE seq BETWEEN ?1 AND ?2 AND at BETWEEN ?3 AND ?4";
    let young: Option<i64> =
        conn.prepare_cached(young)?.query_row([oldest, last, horizon, ahead], |row| row.get(0))?;
    let last = young.map_or(last, |young| young - 1);
    conn.prepare_cached("DELETE FROM tenantry_changes WHERE seq <= ?1")?.execute([last])?;
    Ok(())
}

/// Returns the numbers of the oldest and of the newest change.
fn ends(conn: &Connection) -> Result<Option<(i64, i64)>> {
    // Two subqueries: SQLite takes a minimum or a maximum from the end of a table, and both by
    // going through it.
    let sql =
        "SELECT (SELECT min(seq) FROM tenantry_changes), (SELECT max(seq) FROM tenantry_changes)";
    let ends = conn.prepare_cached(sql)?.query_row([], |row| {
        Ok(row.get::<_, Option<i64>>(0)?.zip(row.get::<_, Option<i64>>(1)?))
    })?;
    Ok(ends)
}

/// Returns the numbers of the oldest and of the newest change, as consumers see them.
pub(crate) fn seqs(conn: &Connection) -> Result<Option<(u64, u64)>> {
    let number = |seq: i64| u64::try_from(seq).unwrap_or_default();
    Ok(ends(conn)?.map(|(oldest, newest)| (number(oldest), number(newest))))
}

/// Returns which feed this is. A store that was never opened to the end has none yet.
pub(crate) fn feed(conn: &Connection) -> Result<FeedId> {
    let mut statement = conn.prepare_cached("SELECT id, changes_epoch FROM tenantry_store")?;
    Ok(statement.query_row([], |row| feed_id(row, 0)).optional()?.unwrap_or_default())
}

/// Reads the id of the store, and when its feed began, from two columns.
fn feed_id(row: &Row<'_>, first: usize) -> rusqlite::Result<FeedId> {
    let [a, b, c, d, ..] = row.get::<_, [u8; 16]>(first)?;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it has 32 bits")]
    let epoch = row.get::<_, i64>(first + 1)? as u32;
    Ok(FeedId { store: u32::from_be_bytes([a, b, c, d]), epoch })
}

/// The columns of a change, in the order in which [`change`] reads them.
macro_rules! change_columns {
    () => {
        "seq, at, kind, user_id, version, actor"
    };
}
const CHANGE_COLUMNS: usize = 6;

fn change(row: &Row<'_>, feed: FeedId) -> rusqlite::Result<Change> {
    let invalid = |column, error: Error| {
        rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, Box::new(error))
    };
    let damaged = || Error::new(ErrorKind::Corrupt, "a change has a value that no change has");
    let kind = row.get::<_, i64>(2)?.checked_sub(1).and_then(|index| usize::try_from(index).ok());
    let kind =
        kind.and_then(|index| ChangeKind::ALL.get(index)).ok_or_else(|| invalid(2, damaged()))?;
    let actor = match row.get::<_, Option<String>>(5)? {
        Some(name) => name.parse().map_err(|error| invalid(5, error))?,
        None => Actor::default(),
    };
    let user_id = UserId::from_random(uuid::Uuid::from_bytes(row.get(3)?));
    let new = NewChange { at: row.get(1)?, kind: *kind, user_id, version: row.get(4)? };
    Ok(feed.number(row.get(0)?, new, actor))
}

/// Returns the place behind the newest change.
pub(crate) fn newest_cursor(conn: &Connection) -> Result<ChangesCursor> {
    // One statement, since each page of a listing runs it.
    let sql = concat!(
        "SELECT ",
        change_columns!(),
        ", tenantry_store.id, changes_epoch
         FROM tenantry_store LEFT JOIN tenantry_changes ON seq = (SELECT max(seq) FROM tenantry_changes)"
    );
    let newest = conn.prepare_cached(sql)?.query_row([], |row| {
        let feed = feed_id(row, CHANGE_COLUMNS)?;
        Ok(if row.get_ref(0)? == ValueRef::Null {
            feed.beginning()
        } else {
            change(row, feed)?.cursor
        })
    });
    Ok(newest.optional()?.unwrap_or_else(|| FeedId::default().beginning()))
}

/// Fails unless a change is the one that the cursor was made behind.
fn check_known(after: &ChangesCursor, known: Option<&Change>) -> Result<()> {
    match known {
        Some(known) if known.cursor == *after => Ok(()),
        Some(known) if i64::try_from(known.seq) != Ok(after.seq()) => {
            Err(cursor_expired("changes behind the cursor are no longer kept"))
        }
        _ => Err(cursor_expired("the store went back in time since the cursor was made")),
    }
}

/// Returns at most `limit` changes behind a place, or from the oldest one on.
///
/// # Errors
///
/// `CursorExpired` unless the change before the place is there, as the cursor knows it.
pub(crate) fn page(
    conn: &Connection,
    after: Option<&ChangesCursor>,
    limit: usize,
) -> Result<ChangePage> {
    let feed = feed(conn)?;
    if let Some(after) = after {
        if !after.is_of(feed) {
            return Err(cursor_expired("the cursor is of another store's change feed"));
        }
        if after.seq() == 0 && *after != feed.beginning() {
            return Err(cursor_expired("the change feed began anew since the cursor was made"));
        }
    }
    let before = after.map_or(0, |after| after.seq());
    let sql = concat!(
        "SELECT ",
        change_columns!(),
        " FROM tenantry_changes WHERE seq >= ?1 ORDER BY seq LIMIT ?2"
    );
    let mut statement = conn.prepare_cached(sql)?;
    // The change before the place, and one more than is asked for.
    let mut rows = statement.query(params![before, limit + 2])?;
    let mut expected = None;
    let mut cursor = after.copied().unwrap_or_else(|| feed.beginning());
    let mut changes = Vec::new();
    if let Some(after) = after.filter(|after| after.seq() > 0) {
        let known = rows.next()?.map(|row| change(row, feed)).transpose()?;
        check_known(after, known.as_ref())?;
        expected = Some(after.seq() + 1);
    } else if after.is_some() {
        expected = Some(1);
    }
    let mut more = false;
    while let Some(row) = rows.next()? {
        if changes.len() == limit {
            more = true;
            break;
        }
        let seq: i64 = row.get(0)?;
        match expected {
            Some(expected) if expected != seq && changes.is_empty() => {
                return Err(cursor_expired("changes behind the cursor are no longer kept"));
            }
            Some(expected) if expected != seq => {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    "changes are missing in the middle of the change feed",
                ));
            }
            _ => expected = Some(seq + 1),
        }
        let change = change(row, feed)?;
        cursor = change.cursor;
        changes.push(change);
    }
    Ok(ChangePage { changes, cursor, more })
}

/// Returns whether logins are written into the feed.
pub(crate) fn are_logins_in(conn: &Connection) -> Result<bool> {
    let mut statement = conn.prepare_cached("SELECT has_logins_in_changes FROM tenantry_store")?;
    Ok(statement.query_row([], |row| row.get(0)).optional()?.unwrap_or_default())
}

pub(crate) fn set_logins(conn: &Connection, are_in: bool) -> Result<()> {
    conn.prepare_cached("UPDATE tenantry_store SET has_logins_in_changes = ?1")?
        .execute([are_in])?;
    Ok(())
}

/// A search for the changes of one user, from the newest change back.
///
/// It goes through the feed in steps of bounded ranges: there is no index by user.
pub(crate) struct History {
    user: UserId,
    after: Option<ChangesCursor>,
    limit: usize,
    /// The step that comes next ends before this number. `None` before the first step.
    before: Option<i64>,
    found: Vec<Change>,
}

impl History {
    pub(crate) fn new(user: UserId, after: Option<ChangesCursor>, limit: usize) -> Self {
        Self { user, after, limit, before: None, found: Vec::new() }
    }

    /// Goes through the next range. Returns the page if it is complete.
    pub(crate) fn advance(&mut self, conn: &Connection) -> Result<Option<HistoryPage>> {
        let feed = feed(conn)?;
        if self.after.is_some_and(|after| !after.is_of(feed)) {
            return Err(cursor_expired("the cursor is of another store's change feed"));
        }
        let Some((oldest, newest)) = ends(conn)? else { return Ok(Some(self.page(false))) };
        let begin = || self.after.map_or(newest + 1, |after| after.seq().min(newest + 1));
        let before = self.before.unwrap_or_else(begin);
        let from = before.saturating_sub(HISTORY_STEP);
        let sql = concat!(
            "SELECT ",
            change_columns!(),
            " FROM tenantry_changes WHERE seq >= ?1 AND seq < ?2 AND user_id = ?3 ORDER BY seq DESC LIMIT ?4"
        );
        let mut statement = conn.prepare_cached(sql)?;
        let one_more = self.limit + 1 - self.found.len();
        let rows = statement
            .query_map(params![from, before, blob(self.user), one_more], |row| change(row, feed))?;
        for change in rows {
            let change = change?;
            if self.found.len() == self.limit {
                return Ok(Some(self.page(true)));
            }
            self.found.push(change);
        }
        self.before = Some(from);
        Ok((from <= oldest).then(|| self.page(false)))
    }

    fn page(&mut self, has_more: bool) -> HistoryPage {
        let changes = std::mem::take(&mut self.found);
        let next_cursor = changes.last().filter(|_| has_more).map(|last| last.cursor);
        HistoryPage { changes, next_cursor }
    }
}
