//! Imports rows into a store.

use std::fmt;

use tenantry::{Email, ErrorKind, NewUser, OnConflict, Upserted, User, WriteTx};

use crate::waiting::{Order, Step, Waiting};
use crate::{Chunk, Error, Omissions, Rejection, Result, Row, printable};

/// Counts the outcomes of the rows of an import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// Users who were created.
    pub created: u64,
    /// Existing users who were changed.
    pub updated: u64,
    /// Existing users who had the row's values already.
    pub unchanged: u64,
    /// Existing users who were left as they are.
    pub skipped: u64,
    /// Rows that were rejected.
    pub rejected: u64,
    /// Created users whose addresses are confusable with those of other users.
    pub confusables: u64,
}

/// Selects the treatment of a row that creates a user with a confusable address.
///
/// An address is confusable with the ones that [`Store::confusables`](tenantry::Store::confusables)
/// finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnConfusable {
    /// Create the user, and report them among the [confusable users](Importer::take_confusables).
    #[default]
    Warn,
    /// Reject the row.
    Refuse,
    /// Create the user without a check.
    Ignore,
}

/// Reports a user who was created with an address that is confusable with another user's.
///
/// It is displayed as
/// `line 3: ada@example.com: the address looks like that of the user 3fa2b1c4-…`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConfusableUser {
    /// The line of the file.
    pub line: u64,
    /// The address in the file.
    pub email: Email,
    /// The first user whose address it is confusable with.
    pub other: User,
}

impl fmt::Display for ConfusableUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {}: {}: {}",
            self.line,
            printable(self.email.as_str()),
            looks_like(&self.other)
        )
    }
}

fn looks_like(other: &User) -> String {
    format!("the address looks like that of the user {}", other.id)
}

impl Tally {
    fn count(&mut self, imported: Upserted) {
        match imported {
            Upserted::Created => self.created += 1,
            Upserted::Updated => self.updated += 1,
            Upserted::Unchanged => self.unchanged += 1,
            Upserted::Skipped => self.skipped += 1,
        }
    }
}

/// How many lines a reason names, as many as a person reads.
const LINES_NAMED_MAX: usize = 5;

/// Writes rows into a store and counts their outcomes.
///
/// With [`OnConflict::Update`] a row may want an address that another user still has and releases
/// in a later row. Such a row waits until [`finish`](Self::finish), and so do later rows about the
/// same users or addresses. So addresses can move along chains and be exchanged in cycles, of any
/// length and across chunks. Up to 32 MiB of rows wait, which is some 80,000 rows; more are
/// rejected.
///
/// After a transaction is rolled back, the counts and the rejected rows are wrong. Keep the
/// [tally](Self::tally) of the last committed transaction, and end the import.
///
/// # Examples
///
/// Two users exchange their addresses:
///
/// ```
/// use tenantry::{NewUser, OnConflict, Store};
/// use tenantry_exchange::{Error, Format, Importer, RowReader};
///
/// # let dir = tempfile::tempdir().unwrap();
/// # pollster::block_on(async {
/// let store = Store::open(dir.path().join("data")).await?;
/// let ada = store.create(NewUser::new("ada@example.com".parse()?)).await?;
/// let bob = store.create(NewUser::new("bob@example.com".parse()?)).await?;
/// let file = format!("id,email\n{},bob@example.com\n{},ada@example.com\n", ada.id, bob.id);
/// let chunk = RowReader::new(Format::Csv, file.as_bytes())?.next_chunk()?;
/// let importer = store
///     .write(|tx| {
///         let mut importer = Importer::new(OnConflict::Update);
///         importer.write(tx, chunk)?;
///         importer.finish(tx)?;
///         Ok::<_, Error>(importer)
///     })
///     .await?;
/// assert_eq!((importer.tally().updated, importer.tally().rejected), (2, 0));
/// # Ok::<_, Box<dyn std::error::Error>>(()) }).unwrap();
/// ```
#[derive(Debug)]
pub struct Importer {
    on_conflict: OnConflict,
    on_confusable: OnConfusable,
    /// Whether an ASCII address may be confusable: the store has a non-ASCII one.
    must_check_ascii: bool,
    tally: Tally,
    omissions: Omissions,
    waiting: Waiting,
    rejected: Vec<Rejection>,
    confusables: Vec<ConfusableUser>,
}

impl Importer {
    /// Creates an importer with nothing counted yet.
    #[must_use]
    pub fn new(on_conflict: OnConflict) -> Self {
        Self {
            on_conflict,
            on_confusable: OnConfusable::default(),
            must_check_ascii: false,
            tally: Tally::default(),
            omissions: Omissions::default(),
            waiting: Waiting::default(),
            rejected: Vec::new(),
            confusables: Vec::new(),
        }
    }

