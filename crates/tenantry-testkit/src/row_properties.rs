//! Properties of any imported file, besides the absence of panics and hangs. Each returns whether a
//! row was accepted.

use std::convert::Infallible;

use futures_lite::future::block_on;
use tenantry::{Error, ErrorKind, NewUser, Store, User};
use tenantry_exchange::{Error as FileError, Format, RowReader, UserWriter};

/// How many users of a file are written and read again.
const WRITTEN_MAX: usize = 20;

pub fn csv(store: &Store, input: &[u8]) -> bool {
    file(store, Format::Csv, input)
}

pub fn jsonl(store: &Store, input: &[u8]) -> bool {
    file(store, Format::Jsonl, input)
}

/// An error names an existing line, a rejected row keeps its text, and an accepted user round-trips
/// through every format.
fn file(store: &Store, format: Format, input: &[u8]) -> bool {
    let lines: Vec<&[u8]> = input.split(|byte| *byte == b'\n').collect();
    let (users, failure) = read(format, input, |line, original| {
        assert!(line >= 1 && (line <= lines.len() || is_utf16(input)), "there is no line {line}");
        let text = lines.get(line - 1).copied().unwrap_or_default();
        let mut text = text;
        while let Some(rest) = text.strip_prefix("\u{feff}".as_bytes()).filter(|_| line == 1) {
            text = rest;
        }
        let as_it_stood = match format {
            // Its lines differ from those of the raw bytes.
            _ if is_utf16(input) => true,
            // In an array it may begin and end anywhere.
            Format::Jsonl | Format::Json => {
                original.is_empty()
                    || trimmed(text) == original
                    || input.windows(original.len()).any(|bytes| bytes == original)
            }
            // With quotes a row may be written in more than one way, and go on on the next line.
            // But it begins here.
            Format::Csv if text.contains(&b'"') || original.contains(&b'"') => {
                without_quotes(text).starts_with(&without_quotes(&beginning_of_row(original)))
            }
            Format::Csv => text.strip_suffix(b"\r").unwrap_or(text) == original,
        };
        assert!(
            as_it_stood,
            "line {line} is {:?}, not {:?}",
            text.escape_ascii(),
            original.escape_ascii()
        );
    });
    if let Some(failure) = failure {
        let (FileError::Invalid { line, reason } | FileError::Header { line, reason }) = failure
        else {
            panic!("{failure:?}")
        };
        let line = usize::try_from(line).unwrap();
        assert!(line >= 1 && (line <= lines.len() || is_utf16(input)), "there is no line {line}");
        assert!(!reason.contains(char::is_control), "{reason:?}");
    }
    let has_users = !users.is_empty();
    for new in users.into_iter().take(WRITTEN_MAX) {
        let user = match try_to_create(store, new.clone()) {
            Ok(user) => user,
            Err(error) => {
                assert!(
                    matches!(error.kind(), ErrorKind::InvalidPath | ErrorKind::InvalidUser),
                    "{error:?}"
                );
                continue;
            }
        };
        assert!(is_same(&new, &user), "the user isn't what the row says");
        for (format, text) in [Format::Csv, Format::Jsonl, Format::Json]
            .map(|format| (format, written(format, &user)))
        {
            let (users, failure) = read(format, &text, |_, _| {});
            assert!(failure.is_none(), "{failure:?}");
            assert!(users == [whole(&user)], "{:?} is read as another", text.escape_ascii());
        }
    }
    has_users
}

/// Reads a file to its end, or to an error.
fn read(
    format: Format,
    input: &[u8],
    mut meet: impl FnMut(usize, &[u8]),
) -> (Vec<NewUser>, Option<FileError>) {
    let mut users = Vec::new();
    let mut reader = match RowReader::new(format, input) {
        Ok(reader) => reader,
        Err(failure) => return (users, Some(failure)),
    };
    let mut last_line = 0;
    loop {
        let row = match reader.next_row() {
            Ok(Some(row)) => row,
            Ok(None) => break,
            Err(failure) => return (users, Some(failure)),
        };
        let line = usize::try_from(row.line).unwrap();
        let is_next = line > last_line || (line == last_line && row.element.is_some());
        assert!(is_next, "line {line} comes after line {last_line}");
        last_line = line;
        meet(line, &row.original());
        match row.user {
            Ok(user) => users.push(user),
            Err(bad) => assert!(
                !bad.reason.is_empty() && !bad.reason.contains(char::is_control),
                "{:?}",
                bad.reason
            ),
        }
    }
    assert_eq!(reader.bytes_read(), input.len() as u64);
    (users, None)
}

/// The first line of the first field of a row.
fn beginning_of_row(row: &[u8]) -> Vec<u8> {
    let mut csv = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(row);
    let record = csv.byte_records().next().map(Result::unwrap).unwrap_or_default();
    let field = record.get(0).unwrap_or_default();
    field.split(|byte| *byte == b'\n').next().unwrap_or_default().to_vec()
}

fn without_quotes(text: &[u8]) -> Vec<u8> {
    text.iter().copied().filter(|byte| *byte != b'"').collect()
}

/// The reader of CSV is given the end of line that the last line lacks.
fn is_utf16(input: &[u8]) -> bool {
    input.starts_with(b"\xff\xfe") || input.starts_with(b"\xfe\xff")
}

fn trimmed(mut line: &[u8]) -> &[u8] {
    while let Some(shorter) = line.strip_suffix(b"\r") {
        line = shorter;
    }
    line
}

/// The result of a transaction that was rolled back.
enum Attempt {
    Created(Box<User>),
    Refused(Error),
}

impl From<Error> for Attempt {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

/// Creates a user in a transaction that leaves nothing.
fn try_to_create(store: &Store, new: NewUser) -> Result<User, Error> {
    let attempt = block_on(store.write(move |tx| -> Result<Infallible, Attempt> {
        Err(Attempt::Created(Box::new(tx.create(&new)?)))
    }));
    match attempt.unwrap_err() {
        Attempt::Created(user) => Ok(*user),
        Attempt::Refused(error) => Err(error),
    }
}

fn is_same(new: &NewUser, user: &User) -> bool {
    new.email == user.email
        && new.id.is_none_or(|id| id == user.id)
        && new.storage_path.as_ref().is_none_or(|path| *path == user.storage_path)
        && new.created_at.is_none_or(|time| time == user.created_at)
        && new.last_login_at == user.last_login_at
        && new.updated_at.is_none_or(|time| time == user.updated_at)
        && new.version.is_none_or(|version| version == user.version)
        && new.suspended_at == user.suspended_at
        && new.external_id == user.external_id
        && new.name == user.name
        && new.attributes == user.attributes
}

/// A user with nothing left to a default.
fn whole(user: &User) -> NewUser {
    NewUser {
        email: user.email.clone(),
        id: Some(user.id),
        storage_path: Some(user.storage_path.clone()),
        created_at: Some(user.created_at),
        last_login_at: user.last_login_at,
        updated_at: Some(user.updated_at),
        version: Some(user.version),
        suspended_at: user.suspended_at,
        external_id: user.external_id.clone(),
        name: user.name.clone(),
        attributes: user.attributes.clone(),
    }
}

fn written(format: Format, user: &User) -> Vec<u8> {
    let mut writer = UserWriter::new(format, Vec::new()).unwrap();
    writer.write(user).unwrap();
    writer.finish().unwrap()
}
