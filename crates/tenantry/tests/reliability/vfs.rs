//! A VFS beneath SQLite that passes through to that of the system, and for directories that were
//! registered with it records what happens to the files, and fails what it is told to.
//!
//! Not all that happens to a store's files goes through SQLite: `open.rs` makes the database under
//! another name, renames it and has the directory on the disk. So this binary also stands in for
//! the C library's `fsync`, `rename` and `unlink` (the linker takes the ones here), which record
//! and fail in the same way. What the store does to its directories by system calls of its own
//! isn't seen.

#![allow(unsafe_code, reason = "SQLite's interface to the system is one of C")]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::fs;
use std::mem;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError, RwLock};

use tenantry::sqlite::rusqlite::ffi;

/// What happened to the files of a directory, or beside them, in the order in which it did.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    Create {
        name: String,
        file: u32,
    },
    Write {
        file: u32,
        offset: usize,
        data: Vec<u8>,
    },
    Truncate {
        file: u32,
        len: usize,
    },
    /// What was done to the file before the event of this number is on the disk.
    Sync {
        file: u32,
        before: usize,
    },
    /// It may be or not, and the system takes it for written.
    SyncFailed {
        file: u32,
        before: usize,
    },
    Rename {
        from: String,
        to: String,
    },
    Remove {
        name: String,
    },
    /// The names in this directory are on the disk.
    SyncDir {
        dir: String,
        before: usize,
    },
    /// An operation ran on the writer's thread.
    Ran,
    /// A caller got a result.
    Answered,
    /// `storage/` has its marker, seen from here for the first time.
    Marked,
}

/// What can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Read,
    Write,
    Sync,
    Truncate,
    Open,
    /// A write to the database file itself, which counts as a write too.
    WriteOfDatabase,
    /// The same of a sync.
    SyncOfDatabase,
}

/// The failure that is to come.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    /// Which one from now on, counted from 0.
    pub(crate) nth: u64,
    /// Whether those after it fail too.
    pub(crate) for_good: bool,
    /// SQLite's code. `SQLITE_OK` if nobody is told of it.
    pub(crate) code: c_int,
}

/// A directory whose files are watched.
pub(crate) struct Disk {
    dir: PathBuf,
    /// What was there before the first event.
    pub(crate) base: BTreeMap<String, Vec<u8>>,
    state: Mutex<State>,
    hold: Mutex<Hold>,
    hold_changed: Condvar,
}

/// Where a thread is to be held up, so that others can do something in the middle of what it does.
#[derive(Default)]
struct Hold {
    /// Before what, of the database file.
    kind: Option<Kind>,
    /// How many go through before it.
    left: u64,
    is_held: bool,
}

#[derive(Default)]
struct State {
    names: BTreeMap<String, u32>,
    next_file: u32,
    is_recording: bool,
    is_marked: bool,
    record: Vec<Event>,
    fault: Option<Fault>,
    fired: u64,
    counts: BTreeMap<Kind, u64>,
}

/// The directories that are watched.
static DISKS: RwLock<Vec<Arc<Disk>>> = RwLock::new(Vec::new());

thread_local! {
    /// Whether the thread is in a function of the system's VFS, which has its own names for what
    /// the C library does.
    static IN_VFS: Cell<bool> = const { Cell::new(false) };
}

/// A directory that is watched for as long as this lives.
pub(crate) struct Watched(Arc<Disk>);

impl std::ops::Deref for Watched {
    type Target = Arc<Disk>;

    fn deref(&self) -> &Arc<Disk> {
        &self.0
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        DISKS.write().unwrap().retain(|disk| !Arc::ptr_eq(disk, &self.0));
    }
}