    /// Sets the treatment of a row whose address is confusable with another user's.
    #[must_use]
    pub fn on_confusable(self, on_confusable: OnConfusable) -> Self {
        Self { on_confusable, ..self }
    }

    /// Checks a chunk without a transaction or a store.
    ///
    /// # Errors
    ///
    /// [`Rejected`](Error::Rejected) for the first row that isn't a user, if the policy is
    /// [`OnConflict::Fail`].
    pub fn check(&self, chunk: &mut Chunk) -> Result<()> {
        match chunk.rows.iter().position(|row| row.user.is_err()) {
            Some(bad) if self.on_conflict == OnConflict::Fail => {
                let row = chunk.rows.swap_remove(bad);
                let reason =
                    row.user.as_ref().err().map(|bad| bad.reason.clone()).unwrap_or_default();
                Err(Error::Rejected(Box::new(Rejection {
                    row,
                    reason,
                    kind: ErrorKind::InvalidUser,
                })))
            }
            _ => Ok(()),
        }
    }

    /// Writes the rows of a chunk, each as [`WriteTx::upsert`] does.
    ///
    /// # Errors
    ///
    /// [`Rejected`](Error::Rejected) for the first rejected row, if the policy is
    /// [`OnConflict::Fail`]; [`Store`](Error::Store) for a failure that isn't one of a row. The
    /// transaction must then be rolled back.
    pub fn write(&mut self, tx: &mut WriteTx<'_>, chunk: Chunk) -> Result<()> {
        self.omissions = chunk.omissions;
        self.prepare_confusable_check(tx)?;
        for row in chunk.rows {
            match &row.user {
                Ok(user) if self.waiting.concerns(user) => self.wait(row, None)?,
                _ => self.import(tx, row, self.on_conflict == OnConflict::Update)?,
            }
        }
        Ok(())
    }

    /// Writes the rows that wait for others.
    ///
    /// Call it after the last chunk, in the same transaction or another one.
    ///
    /// Users who exchange addresses get them together or not at all. A row whose address is never
    /// released is rejected.
    ///
    /// # Errors
    ///
    /// As for [`write`](Self::write).
    pub fn finish(&mut self, tx: &mut WriteTx<'_>) -> Result<()> {
        self.prepare_confusable_check(tx)?;
        let mut order = Order::new(self.waiting.take());
        while let Some(step) =
            order.next(|email| tx.get_by_email(email).map(|user| user.map(|user| user.id)))?
        {
            match step {
                Step::One(row) => self.import(tx, *row, false)?,
                Step::Exchange(rows) => self.exchange(tx, rows)?,
            }
        }
        Ok(())
    }

    /// Prepares the check for confusable addresses in a new transaction: other writers may have
    /// added some since the last one.
    fn prepare_confusable_check(&mut self, tx: &WriteTx<'_>) -> Result<()> {
        self.must_check_ascii =
            self.on_confusable != OnConfusable::Ignore && tx.has_non_ascii_addresses()?;
        Ok(())
    }

