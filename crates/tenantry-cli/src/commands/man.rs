//! `tenantry man`: the manual pages, made from the help texts and from sections of their own.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::args::{self, Cli};
use crate::failure::Failure;

/// The exit codes, in the words of docs/command.md.
const EXIT_STATUS: [(&str, &str); 10] = [
    ("0", "done"),
    (
        "1",
        "failure of another kind, such as findings of a check, a file that can't be written or removed, or \"no\" to a question",
    ),
    (
        "2",
        "usage: the command line can't be parsed or is refused, such as delete without --yes where nobody can be asked",
    ),
    (
        "3",
        "not found: no such user, token, directory, backup or archive, no store, or nothing measured yet",
    ),
    (
        "4",
        "conflict: email, id, path or name of a token taken, version mismatch, files in the way of an adoption or a restore, a backup or archive of that name",
    ),
    (
        "5",
        "invalid input: an address, id, path, time, duration, cursor, name of a token or row of a file",
    ),
    (
        "6",
        "busy: another process is writing for longer than 5 seconds, or makes a backup, an export of a user or a purge",
    ),
    (
        "7",
        "store unusable: corrupt, or of a newer version or another application, in which case it was not changed; or its directories are missing; or a damaged backup or archive",
    ),
    (
        "8",
        "denied: the process lacks a permission to read or write, or the file system is mounted read-only; or the user who is to log in is suspended",
    ),
    ("130, 143, 129", "interrupted by Ctrl-C (SIGINT), SIGTERM or SIGHUP"),
];

const ENVIRONMENT: [(&str, &str); 5] = [
    ("TENANTRY_DATA_DIR", "the data directory, if --data-dir doesn't name it"),
    (
        "STATE_DIRECTORY",
        "the data directory, if neither of these names it: of several, divided by colons, the first. systemd sets it",
    ),
    (
        "XDG_DATA_HOME, HOME",
        "if none of these is set, the data directory is $XDG_DATA_HOME/tenantry, or else $HOME/.local/share/tenantry",
    ),
    (
        "RUNTIME_DIRECTORY",
        "the directory of the socket of `tenantry serve`: of several, the first. systemd sets it",
    ),
    ("NO_COLOR", "if it isn't empty, nothing is coloured but with --color always"),
];

const FILES: [(&str, &str); 8] = [
    (
        "tenantry.db",
        "the users. tenantry.db-wal and tenantry.db-shm are beside it while the store is in use, and belong to it",
    ),
    ("tenantry.lock", "held by all who have the store open"),
    ("tenantry.sock", "the socket of `tenantry serve`"),
    ("storage/", "the users' directories"),
    (
        "storage/.tenantry-store",
        "the id of the store, by which its directories and its database know each other",
    ),
    ("trash/", "the directories of users who were deleted and not purged yet"),
    ("quarantine/", "what a repair moved out of the way, each with a note of where it came from"),
    ("backups/", "the database as it was before each upgrade"),
];

