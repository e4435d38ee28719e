//! Rows on their way into the store.

use std::fmt;
use std::io::{self, Write};

use tenantry::{Email, ErrorKind, Imported, NewUser, OnConflict, User, WriteTx};

use crate::error::of_csv;
use crate::waiting::{Order, Step, Waiting};
use crate::{Chunk, Error, PassedOver, Rejection, Result, Row, csv_safe, printable};

/// What has become of the rows of an import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tally {
    /// Users who were created.
    pub created: u64,
    /// Users who were there and were changed.
    pub updated: u64,
    /// Users who were there with the row's values already.
    pub unchanged: u64,
    /// Users who were there and were left as they are.
    pub skipped: u64,
    /// Rows that were rejected.
    pub rejected: u64,
    /// Users among the created whose addresses look like those of others.
    pub look_alikes: u64,
}

/// What to do with a row that creates a user whose address looks like that of another one, as
/// [`Store::look_alikes`](tenantry::Store::look_alikes) finds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLookAlike {
    /// Create the user, and keep the row among the [look-alikes](Importer::take_look_alikes).
    #[default]
    Warn,
    /// Reject the row.
    Refuse,
    /// Don't look.
    Ignore,
}

/// A user who was created though their address looks like that of another one.
///
/// It is written as `line 3: ada@example.com: the address looks like that of the user 3fa2b1c4-…`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LookAlike {
    /// The line of the file.
    pub line: u64,
    /// The address in the file.
    pub email: Email,
    /// The first of those whom it looks like.
    pub other: User,
}

impl fmt::Display for LookAlike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}: {}", self.line, printable(self.email.as_str()), looks_like(&self.other))
    }
}

fn looks_like(other: &User) -> String {
    format!("the address looks like that of the user {}", other.id)
}

impl Tally {
    fn count(&mut self, imported: Imported) {
        match imported {
            Imported::Created => self.created += 1,
            Imported::Updated => self.updated += 1,
            Imported::Unchanged => self.unchanged += 1,
            Imported::Skipped => self.skipped += 1,
        }
    }
}

/// How many lines a reason names; more of them help nobody.
const LINES_NAMED_MAX: usize = 5;

/// Writes rows into a store and counts what becomes of them.
///
/// With [`OnConflict::Update`] a row may want an address that somebody else still has, who gives it
/// up in a later row. Such rows wait, and so do later ones about the same users or addresses, until
/// [`finish`](Self::finish): addresses can be passed on in chains and exchanged in circles, of any
/// length and across chunks. Up to 32 MiB of rows wait, which is some 80,000; beyond that they are
/// rejected.
///
/// A transaction that is undone leaves counts and rejected rows behind that aren't true. Keep the
/// [tally](Self::tally) of the last one that was committed, and end the import.
///
/// # Examples
///
/// See [the crate](crate).
#[derive(Debug)]
pub struct Importer {
    on_conflict: OnConflict,
    on_look_alike: OnLookAlike,
    /// Whether an address of ASCII may look like another one.
    must_look: bool,
    tally: Tally,
    passed_over: PassedOver,
    waiting: Waiting,
    rejected: Vec<Rejection>,
    look_alikes: Vec<LookAlike>,
}

impl Importer {
    /// Creates an importer with nothing counted yet.
    #[must_use]
    pub fn new(on_conflict: OnConflict) -> Self {
        Self {
            on_conflict,
            on_look_alike: OnLookAlike::default(),
            must_look: false,
            tally: Tally::default(),
            passed_over: PassedOver::default(),
            waiting: Waiting::default(),
            rejected: Vec::new(),
            look_alikes: Vec::new(),
        }
    }

    /// Sets what is done with a row whose address looks like that of another user.
    #[must_use]
    pub fn on_look_alike(self, on_look_alike: OnLookAlike) -> Self {
        Self { on_look_alike, ..self }
    }

    /// Checks a chunk before there is a transaction, or a store.
    ///
    /// # Errors
    ///
    /// `Rejected` for the first row that is no user if the policy is [`OnConflict::Fail`].
    pub fn check(&self, chunk: &mut Chunk) -> Result<()> {
        match chunk.rows.iter().position(|row| row.user.is_err()) {
            Some(bad) if self.on_conflict == OnConflict::Fail => {
                let row = chunk.rows.swap_remove(bad);
                let reason = row.user.as_ref().err().map(|bad| bad.reason.clone()).unwrap_or_default();
                Err(Error::Rejected(Box::new(Rejection { row, reason, kind: ErrorKind::InvalidUser })))
            }
            _ => Ok(()),
        }
    }

