//! The command as people use it: the binary is run, and what it prints and how it exits is held
//! against its contract.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

/// Clocks that are wrong by decades.
mod clock;
/// Which data directory is used.
mod data_dir;
/// Names and links in documents, which go stale when code moves.
mod documents;
/// File systems on which a rename, or a look into a directory, fails.
mod file_systems;
/// systemd's hardening, and a container's file system.
mod hardened;
/// Ctrl-C, and readers that go away.
mod interrupt;
/// Kernels and file systems that lack a system call.
mod kernel;
/// Links and mounts in the place of the store's own files and directories.
mod links;
/// File systems that lack something, by real mounts of such ones.
mod mounts;
/// When a file that is written gets its name.
mod order;
/// Whose files are that root makes, and a umask that takes the owner's rights.
mod owner;
/// Where backups are restored, and what doesn't come back.
mod restoring;
/// Standard input, output and error that are full, closed or something else.
mod streams;
/// A terminal: tables, questions.
mod terminal;
/// Sessions written down in Markdown, those of the README and of docs/ among them.
mod transcripts;
/// Import and export: large, real, hostile.
mod transfer;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A directory of its own for a test, with the command in it.
struct Session {
    dir: tempfile::TempDir,
}

impl Session {
    fn new() -> Self {
        heed_hangups();
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The command in this directory, on the store in `data` beside it, whatever the environment
    /// says.
    fn tenantry(&self, arguments: &[&str]) -> Command {
        let mut command = self.in_dir(env!("CARGO_BIN_EXE_tenantry"));
        command.args(arguments);
        command
    }

    fn in_dir(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let binaries = Path::new(env!("CARGO_BIN_EXE_tenantry")).parent().unwrap();
        let path = std::env::var("PATH").unwrap();
        command
            .current_dir(self.dir.path())
            .env("PATH", format!("{}:{path}", binaries.display()))
            .env("TENANTRY_DATA_DIR", "data")
            .env_remove("NO_COLOR")
            .env_remove("STATE_DIRECTORY")
            .stdin(Stdio::null());
        command
    }

    /// Runs the command and answers its exit code, standard output and standard error.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        told(self.tenantry(arguments).output().unwrap())
    }

    /// Runs the command, which must succeed, and answers its standard output.
    fn output(&self, arguments: &[&str]) -> String {
        let (code, stdout, stderr) = self.run(arguments);
        assert_eq!(code, 0, "{arguments:?}: {stderr}");
        stdout
    }
}

/// Undoes `nohup`: what ignores SIGHUP hands that down, and the command then ignores it too, as it
/// ought to.
#[allow(unsafe_code, reason = "the standard library sets the handling of no signal")]
fn heed_hangups() {
    // SAFETY: the default handling has no function that a signal could call.
    let before = unsafe { libc::signal(libc::SIGHUP, libc::SIG_DFL) };
    assert_ne!(before, libc::SIG_ERR);
}

fn told(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// Whether the tests run as root. If they don't, says what can't be tested.
fn is_root(what: &str) -> bool {
    use std::os::unix::fs::MetadataExt;

    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if !is_root {
        missing(&format!("{what} needs root"));
    }
    is_root
}

/// Waits until something is so, and fails if it never is.
fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !is_so() {
        assert!(std::time::Instant::now() < deadline, "it never happened: {what}");
        std::thread::yield_now();
    }
}

/// What a test can't do without. Without it, a person is told; CI fails.
#[allow(clippy::explicit_write, reason = "what `eprintln!` says of a test that passes is kept from whoever runs it")]
fn missing(what: &str) {
    assert!(std::env::var_os("CI").is_none(), "{what}");
    let thread = std::thread::current();
    // Which has the name of the test.
    writeln!(std::io::stderr(), "SKIPPED {}: {what}", thread.name().unwrap_or_default()).unwrap();
}
