//! Erasing what a purge leaves in the database: `secure_delete`, and this.

use std::time::Instant;

use super::busy_timeout::wait_while_busy;
use super::rows::intents;
use super::transactions::Transactions;
use crate::{Result, failpoint};

impl Transactions {
    /// Rewrites the database, so that it keeps nothing of rows that are gone: `secure_delete`
    /// doesn't reach the copies that pages leave behind when they are rearranged. Then truncates
    /// the WAL, and removes the intent.
    pub(super) fn erase(&mut self, intent: i64) -> Result<()> {
        failpoint::reach("erase: rewrite the database");
        self.wait_while_busy(Instant::now(), || Ok(self.conn.vacuum()?))?;
        failpoint::reach("erase: cut the log");
        let deadline = Instant::now() + self.options.busy_timeout;
        wait_while_busy(deadline, || self.checkpoints.truncate_wal(&self.conn))?;
        self.begin(Instant::now())?;
        intents::remove(&self.own(), intent)?;
        self.commit_step("commit: the database is rewritten")
    }
}
