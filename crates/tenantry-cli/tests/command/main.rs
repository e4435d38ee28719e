//! Tests of the command: run the binary, and compare its output and exit codes with its contract.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

/// Clocks that are wrong by decades.
mod clock;
/// Which data directory is used.
mod data_dir;
/// Names and links in documents, which go stale when code moves.
mod documents;
/// File systems on which a rename, or reading a directory, fails.
mod file_systems;
/// systemd's hardening, and a container's file system.
mod hardened;
/// Signals, and broken pipes.
mod interrupt;
/// Kernels and file systems that lack a system call.
mod kernel;
/// Links and mounts in the place of the store's own files and directories.
mod links;
/// Unsuitable file systems, really mounted.
mod mounts;
/// The order of fsync and rename of a written file.
mod order;
/// The owner of files that root creates, and a umask without owner permissions.
mod owner;
/// Targets of a restore, and losses that it reports.
mod restoring;
/// The service.
mod serve;
/// Standard streams that are full, closed or special files.
mod streams;
/// A terminal: tables, questions.
mod terminal;
/// Tokens, beside a service.
mod tokens;
/// Sessions in Markdown, including those of the README and of docs/.
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

    /// Runs the command, and returns its exit code, standard output and standard error.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        decode(self.tenantry(arguments).output().unwrap())
    }

    /// Runs the command, which must succeed, and returns its standard output.
    fn output(&self, arguments: &[&str]) -> String {
        let (code, stdout, stderr) = self.run(arguments);
        assert_eq!(code, 0, "{arguments:?}: {stderr}");
        stdout
    }
}

/// Undoes `nohup`: an ignored SIGHUP is inherited, and the command would correctly ignore it too.
#[allow(unsafe_code, reason = "the standard library sets the handling of no signal")]
fn heed_hangups() {
    // SAFETY: the default handling has no function that a signal could call.
    let before = unsafe { libc::signal(libc::SIGHUP, libc::SIG_DFL) };
    assert_ne!(before, libc::SIG_ERR);
}

fn decode(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// Returns whether the tests run as root. If not, reports the test as skipped.
fn is_root(what: &str) -> bool {
    use std::os::unix::fs::MetadataExt;

    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if !is_root {
        missing(&format!("{what} needs root"));
    }
    is_root
}

/// Waits for a condition, and fails if it never holds.
fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "it never happened: {what}");
        std::thread::yield_now();
    }
}

/// Reports a missing requirement of a test: outside CI as `SKIPPED`, in CI as a failure.
#[allow(
    clippy::explicit_write,
    reason = "the test harness captures `eprintln!` of a test that passes"
)]
fn missing(what: &str) {
    assert!(std::env::var_os("CI").is_none(), "{what}");
    let thread = std::thread::current();
    // Which has the name of the test.
    writeln!(std::io::stderr(), "SKIPPED {}: {what}", thread.name().unwrap_or_default()).unwrap();
}
