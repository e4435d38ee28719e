//! Functions that the store's own statements call.

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, c_int};

use rusqlite::functions::FunctionFlags;
use rusqlite::{Connection, ffi};

use super::rows::skeleton_of_key;
use crate::Result;
use crate::domain::search_text::{Needle, shown};

/// The key of an address as people read it, its labels in Unicode.
pub(super) const SHOWN: &str = "tenantry_shown";
/// The skeleton of a key, or NULL if the key as people read it is ASCII. The migration to schema
/// version 3 calls it.
const SKELETON: &str = "tenantry_skeleton";

/// Whether the address of a row has to be inspected further in the [`Step`] of this thread: because
/// it may hold the fragment that is searched for, or because the step ends with this row.
pub(super) const IS_CANDIDATE: &str = "tenantry_is_candidate";
/// The same for SQLite.
const IS_CANDIDATE_NAME: &CStr = c"tenantry_is_candidate";
/// Whether the [`Step`] of this thread ends with the row that was inspected last.
pub(super) const IS_LAST: &str = "tenantry_is_last";
thread_local! {
    /// The step that runs on this thread, if one does. As an argument of the function, the needle
    /// would cost two atomic operations a row, a tenth of a search.
    static STEP: RefCell<Option<Step>> = const { RefCell::new(None) };
}

/// A number of rows that one statement inspects.
struct Step {
    needle: Option<Needle>,
    rows_left: Cell<usize>,
}

impl Step {
    fn is_candidate(&self, address: &[u8]) -> bool {
        let left = self.rows_left.get().saturating_sub(1);
        self.rows_left.set(left);
        left == 0 || self.needle.as_ref().is_none_or(|needle| needle.may_be_in(address))
    }
}

/// The step of this thread, which ends when this is dropped.
pub(super) struct RunningStep;

impl RunningStep {
    /// Begins a step that inspects at most so many rows, more than one, for this needle.
    pub(super) fn begin(needle: Option<Needle>, rows: usize) -> Self {
        STEP.set(Some(Step { needle, rows_left: Cell::new(rows) }));
        Self
    }

    /// Returns whether the step ends with the row that was inspected last.
    pub(super) fn is_last(&self) -> bool {
        is_last()
    }
}

impl Drop for RunningStep {
    fn drop(&mut self) {
        STEP.set(None);
    }
}

fn is_last() -> bool {
    STEP.with_borrow(|step| step.as_ref().is_some_and(|step| step.rows_left.get() == 0))
}

/// Makes the functions known to a connection.
pub(super) fn register(conn: &Connection) -> Result<()> {
    // No schema may call it: other programs that read the database don't have it.
    let flags = FunctionFlags::SQLITE_UTF8
        | FunctionFlags::SQLITE_DETERMINISTIC
        | FunctionFlags::SQLITE_DIRECTONLY;
    conn.create_scalar_function(SHOWN, 1, flags, |context| {
        let key = context.get_raw(0).as_str()?;
        Ok(shown(key).into_owned())
    })?;
    conn.create_scalar_function(SKELETON, 1, flags, |context| {
        let key = context.get_raw(0).as_str()?;
        Ok(skeleton_of_key(key))
    })?;
    // They depend on the step, so they aren't deterministic.
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DIRECTONLY;
    register_is_candidate(conn)?;
    conn.create_scalar_function(IS_LAST, 0, flags, |_| Ok(is_last()))?;
    Ok(())
}

/// Makes [`IS_CANDIDATE`] known, without rusqlite: SQLite calls it for each row that a search
/// inspects, and to hand over the address would take longer than to search it.
#[allow(unsafe_code, reason = "rusqlite has no function that is called as cheaply")]
fn register_is_candidate(conn: &Connection) -> Result<()> {
    let flags = ffi::SQLITE_UTF8 | ffi::SQLITE_DIRECTONLY;
    // SAFETY: the handle belongs to a connection that is borrowed. The name ends with a zero, there
    // are no data to be freed, and the function is one that SQLite may call at any time.
    let code = unsafe {
        ffi::sqlite3_create_function_v2(
            conn.handle(),
            IS_CANDIDATE_NAME.as_ptr(),
            1,
            flags,
            std::ptr::null_mut(),
            Some(is_candidate),
            None,
            None,
            None,
        )
    };
    if code == ffi::SQLITE_OK {
        Ok(())
    } else {
        Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None).into())
    }
}

/// Returns 1 for a candidate, and NULL, which isn't true either, for any other row.
#[allow(unsafe_code, reason = "SQLite calls it")]
unsafe extern "C" fn is_candidate(
    context: *mut ffi::sqlite3_context,
    _: c_int,
    arguments: *mut *mut ffi::sqlite3_value,
) {
    // SAFETY: SQLite calls this with one argument, as it was registered. The text is as long as it
    // says, in that order of the calls (<https://sqlite.org/c3ref/value_blob.html>), and lives
    // until this returns.
    let address = unsafe {
        let value = *arguments;
        let text = ffi::sqlite3_value_text(value);
        let length = usize::try_from(ffi::sqlite3_value_bytes(value)).unwrap_or(0);
        if text.is_null() { &[][..] } else { std::slice::from_raw_parts(text, length) }
    };
    // Nothing here panics, which would end the process.
    let is_candidate = STEP.try_with(|step| match step.try_borrow().as_deref() {
        Ok(Some(step)) => step.is_candidate(address),
        _ => true,
    });
    if is_candidate.unwrap_or(true) {
        // SAFETY: the context is SQLite's, and lives until this returns.
        unsafe { ffi::sqlite3_result_int(context, 1) };
    }
}
