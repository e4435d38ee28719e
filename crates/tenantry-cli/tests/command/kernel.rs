use std::process::Command;

use super::{Session, decode, missing};

/// The system calls that are refused, as `strace` injects it, and where that is met.
const REFUSED: &[&[&str]] = &[
    // systemd's `RestrictSUIDSGID=` and `DynamicUser=`; systemd before 248; a kernel that lacks a
    // flag.
    &["openat2:error=ENOSYS"],
    &["openat2:error=EPERM"],
    &["openat2:error=EINVAL"],
    // bindfs, mergerfs, ntfs-3g, ZFS before 2.2.
    &["renameat2:error=EINVAL"],
    &["openat2:error=ENOSYS", "renameat2:error=EINVAL"],
];

struct Refusing<'s> {
    session: &'s Session,
    calls: &'static [&'static str],
}

impl Refusing<'_> {
    fn run(&self, arguments: &[&str]) -> String {
        let mut command = self.session.in_dir("strace");
        command.args(["-f", "-qq", "-o", "trace"]);
        for call in self.calls {
            command.args(["-e", &format!("inject={call}")]);
        }
        command.arg(env!("CARGO_BIN_EXE_tenantry")).args(arguments);
        let (code, stdout, stderr) = decode(command.output().unwrap());
        assert_eq!(code, 0, "{:?} {arguments:?}: {stderr}", self.calls);
        stdout
    }

    /// Returns whether the last command made a refused call.
    fn was_refused(&self) -> bool {
        std::fs::read_to_string(self.session.path("trace")).unwrap().contains("(INJECTED)")
    }
}

/// Under the hardening that is usual for a systemd service no command worked, and on bindfs and
/// mergerfs no user could be deleted: the store relied on `openat2` and on `RENAME_NOREPLACE`.
#[test]
fn the_lifecycle_of_a_user_works_without_openat2_and_without_rename_noreplace() {
    if Command::new("strace").arg("-V").output().is_err() {
        return missing("refusing a system call needs `strace`");
    }
    for calls in REFUSED {
        let session = Session::new();
        let refusing = Refusing { session: &session, calls };
        let user = "ada@example.com";
        refusing.run(&["user", "create", user]);
        let path = refusing.run(&["storage", "path", user]);
        assert!(refusing.was_refused() || calls[0].starts_with("renameat2"), "{calls:?}");
        let file = std::path::Path::new(path.trim_end()).join("notes.txt");
        let file = session.dir.path().join(file);
        std::fs::write(&file, "hello").unwrap();
        let id = refusing.run(&["user", "get", user, "--format", "json"]);
        let id = id.split('"').nth(3).unwrap().to_owned();

        refusing.run(&["user", "delete", user, "--yes"]);
        assert!(refusing.was_refused(), "{calls:?}");
        assert!(!file.exists());
        let in_trash = session.path("data").join("trash").join(&id).join("notes.txt");
        assert_eq!(std::fs::read_to_string(&in_trash).unwrap(), "hello", "{calls:?}");

        refusing.run(&["user", "restore", &id]);
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "hello", "{calls:?}");

        refusing.run(&["user", "export-archive", user, "ada.tar.zst"]);
        refusing.run(&["backup", "create", "all.tar.zst"]);
        refusing.run(&["backup", "restore", "all.tar.zst", "--into", "restored"]);
        refusing.run(&["check"]);

        refusing.run(&["user", "delete", user, "--yes"]);
        refusing.run(&["user", "purge", &id, "--yes"]);
        assert!(!in_trash.exists());
        refusing.run(&["user", "import-archive", "ada.tar.zst", "--data-dir", "other"]);
        refusing.run(&["check", "--data-dir", "other"]);
        assert_eq!(refusing.run(&["user", "list", "--format", "jsonl"]), "");
    }
}

/// A symbolic link in the way is refused by the walk as it is by the kernel.
#[test]
fn a_symbolic_link_is_refused_without_openat2() {
    if Command::new("strace").arg("-V").output().is_err() {
        return missing("refusing a system call needs `strace`");
    }
    let session = Session::new();
    session.output(&["user", "create", "ada@example.com"]);
    let path = session.output(&["storage", "path", "ada@example.com"]);
    let dir = session.dir.path().join(path.trim_end());
    std::fs::remove_dir(&dir).unwrap();
    std::fs::create_dir(session.path("victim")).unwrap();
    std::os::unix::fs::symlink(session.path("victim"), &dir).unwrap();
    let mut codes = Vec::new();
    for inject in ["trace=none", "inject=openat2:error=ENOSYS"] {
        let output = session
            .in_dir("strace")
            .args([
                "-f",
                "-qq",
                "-o",
                "trace",
                "-e",
                inject,
                env!("CARGO_BIN_EXE_tenantry"),
                "storage",
                "path",
            ])
            .arg("ada@example.com")
            .output()
            .unwrap();
        let (code, _, stderr) = decode(output);
        assert!(stderr.contains("symbolic link"), "{inject}: {stderr}");
        codes.push(code);
    }
    assert_eq!(codes[0], codes[1]);
    assert_ne!(codes[0], 0);
}
