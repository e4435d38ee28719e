//! The worst that can be found in a user's directory, and on the way to it: names, depth, numbers,
//! things that are no files, rights that are missing, what can't be removed, and other file
//! systems.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use rustix::fs::{CWD, FileType, FlockOperation, IFlags, Mode, OFlags};
use tenantry::{
    ErrorKind, FindingKind, LeftFile, Purge, Purged, RepairOptions, Store, Usage, UserId,
};

use crate::process::{self, Process};
use crate::races::Outside;
use crate::support::{SqlitePlace, block_on, kind, new_user, new_user_at, set_mode, skipped};

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn check(data_dir: &Path) -> Vec<FindingKind> {
    block_on(tenantry::check(data_dir))
        .unwrap()
        .findings
        .into_iter()
        .map(|finding| finding.kind)
        .collect()
}

fn entries(dir: &Path) -> usize {
    fs::read_dir(dir).unwrap().count()
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// A store with one user who has a directory.
struct Subject {
    data_dir: PathBuf,
    store: Store,
    id: UserId,
    /// The user's directory.
    dir: PathBuf,
}

impl Subject {
    fn new(data_dir: &Path) -> Self {
        let store = block_on(Store::open(data_dir)).unwrap();
        let id = block_on(store.create(new_user("ada@example.com"))).unwrap().id;
        let dir = block_on(store.directory_path(id)).unwrap();
        Self { data_dir: data_dir.to_owned(), store, id, dir }
    }

    fn in_trash(&self) -> PathBuf {
        self.data_dir.join("trash").join(self.id.to_string())
    }

    fn measure(&self) -> Usage {
        block_on(self.store.measure_usage(self.id, |_| {})).unwrap()
    }

    fn delete(&self) {
        block_on(self.store.delete(self.id)).unwrap();
    }

    fn restore(&self) {
        block_on(self.store.restore(self.id, None)).unwrap();
    }

    fn purge(&self) -> Purged {
        block_on(self.store.purge(Purge::User(self.id), |_| {})).unwrap()
    }

    /// A purge that removes everything but these.
    #[track_caller]
    fn assert_purge_leaves(&self, left: &[&str]) {
        let purged = self.purge();
        assert_eq!((purged.users, purged.elsewhere), (0, 0));
        let found: BTreeSet<&Path> =
            purged.left.iter().map(|LeftFile { path, .. }| path.as_path()).collect();
        assert_eq!(found, left.iter().map(Path::new).collect());
        assert_eq!(purged.left.len(), left.len());
        let trashed = block_on(self.store.get_trashed(self.id)).unwrap().unwrap();
        assert!(trashed.is_being_purged);
        assert_eq!(kind(block_on(self.store.restore(self.id, None))), ErrorKind::NotFound);
        assert_eq!(check(&self.data_dir), [FindingKind::IntentUnfinished]);
    }

    /// A purge that removes everything: this many files.
    #[track_caller]
    fn assert_purge_completes(&self, files: u64) {
        let purged = self.purge();
        assert!(purged.left.is_empty(), "{purged:?}");
        assert_eq!((purged.users, purged.files, purged.elsewhere), (1, files, 0));
        assert_eq!(entries(&self.data_dir.join("trash")), 0);
        assert_eq!(check(&self.data_dir), []);
        assert_eq!(
            kind(block_on(self.store.purge(Purge::User(self.id), |_| {}))),
            ErrorKind::NotFound
        );
    }

    /// Every operation on a directory that holds this many files of so many bytes.
    #[track_caller]
    fn assert_all_works(&self, files: u64, apparent_bytes: u64) {
        block_on(self.store.directory(self.id)).unwrap();
        let usage = self.measure();
        assert_eq!(
            (usage.files, usage.apparent_bytes, usage.unreadable),
            (files, apparent_bytes, 0)
        );
        assert_eq!(usage.allocated_bytes, du(&self.dir));
        assert_eq!(check(&self.data_dir), []);
        let directory = fs::metadata(&self.dir).unwrap().ino();
        self.delete();
        assert_eq!(check(&self.data_dir), []);
        self.restore();
        assert_eq!(fs::metadata(&self.dir).unwrap().ino(), directory);
        let mut again = self.measure();
        again.measured_at = usage.measured_at;
        assert_eq!(again, usage);
        self.delete();
        self.assert_purge_completes(files);
    }
}

/// What `du` says a directory takes, each file once.
fn du(dir: &Path) -> u64 {
    let output = Command::new("du").args(["-s", "-B1", "--"]).arg(dir).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().parse().unwrap()
}

/// Runs this on a user's directory, and then every operation; it returns how many files there are,
/// and of how many bytes.
#[track_caller]
fn goes_through(fill: impl FnOnce(&Path) -> (u64, u64)) {
    let place = SqlitePlace::new();
    let subject = Subject::new(&place.data_dir());
    let (files, bytes) = fill(&subject.dir);
    subject.assert_all_works(files, bytes);
}

/// Names that are hard to show, to pass on or to tell from names that the removal makes.
fn names() -> Vec<OsString> {
    let text = "moved-1|moved-2|moved-3|moved-17|moved-|-rf|--|-| |  x |\n|two\nlines|\t|\u{1b}[2J|*|?|$(true)|`true`|'|\"|\\|\
                ...|.. |~|CON|x:y|\u{202e}txt|.tenantry-store|.hidden|e\u{301}|\u{e9}";
    let bytes = [
        b"\xff".to_vec(),
        b"\xc0\x80".to_vec(),
        b"a\xed\xa0\x80".to_vec(),
        vec![b'x'; 255],
        vec![0xff; 255],
    ];
    text.split('|').map(OsString::from).chain(bytes.map(OsString::from_vec)).collect()
}

#[test]
fn no_name_is_too_strange() {
    goes_through(|dir| {
        let mut files = 0;
        let mut fill = |dir: &Path| {
            for name in names() {
                fs::write(dir.join(&name), "12345").unwrap();
                files += 1;
            }
        };
        fill(dir);
        let dirs = dir.join("dirs");
        fs::create_dir(&dirs).unwrap();
        for name in names() {
            let dir = dirs.join(name);
            fs::create_dir_all(dir.join("moved-1/moved-2/dir/moved-1")).unwrap();
            fill(&dir.join("moved-1/moved-2"));
        }
        (files, files * 5)
    });
    // Directories at the top with the very names that the removal would take.
    goes_through(|dir| {
        for number in 0..10 {
            let dir = dir.join(format!("moved-{number}")).join("moved-1/moved-1");
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("moved-1"), "").unwrap();
        }
        (10, 0)
    });
}