    /// Writes the rows of a chunk, each as [`WriteTx::import`] does.
    ///
    /// # Errors
    ///
    /// `Rejected` for the first row that is rejected if the policy is [`OnConflict::Fail`]; `Store`
    /// for a failure that isn't one of the row. The transaction must be undone then.
    pub fn write(&mut self, tx: &mut WriteTx<'_>, chunk: Chunk) -> Result<()> {
        self.passed_over = chunk.passed_over;
        self.prepare_to_look(tx)?;
        for row in chunk.rows {
            match &row.user {
                Ok(user) if self.waiting.concerns(user) => self.wait(row, None)?,
                _ => self.import(tx, row, self.on_conflict == OnConflict::Update)?,
            }
        }
        Ok(())
    }

    /// Writes the rows that wait for others. Call it after the last chunk, in its transaction or
    /// another one.
    ///
    /// Users who exchange addresses get them together or not at all. A row whose address isn't free
    /// in the end is rejected.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write).
    pub fn finish(&mut self, tx: &mut WriteTx<'_>) -> Result<()> {
        self.prepare_to_look(tx)?;
        let mut order = Order::new(self.waiting.take());
        while let Some(step) = order.next(|email| tx.get_by_email(email).map(|user| user.map(|user| user.id)))? {
            match step {
                Step::One(row) => self.import(tx, *row, false)?,
                Step::Exchange(rows) => self.exchange(tx, rows)?,
            }
        }
        Ok(())
    }