impl Disk {
    /// Watches a directory, whose files nobody has open yet. `record` what happens to them, if that
    /// is wanted.
    pub(crate) fn watch(dir: &Path, record: bool) -> Watched {
        register_vfs();
        let mut state = State { is_recording: record, ..State::default() };
        let mut base = BTreeMap::new();
        for entry in fs::read_dir(dir).into_iter().flatten().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            if entry.file_type().unwrap().is_file() && name.starts_with("tenantry.db") {
                base.insert(name, fs::read(entry.path()).unwrap());
            }
        }
        // They have the first numbers, in the order of their names.
        state.next_file = u32::try_from(base.len()).unwrap();
        state.names = base.keys().cloned().zip(0..).collect();
        let (hold, hold_changed) = (Mutex::default(), Condvar::new());
        let disk = Arc::new(Self {
            dir: dir.to_owned(),
            base,
            state: Mutex::new(state),
            hold,
            hold_changed,
        });
        DISKS.write().unwrap().push(Arc::clone(&disk));
        Watched(disk)
    }

    /// Adds something to the record, and returns its number.
    pub(crate) fn note(&self, event: Event) -> usize {
        let mut state = self.lock();
        self.record(&mut state, event)
    }

    /// Looks at what was recorded so far.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&[Event]) -> T) -> T {
        look(&self.lock().record)
    }

    /// The number of the file that has this name, if there is one.
    pub(crate) fn number_of(&self, name: &str) -> Option<u32> {
        self.lock().names.get(name).copied()
    }

    /// Takes out what was recorded.
    pub(crate) fn take_record(&self) -> Vec<Event> {
        mem::take(&mut self.lock().record)
    }

    /// Has something fail, or nothing any more. Begins to count anew.
    pub(crate) fn plan(&self, fault: Option<Fault>) {
        let mut state = self.lock();
        state.fault = fault;
        state.fired = 0;
        state.counts.clear();
    }

    /// How many failed since the last plan.
    pub(crate) fn fired(&self) -> u64 {
        self.lock().fired
    }

    /// Holds up whoever comes to the n-th write or sync of the database file from now on, until it
    /// is released.
    pub(crate) fn hold_up(&self, kind: Kind, nth: u64) {
        *self.lock_hold() = Hold { kind: Some(kind), left: nth, is_held: false };
    }

    pub(crate) fn wait_until_held(&self) {
        let mut hold = self.lock_hold();
        while !hold.is_held {
            hold = self.hold_changed.wait(hold).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(crate) fn is_held(&self) -> bool {
        self.lock_hold().is_held
    }

    /// Lets go who is held up, and all who come later.
    pub(crate) fn release(&self) {
        *self.lock_hold() = Hold::default();
        self.hold_changed.notify_all();
    }

    fn lock_hold(&self) -> MutexGuard<'_, Hold> {
        self.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a thread is held up that is to be. The state isn't locked by it.
    fn pass_hold(&self, kind: Kind, file: u32) {
        if !self.lock().is_database(file) {
            return;
        }
        let mut hold = self.lock_hold();
        if hold.kind != Some(kind) {
            return;
        }
        if hold.left > 0 {
            hold.left -= 1;
            return;
        }
        hold.kind = None;
        hold.is_held = true;
        self.hold_changed.notify_all();
        while hold.is_held {
            hold = self.hold_changed.wait(hold).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, state: &mut State, event: Event) -> usize {
        if state.is_recording {
            if !state.is_marked && self.dir.join("storage/.tenantry-store").exists() {
                state.is_marked = true;
                state.record.push(Event::Marked);
            }
            state.record.push(event);
        }
        state.record.len()
    }

    /// Counts one of a kind, and returns the code with which it is to fail.
    fn meet(&self, state: &mut State, kind: Kind) -> Option<c_int> {
        let count = state.counts.entry(kind).or_default();
        let number = *count;
        *count += 1;
        let fault = state.fault.filter(|fault| fault.kind == kind)?;
        let is_due = if fault.for_good { number >= fault.nth } else { number == fault.nth };
        is_due.then(|| {
            state.fired += 1;
            fault.code
        })
    }

    /// The same of one that counts by itself too if it is of the database file.
    fn meet_in(
        &self,
        state: &mut State,
        kind: Kind,
        of_database: Kind,
        file: u32,
    ) -> Option<c_int> {
        let code = self.meet(state, kind);
        let of_database =
            if state.is_database(file) { self.meet(state, of_database) } else { None };
        code.or(of_database)
    }

    /// The number of the file that has this name, which it gets if it hasn't one.
    fn file_of(&self, state: &mut State, name: &str) -> u32 {
        if let Some(file) = state.names.get(name) {
            return *file;
        }
        let file = state.next_file;
        state.next_file += 1;
        state.names.insert(name.to_owned(), file);
        self.record(state, Event::Create { name: name.to_owned(), file });
        file
    }

    fn removed(&self, name: &str) {
        let mut state = self.lock();
        if state.names.remove(name).is_some() {
            self.record(&mut state, Event::Remove { name: name.to_owned() });
        }
    }

    /// Syncs, with what was done before it on the disk, or not.
    fn sync(
        &self,
        file: Option<u32>,
        event: impl FnOnce(usize, bool) -> Event,
        sync: impl FnOnce() -> c_int,
        failure: Failure,
    ) -> c_int {
        // Others may go on to write meanwhile: that isn't covered.
        let (before, code) = {
            let mut state = self.lock();
            let code = match file {
                Some(file) => self.meet_in(&mut state, Kind::Sync, Kind::SyncOfDatabase, file),
                None => self.meet(&mut state, Kind::Sync),
            };
            (state.record.len(), code)
        };
        let code = code.map_or_else(sync, |code| match failure {
            Failure::Code => code,
            Failure::Errno => {
                set_errno(libc::EIO);
                -1
            }
        });
        self.note(event(before, code == 0));
        code
    }
}

impl State {
    fn is_database(&self, file: u32) -> bool {
        self.names.get("tenantry.db") == Some(&file)
    }
}

/// How a function tells that it failed.
enum Failure {
    Code,
    Errno,
}

/// The watched directory that a path lies in, and the path from there.
fn disk_of(path: &Path) -> Option<(Arc<Disk>, String)> {
    let disks = DISKS.read().unwrap_or_else(PoisonError::into_inner);
    disks.iter().find_map(|disk| {
        let name = path.strip_prefix(&disk.dir).ok()?.to_str()?;
        Some((Arc::clone(disk), name.to_owned()))
    })
}

/// # Safety
///
/// `path` is a C string, or null.
unsafe fn path_of<'p>(path: *const c_char) -> Option<&'p Path> {
    // SAFETY: as the caller promises.
    (!path.is_null())
        .then(|| Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(path) }.to_bytes())))
}

