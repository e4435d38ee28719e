//! Counts what SQLite writes and how often it waits for the disk, through a VFS that passes
//! everything on to the usual one.
//!
//! SQLite calls a file's methods through a table that the file points to. So this VFS opens files
//! as the usual one does and then points them to a copy of their table in which two methods count
//! first.
#![allow(unsafe_code, reason = "a VFS can't be written otherwise")]

use std::ffi::{c_int, c_void};
use std::ops::Sub;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tenantry::sqlite::rusqlite::ffi;

/// How often SQLite wrote to the files of one kind, and waited for the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) writes_of_database: u64,
    pub(crate) syncs_of_database: u64,
    pub(crate) writes_of_log: u64,
    pub(crate) syncs_of_log: u64,
}

static WRITES: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static SYNCS: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
const DATABASE: usize = 0;
const LOG: usize = 1;

/// The usual methods of a file, and the same with two that count. The log, which nobody locks, has
/// others than the database.
struct Methods {
    usual: &'static ffi::sqlite3_io_methods,
    counting: ffi::sqlite3_io_methods,
}

static METHODS: [OnceLock<Methods>; 2] = [const { OnceLock::new() }; 2];

impl Disk {
    /// From now on what is opened is counted. May be called again.
    pub(crate) fn watch() {
        static WATCHED: OnceLock<()> = OnceLock::new();
        WATCHED.get_or_init(|| {
            // SAFETY: the usual VFS lives for good and so does the copy. Its methods find what is
            // theirs in the copy, but for `xOpen`, which gets the usual one.
            unsafe {
                let usual = ffi::sqlite3_vfs_find(std::ptr::null());
                let mut counting = *usual;
                counting.zName = c"counting".as_ptr();
                counting.pNext = std::ptr::null_mut();
                counting.pAppData = usual.cast();
                counting.xOpen = Some(open);
                assert_eq!(
                    ffi::sqlite3_vfs_register(Box::leak(Box::new(counting)), 1),
                    ffi::SQLITE_OK
                );
            }
        });
    }

    pub(crate) fn now() -> Self {
        let [of_database, of_log] = [DATABASE, LOG]
            .map(|kind| [&WRITES[kind], &SYNCS[kind]].map(|count| count.load(Ordering::SeqCst)));
        Self {
            writes_of_database: of_database[0],
            syncs_of_database: of_database[1],
            writes_of_log: of_log[0],
            syncs_of_log: of_log[1],
        }
    }
}

impl Sub for Disk {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            writes_of_database: self.writes_of_database - before.writes_of_database,
            syncs_of_database: self.syncs_of_database - before.syncs_of_database,
            writes_of_log: self.writes_of_log - before.writes_of_log,
            syncs_of_log: self.syncs_of_log - before.syncs_of_log,
        }
    }
}

unsafe extern "C" fn open(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite's arguments are passed on as they are, with the VFS that they are for. A file
    // that was opened points to its methods, which the usual VFS never changes.
    unsafe {
        let usual = (*vfs).pAppData.cast::<ffi::sqlite3_vfs>();
        let code = ((*usual).xOpen.unwrap())(usual, name, file, flags, out_flags);
        if code == ffi::SQLITE_OK && flags & ffi::SQLITE_OPEN_MAIN_DB != 0 {
            count::<DATABASE>(file);
        } else if code == ffi::SQLITE_OK && flags & ffi::SQLITE_OPEN_WAL != 0 {
            count::<LOG>(file);
        }
        code
    }
}

/// Points a file that was opened to the methods that count.
unsafe fn count<const KIND: usize>(file: *mut ffi::sqlite3_file) {
    // SAFETY: the usual VFS has pointed it to methods that never change.
    unsafe {
        let usual = &*(*file).pMethods;
        let counting = ffi::sqlite3_io_methods {
            xWrite: Some(write::<KIND>),
            xSync: Some(sync::<KIND>),
            ..*usual
        };
        let methods = METHODS[KIND].get_or_init(|| Methods { usual, counting });
        assert!(std::ptr::eq(methods.usual, usual), "two files of one kind have different methods");
        (*file).pMethods = &raw const methods.counting;
    }
}

fn usual<const KIND: usize>() -> &'static ffi::sqlite3_io_methods {
    METHODS[KIND].get().unwrap().usual
}

unsafe extern "C" fn write<const KIND: usize>(
    file: *mut ffi::sqlite3_file,
    from: *const c_void,
    length: c_int,
    at: ffi::sqlite3_int64,
) -> c_int {
    WRITES[KIND].fetch_add(1, Ordering::SeqCst);
    // SAFETY: SQLite's arguments, passed on as they are.
    unsafe { (usual::<KIND>().xWrite.unwrap())(file, from, length, at) }
}

unsafe extern "C" fn sync<const KIND: usize>(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    SYNCS[KIND].fetch_add(1, Ordering::SeqCst);
    // SAFETY: SQLite's arguments, passed on as they are.
    unsafe { (usual::<KIND>().xSync.unwrap())(file, flags) }
}