    fn import(&mut self, tx: &mut WriteTx<'_>, row: Row, may_wait: bool) -> Result<()> {
        let user = match &row.user {
            Ok(user) => user,
            Err(bad) => {
                let (reason, kind) = (bad.reason.clone(), ErrorKind::InvalidUser);
                return self.reject(Rejection { row, reason, kind });
            }
        };
        self.must_check_ascii |=
            self.on_confusable != OnConfusable::Ignore && !is_ascii(&user.email);
        let alike = if self.must_check_ascii { confusable_with_new(tx, user)? } else { None };
        if let Some(other) = alike.as_ref().filter(|_| self.on_confusable == OnConfusable::Refuse) {
            let (reason, kind) = (looks_like(other), ErrorKind::EmailTaken);
            return self.reject(Rejection { row, reason, kind });
        }
        match tx.upsert(user, self.on_conflict) {
            Ok(imported) => {
                self.tally.count(imported);
                if let Some(other) = alike.filter(|_| imported == Upserted::Created) {
                    self.tally.confusables += 1;
                    self.confusables.push(ConfusableUser {
                        line: row.line,
                        email: user.email.clone(),
                        other,
                    });
                }
            }
            Err(error) if may_wait && error.kind() == ErrorKind::EmailTaken => {
                self.wait(row, Some(error))?
            }
            Err(error) if is_row_error(error.kind()) => {
                self.reject(Rejection { row, reason: error.to_string(), kind: error.kind() })?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Lets a row wait, because of a conflict or of a row that waits already.
    fn wait(&mut self, row: Row, conflict: Option<tenantry::Error>) -> Result<()> {
        let Err(row) = self.waiting.add(row) else { return Ok(()) };
        let reason = match conflict {
            Some(error) => format!("{error}; too many rows wait for their addresses"),
            None => "an earlier row about the same user or address waits, and too many rows wait"
                .to_owned(),
        };
        self.reject(Rejection { row: *row, reason, kind: ErrorKind::EmailTaken })
    }

    fn exchange(&mut self, tx: &mut WriteTx<'_>, rows: Vec<Row>) -> Result<()> {
        let users: Vec<NewUser> =
            rows.iter().filter_map(|row| row.user.as_ref().ok().cloned()).collect();
        match tx.upsert_exchange(&users) {
            Ok(imported) => imported.into_iter().for_each(|imported| self.tally.count(imported)),
            Err(error) if is_row_error(error.kind()) => {
                let mut lines: Vec<_> = rows.iter().map(|row| row.line).collect();
                lines.sort_unstable();
                let named: Vec<_> =
                    lines.iter().take(LINES_NAMED_MAX).map(u64::to_string).collect();
                let more = if lines.len() > LINES_NAMED_MAX { " and others" } else { "" };
                let named = named.join(", ");
                let reason = format!(
                    "{error}; the rows of lines {named}{more} exchange addresses, and none of them is imported"
                );
                for row in rows {
                    self.reject(Rejection { row, reason: reason.clone(), kind: error.kind() })?;
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Rejects the rows that wait, and returns their number. Call it if the import ends early.
    pub fn reject_waiting(&mut self) -> u64 {
        let rows = self.waiting.take();
        let count = rows.len() as u64;
        self.tally.rejected += count;
        let reason = "the import ended before the address was released";
        let kind = ErrorKind::EmailTaken;
        self.rejected.extend(rows.into_iter().map(|row| Rejection {
            row,
            reason: reason.to_owned(),
            kind,
        }));
        count
    }

    fn reject(&mut self, rejection: Rejection) -> Result<()> {
        if self.on_conflict == OnConflict::Fail {
            return Err(Error::Rejected(Box::new(rejection)));
        }
        self.tally.rejected += 1;
        self.rejected.push(rejection);
        Ok(())
    }

    /// Returns the counts so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Returns what of the file has been left out so far.
    #[must_use]
    pub fn omissions(&self) -> &Omissions {
        &self.omissions
    }

    /// Returns the rejected rows that weren't [taken](Self::take_rejected) yet.
    #[must_use]
    pub fn rejected(&self) -> &[Rejection] {
        &self.rejected
    }

    /// Takes the rejected rows, which otherwise accumulate in memory.
    pub fn take_rejected(&mut self) -> Vec<Rejection> {
        std::mem::take(&mut self.rejected)
    }

    /// Takes the created users with confusable addresses, which otherwise accumulate in memory.
    pub fn take_confusables(&mut self) -> Vec<ConfusableUser> {
        std::mem::take(&mut self.confusables)
    }
}

/// Returns whether an address is ASCII, and its domain is in Unicode too.
fn is_ascii(email: &Email) -> bool {
    let text = email.as_str();
    text.is_ascii() && !text.to_ascii_lowercase().contains("xn--")
}

/// Returns a user whose address is confusable with that of a new user; `None` if the user exists.
fn confusable_with_new(tx: &WriteTx<'_>, user: &NewUser) -> Result<Option<User>> {
    let mut alike = tx.confusables(&user.email)?;
    if alike.is_empty() || tx.get_by_email(&user.email)?.is_some() {
        return Ok(None);
    }
    match user.id {
        Some(id) if tx.get(id)?.is_some() => Ok(None),
        _ => Ok(Some(alike.swap_remove(0))),
    }
}

/// Returns whether an error concerns one row, so that the import can go on with the next.
fn is_row_error(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::EmailTaken
            | ErrorKind::IdTaken
            | ErrorKind::PathTaken
            | ErrorKind::VersionMismatch { .. }
            | ErrorKind::Immutable
            | ErrorKind::NotEmpty
            | ErrorKind::Exists
            | ErrorKind::Constraint
            | ErrorKind::InvalidEmail
            | ErrorKind::InvalidId
            | ErrorKind::InvalidPath
            | ErrorKind::InvalidTimestamp
            | ErrorKind::InvalidUser
    )
}