fn set_errno(errno: c_int) {
    // SAFETY: the location is that of this thread.
    unsafe { *libc::__errno_location() = errno }
}

/// Runs a function of the system's VFS.
fn in_vfs<T>(call: impl FnOnce() -> T) -> T {
    let was = IN_VFS.replace(true);
    let result = call();
    IN_VFS.set(was);
    result
}

/// A file of ours as SQLite sees it; that of the system's VFS lies behind it.
#[repr(C)]
struct File {
    base: ffi::sqlite3_file,
    disk: *const Disk,
    number: u32,
}

/// Where the file of the system's VFS begins.
const REAL: usize = mem::size_of::<File>().next_multiple_of(16);

/// # Safety
///
/// `file` is one that `x_open` has filled.
unsafe fn real(file: *mut ffi::sqlite3_file) -> *mut ffi::sqlite3_file {
    // SAFETY: szOsFile is large enough for both.
    unsafe { file.cast::<u8>().add(REAL).cast() }
}

/// # Safety
///
/// `file` is one that `x_open` has filled and that isn't closed.
unsafe fn disk<'f>(file: *mut ffi::sqlite3_file) -> (&'f Disk, u32) {
    // SAFETY: `disk` was made by `Arc::into_raw` and is given back by `x_close`.
    unsafe { (&*(*file.cast::<File>()).disk, (*file.cast::<File>()).number) }
}

/// Calls a method of the file of the system's VFS.
macro_rules! pass {
    ($file:expr, $method:ident $(, $argument:expr)*) => {{
        // SAFETY: SQLite calls the methods of a file only while it is open, with the arguments that
        // they are to get, and the system's VFS has all of version 2.
        unsafe {
            let file = real($file);
            in_vfs(|| ((*(*file).pMethods).$method.unwrap())(file $(, $argument)*))
        }
    }};
}

unsafe extern "C" fn x_close(file: *mut ffi::sqlite3_file) -> c_int {
    let code = pass!(file, xClose);
    // SAFETY: `x_open` made it of an `Arc`, and this is the only call for this file.
    drop(unsafe { Arc::from_raw((*file.cast::<File>()).disk) });
    code
}

