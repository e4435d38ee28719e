//! The place where the database lies: what its file system allows, who else has the store open, and whether its files are
//! still those that were opened.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Once, OnceLock};

use rustix::fs::{self, AtFlags, CWD, OFlags};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::files::with_suffix;
use crate::options::Options;
use crate::storage::{Ownership, PRIVATE_FILE, file_error};
use crate::{Error, ErrorKind, Result};

/// File systems on which locks and shared memory don't reach from one machine to the other, by the number that
/// [statfs](https://man7.org/linux/man-pages/man2/statfs.2.html) answers. SQLite's log needs both:
/// <https://sqlite.org/wal.html>, section 1.
const NETWORK: [(u32, &str); 15] = [
    (0x6969, "NFS"),
    (0x517B, "SMB"),
    (0xFE53_4D42, "SMB"),
    (0xFF53_4D42, "CIFS"),
    (0x564C, "NCP"),
    (0x0102_1997, "9P"),
    (0x5346_414F, "AFS"),
    (0x6B41_4653, "AFS"),
    (0x7375_7245, "Coda"),
    (0x00C3_6400, "Ceph"),
    (0x0BD0_0BD0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x0116_1970, "GFS2"),
    (0x7461_636F, "OCFS2"),
    (0x786F_4256, "a shared folder of VirtualBox"),
];
/// All that run as a program have this number. Which they are stands in the table of mounts.
const FUSE: u32 = 0x6573_5546;
/// Of these, what goes over a network.
const NETWORK_OF_FUSE: [&str; 10] =
    ["sshfs", "glusterfs", "s3fs", "rclone", "davfs", "ceph-fuse", "curlftpfs", "gcsfuse", "juicefs", "mount.davfs"];

/// What the file system lets us do with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    Write,
    /// It is mounted read-only.
    Read,
}

/// Tells what can be done with the database in this directory, be it there or not.
///
/// `ReadOnly` if somebody may write, but not we: SQLite needs to write beside the database also for reading, and a store
/// that others write can't be read without.
pub(super) fn access(database: &Path) -> Result<Access> {
    let dir = database.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    for (path, wanted, message) in [
        (
            dir,
            fs::Access::WRITE_OK | fs::Access::EXEC_OK,
            "no permission to write to the data directory, where SQLite keeps its log, also for reading",
        ),
        (database, fs::Access::READ_OK | fs::Access::WRITE_OK, "no permission to write to the database file"),
    ] {
        match fs::accessat(CWD, path, wanted, AtFlags::EACCESS) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ROFS) => return Ok(Access::Read),
            Err(error @ (Errno::ACCESS | Errno::PERM)) => {
                return Err(Error::new(ErrorKind::ReadOnly, message).with_source(std::io::Error::from(error)));
            }
            Err(error) => return Err(file_error(error.into(), "the data directory can't be reached")),
        }
    }
    Ok(Access::Write)
}

/// Refuses a network file system, on which two machines would write over each other.
pub(super) fn refuse_network_fs(data_dir: &Path) -> Result<()> {
    let is_there = |dir: &&Path| dir.as_os_str().is_empty() || dir.exists();
    let dir = data_dir.ancestors().find(is_there).filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |error| file_error(error, "it can't be told on what file system the data directory lies");
    let found = fs::statfs(dir).map_err(|error| failed(error.into()))?;
    // The number has 32 bits, whatever the type it comes in.
    let name = match found.f_type as u32 {
        FUSE => {
            let kind = file_system(dir).map_err(failed)?;
            let program = kind.as_deref().and_then(|kind| kind.strip_prefix("fuse."));
            program.filter(|name| NETWORK_OF_FUSE.contains(name)).map(str::to_owned)
        }
        number => NETWORK.iter().find(|(network, _)| *network == number).map(|(_, name)| (*name).to_owned()),
    };
    match name {
        None => Ok(()),
        Some(name) => Err(Error::new(
            ErrorKind::NetworkFileSystem,
            format!(
                "the data directory lies on a network file system ({name}), where SQLite's locks and log don't hold and data is lost: move it to a local disk"
            ),
        )),
    }
}

