//! Lists the statements that a connection runs, through SQLite's own tracing
//! (<https://sqlite.org/c3ref/trace_v2.html>).
#![allow(unsafe_code, reason = "rusqlite's feature for this would be turned on in the product too")]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::mem;
use std::sync::Mutex;

use tenantry::ReadTx;
use tenantry::sqlite::{self, rusqlite::ffi};

/// The statements of one connection, from now on.
pub(crate) struct Statements {
    ran: &'static Mutex<Vec<String>>,
}

impl Statements {
    pub(crate) fn of(tx: &ReadTx<'_>) -> Self {
        // The connection may outlive every test.
        let ran: &'static Mutex<Vec<String>> = Box::leak(Box::default());
        let list = std::ptr::from_ref(ran).cast_mut().cast::<c_void>();
        // SAFETY: the handle is good for as long as the transaction, and what SQLite gets lives for
        // good.
        let code = unsafe {
            let db = sqlite::connection(tx).handle();
            ffi::sqlite3_trace_v2(db, ffi::SQLITE_TRACE_STMT as c_uint, Some(record), list)
        };
        assert_eq!(code, ffi::SQLITE_OK);
        Self { ran }
    }

    /// What was run since the last time.
    pub(crate) fn take(&self) -> Vec<String> {
        mem::take(&mut self.ran.lock().unwrap())
    }
}

unsafe extern "C" fn record(
    _: c_uint,
    list: *mut c_void,
    _: *mut c_void,
    sql: *mut c_void,
) -> c_int {
    // SAFETY: the list is the leaked one, and SQLite says that the text of a statement is text.
    let (list, sql) =
        unsafe { (&*list.cast::<Mutex<Vec<String>>>(), CStr::from_ptr(sql.cast::<c_char>())) };
    list.lock().unwrap().push(sql.to_string_lossy().into_owned());
    0
}