unsafe extern "C" fn x_read(
    file: *mut ffi::sqlite3_file,
    to: *mut c_void,
    len: c_int,
    offset: i64,
) -> c_int {
    // SAFETY: the file is open.
    let (disk, _) = unsafe { disk(file) };
    let code = disk.meet(&mut disk.lock(), Kind::Read);
    code.unwrap_or_else(|| pass!(file, xRead, to, len, offset))
}

unsafe extern "C" fn x_write(
    file: *mut ffi::sqlite3_file,
    data: *const c_void,
    len: c_int,
    offset: i64,
) -> c_int {
    // SAFETY: the file is open.
    let (disk, number) = unsafe { disk(file) };
    disk.pass_hold(Kind::WriteOfDatabase, number);
    let mut state = disk.lock();
    let code = disk.meet_in(&mut state, Kind::Write, Kind::WriteOfDatabase, number);
    // What fails may have been done in part.
    let done = if code.is_some() { len / 2 } else { len };
    let written = if done > 0 { pass!(file, xWrite, data, done, offset) } else { 0 };
    if written == 0 && done > 0 {
        // SAFETY: SQLite gives `len` bytes.
        let data = unsafe {
            std::slice::from_raw_parts(data.cast::<u8>(), usize::try_from(done).unwrap())
        }
        .to_vec();
        disk.record(
            &mut state,
            Event::Write { file: number, offset: usize::try_from(offset).unwrap(), data },
        );
    }
    code.unwrap_or(written)
}

unsafe extern "C" fn x_truncate(file: *mut ffi::sqlite3_file, len: i64) -> c_int {
    // SAFETY: the file is open.
    let (disk, number) = unsafe { disk(file) };
    let mut state = disk.lock();
    if let Some(code) = disk.meet(&mut state, Kind::Truncate) {
        return code;
    }
    let code = pass!(file, xTruncate, len);
    if code == 0 {
        disk.record(
            &mut state,
            Event::Truncate { file: number, len: usize::try_from(len).unwrap() },
        );
    }
    code
}

unsafe extern "C" fn x_sync(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    // SAFETY: the file is open.
    let (disk, number) = unsafe { disk(file) };
    disk.pass_hold(Kind::SyncOfDatabase, number);
    let sync = || pass!(file, xSync, flags);
    disk.sync(Some(number), |before, ok| sync_event(number, before, ok), sync, Failure::Code)
}

fn sync_event(file: u32, before: usize, ok: bool) -> Event {
    if ok { Event::Sync { file, before } } else { Event::SyncFailed { file, before } }
}

unsafe extern "C" fn x_file_size(file: *mut ffi::sqlite3_file, size: *mut i64) -> c_int {
    pass!(file, xFileSize, size)
}

unsafe extern "C" fn x_lock(file: *mut ffi::sqlite3_file, lock: c_int) -> c_int {
    pass!(file, xLock, lock)
}

unsafe extern "C" fn x_unlock(file: *mut ffi::sqlite3_file, lock: c_int) -> c_int {
    pass!(file, xUnlock, lock)
}

unsafe extern "C" fn x_check_reserved_lock(
    file: *mut ffi::sqlite3_file,
    answer: *mut c_int,
) -> c_int {
    pass!(file, xCheckReservedLock, answer)
}

unsafe extern "C" fn x_file_control(
    file: *mut ffi::sqlite3_file,
    op: c_int,
    argument: *mut c_void,
) -> c_int {
    pass!(file, xFileControl, op, argument)
}

unsafe extern "C" fn x_sector_size(file: *mut ffi::sqlite3_file) -> c_int {
    pass!(file, xSectorSize)
}

unsafe extern "C" fn x_device_characteristics(file: *mut ffi::sqlite3_file) -> c_int {
    pass!(file, xDeviceCharacteristics)
}

unsafe extern "C" fn x_shm_map(
    file: *mut ffi::sqlite3_file,
    region: c_int,
    len: c_int,
    extend: c_int,
    to: *mut *mut c_void,
) -> c_int {
    pass!(file, xShmMap, region, len, extend, to)
}