/// The name of the kind of file system on which this directory lies, from the
/// [table of mounts](https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html): `ext4`, or `fuse.sshfs` of the
/// program `sshfs`. `None` if it isn't found there.
fn file_system(dir: &Path) -> std::io::Result<Option<String>> {
    let device = std::fs::metadata(dir)?.dev();
    let device = format!("{}:{}", fs::major(device), fs::minor(device));
    for line in BufReader::new(File::open("/proc/self/mountinfo")?).lines() {
        let line = line?;
        if line.split(' ').nth(2) == Some(&device) {
            let kind = line.split(" - ").nth(1).and_then(|rest| rest.split(' ').next());
            return Ok(kind.map(str::to_owned));
        }
    }
    Ok(None)
}

/// The refusal of a file system that lacks something, named by its kind.
pub(super) fn unfit(data_dir: &Path, lack: &Error) -> Error {
    let kind = file_system(data_dir).ok().flatten().map(|kind| format!(" ({kind})")).unwrap_or_default();
    let message =
        format!("the file system of the data directory{kind} lacks what a store needs: {lack}; no store was made");
    let error = Error::new(ErrorKind::Incompatible, message);
    match std::error::Error::source(lack).and_then(|source| source.downcast_ref::<std::io::Error>()) {
        Some(source) if source.raw_os_error().is_some() => {
            error.with_source(std::io::Error::from_raw_os_error(source.raw_os_error().unwrap_or_default()))
        }
        _ => error,
    }
}

/// `tenantry.lock`: whoever has the store open holds it together with others; whoever creates or upgrades it, alone. So
/// no program goes on with a store that a newer one has changed. SQLite's own locks end with each
/// transaction. It ends with the process at the latest.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    /// Whether it was made for this.
    is_new: bool,
}

