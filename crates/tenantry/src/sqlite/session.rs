//! A connection as a transaction of an embedder has it: the guard is lowered for each operation of
//! the store, and up otherwise.

use rusqlite::Connection;

use super::guard::GuardedConnection;
use super::tx::{Snapshot, Tx, TxState};
use crate::storage::Storage;
use crate::{Result, Timestamp, UserId};

/// A connection to read by.
#[derive(Clone, Copy)]
pub(crate) struct ReadSession<'c> {
    conn: &'c GuardedConnection,
}

impl<'c> ReadSession<'c> {
    pub(super) fn new(conn: &'c GuardedConnection) -> Self {
        Self { conn }
    }

    /// Runs a read of the store's own.
    pub(crate) fn run<T>(&self, read: impl FnOnce(Snapshot<'_>) -> T) -> T {
        read(Snapshot::new(&self.conn.unguarded()))
    }

    /// Returns the connection with the guard up.
    pub(super) fn guarded(&self) -> &'c Connection {
        self.conn.guarded()
    }
}

/// A connection in a write transaction.
pub(crate) struct WriteSession<'c> {
    conn: &'c GuardedConnection,
    storage: &'c Result<Storage>,
    now: Timestamp,
    new_id: &'c dyn Fn() -> UserId,
    state: &'c mut TxState,
}

impl<'c> WriteSession<'c> {
    pub(super) fn new(
        conn: &'c GuardedConnection,
        storage: &'c Result<Storage>,
        now: Timestamp,
        new_id: &'c dyn Fn() -> UserId,
        state: &'c mut TxState,
    ) -> Self {
        Self { conn, storage, now, new_id, state }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.now
    }

    /// Returns the connection to read by.
    pub(crate) fn read_session(&self) -> ReadSession<'c> {
        ReadSession::new(self.conn)
    }

    /// Runs an operation of the store's own.
    pub(crate) fn run<T>(&mut self, operation: impl FnOnce(&mut Tx<'_>) -> T) -> T {
        let conn = self.conn.unguarded();
        operation(&mut Tx::new(&conn, self.storage, self.now, self.new_id, self.state))
    }
}
