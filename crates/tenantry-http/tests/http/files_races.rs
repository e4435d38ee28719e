//! Directories that are swapped with symbolic links to somewhere outside, in a tight loop, while
//! requests on files meet them. The last test shows that a service which checks a path and then
//! uses it is deceived within moments.

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use axum::http::{Method, StatusCode};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::files::Ada;

/// How long each operation is raced against.
const RACE: Duration = Duration::from_secs(1);
/// How many operations have to meet the directory, and how many the link.
const ENOUGH: usize = 5;
/// How long it may take until there was a race. It takes milliseconds.
const LOST_SOON: Duration = Duration::from_secs(120);
const OF_ADA: &str = "of ada";
const CANARY: &str = "of somebody else";

/// A tree of somebody else's, in which there is whatever a request could ask for.
struct Outside {
    root: PathBuf,
    before: BTreeMap<PathBuf, [i64; 9]>,
}

impl Outside {
    fn new(root: PathBuf) -> Self {
        for dir in ["", "nested", "nested/inner", "ada", "ada/nested", "ada/nested/inner"] {
            fs::create_dir(root.join(dir)).unwrap();
            fs::write(root.join(dir).join("notes.txt"), CANARY).unwrap();
        }
        let mut outside = Self { root, before: BTreeMap::new() };
        outside.before = outside.now();
        for path in outside.before.keys() {
            // So long ago that any access is recorded, also with the mount option relatime.
            File::open(path)
                .unwrap()
                .set_times(FileTimes::new().set_accessed(SystemTime::UNIX_EPOCH))
                .unwrap();
        }
        outside.before = outside.stat(outside.before.keys());
        outside
    }

    fn now(&self) -> BTreeMap<PathBuf, [i64; 9]> {
        let mut paths = Vec::new();
        let mut dirs = vec![self.root.clone()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).unwrap().map(Result::unwrap) {
                // What is swapped comes and goes in the root.
                if entry.file_name() == "aside" {
                    continue;
                }
                dirs.extend(entry.file_type().unwrap().is_dir().then(|| entry.path()));
                paths.push(entry.path());
            }
        }
        self.stat(paths.iter())
    }

    fn stat<'p>(&self, paths: impl Iterator<Item = &'p PathBuf>) -> BTreeMap<PathBuf, [i64; 9]> {
        let stat = |path: &PathBuf| {
            let found = fs::symlink_metadata(path).unwrap();
            let [inode, mode, size] =
                [found.ino(), found.mode().into(), found.size()].map(u64::cast_signed);
            let (mtime, ctime) = (found.mtime(), found.ctime());
            [
                inode,
                mode,
                size,
                found.atime(),
                found.atime_nsec(),
                mtime,
                found.mtime_nsec(),
                ctime,
                found.ctime_nsec(),
            ]
        };
        paths.map(|path| (path.clone(), stat(path))).collect()
    }

    /// Nothing was read, created, changed or removed.
    #[track_caller]
    fn assert_untouched(&self) {
        assert_eq!(self.stat(self.before.keys()), self.before);
        let names: Vec<_> = self.now().into_keys().collect();
        assert_eq!(
            names,
            self.before.keys().cloned().collect::<Vec<_>>(),
            "something was created outside"
        );
    }

    fn aside(&self) -> PathBuf {
        self.root.join("aside")
    }
}

/// A thread that swaps a directory with what lies aside until it is stopped.
struct Swapper {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Swapper {
    fn start(place: PathBuf, aside: PathBuf) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let thread = thread::spawn(move || {
            let mut swaps = 0;
            while !over.load(Ordering::Relaxed) {
                renameat_with(CWD, &place, CWD, &aside, RenameFlags::EXCHANGE).unwrap();
                swaps += 1;
            }
            if place.is_symlink() {
                renameat_with(CWD, &place, CWD, &aside, RenameFlags::EXCHANGE).unwrap();
            }
            swaps
        });
        Self { is_over, thread: Some(thread) }
    }

