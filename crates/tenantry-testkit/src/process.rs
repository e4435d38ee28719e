//! A test binary runs itself where a second process is needed: with a role, it does that role's
//! part. The binary's `child::child_process_entry` is the entrance.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

const ROLE: &str = "TENANTRY_TEST_ROLE";
const DIR: &str = "TENANTRY_TEST_DIR";
/// What a child writes before what it has to say.
const SAYS: &str = "child says: ";

/// The role of this process and the directory that comes with it, if it is a child.
pub fn role() -> Option<(String, PathBuf)> {
    let Ok(role) = std::env::var(ROLE) else {
        println!(
            "no role is given, so there is nothing to do: this is the entrance for child processes"
        );
        return None;
    };
    Some((role, PathBuf::from(std::env::var_os(DIR).expect("a directory comes with a role"))))
}

/// Says something to the process that started this one.
pub fn say(text: impl std::fmt::Display) {
    // Below the test harness, which has written the beginning of a line.
    println!("\n{SAYS}{text}");
}

/// Says that everything is prepared, and waits until the parent has heard that of every child.
pub fn wait_for_the_start() {
    say("ready");
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

/// Ends this process when the one that started it has ended, or wants it to end by dropping it: a
/// child that works until it is killed mustn't outlive a test that failed.
pub fn end_with_the_parent() {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
}

/// A child that was started.
pub struct Process {
    child: Child,
    /// Closed by the start.
    stdin: Option<ChildStdin>,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Process {
    /// Starts a child in its role. `shell` is run before it, in the same process.
    pub fn start(role: &str, dir: &Path, shell: &str) -> Self {
        Self::spawn(Command::new("sh"), &std::env::current_exe().unwrap(), role, dir, shell)
    }

    /// The same as somebody for whom permissions count, who gets the directory `place` for that.
    pub fn start_without_privileges(role: &str, place: &Path, dir: &Path, shell: &str) -> Self {
        const NOBODY: u32 = 65_534;
        if !rustix::process::geteuid().is_root() {
            return Self::start(role, dir, shell);
        }
        // The checkout may be where nobody else can go.
        let program = place.join("test-program");
        fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        chown(place, Some(NOBODY), Some(NOBODY)).unwrap();
        let mut sh = Command::new("sh");
        sh.uid(NOBODY).gid(NOBODY);
        Self::spawn(sh, &program, role, dir, shell)
    }

    fn spawn(mut sh: Command, program: &Path, role: &str, dir: &Path, shell: &str) -> Self {
        let mut child = sh
            .args([
                "-c",
                &format!("{shell}\nexec \"$0\" --exact child::child_process_entry --nocapture"),
            ])
            .arg(program)
            .env(ROLE, role)
            .env(DIR, dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, stdin, lines }
    }

    /// The next thing that the child says.
    pub fn hear(&mut self) -> Option<String> {
        self.lines
            .by_ref()
            .map(Result::unwrap)
            .find_map(|line| line.strip_prefix(SAYS).map(str::to_owned))
    }

    /// Waits until the child is prepared.
    pub fn await_ready(&mut self) {
        assert_eq!(self.hear().as_deref(), Some("ready"));
    }

    pub fn start_now(&mut self) {
        self.stdin.take().unwrap().write_all(b"\n").unwrap();
    }

    /// Kills the child as it is, and returns what it said until then and nobody has heard. The
    /// last of it may be half a line.
    pub fn kill(mut self) -> Vec<String> {
        self.child.kill().unwrap();
        let heard: Vec<String> = std::iter::from_fn(|| self.hear()).collect();
        self.child.wait().unwrap();
        heard
    }

    /// Tells the child something, which it reads from its standard input.
    pub fn tell(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Waits for the end, which must be a good one, and returns what the child said until then.
    pub fn end(self) -> Vec<String> {
        let (heard, status) = self.end_somehow();
        assert!(status.success(), "{status}; the child said {heard:?}");
        heard
    }

    /// Waits for the end, and returns what the child said until then.
    pub fn end_somehow(mut self) -> (Vec<String>, ExitStatus) {
        let heard: Vec<String> = std::iter::from_fn(|| self.hear()).collect();
        (heard, self.child.wait().unwrap())
    }
}
