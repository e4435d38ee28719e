//! Counting the users who meet a filter, in steps as a page is made, and asking for one of them.

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::columns::check_order;
use super::selection::{STEP_ROWS, Selection};
use crate::domain::search_text::Needle;
use crate::sqlite::functions::RunningStep;
use crate::sqlite::values::blob;
use crate::{Filter, Result, UserId};

/// A count in the making.
pub(crate) struct Counting {
    sql: String,
    /// ?1 is the place after which the next step begins.
    values: Vec<Value>,
    needle: Option<Needle>,
    /// Whether one statement counts, rather than steps.
    is_one_statement: bool,
    count: u64,
}

impl Counting {
    pub(crate) fn new(filter: &Filter) -> Result<Self> {
        let mut selection = Selection::new(Value::Integer(0), filter)?;
        let has_prefix = selection.prefix(filter)?;
        let sql = match &has_prefix {
            Some(has_prefix) => selection.with_prefix("count(*)", has_prefix),
            None => selection.filtered_walk("seq"),
        };
        let Selection { values, needle, .. } = selection;
        Ok(Self { sql, values, needle, is_one_statement: has_prefix.is_some(), count: 0 })
    }

    /// Runs the next step, and returns the count if it is complete.
    pub(crate) fn advance(&mut self, conn: &Connection) -> Result<Option<u64>> {
        let step = RunningStep::begin(self.needle.clone(), STEP_ROWS);
        let mut statement = conn.prepare_cached(&self.sql)?;
        if self.is_one_statement {
            return Ok(Some(
                statement.query_row(params_from_iter(&self.values), |row| row.get(0))?,
            ));
        }
        let mut rows = statement.query(params_from_iter(&self.values))?;
        let mut walked_to = 0;
        while let Some(row) = rows.next()? {
            let seq = row.get(0)?;
            check_order(walked_to, seq, 0)?;
            if step.is_last() {
                // The next step begins with this row, which was let through unseen.
                self.values[0] = Value::Integer(seq - 1);
                return Ok(None);
            }
            walked_to = seq;
            self.count += 1;
        }
        Ok(Some(self.count))
    }
}

/// Returns whether a living user meets a filter.
pub(crate) fn is_met_by(conn: &Connection, filter: &Filter, id: UserId) -> Result<bool> {
    let mut selection = Selection::new(Value::Blob(blob(id).to_vec()), filter)?;
    let has_prefix = selection.prefix(filter)?;
    let sql = selection.one(has_prefix.as_deref());
    Ok(conn.prepare_cached(&sql)?.exists(params_from_iter(&selection.values))?)
}