/// Makes directories in each other, by descriptors, since no path is long enough, with a file in
/// the last.
fn make_deep(top: &Path, levels: usize) {
    let open = |at: OwnedFd, name: &str| {
        rustix::fs::openat(&at, name, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    };
    let mut here = OwnedFd::from(File::open(top).unwrap());
    for _ in 0..levels {
        rustix::fs::mkdirat(&here, "deeper", Mode::RWXU).unwrap();
        here = open(here, "deeper");
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&here, "bottom", flags, Mode::RUSR).unwrap();
    File::from(file).write_all(b"12345").unwrap();
}

#[test]
fn no_tree_is_too_deep() {
    goes_through(|dir| {
        make_deep(dir, 5_000);
        (1, 5)
    });
}

/// Nothing takes a descriptor, or a part of the stack, for each level.
#[test]
fn no_tree_is_too_deep_for_few_descriptors_and_a_small_stack() {
    let place = SqlitePlace::new();
    // A recursion of 5,000 levels takes more than 50 bytes each.
    let child = Process::start(
        "goes deep",
        &place.data_dir(),
        "ulimit -n 64; export RUST_MIN_STACK=262144",
    );
    assert_eq!(child.end(), ["all worked"]);
}

pub(crate) fn child_goes_deep(data_dir: &Path) {
    let subject = Subject::new(data_dir);
    make_deep(&subject.dir, 5_000);
    subject.assert_all_works(1, 5);
    process::say("all worked");
}

#[test]
fn no_directory_is_too_large() {
    goes_through(|dir| {
        fs::create_dir(dir.join("files")).unwrap();
        for number in 0..20_000 {
            File::create_new(dir.join(format!("files/{number}"))).unwrap();
        }
        for number in 0..2_000 {
            fs::create_dir_all(dir.join(format!("dirs/{number}/in/it"))).unwrap();
        }
        (20_000, 0)
    });
}

/// What would block whoever opens it, or do something, is never opened.
#[test]
fn pipes_sockets_and_devices_are_files_like_others() {
    goes_through(|dir| {
        let make = |name: &str, kind, device| {
            rustix::fs::mknodat(CWD, dir.join(name), kind, Mode::RUSR | Mode::WUSR, device)
                .unwrap();
        };
        fs::create_dir(dir.join("in")).unwrap();
        for prefix in ["", "in/"] {
            make(&format!("{prefix}pipe"), FileType::Fifo, 0);
            make(&format!("{prefix}socket"), FileType::Socket, 0);
        }
        if !is_root() {
            skipped("device nodes, which only root can make");
            return (4, 0);
        }
        for prefix in ["", "in/"] {
            // That of /dev/null.
            make(&format!("{prefix}device"), FileType::CharacterDevice, rustix::fs::makedev(1, 3));
        }
        (6, 0)
    });
}

#[test]
fn a_file_with_several_names_counts_once_and_a_sparse_one_what_it_takes() {
    let place = SqlitePlace::new();
    let subject = Subject::new(&place.data_dir());
    let dir = &subject.dir;
    // One name is outside, and stays.
    let outside = place.as_ref().join("outside");
    let file = File::create_new(&outside).unwrap();
    file.write_all_at(&[1; 10_000], 0).unwrap();
    file.sync_all().unwrap();
    for name in ["once", "a/twice", "a/b/thrice"] {
        fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
        fs::hard_link(&outside, dir.join(name)).unwrap();
    }
    let sparse = File::create_new(dir.join("sparse")).unwrap();
    sparse.set_len(1 << 40).unwrap();
    sparse.write_all_at(&[1; 4_096], 1 << 30).unwrap();
    sparse.sync_all().unwrap();

    let usage = subject.measure();
    assert_eq!((usage.files, usage.apparent_bytes, usage.unreadable), (2, 10_000 + (1 << 40), 0));
    assert_eq!(usage.allocated_bytes, du(dir));
    assert!(usage.allocated_bytes < 1 << 20);
    subject.delete();
    subject.restore();
    subject.delete();
    subject.assert_purge_completes(4);
    assert_eq!(fs::read(&outside).unwrap(), [1; 10_000]);
    assert_eq!(fs::metadata(&outside).unwrap().nlink(), 1);
}

#[test]
fn links_are_never_followed() {
    let place = SqlitePlace::new();
    let outside = Outside::new(place.as_ref().join("outside"));
    let subject = Subject::new(&place.data_dir());
    fs::create_dir_all(subject.dir.join("a/b")).unwrap();
    let mut bytes = 0;
    let targets = [
        outside.root.as_os_str(),
        outside.root.join("notes.txt").as_os_str(),
        outside.root.join("ada").as_os_str(),
    ]
    .map(OsStr::to_owned)
    .into_iter()
    .chain(
        ["loop-0", "../a", "..", ".", "/", "missing", "../../../../../../../../outside/ada"]
            .map(OsString::from),
    );
    for (number, target) in targets.enumerate() {
        for parent in ["", "a", "a/b"] {
            symlink(&target, subject.dir.join(parent).join(format!("loop-{number}"))).unwrap();
            bytes += target.len() as u64;
        }
    }
    subject.assert_all_works(30, bytes);
    outside.assert_untouched();
}

/// A link that stays within `storage/` leads to another user.
#[test]
fn a_link_on_the_way_to_a_user_is_refused_wherever_it_leads() {
    let place = SqlitePlace::new();
    let store = place.open();
    let create = |email, path| block_on(store.create(new_user_at(email, path))).unwrap().id;
    let (ada, bob) =
        (create("ada@example.com", "customers/ada"), create("bob@example.com", "others/ada"));
    let eve = create("eve@example.com", "customers/eve");
    for id in [ada, bob, eve] {
        block_on(store.directory(id)).unwrap().write("notes.txt", id.to_string()).unwrap();
    }
    block_on(store.delete(eve)).unwrap();
    let storage = place.data_dir().join("storage");
    let refuse = |id| {
        assert_eq!(kind(block_on(store.directory(id))), ErrorKind::StorageBlocked);
        assert_eq!(kind(block_on(store.directory_path(id))), ErrorKind::StorageBlocked);
        assert_eq!(kind(block_on(store.measure_usage(id, |_| {}))), ErrorKind::StorageBlocked);
        assert_eq!(kind(block_on(store.delete(id))), ErrorKind::StorageBlocked);
    };
    for (there, target) in [("customers", "others"), ("customers/ada", "../others/ada")] {
        let kept = place.as_ref().join("kept");
        fs::rename(storage.join(there), &kept).unwrap();
        symlink(target, storage.join(there)).unwrap();
        refuse(ada);
        if there == "customers" {
            assert_eq!(kind(block_on(store.restore(eve, None))), ErrorKind::StorageBlocked);
        }
        assert!(check(&place.data_dir()).contains(&FindingKind::PathBlocked));
        fs::remove_file(storage.join(there)).unwrap();
        fs::rename(&kept, storage.join(there)).unwrap();
    }
    block_on(store.restore(eve, None)).unwrap();
    for id in [ada, bob, eve] {
        assert_eq!(
            block_on(store.directory(id)).unwrap().read_to_string("notes.txt").unwrap(),
            id.to_string()
        );
    }
    assert_eq!(check(&place.data_dir()), []);
}

#[test]
fn missing_rights_are_counted_when_measuring_and_taken_when_removing() {
    let place = SqlitePlace::new();
    assert_eq!(
        Process::start_without_privileges("has no rights", place.as_ref(), &place.data_dir(), "")
            .end(),
        ["all worked"]
    );
}

pub(crate) fn child_has_no_rights(data_dir: &Path) {
    let subject = Subject::new(data_dir);
    let fill = || {
        let dir = &subject.dir;
        fs::write(dir.join("unreadable"), "12345").unwrap();
        set_mode(dir.join("unreadable"), 0);
        // In each a file, and a directory with a file and the same rights.
        for mode in [0o000, 0o100, 0o200, 0o300, 0o400, 0o500, 0o600] {
            let (outer, inner) = (dir.join(format!("{mode:o}")), dir.join(format!("{mode:o}/in")));
            fs::create_dir_all(&inner).unwrap();
            fs::write(outer.join("file"), "12345").unwrap();
            fs::write(inner.join("file"), "12345").unwrap();
            set_mode(inner, mode);
            set_mode(outer, mode);
        }
    };
    fill();
    // 0500 can be read; of 0400 and 0600 only the names can, and nothing else is open at all.
    let usage = subject.measure();
    assert_eq!((usage.files, usage.apparent_bytes, usage.unreadable), (3, 15, 6));
    subject.delete();
    subject.restore();
    assert_eq!(subject.measure().unreadable, 6);
    assert_eq!(check(data_dir), []);

    // The user's own directory. It may have to be repaired, but nothing gets stuck half-way.
    for mode in [0o500, 0o400, 0o300, 0o000] {
        set_mode(&subject.dir, mode);
        assert_eq!(check(data_dir), [FindingKind::WrongMode], "{mode:o}");
        if let Err(error) = block_on(subject.store.delete(subject.id)) {
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{mode:o}: {error:?}");
            assert_eq!(check(data_dir), [FindingKind::WrongMode], "nothing was done, at {mode:o}");
            let repaired = block_on(tenantry::repair(data_dir, RepairOptions::default())).unwrap();
            assert_eq!(repaired.after.unwrap().findings, [], "{mode:o}");
            subject.delete();
        }
        set_mode(subject.in_trash(), mode);
        subject.restore();
        set_mode(&subject.dir, 0o700);
        assert_eq!(entries(&subject.dir), 8);
    }
    subject.delete();
    set_mode(subject.in_trash(), 0);
    subject.assert_purge_completes(15);

    // What belongs to no user.
    fs::create_dir(data_dir.join("storage/stray")).unwrap();
    set_mode(data_dir.join("storage/stray"), 0o500);
    let even_if_many = RepairOptions { even_if_many: true, ..RepairOptions::default() };
    let repaired = block_on(tenantry::repair(data_dir, even_if_many)).unwrap();
    assert_eq!(repaired.after.unwrap().findings, []);
    process::say("all worked");
}

/// What is another's in a user's directory can't be removed by whoever runs the store.
#[test]
fn a_purge_says_what_it_could_not_remove_of_another_s() {
    if !is_root() {
        return skipped("only root can put a directory of its own into another's");
    }
    let place = SqlitePlace::new();
    let mut child = Process::start_without_privileges(
        "meets what is another's",
        place.as_ref(),
        &place.data_dir(),
        "",
    );
    let dir = PathBuf::from(child.hear().unwrap());
    child.await_ready();
    for (name, mode) in [("open", 0o755), ("a/b/open", 0o755), ("shut", 0o700), ("a/b/shut", 0o700)]
    {
        let others = dir.join(name);
        fs::create_dir(&others).unwrap();
        fs::write(others.join("file"), "12345").unwrap();
        set_mode(others, mode);
    }
    child.start_now();
    let heard = child.end();
    // Obstacles that root can remove: it is done when the store is opened.
    let store = place.open();
    assert_eq!(
        kind(block_on(store.purge(Purge::User(heard[0].parse().unwrap()), |_| {}))),
        ErrorKind::NotFound
    );
    assert_eq!(entries(&place.data_dir().join("trash")), 0);
}

pub(crate) fn child_meets_what_is_anothers(data_dir: &Path) {
    let subject = Subject::new(data_dir);
    fs::create_dir_all(subject.dir.join("a/b/c")).unwrap();
    fs::write(subject.dir.join("a/b/c/file"), "12345").unwrap();
    process::say(subject.dir.display());
    process::wait_for_the_start();
    let usage = subject.measure();
    assert_eq!((usage.files, usage.unreadable), (3, 2));
    subject.delete();
    subject.restore();
    subject.delete();
    subject.assert_purge_leaves(&["open/file", "a/b/open", "shut", "a/b/shut"]);
    // What is left, and what leads to it.
    assert_eq!(entries(&subject.in_trash()), 3);
    block_on(subject.store.close()).unwrap();
    process::say(subject.id);
}

/// A file that even root can't remove, until this is dropped.
struct Immutable(File);

impl Immutable {
    fn new(path: &Path) -> Option<Self> {
        let file = File::open(path).unwrap();
        let flags = rustix::fs::ioctl_getflags(&file).ok()?;
        rustix::fs::ioctl_setflags(&file, flags | IFlags::IMMUTABLE).ok()?;
        Some(Self(file))
    }
}

impl Drop for Immutable {
    fn drop(&mut self) {
        let flags = rustix::fs::ioctl_getflags(&self.0).unwrap();
        rustix::fs::ioctl_setflags(&self.0, flags - IFlags::IMMUTABLE).unwrap();
    }
}

#[test]
fn a_purge_says_what_it_could_not_remove_and_ends_when_the_obstacle_is_gone() {
    let place = SqlitePlace::new();
    let subject = Subject::new(&place.data_dir());
    fs::create_dir_all(subject.dir.join("a/b/c/d")).unwrap();
    for name in ["one", "a/two", "a/b/stays", "a/b/three", "a/b/c/four", "a/b/c/d/five"] {
        fs::write(subject.dir.join(name), "12345").unwrap();
    }
    let Some(obstacle) = Immutable::new(&subject.dir.join("a/b/stays")) else {
        return skipped(
            "a file that can't be removed, which takes root and a file system with such a flag",
        );
    };
    subject.delete();
    subject.assert_purge_leaves(&["a/b/stays"]);
    let left = entries(&subject.in_trash());
    assert_eq!(left, 1, "the file, and the one directory that it is in");
    // Once more it is no other, though by now it is elsewhere.
    let again = subject.purge();
    assert_eq!((again.users, again.files, again.left.len()), (0, 0, 1));
    // Nor does it matter to other users.
    let bob = block_on(subject.store.create(new_user("bob@example.com"))).unwrap().id;
    block_on(subject.store.directory(bob)).unwrap().write("notes.txt", "").unwrap();
    block_on(subject.store.delete(bob)).unwrap();
    let everybody = Purge::DeletedBefore("9000-01-01T00:00:00Z".parse().unwrap());
    let purged = block_on(subject.store.purge(everybody, |_| {})).unwrap();
    assert_eq!((purged.users, purged.left.len()), (1, 1));
    assert_eq!(purged.left[0].user, subject.id);

    drop(obstacle);
    subject.assert_purge_completes(1);
}

/// The same as a directory at the top, and as the user's directory itself.
#[test]
fn directories_that_can_t_be_changed_are_left_with_what_they_hold() {
    for (name, left) in [("dir", &["dir", "dir/file"][..]), ("", &["dir", "file"])] {
        let place = SqlitePlace::new();
        let subject = Subject::new(&place.data_dir());
        fs::create_dir(subject.dir.join("dir")).unwrap();
        for file in ["file", "dir/file"] {
            fs::write(subject.dir.join(file), "12345").unwrap();
        }
        subject.delete();
        let Some(obstacle) = Immutable::new(&subject.in_trash().join(name)) else {
            return skipped(
                "a directory that can't be changed, which takes root and a file system with such a flag",
            );
        };
        subject.assert_purge_leaves(left);
        drop(obstacle);
        assert_eq!(subject.purge().users, 1);
        assert_eq!(check(&subject.data_dir), []);
    }
}

#[test]
fn a_mount_in_a_user_s_directory_is_neither_removed_nor_counted() {
    let place = SqlitePlace::new();
    let probe = ["-rm", "sh", "-c", "mount -t tmpfs probe \"$0\""];
    let can_mount = Command::new("unshare").args(probe).arg(place.as_ref()).output();
    if !can_mount.is_ok_and(|output| output.status.success()) {
        return skipped(
            "mounted file systems need `unshare` and permission to mount a tmpfs in a namespace",
        );
    }
    // What is mounted goes with the namespace, and that with the child.
    let shell = "exec unshare -rm \"$0\" --exact child::child_process_entry --nocapture";
    let child = Process::start("mounts", &place.data_dir(), shell);
    assert_eq!(child.end(), ["all worked"]);
}

fn run(program: &str, arguments: &[&OsStr]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}

/// Mounts a file system on this directory, with a file in it.
fn mount(on: &Path) {
    run(
        "mount",
        &["-t", "tmpfs", "-o", "mode=700", "tenantry-test"]
            .map(OsStr::new)
            .into_iter()
            .chain([on.as_os_str()])
            .collect::<Vec<_>>(),
    );
    fs::write(on.join("mounted"), vec![1; 50_000]).unwrap();
}

fn unmount(from: &Path) {
    assert_eq!(fs::read(from.join("mounted")).unwrap(), vec![1; 50_000], "it lost what was in it");
    assert_eq!(entries(from), 1);
    run("umount", &[from.as_os_str()]);
}

pub(crate) fn child_mounts(data_dir: &Path) {
    let subject = Subject::new(data_dir);
    let dir = &subject.dir;
    let fill = || {
        for name in ["at", "a/b/at"] {
            fs::create_dir_all(dir.join(name)).unwrap();
            fs::write(dir.join(name).join("under"), "12345").unwrap();
        }
        fs::write(dir.join("a/file"), "12345").unwrap();
        fs::write(dir.join("a/bound"), "12345").unwrap();
    };

    // In it, as directories and over a file.
    fill();
    mount(&dir.join("at"));
    mount(&dir.join("a/b/at"));
    run(
        "mount",
        &[
            OsStr::new("--bind"),
            dir.join("at/mounted").as_os_str(),
            dir.join("a/bound").as_os_str(),
        ],
    );
    let usage = subject.measure();
    assert_eq!((usage.files, usage.unreadable), (2, 2));
    assert!(usage.allocated_bytes < 50_000 + 50_000);
    subject.delete();
    subject.restore();
    subject.delete();
    subject.assert_purge_leaves(&["at", "a/b/at", "a/bound"]);
    let trash = subject.in_trash();
    let mounted: Vec<PathBuf> = fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .filter_map(|line| line.split(' ').nth(4).map(PathBuf::from))
        .filter(|path| path.starts_with(&trash))
        .collect();
    assert_eq!(mounted.len(), 3);
    let (files, dirs): (Vec<_>, Vec<_>) = mounted.into_iter().partition(|path| path.is_file());
    run("umount", &[files[0].as_os_str()]);
    dirs.iter().for_each(|path| unmount(path));
    subject.assert_purge_completes(3);

    // On it, and on the way to it.
    let create = |email: &str, path| {
        let id = block_on(subject.store.create(new_user_at(email, path))).unwrap().id;
        block_on(subject.store.directory(id)).unwrap().write("notes.txt", "12345").unwrap();
        id
    };
    let storage = data_dir.join("storage");
    for (number, (path, on)) in [("x/y", "x/y"), ("z/y", "z")].into_iter().enumerate() {
        let id = create(&format!("u{number}@example.com"), path);
        mount(&storage.join(on));
        if path != on {
            // As if the users' directories were on it.
            fs::create_dir(storage.join(path)).unwrap();
            set_mode(storage.join(path), 0o700);
        }
        assert_eq!(kind(block_on(subject.store.delete(id))), ErrorKind::StorageBlocked);
        assert!(block_on(subject.store.get(id)).unwrap().is_some());
        assert_eq!(entries(&data_dir.join("trash")), 0);
        if path == on {
            assert_eq!(check(data_dir), []);
        } else {
            fs::remove_dir(storage.join(path)).unwrap();
        }
        unmount(&storage.join(on));
        assert_eq!(fs::read_to_string(storage.join(path).join("notes.txt")).unwrap(), "12345");
        block_on(subject.store.delete(id)).unwrap();

        // On it when it is in the trash.
        let trash = data_dir.join("trash").join(id.to_string());
        mount(&trash);
        let purged = block_on(subject.store.purge(Purge::User(id), |_| {})).unwrap();
        assert_eq!((purged.users, purged.files), (0, 0));
        assert_eq!(purged.left.len(), 1);
        assert_eq!(purged.left[0].path, Path::new(""));
        unmount(&trash);
        assert_eq!(block_on(subject.store.purge(Purge::User(id), |_| {})).unwrap().users, 1);
    }
    process::say("all worked");
}

/// A directory whose files another process is removing is left to it.
#[test]
fn a_purge_that_is_under_way_elsewhere_is_left_alone() {
    let place = SqlitePlace::new();
    let subject = Subject::new(&place.data_dir());
    fs::write(subject.dir.join("file"), "12345").unwrap();
    subject.delete();
    let elsewhere = File::open(subject.in_trash()).unwrap();
    rustix::fs::flock(&elsewhere, FlockOperation::NonBlockingLockExclusive).unwrap();
    let trash = File::open(subject.data_dir.join("trash")).unwrap();
    rustix::fs::flock(&trash, FlockOperation::NonBlockingLockShared).unwrap();
    let purged = subject.purge();
    assert_eq!((purged.users, purged.files, purged.elsewhere, purged.left.len()), (0, 0, 1, 0));
    assert!(subject.in_trash().join("file").exists());
    assert_eq!(check(&subject.data_dir), [], "what is under way is no finding");
    drop((elsewhere, trash));
    subject.assert_purge_completes(1);
}

/// Files for a removal that takes a while.
fn fill_much(dir: &Path) -> u64 {
    for number in 0..600 {
        let dir = dir.join(format!("{}/{}", number % 30, number % 60));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(number.to_string()), "12345").unwrap();
    }
    600
}