/// Command without its first word, description, command line. Every command has at least one.
const EXAMPLES: &[(&str, &str, &str)] = &[
    (
        "",
        "Create a user, and the store in which they are:",
        "tenantry --data-dir data user create ada@example.com",
    ),
    ("", "List the users:", "tenantry --data-dir data user list"),
    (
        "",
        "Back up a store daily, and keep a week:",
        "tenantry --data-dir /var/lib/app backup create --keep 7 /var/backups/app",
    ),
    ("user create", "Create a user:", "tenantry user create ada@example.com"),
    (
        "user create",
        "Give the user the files that are in storage/customers/ada already:",
        "tenantry user create ada@example.com --storage-path customers/ada --adopt",
    ),
    (
        "user get",
        "Show a user in a table, even in a pipe:",
        "tenantry user get ada@example.com -o table",
    ),
    (
        "user list",
        "List the users who haven't logged in for half a year:",
        "tenantry user list --all --inactive-for 180d",
    ),
    (
        "user list",
        "List only the addresses, one a line:",
        "tenantry user list --all --columns email -o csv",
    ),
    (
        "user update",
        "Change an address, unless the user has changed since version 3 was read:",
        "tenantry user update ada@example.com --email ada@example.org --expect-version 3",
    ),
    (
        "user update",
        "Give a user a name, and remove the external id:",
        "tenantry user update ada@example.com --name Ada --clear-external-id",
    ),
    ("user count", "Count the users who never logged in:", "tenantry user count --never-logged-in"),
    (
        "user delete",
        "Move those to the trash who haven't logged in for two years, after a look at who they are:",
        "tenantry user delete --inactive-for 2y --dry-run",
    ),
    ("user suspend", "Keep a user from signing in:", "tenantry user suspend ada@example.com"),
    ("user resume", "Let the user sign in again:", "tenantry user resume ada@example.com"),
    ("user list", "List the users who are suspended:", "tenantry user list --all --suspended"),
    ("user rename", "Change an address:", "tenantry user rename ada@example.com ada@example.org"),
    (
        "user login",
        "Record a login, and create the user if this is the first:",
        "tenantry user login ada@example.com --create",
    ),
    ("user delete", "Move a user to the trash:", "tenantry user delete ada@example.com"),
    (
        "user restore",
        "Restore a user whose address another user has by now:",
        "tenantry user restore 3fa2b1c4-0000-4000-8000-000000000001 --email ada2@example.com",
    ),
    (
        "user purge",
        "List the users who would be destroyed:",
        "tenantry user purge --older-than 30d --dry-run",
    ),
    (
        "user purge",
        "Destroy the users who were deleted over a month ago:",
        "tenantry user purge --older-than 30d --yes",
    ),
    (
        "user export-archive",
        "Write a user and their files to one file:",
        "tenantry user export-archive ada@example.com ada.tar.zst",
    ),
    (
        "user import-archive",
        "Create that user in another store:",
        "tenantry --data-dir other user import-archive ada.tar.zst",
    ),
    ("import", "Import a file, all or nothing:", "tenantry import users.csv"),
    (
        "import",
        "Import the good rows, and write the rest to a file:",
        "tenantry import users.csv --on-conflict skip --rejects rejects.csv",
    ),
    ("export", "Write all users to a file:", "tenantry export users.csv"),
    (
        "changes",
        "Print each change of a user as soon as it is committed:",
        "tenantry changes --after now --follow",
    ),
    (
        "user history",
        "Show what was done to a user, and by whom:",
        "tenantry user history ada@example.com",
    ),
    ("trash list", "List the users in the trash:", "tenantry trash list"),
    (
        "storage path",
        "Change to a user's directory:",
        "cd \"$(tenantry storage path ada@example.com)\"",
    ),
    (
        "storage usage",
        "List the users with the largest directories:",
        "tenantry storage usage --top 10",
    ),
    (
        "storage adopt",
        "Give a user the directory storage/customers/ada:",
        "tenantry storage adopt ada@example.com customers/ada",
    ),
    ("check", "Check a store:", "tenantry check"),
    ("check", "Show what a repair would do:", "tenantry check --repair --dry-run"),
    (
        "backup create",
        "Back up a store while it is in use:",
        "tenantry backup create backup.tar.zst",
    ),
    ("backup verify", "Verify a backup:", "tenantry backup verify backup.tar.zst"),
    ("backup list", "List the users in a backup:", "tenantry backup list backup.tar.zst"),
    (
        "backup restore",
        "Restore a deleted user, or the lost files of a user:",
        "tenantry backup restore backup.tar.zst --user ada@example.com",
    ),
    (
        "backup restore",
        "Restore a backup:",
        "tenantry backup restore backup.tar.zst --into restored",
    ),
    ("serve", "Serve a store on a unix socket in its directory:", "tenantry serve"),
    ("serve", "Serve it on a port of this machine:", "tenantry serve --listen 127.0.0.1:8080"),
    ("status", "Show the location and the size of the store:", "tenantry status"),
    (
        "token create",
        "Create a token of an application that reads and writes users:",
        "tenantry token create billing --scope users:read,users:write",
    ),
    (
        "token create",
        "Create one that reaches a single user and their files, for a month:",
        "tenantry token create ada-laptop --scope users:read,files:read,files:write --user ada@example.com --expires 30d",
    ),
    ("token list", "List the tokens:", "tenantry token list"),
    (
        "token rotate",
        "Replace a secret, and have an hour for it:",
        "tenantry token rotate billing --overlap 1h",
    ),
    ("token revoke", "Revoke a token:", "tenantry token revoke billing"),
    (
        "token revoke",
        "Revoke all, after a backup was restored:",
        "tenantry token revoke --all --yes",
    ),
    (
        "completions",
        "Let bash complete the command:",
        "tenantry completions bash > ~/.local/share/bash-completion/completions/tenantry",
    ),
    ("man", "Install the pages for one person:", "tenantry man ~/.local/share/man/man1"),
];

/// Writes a page for each command into a directory, which is created if it is missing.
pub(crate) fn write_into(dir: &Path) -> Result<(), Failure> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    fs::create_dir_all(dir)
        .and_then(|()| write_pages(command, "", dir))
        .map_err(|error| Failure::io(dir.display(), &error))
}