    fn stop(mut self) -> u64 {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What is swapped, relative to the user's directory, and the link from there to the outside.
const TARGETS: [(&str, &str); 3] =
    [(".", "../../outside"), ("..", "../outside"), ("nested", "../../../outside/nested")];

async fn ada_with_chosen_path() -> Ada {
    let ada = Ada::new().await;
    let mut new = tenantry::NewUser::new("bob@example.com".parse().unwrap());
    new.storage_path = Some("customers/ada".parse().unwrap());
    let user = ada.api.store.create(new).await.unwrap();
    let ada = Ada { path: format!("/v1/users/{}", user.id), ..ada };
    for file in ["notes.txt", "nested/notes.txt", "nested/inner/notes.txt"] {
        assert!(ada.put(file, OF_ADA).await.status.is_success());
    }
    ada
}

/// The directory that is swapped, as a path without `..`.
fn place(dir: &Path, target: &str) -> PathBuf {
    match target {
        "." => dir.to_owned(),
        ".." => dir.parent().unwrap().to_owned(),
        within => dir.join(within),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_reads_writes_lists_or_removes_anything_outside() {
    for (target, link) in TARGETS {
        let ada = ada_with_chosen_path().await;
        let outside = Outside::new(ada.api.dir.path().join("outside"));
        symlink(link, outside.aside()).unwrap();
        let swapper = Swapper::start(place(&ada.dir().await, target), outside.aside());
        let (start, mut done, mut refused) = (Instant::now(), [0; 4], 0);
        while start.elapsed() < RACE || done.iter().any(|done| *done < ENOUGH) || refused < ENOUGH {
            assert!(
                start.elapsed() < LOST_SOON,
                "there was no race to speak of: {done:?} {refused}"
            );
            for (number, (method, path)) in [
                (Method::PUT, "nested/new/file.txt"),
                (Method::GET, "nested/inner/notes.txt"),
                (Method::GET, "nested/"),
                (Method::DELETE, "nested/new/file.txt"),
            ]
            .into_iter()
            .enumerate()
            {
                let reply = ada.call(method.clone(), path, &[], OF_ADA).await;
                if reply.status.is_success() {
                    done[number] += 1;
                    let text = String::from_utf8(reply.body.unwrap().to_vec()).unwrap();
                    assert!(path != "nested/inner/notes.txt" || text == OF_ADA, "{text}");
                } else {
                    refused += 1;
                    // The directory, the link, or what a moment before wasn't there.
                    let expected =
                        [StatusCode::FORBIDDEN, StatusCode::NOT_FOUND, StatusCode::CONFLICT];
                    let is_expected =
                        expected.contains(&reply.status) || reply.problem() == "storage-blocked";
                    assert!(is_expected, "{method} {path}: {reply:?}");
                }
            }
        }
        assert!(swapper.stop() > 100, "there was no race to speak of");
        outside.assert_untouched();
        assert_eq!(ada.get("nested/inner/notes.txt").await.body.unwrap(), OF_ADA);
        // Of uploads that were refused, nothing is left.
        let listed = ada.get("nested/").await;
        assert!(!String::from_utf8_lossy(&listed.body.unwrap()).contains("upload"));
    }
}

/// What most services do, and what is wrong with it.
#[tokio::test]
async fn a_service_that_checks_paths_is_deceived() {
    let ada = ada_with_chosen_path().await;
    let outside = Outside::new(ada.api.dir.path().join("outside"));
    symlink(TARGETS[2].1, outside.aside()).unwrap();
    let dir = fs::canonicalize(ada.dir().await).unwrap();
    let swapper = Swapper::start(dir.join("nested"), outside.aside());
    let start = Instant::now();
    let checked_read = || {
        let path = dir.join("nested/notes.txt");
        let real = fs::canonicalize(&path).ok().filter(|real| real.starts_with(&dir))?;
        assert!(real == path);
        fs::read_to_string(path).ok()
    };
    while checked_read().is_none_or(|text| text != CANARY) {
        assert!(
            start.elapsed() < LOST_SOON,
            "a check of paths was never deceived: so there is no race here"
        );
    }
    swapper.stop();
    assert_ne!(outside.stat(outside.before.keys()), outside.before, "the test sees it too");
}