#[test]
fn of_stores_and_processes_that_purge_the_same_user_at_once_one_does() {
    for _ in 0..5 {
        let place = SqlitePlace::new();
        let subject = Subject::new(&place.data_dir());
        let files = fill_much(&subject.dir);
        let mut children: Vec<Process> =
            (0..2).map(|_| Process::start("purges", &place.data_dir(), "")).collect();
        let other = place.open();
        children.iter_mut().for_each(Process::await_ready);
        subject.delete();
        children.iter_mut().for_each(Process::start_now);
        let purge = |store: &Store| match block_on(store.purge(Purge::User(subject.id), |_| {})) {
            Ok(purged) => {
                assert!(purged.left.is_empty(), "{purged:?}");
                (purged.users, purged.files)
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
                (0, 0)
            }
        };
        let mut outcomes: Vec<(u64, u64)> = thread::scope(|scope| {
            let purging = [&subject.store, &other].map(|store| scope.spawn(move || purge(store)));
            purging.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for child in children {
            let heard = child.end();
            let (users, files) = heard[0].split_once(' ').unwrap();
            outcomes.push((users.parse().unwrap(), files.parse().unwrap()));
        }
        assert_eq!(outcomes.iter().map(|(users, _)| users).sum::<u64>(), 1, "{outcomes:?}");
        assert_eq!(outcomes.iter().map(|(_, files)| files).sum::<u64>(), files, "{outcomes:?}");
        assert_eq!(entries(&place.data_dir().join("trash")), 0);
        assert_eq!(check(&place.data_dir()), []);
    }
}

pub(crate) fn child_purges(data_dir: &Path) {
    let store = block_on(Store::open(data_dir)).unwrap();
    process::wait_for_the_start();
    let everybody = Purge::DeletedBefore("9000-01-01T00:00:00Z".parse().unwrap());
    let purged = block_on(store.purge(everybody, |_| {})).unwrap();
    assert!(purged.left.is_empty(), "{purged:?}");
    process::say(format_args!("{} {}", purged.users, purged.files));
    block_on(store.close()).unwrap();
}

/// The store writes its marker as root into a directory of somebody's, who has another's file there
/// under the name that it has until it is whole.
#[test]
fn a_file_with_a_name_of_the_stores_is_neither_emptied_nor_given_away() {
    let place = SqlitePlace::new();
    let other = place.data_dir().with_file_name("of another");
    fs::create_dir_all(place.data_dir().join("storage")).unwrap();
    set_mode(place.data_dir(), 0o700);
    set_mode(place.data_dir().join("storage"), 0o700);
    fs::write(&other, "hello").unwrap();
    set_mode(&other, 0o644);
    fs::hard_link(&other, place.data_dir().join("storage/.tenantry-store.new")).unwrap();
    block_on(place.open().close()).unwrap();
    assert_eq!(fs::read_to_string(&other).unwrap(), "hello");
    assert_eq!(mode(&other), 0o644);
    assert_eq!(check(&place.data_dir()), []);
}

#[test]
fn directories_are_private_whatever_the_umask() {
    for umask in ["0000", "0077"] {
        let place = SqlitePlace::new();
        let child = Process::start_without_privileges(
            "opens under a umask",
            place.as_ref(),
            &place.data_dir(),
            &format!("umask {umask}"),
        );
        assert_eq!(child.end(), ["all worked"], "{umask}");
    }
}

pub(crate) fn child_opens_under_a_umask(data_dir: &Path) {
    let store = block_on(Store::open(data_dir)).unwrap();
    let make = |email, path| {
        let ada = block_on(store.create(new_user_at(email, path))).unwrap().id;
        let bob = block_on(store.create(new_user(&format!("not-{email}")))).unwrap();
        let mut dirs = vec![
            data_dir.join("trash"),
            data_dir.join("storage").join(path).parent().unwrap().to_owned(),
        ];
        dirs.extend([ada, bob.id].map(|id| block_on(store.directory_path(id)).unwrap()));
        dirs.extend(
            Path::new(bob.storage_path.as_str())
                .ancestors()
                .map(|path| data_dir.join("storage").join(path)),
        );
        for dir in dirs {
            assert_eq!(mode(&dir), 0o700, "{}", dir.display());
        }
    };
    make("one@example.com", "customers/one");
    // One that takes away from the owner too what they need.
    rustix::process::umask(Mode::from_raw_mode(0o777));
    make("two@example.com", "others/two");
    assert_eq!(check(data_dir), []);
    block_on(store.close()).unwrap();
    process::say("all worked");
}