impl Lock {
    /// `None` if others are in the way. On a read-only file system, where nobody writes, it is nobody's.
    pub(super) fn try_take(options: &Options, alone: bool, access: Access) -> Result<Option<Option<Self>>> {
        if access == Access::Read {
            return Ok(Some(None));
        }
        let failed = |error| file_error(error, "the lock file of the store can't be used");
        let path = options.data_dir.join("tenantry.lock");
        let Some((file, is_new)) = open_lock(&path, &options.data_dir).map_err(failed)? else { return Ok(None) };
        match if alone { file.try_lock() } else { file.try_lock_shared() } {
            Ok(()) => {
                // Whoever fails to create a store removes the file that was made for it, as the last to have the lock.
                let named = std::fs::symlink_metadata(&path).map(|found| (found.dev(), found.ino()));
                let locked = file.metadata().map(|found| (found.dev(), found.ino())).map_err(failed)?;
                Ok(named.is_ok_and(|named| named == locked).then_some(Some(Self { file, is_new })))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Removes the file if it was made for this, while it is held alone: there is no store to be locked.
    pub(super) fn remove_if_new(&self, data_dir: &Path) {
        if self.is_new {
            let _ = std::fs::remove_file(data_dir.join("tenantry.lock"));
        }
    }

    /// Lets others in, after one who may get it in between
    /// ([flock](https://man7.org/linux/man-pages/man2/flock.2.html) gives up one kind of lock before it takes the other).
    pub(super) fn share(&self) -> Result<()> {
        self.file.lock_shared().map_err(|error| file_error(error, "the lock file of the store can't be used"))
    }
}

/// Opens the lock file, after making it if there is none, and says whether it did. `None` if the data directory has gone.
fn open_lock(path: &Path, data_dir: &Path) -> std::io::Result<Option<(File, bool)>> {
    use std::io::ErrorKind::{AlreadyExists, NotFound, PermissionDenied};

    let mut options = OpenOptions::new();
    // A pipe in its place is opened without waiting for whoever reads from it.
    options.write(true).custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
    loop {
        match options.open(path) {
            Err(error) if error.kind() == NotFound => {}
            // What a crash left, or another process is about to finish: it lacks the rights that the umask has taken away.
            Err(error) if error.kind() == PermissionDenied && is_own_and_closed(path)? => {
                Ownership::default().make_usable(path)?;
                return Ok(Some((options.open(path)?, false)));
            }
            opened => return Ok(Some((opened?, false))),
        }
        match Ownership::of_store(data_dir).and_then(|owner| owner.make_file(path)) {
            Err(error) if error.kind() == AlreadyExists => {}
            // Whoever made it couldn't make a store in it.
            Err(error) if error.kind() == NotFound => return Ok(None),
            made => return Ok(Some((made?, true))),
        }
    }
}

/// Whether a file is ours and holds nothing, and yet we may do nothing with it.
fn is_own_and_closed(path: &Path) -> std::io::Result<bool> {
    let found = fs::lstat(path)?;
    let is_closed = !fs::Mode::from_raw_mode(found.st_mode).contains(PRIVATE_FILE);
    let is_file = fs::FileType::from_raw_mode(found.st_mode) == fs::FileType::RegularFile;
    Ok(is_file && is_closed && found.st_size == 0 && found.st_uid == geteuid().as_raw())
}

/// The store's own files in the data directory, of which none may be a symbolic link.
const NO_LINKS: [&str; 5] =
    ["tenantry.db", "tenantry.lock", "tenantry.db-wal", "tenantry.db-shm", "tenantry.db-journal"];

/// Refuses a link in the place of one of the store's own files, whatever it leads to: to a volume that isn't mounted, so
/// that a new file would take its place, or to a file of somebody else. And whoever came to a database by another way would
/// hold another lock, and have other directories.
pub(super) fn refuse_links(data_dir: &Path) -> Result<()> {
    let refuse = |name: &str| {
        let message = format!(
            "{name} is a symbolic link, which may lead to what isn't mounted or is another's: put the file itself there, or remove the link; nothing was changed"
        );
        Err(Error::new(ErrorKind::Incompatible, message))
    };
    for name in NO_LINKS {
        match std::fs::symlink_metadata(data_dir.join(name)) {
            Ok(found) if found.is_symlink() => return refuse(name),
            Ok(found) if !found.is_file() => {
                return Err(Error::new(ErrorKind::Incompatible, format!("{name} is not a file")));
            }
            // Whoever opens it reports what else is wrong.
            _ => {}
        }
    }
    let is_dangling = std::fs::symlink_metadata(data_dir).is_ok_and(|found| found.is_symlink()) && !data_dir.exists();
    if is_dangling { refuse("the data directory") } else { Ok(()) }
}

/// Which file has a name: its device and its number there.
type FileId = (u64, u64);

/// Tells whether the files of a database that is open still have their names. A file without a name goes on to take writes,
/// which nobody sees; and without a common `-shm` two processes don't see each other's locks.
#[derive(Debug)]
pub(super) struct Watch {
    paths: [PathBuf; 3],
    opened: OnceLock<[Option<FileId>; 3]>,
}

impl Watch {
    pub(super) fn new(options: &Options) -> Self {
        let database = options.database();
        Self { paths: ["", "-wal", "-shm"].map(|suffix| with_suffix(&database, suffix)), opened: OnceLock::new() }
    }

    /// From now on they are to stay as they are.
    pub(super) fn begin(&self) {
        self.opened.get_or_init(|| self.look());
    }

    /// `Replaced` if they aren't.
    pub(super) fn check(&self) -> Result<()> {
        match self.opened.get() {
            Some(opened) if *opened != self.look() => Err(Error::new(
                ErrorKind::Replaced,
                "the database's files were removed or replaced while the store was open: nothing more is written to them",
            )),
            _ => Ok(()),
        }
    }

    fn look(&self) -> [Option<FileId>; 3] {
        self.paths.each_ref().map(|path| fs::stat(path).ok().map(|stat| (stat.st_dev, stat.st_ino)))
    }
}

/// Has a file that reaches its size limit (`ulimit -f`) fail to grow with an error, as any other that can't, instead of ending
/// the program by a signal. Only if the program hasn't decided on that signal itself.
pub(super) fn ignore_size_signal() {
    static IGNORED: Once = Once::new();
    IGNORED.call_once(|| {
        let mut action = std::mem::MaybeUninit::<libc::sigaction>::uninit();
        #[allow(unsafe_code, reason = "there is no safe interface to the disposition of a signal")]
        // SAFETY: `action` is written by the first call before it is read, and SIG_IGN runs no code of ours.
        unsafe {
            if libc::sigaction(libc::SIGXFSZ, std::ptr::null(), action.as_mut_ptr()) == 0
                && action.assume_init().sa_sigaction == libc::SIG_DFL
            {
                libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_as_a_program_is_looked_up_in_the_table_of_mounts() {
        assert_eq!(file_system(Path::new("/proc")).unwrap().as_deref(), Some("proc"));
        assert!(refuse_network_fs(Path::new("/nowhere/at/all")).is_ok());
    }
}