    /// Begins a transaction: others may have written since the last one.
    fn prepare_to_look(&mut self, tx: &WriteTx<'_>) -> Result<()> {
        self.must_look = self.on_look_alike != OnLookAlike::Ignore && tx.has_non_ascii_addresses()?;
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
        self.must_look |= self.on_look_alike != OnLookAlike::Ignore && !is_plain(&user.email);
        let alike = if self.must_look { look_alike_of_new(tx, user)? } else { None };
        if let Some(other) = alike.as_ref().filter(|_| self.on_look_alike == OnLookAlike::Refuse) {
            let (reason, kind) = (looks_like(other), ErrorKind::EmailTaken);
            return self.reject(Rejection { row, reason, kind });
        }
        match tx.import(user, self.on_conflict) {
            Ok(imported) => {
                self.tally.count(imported);
                if let Some(other) = alike.filter(|_| imported == Imported::Created) {
                    self.tally.look_alikes += 1;
                    self.look_alikes.push(LookAlike { line: row.line, email: user.email.clone(), other });
                }
            }
            Err(error) if may_wait && error.kind() == ErrorKind::EmailTaken => self.wait(row, Some(error))?,
            Err(error) if is_of_row(error.kind()) => {
                self.reject(Rejection { row, reason: error.to_string(), kind: error.kind() })?;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Has a row wait, because of a conflict or of a row that waits already.
    fn wait(&mut self, row: Row, conflict: Option<tenantry::Error>) -> Result<()> {
        let Err(row) = self.waiting.add(row) else { return Ok(()) };
        let reason = match conflict {
            Some(error) => format!("{error}; more rows wait for their addresses than can be kept"),
            None => "a row before it about the same user or address waits, and more can't be kept".to_owned(),
        };
        self.reject(Rejection { row: *row, reason, kind: ErrorKind::EmailTaken })
    }

    fn exchange(&mut self, tx: &mut WriteTx<'_>, rows: Vec<Row>) -> Result<()> {
        let users: Vec<NewUser> = rows.iter().filter_map(|row| row.user.as_ref().ok().cloned()).collect();
        match tx.import_exchange(&users) {
            Ok(imported) => imported.into_iter().for_each(|imported| self.tally.count(imported)),
            Err(error) if is_of_row(error.kind()) => {
                let mut lines: Vec<_> = rows.iter().map(|row| row.line).collect();
                lines.sort_unstable();
                let named: Vec<_> = lines.iter().take(LINES_NAMED_MAX).map(u64::to_string).collect();
                let more = if lines.len() > LINES_NAMED_MAX { " and others" } else { "" };
                let named = named.join(", ");
                let reason =
                    format!("{error}; of the rows of lines {named}{more}, which exchange addresses, none is imported");
                for row in rows {
                    self.reject(Rejection { row, reason: reason.clone(), kind: error.kind() })?;
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Rejects the rows that wait, because the import ends before its time, and returns how many
    /// there were.
    pub fn give_up(&mut self) -> u64 {
        let rows = self.waiting.take();
        let count = rows.len() as u64;
        self.tally.rejected += count;
        let reason = "the import ended before the address was free";
        let kind = ErrorKind::EmailTaken;
        self.rejected.extend(rows.into_iter().map(|row| Rejection { row, reason: reason.to_owned(), kind }));
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

    /// Returns what has become of the rows so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Returns what of the file was passed over so far.
    #[must_use]
    pub fn passed_over(&self) -> &PassedOver {
        &self.passed_over
    }

    /// Returns the rows that were rejected and not [taken](Self::take_rejected) yet.
    #[must_use]
    pub fn rejected(&self) -> &[Rejection] {
        &self.rejected
    }

    /// Takes the rows that were rejected, so that they don't pile up in memory.
    pub fn take_rejected(&mut self) -> Vec<Rejection> {
        std::mem::take(&mut self.rejected)
    }

    /// Takes the users who were created though they look like others, so that they don't pile up in
    /// memory.
    pub fn take_look_alikes(&mut self) -> Vec<LookAlike> {
        std::mem::take(&mut self.look_alikes)
    }
}

/// Whether an address is of ASCII, in its domain as people read it too.
fn is_plain(email: &Email) -> bool {
    let text = email.as_str();
    text.is_ascii() && !text.to_ascii_lowercase().contains("xn--")
}

/// Returns a user who looks like this one, unless this one exists already.
fn look_alike_of_new(tx: &WriteTx<'_>, user: &NewUser) -> Result<Option<User>> {
    let mut alike = tx.look_alikes(&user.email)?;
    if alike.is_empty() || tx.get_by_email(&user.email)?.is_some() {
        return Ok(None);
    }
    match user.id {
        Some(id) if tx.get(id)?.is_some() => Ok(None),
        _ => Ok(Some(alike.swap_remove(0))),
    }
}

/// Whether a failure is of a row, so that the next row can be imported all the same.
fn is_of_row(kind: ErrorKind) -> bool {
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

/// Writes the rows that were rejected as CSV with the columns `line`, `reason` and `row`: the
/// object of JSON, or the fields of a CSV file as they were there.
///
/// A row that a spreadsheet would run as a formula has an apostrophe before it, unless it has one
/// in the file. An import takes it off again, so the rows can be put below the header of their file
/// and imported.
pub struct RejectsWriter<W: Write> {
    csv: csv::Writer<W>,
}

impl<W: Write> RejectsWriter<W> {
    /// Begins a file with its header.
    ///
    /// # Errors
    ///
    /// Those of `writer`.
    pub fn new(writer: W) -> io::Result<Self> {
        let mut rejects = Self { csv: csv::Writer::from_writer(writer) };
        rejects.record(["line", "reason", "row"])?;
        Ok(rejects)
    }

    /// Writes one row.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn write(&mut self, rejection: &Rejection) -> io::Result<()> {
        let line = rejection.row.line.to_string();
        let reason = match rejection.row.element {
            Some(element) => format!("element {element}: {}", rejection.reason),
            None => rejection.reason.clone(),
        };
        let original = rejection.row.original();
        let original = String::from_utf8_lossy(&original);
        // With one more apostrophe, another would be left when the row is imported.
        let row = if original.starts_with('\'') { original } else { csv_safe(&original).into_owned().into() };
        self.record([&line, &csv_safe(&reason), &row])
    }

    fn record(&mut self, fields: [&str; 3]) -> io::Result<()> {
        self.csv.write_record(fields).map_err(of_csv)
    }

    /// Ends the file, flushes it and returns the writer.
    ///
    /// # Errors
    ///
    /// Those of the writer.
    pub fn finish(self) -> io::Result<W> {
        let mut writer = self.csv.into_inner().map_err(csv::IntoInnerError::into_error)?;
        writer.flush()?;
        Ok(writer)
    }
}
