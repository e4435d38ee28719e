//! The system calls of a child process, as strace saw them.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::process::Process;
use crate::support::skipped;

/// What changes a file system, waits for the disk, or moves a descriptor from which one of these
/// goes on.
const RECORDED: &str = "?open,openat,openat2,?creat,close,dup,?dup2,dup3,fcntl,read,lseek,write,pwrite64,writev,pwritev,\
                        pwritev2,ftruncate,truncate,fallocate,copy_file_range,sendfile,splice,fsync,fdatasync,syncfs,\
                        sync,sync_file_range,?mkdir,mkdirat,?rmdir,?unlink,unlinkat,?rename,renameat,renameat2,?link,\
                        linkat,?symlink,symlinkat,?chmod,fchmod,fchmodat,?fchmodat2,ioctl";

/// A system call that has come to its end.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) name: String,
    pub(super) args: Vec<String>,
    /// What it answered; -1 for an error.
    pub(super) answer: i64,
    /// Whether strace has made it fail.
    pub(super) is_injected: bool,
}

/// Whether strace can be used here. Somebody is told if not.
pub(super) fn is_possible() -> bool {
    static POSSIBLE: OnceLock<bool> = OnceLock::new();
    *POSSIBLE.get_or_init(|| {
        let mut strace = Command::new("strace");
        strace.args(["-f", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=fsync", "true"]);
        let ran = strace.stdout(Stdio::null()).stderr(Stdio::null()).status();
        let is_possible = ran.is_ok_and(|status| status.success());
        if !is_possible {
            skipped("the system calls of a process can't be recorded: strace is missing, or may not trace");
        }
        is_possible
    })
}

/// Runs a child in its role, and returns its system calls in the order in which they ended, with
/// what it said. `more` goes to strace: which call is to fail.
pub(super) fn record(role: &str, dir: &Path, more: &str) -> (Vec<Call>, Vec<String>) {
    // In the place of the child itself, which strace then starts.
    let strace = format!(
        "exec strace -f --seccomp-bpf -qq -xx -s 100000000 -e signal=none -e trace={RECORDED} {more} \
         -o \"$TENANTRY_TEST_DIR/trace\" \"$0\" --exact child::child_process_entry --nocapture"
    );
    let said = Process::start(role, dir, &strace).end();
    let trace = dir.join("trace");
    let calls = parse(&fs::read_to_string(&trace).unwrap());
    fs::remove_file(trace).unwrap();
    (calls, said)
}

fn parse(text: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut unfinished: HashMap<&str, &str> = HashMap::new();
    for line in text.lines() {
        let (thread, rest) =
            line.split_once(' ').unwrap_or_else(|| panic!("no thread: {line:.200}"));
        let rest = rest.trim_start();
        // Of a thread that ended: strace may not even know with what.
        if rest.starts_with(['+', '-', '?']) || rest.ends_with("<detached ...>") {
            continue;
        }
        if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
            assert!(unfinished.insert(thread, begun.trim_end()).is_none());
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let (_, end) = resumed.split_once(" resumed>").unwrap();
            let begun = unfinished.remove(thread).unwrap();
            calls.extend(call(&format!("{begun}{end}")));
        } else {
            calls.extend(call(rest));
        }
    }
    calls
}

/// One call: `name(args) = answer`. `None` if it didn't come to its end before the process did.
fn call(text: &str) -> Option<Call> {
    let (name, rest) = text.split_once('(').unwrap_or_else(|| panic!("no call: {text:.200}"));
    // In no string, since they are in hexadecimal digits.
    let (args, answer) = rest.rsplit_once(" = ").unwrap_or_else(|| panic!("no end: {text:.200}"));
    let args = args.trim_end().strip_suffix(')').unwrap_or_else(|| panic!("no end: {text:.200}"));
    let is_injected = answer.ends_with("(INJECTED)");
    let number = answer.split(' ').next()?;
    let answer = match number.strip_prefix("0x") {
        _ if number == "?" => return None,
        Some(hex) => i64::from_str_radix(hex, 16),
        None => number.parse(),
    };
    let answer = answer.unwrap_or_else(|_| panic!("no answer: {text:.200}"));
    Some(Call { name: name.to_owned(), args: arguments(args), answer, is_injected })
}

/// Splits at the commas that are in no string or structure.
fn arguments(text: &str) -> Vec<String> {
    let mut args = Vec::new();
    let (mut depth, mut is_quoted, mut start) = (0, false, 0);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            // With -xx a string holds nothing but \x.. .
            b'"' => is_quoted = !is_quoted,
            _ if is_quoted => {}
            b'{' | b'[' | b'(' => depth += 1,
            b'}' | b']' | b')' => depth -= 1,
            b',' if depth == 0 => {
                args.push(text[start..at].trim().to_owned());
                start = at + 1;
            }
            _ => {}
        }
    }
    args.push(text[start..].trim().to_owned());
    args
}

/// The bytes of a string that strace has printed with -xx.
pub(super) fn octets(arg: &str) -> Vec<u8> {
    let hex = arg.strip_prefix('"').and_then(|arg| arg.strip_suffix('"'));
    let hex = hex.unwrap_or_else(|| panic!("no whole string: {arg:.100}"));
    let mut octets = Vec::with_capacity(hex.len() / 4);
    for escaped in hex.as_bytes().chunks(4) {
        let digit = |byte: u8| char::from(byte).to_digit(16).unwrap() as u8;
        assert!(
            escaped.len() == 4 && escaped.starts_with(b"\\x"),
            "not in hexadecimal digits: {arg:.100}"
        );
        octets.push(digit(escaped[2]) << 4 | digit(escaped[3]));
    }
    octets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_several_threads_are_put_together() {
        let calls = parse(concat!(
            "7 openat2(3, \"\\x61\", {flags=O_RDONLY|O_CLOEXEC, resolve=RESOLVE_BENEATH}, 24) = 5\n",
            "7 fsync(5 <unfinished ...>\n",
            "8 write(6, \"\\x61\\x29\\x20\", 3) = 3\n",
            "7 <... fsync resumed>)              = -1 EIO (Input/output error) (INJECTED)\n",
            "8 +++ exited with 0 +++\n",
        ));
        let names: Vec<_> =
            calls.iter().map(|call| (&*call.name, call.answer, call.is_injected)).collect();
        assert_eq!(names, [("openat2", 5, false), ("write", 3, false), ("fsync", -1, true)]);
        assert_eq!(
            calls[0].args[1..3],
            ["\"\\x61\"", "{flags=O_RDONLY|O_CLOEXEC, resolve=RESOLVE_BENEATH}"]
        );
        assert_eq!(octets(&calls[1].args[1]), b"a) ");
        assert_eq!(calls[2].args, ["5"]);
    }
}