/// Writes the pages of a command and of its subcommands. `name` lacks the first word.
fn write_pages(command: Command, name: &str, dir: &Path) -> io::Result<()> {
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
        let name = format!("{name} {}", inner.get_name());
        write_pages(inner.clone(), name.trim_start(), dir)?;
    }
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    render(&man, command, name, &mut page)?;
    fs::File::create(dir.join(man.get_filename()))?.write_all(&page)
}

fn render(man: &Man, mut command: Command, name: &str, page: &mut Vec<u8>) -> io::Result<()> {
    man.render_title(page)?;
    man.render_name_section(page)?;
    let usage = command.render_usage().to_string();
    let mut synopsis = Roff::new();
    synopsis.control("SH", ["SYNOPSIS"]);
    synopsis.text([bold(usage.trim_start_matches("Usage: "))]);
    synopsis.to_writer(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(page)?;
    }
    let mut more = Roff::new();
    if name.is_empty() {
        list(&mut more, "EXIT STATUS", &EXIT_STATUS);
        list(&mut more, "ENVIRONMENT", &ENVIRONMENT);
        list(&mut more, "FILES", &FILES);
    }
    if name == "completions" {
        literal(&mut more, "FILES", args::COMPLETION_LOCATIONS);
    }
    examples(&mut more, name);
    if name.is_empty() {
        more.control("SH", ["VERSION"]);
        more.text([roman(format!("tenantry {}", command.get_version().unwrap_or_default()))]);
    } else {
        more.control("SH", ["SEE ALSO"]);
        more.text([bold("tenantry"), roman("(1), for exit codes, environment and files")]);
    }
    more.to_writer(page)
}

fn list(roff: &mut Roff, title: &str, items: &[(&str, &str)]) {
    roff.control("SH", [title]);
    for (term, text) in items {
        roff.control("TP", []);
        roff.text([bold(*term)]);
        roff.text([roman(*text)]);
    }
}

/// Adds a section whose lines are kept as they are.
fn literal(roff: &mut Roff, title: &str, text: &str) {
    roff.control("SH", [title]);
    roff.control("nf", []);
    for line in text.lines() {
        roff.text([roman(line)]);
    }
    roff.control("fi", []);
}

fn examples(roff: &mut Roff, name: &str) {
    let mut examples = EXAMPLES.iter().filter(|(of, ..)| *of == name).peekable();
    if examples.peek().is_some() {
        roff.control("SH", ["EXAMPLES"]);
    }
    for (_, what, line) in examples {
        roff.control("PP", []);
        roff.text([roman(*what)]);
        roff.control("PP", []);
        roff.control("RS", ["4"]);
        roff.control("nf", []);
        roff.text([bold(*line)]);
        roff.control("fi", []);
        roff.control("RE", []);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaves(command: &Command, name: &str, found: &mut Vec<String>) {
        for inner in command.get_subcommands() {
            leaves(inner, format!("{name} {}", inner.get_name()).trim_start(), found);
        }
        if !command.has_subcommands() {
            found.push(name.to_owned());
        }
    }

    #[test]
    fn every_command_has_an_example_and_every_example_is_understood() {
        let mut found = Vec::new();
        leaves(&Cli::command(), "", &mut found);
        for name in &found {
            assert!(EXAMPLES.iter().any(|(of, ..)| of == name), "{name} has no example");
        }
        for (name, _, line) in EXAMPLES {
            assert!(
                name.is_empty() || found.iter().any(|command| command == name),
                "{name} isn't a command"
            );
            let (_, line) = line.split_once("tenantry ").unwrap();
            let arguments = line.trim_end_matches(")\"").split(" > ").next().unwrap().split(' ');
            let matches =
                Cli::command().try_get_matches_from(std::iter::once("tenantry").chain(arguments));
            assert!(matches.is_ok(), "{line}: {}", matches.unwrap_err());
            assert!(line.contains(name), "{line} isn't an example of {name}");
        }
    }

    #[test]
    fn the_exit_codes_are_those_of_the_contract() {
        let contract =
            fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/command.md"))
                .unwrap();
        let (_, section) = contract.split_once("## Exit codes").unwrap();
        let rows = section.split("\n## ").next().unwrap().lines().filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            let (code, what) = (cells.next()?, cells.next()?);
            code.split(", ")
                .all(|code| code.parse::<u8>().is_ok())
                .then(|| (code.to_owned(), what.replace('`', "")))
        });
        let expected: Vec<_> = rows.collect();
        let codes: Vec<_> = EXIT_STATUS
            .iter()
            .map(|(code, what)| ((*code).to_owned(), (*what).to_owned()))
            .collect();
        assert_eq!(codes, expected);
    }
}