unsafe extern "C" fn x_shm_lock(
    file: *mut ffi::sqlite3_file,
    offset: c_int,
    n: c_int,
    flags: c_int,
) -> c_int {
    pass!(file, xShmLock, offset, n, flags)
}

unsafe extern "C" fn x_shm_barrier(file: *mut ffi::sqlite3_file) {
    pass!(file, xShmBarrier);
}

unsafe extern "C" fn x_shm_unmap(file: *mut ffi::sqlite3_file, delete: c_int) -> c_int {
    pass!(file, xShmUnmap, delete)
}

/// Version 2: without `xFetch`, so that every read is an `xRead`.
static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(x_close),
    xRead: Some(x_read),
    xWrite: Some(x_write),
    xTruncate: Some(x_truncate),
    xSync: Some(x_sync),
    xFileSize: Some(x_file_size),
    xLock: Some(x_lock),
    xUnlock: Some(x_unlock),
    xCheckReservedLock: Some(x_check_reserved_lock),
    xFileControl: Some(x_file_control),
    xSectorSize: Some(x_sector_size),
    xDeviceCharacteristics: Some(x_device_characteristics),
    xShmMap: Some(x_shm_map),
    xShmLock: Some(x_shm_lock),
    xShmBarrier: Some(x_shm_barrier),
    xShmUnmap: Some(x_shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// # Safety
///
/// `vfs` is the one that `register_vfs` has registered.
unsafe fn system(vfs: *mut ffi::sqlite3_vfs) -> *mut ffi::sqlite3_vfs {
    // SAFETY: as the caller promises: its `pAppData` is the system's.
    unsafe { (*vfs).pAppData.cast() }
}

unsafe extern "C" fn x_open(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite gives what its documentation says: a name or null, and room of `szOsFile`
    // bytes for the file, the first of which are ours and the others the system's; or all of it is
    // the system's.
    unsafe {
        let system = system(vfs);
        let open =
            |file| in_vfs(|| ((*system).xOpen.unwrap())(system, name, file, flags, out_flags));
        let Some((disk, path)) = path_of(name).and_then(disk_of) else { return open(file) };
        (*file).pMethods = ptr::null();
        if let Some(code) = disk.meet(&mut disk.lock(), Kind::Open) {
            return code;
        }
        let code = open(real(file));
        if code != 0 {
            return code;
        }
        let number = disk.file_of(&mut disk.lock(), &path);
        (*file.cast::<File>()).disk = Arc::into_raw(disk);
        (*file.cast::<File>()).number = number;
        (*file).pMethods = &METHODS;
        code
    }
}

unsafe extern "C" fn x_delete(
    vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    sync_dir: c_int,
) -> c_int {
    // SAFETY: SQLite gives a name.
    unsafe {
        let system = system(vfs);
        let code = in_vfs(|| ((*system).xDelete.unwrap())(system, name, sync_dir));
        if let (0, Some((disk, name))) = (code, path_of(name).and_then(disk_of)) {
            disk.removed(&name);
        }
        code
    }
}

/// A function of the system's VFS that is called with that.
macro_rules! system_vfs {
    ($name:ident, $method:ident, $result:ty $(, $argument:ident: $type:ty)*) => {
        unsafe extern "C" fn $name(vfs: *mut ffi::sqlite3_vfs $(, $argument: $type)*) -> $result {
            // SAFETY: the arguments are those of SQLite.
            unsafe {
                let system = system(vfs);
                ((*system).$method.unwrap())(system $(, $argument)*)
            }
        }
    };
}

system_vfs!(x_access, xAccess, c_int, name: *const c_char, flags: c_int, answer: *mut c_int);
system_vfs!(x_full_pathname, xFullPathname, c_int, name: *const c_char, len: c_int, to: *mut c_char);
system_vfs!(x_randomness, xRandomness, c_int, len: c_int, to: *mut c_char);
system_vfs!(x_sleep, xSleep, c_int, microseconds: c_int);
system_vfs!(x_current_time, xCurrentTime, c_int, to: *mut f64);
system_vfs!(x_get_last_error, xGetLastError, c_int, len: c_int, to: *mut c_char);
system_vfs!(x_current_time_int64, xCurrentTimeInt64, c_int, to: *mut i64);

/// Makes it what every connection of this process opens its files with.
fn register_vfs() {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        // SAFETY: the VFS of the system is there for as long as the process, and so is the one that
        // is leaked here.
        unsafe {
            assert_eq!(ffi::sqlite3_initialize(), ffi::SQLITE_OK);
            let system = ffi::sqlite3_vfs_find(c"unix".as_ptr());
            assert!(!system.is_null());
            let vfs = Box::leak(Box::new(ffi::sqlite3_vfs {
                iVersion: 2,
                szOsFile: c_int::try_from(REAL).unwrap() + (*system).szOsFile,
                mxPathname: (*system).mxPathname,
                pNext: ptr::null_mut(),
                zName: c"tenantry-tests".as_ptr(),
                pAppData: system.cast(),
                xOpen: Some(x_open),
                xDelete: Some(x_delete),
                xAccess: Some(x_access),
                xFullPathname: Some(x_full_pathname),
                xDlOpen: None,
                xDlError: None,
                xDlSym: None,
                xDlClose: None,
                xRandomness: Some(x_randomness),
                xSleep: Some(x_sleep),
                xCurrentTime: Some(x_current_time),
                xGetLastError: Some(x_get_last_error),
                xCurrentTimeInt64: Some(x_current_time_int64),
                xSetSystemCall: None,
                xGetSystemCall: None,
                xNextSystemCall: None,
            }));
            assert_eq!(ffi::sqlite3_vfs_register(vfs, 1), ffi::SQLITE_OK);
        }
    });
}

