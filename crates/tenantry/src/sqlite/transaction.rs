use std::fmt;
use std::ops::Deref;

use super::error::Fault;
use super::guard::GuardedConnection;
use super::listing::Listing;
use super::users;
use crate::{
    Email, Error, Imported, ListQuery, NewUser, OnConflict, Page, Result, SignIn, Timestamp, User, UserId, UserUpdate,
};

/// A consistent view of the store in which a closure given to [`Store::read`](crate::Store::read) looks at it.
///
/// All its calls see the same moment, whatever is written meanwhile.
pub struct ReadTx<'c> {
    pub(super) conn: &'c GuardedConnection,
}

impl ReadTx<'_> {
    /// The user with this id, if there is one.
    ///
    /// Errors: `Busy`, `Io`, `Corrupt`.
    pub fn get(&self, id: UserId) -> Result<Option<User>> {
        users::get(&self.conn.unguarded(), id)
    }

    /// The user with this address, in whatever spelling, if there is one.
    ///
    /// Errors: `Busy`, `Io`, `Corrupt`.
    pub fn get_by_email(&self, email: &Email) -> Result<Option<User>> {
        users::get_by_email(&self.conn.unguarded(), email)
    }

    /// How many users there are. It counts them: about 15 ms for a million.
    ///
    /// Errors: `Busy`, `Io`, `Corrupt`.
    pub fn count(&self) -> Result<u64> {
        users::count(&self.conn.unguarded())
    }

    /// A page of users, as [`Store::list`](crate::Store::list) answers it.
    ///
    /// Errors: `InvalidQuery`, `Busy`, `Io`, `Corrupt`.
    pub fn list(&self, query: &ListQuery) -> Result<Page> {
        let mut listing = Listing::new(query)?;
        while !listing.advance(&self.conn.unguarded())? {}
        Ok(listing.into_page())
    }
}

/// A write transaction in which a closure given to [`Store::write`](crate::Store::write) changes the store.
///
/// Each call happens as a whole or not at all, and the closure may go on after one that failed. What the closure did
/// lasts if it returns `Ok`, and is undone if it returns `Err` or panics. All its calls see the same time.
pub struct WriteTx<'c> {
    read: ReadTx<'c>,
    now: Timestamp,
    new_id: &'c dyn Fn() -> UserId,
    /// The first failure that was not of one operation alone, whatever the closure made of it.
    fault: Option<Error>,
}

impl<'c> WriteTx<'c> {
    pub(super) fn new(conn: &'c GuardedConnection, now: Timestamp, new_id: &'c dyn Fn() -> UserId) -> Self {
        Self { read: ReadTx { conn }, now, new_id, fault: None }
    }

    pub(super) fn take_fault(&mut self) -> Option<Error> {
        self.fault.take()
    }

    fn note<T>(&mut self, result: Result<T>) -> Result<T> {
        if let Err(error) = &result
            && self.fault.is_none()
            && Fault::of(error) != Fault::Local
        {
            self.fault = Some(error.clone());
        }
        result
    }

    /// The time of this transaction: what is created, changed or logged in within it bears this time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// As [`Store::create`](crate::Store::create).
    pub fn create(&mut self, user: &NewUser) -> Result<User> {
        let result = users::create(&self.read.conn.unguarded(), user, self.now, self.new_id);
        self.note(result)
    }

    /// As [`Store::update`](crate::Store::update).
    pub fn update(&mut self, id: UserId, update: &UserUpdate) -> Result<User> {
        let result = users::update(&self.read.conn.unguarded(), id, update, self.now);
        self.note(result)
    }

    /// As [`Store::delete`](crate::Store::delete).
    pub fn delete(&mut self, id: UserId) -> Result<User> {
        let result = users::delete(&self.read.conn.unguarded(), id);
        self.note(result)
    }

    /// As [`Store::sign_in`](crate::Store::sign_in).
    pub fn sign_in(&mut self, email: &Email) -> Result<SignIn> {
        let result = users::sign_in(&self.read.conn.unguarded(), email, self.now, self.new_id);
        self.note(result)
    }

    /// As [`Store::record_login`](crate::Store::record_login).
    pub fn record_login(&mut self, id: UserId) -> Result<User> {
        let result = users::record_login(&self.read.conn.unguarded(), id, self.now);
        self.note(result)
    }

    /// Creates the user, or deals with the one who has the id, the address or the storage path already.
    ///
    /// With [`OnConflict::Update`] the user who is there, found by the id if one is given and else by the address, gets
    /// the given address and, if it is later, the given last login. Their id, time of creation and storage path are
    /// fixed: if others are given, that is `Immutable`. The given `updated_at` and `version` say how things were
    /// elsewhere and don't count.
    ///
    /// Errors: those of [`create`](Self::create) with [`OnConflict::Fail`]; `Immutable`, and the conflicts that an
    /// update can't settle, with [`OnConflict::Update`].
    pub fn import(&mut self, user: &NewUser, on_conflict: OnConflict) -> Result<Imported> {
        let result = users::import(&self.read.conn.unguarded(), user, on_conflict, self.now, self.new_id);
        self.note(result)
    }
}

impl<'c> Deref for WriteTx<'c> {
    type Target = ReadTx<'c>;

    fn deref(&self) -> &ReadTx<'c> {
        &self.read
    }
}

impl fmt::Debug for ReadTx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReadTx")
    }
}

impl fmt::Debug for WriteTx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WriteTx")
    }
}