/// What is behind a descriptor, if it is watched.
fn watched(fd: c_int) -> Option<(Arc<Disk>, String, bool)> {
    if DISKS.read().unwrap_or_else(PoisonError::into_inner).is_empty() {
        return None;
    }
    let path = fs::read_link(format!("/proc/self/fd/{fd}")).ok()?;
    let (disk, name) = disk_of(&path)?;
    Some((disk, name, path.is_dir()))
}

/// In place of the C library's: <https://man7.org/linux/man-pages/man2/fsync.2.html>.
#[unsafe(no_mangle)]
extern "C" fn fsync(fd: c_int) -> c_int {
    // SAFETY: the system checks the descriptor.
    let sync = || c_int::try_from(unsafe { libc::syscall(libc::SYS_fsync, fd) }).unwrap();
    match watched(fd) {
        Some((disk, dir, true)) => disk.sync(
            None,
            // One that failed has done nothing that is known of.
            |before, ok| {
                if ok { Event::SyncDir { dir, before } } else { Event::SyncDir { dir, before: 0 } }
            },
            sync,
            Failure::Errno,
        ),
        Some((disk, name, false)) if !IN_VFS.get() => {
            let file = disk.lock().names.get(&name).copied();
            // What SQLite has never opened is none of its files.
            let Some(file) = file else { return sync() };
            disk.sync(Some(file), |before, ok| sync_event(file, before, ok), sync, Failure::Errno)
        }
        _ => sync(),
    }
}

/// In place of the C library's: <https://man7.org/linux/man-pages/man2/rename.2.html>.
#[unsafe(no_mangle)]
unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: the caller gives two C strings.
    unsafe {
        let done = libc::syscall(libc::SYS_renameat2, libc::AT_FDCWD, from, libc::AT_FDCWD, to, 0);
        if done == 0
            && let Some((disk, from)) = path_of(from).and_then(disk_of)
            && let Some((_, to)) = path_of(to).and_then(disk_of)
        {
            let mut state = disk.lock();
            if let Some(file) = state.names.remove(&from) {
                state.names.insert(to.clone(), file);
                disk.record(&mut state, Event::Rename { from, to });
            }
        }
        c_int::try_from(done).unwrap()
    }
}

/// In place of the C library's: <https://man7.org/linux/man-pages/man2/unlink.2.html>.
#[unsafe(no_mangle)]
unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: the caller gives a C string.
    unsafe {
        let done = libc::syscall(libc::SYS_unlinkat, libc::AT_FDCWD, path, 0);
        if let (0, false, Some((disk, name))) =
            (done, IN_VFS.get(), path_of(path).and_then(disk_of))
        {
            disk.removed(&name);
        }
        c_int::try_from(done).unwrap()
    }
}
