//! The columns of a user: the one list from which all statements, their values and the reading of
//! rows come.

use rusqlite::types::{Type, ValueRef};
use rusqlite::{Row, ToSql};
use uuid::Uuid;

use crate::domain::confusable::skeleton;
use crate::domain::search_text::shown;
use crate::sqlite::values::blob;
use crate::{Attributes, Email, Error, ExternalId, Name, StoragePath, Timestamp, User, UserId};

/// Defines the macros that statements are made of, and [`with_values`], from a list of the columns.
/// Each has the number of its placeholder, which is one more than its place in a row.
macro_rules! define_columns {
    (
        $user:ident,
        fixed: $first:ident = $first_number:literal $first_name:literal $first_value:expr
            $(, $fixed:ident = $fixed_number:literal $fixed_name:literal $fixed_value:expr)*;
        changing: $($column:ident = $number:literal $name:literal $value:expr),+;
        written: $($written_number:literal $written_name:literal $written_value:expr),+;
    ) => {
        const $first: usize = $first_number - 1;
        $(const $fixed: usize = $fixed_number - 1;)*
        $(const $column: usize = $number - 1;)+
        /// How many columns [`user`] reads: those that a statement adds come after them.
        pub(crate) const USER_COLUMNS: usize = [$first, $($fixed,)* $($column),+].len();

        /// The columns that [`user`] reads, in their order.
        macro_rules! user_columns {
            () => {
                concat!($first_name $(, ", ", $fixed_name)* $(, ", ", $name)+)
            };
        }

        /// The columns that can change, each with its placeholder.
        macro_rules! changed_columns {
            () => {
                concat!($($name, " = ?", $number, ", ",)+ $($written_name, " = ?", $written_number),+)
            };
        }

        /// The columns that are only written, because others read or search by them.
        macro_rules! written_columns {
            () => {
                concat!($($written_name),+)
            };
        }

        macro_rules! placeholders {
            () => {
                concat!(
                    "?", $first_number $(, ", ?", $fixed_number)* $(, ", ?", $number)+ $(, ", ?", $written_number)+
                )
            };
        }

        /// Calls `run` with what the columns of a user hold, in the order of the placeholders.
        pub(super) fn with_values<T>($user: &User, run: impl FnOnce(&[&dyn ToSql]) -> T) -> T {
            run(&[&$first_value, $(&$fixed_value,)* $(&$value,)+ $(&$written_value),+])
        }
    };
}

define_columns! {
    user,
    fixed:
        ID = 1 "id" blob(user.id),
        CREATED_AT = 2 "created_at" user.created_at.as_unix_us();
    changing:
        // The key, or NULL if that is the address.
        EMAIL_FOLDED = 3 "email_folded" user.email.folded(),
        EMAIL = 4 "email" user.email.as_str(),
        LAST_LOGIN_AT = 5 "last_login_at" user.last_login_at.map(Timestamp::as_unix_us),
        UPDATED_AT = 6 "updated_at" user.updated_at.as_unix_us(),
        VERSION = 7 "version" user.version,
        STORAGE_PATH = 8 "storage_path" chosen_path(user),
        SUSPENDED_AT = 9 "suspended_at" user.suspended_at.map(Timestamp::as_unix_us),
        EXTERNAL_ID = 10 "external_id" user.external_id.as_ref().map(ExternalId::as_str),
        NAME = 11 "name" user.name.as_ref().map(Name::as_str),
        ATTRIBUTES = 12 "attributes" user.attributes.as_ref().map(Attributes::as_str);
    written:
        13 "skeleton" skeleton_of_key(user.email.key());
}

/// Selects every column that the program knows of the table of users.
pub(crate) const SELECT_ALL: &str = concat!(
    "SELECT seq, email_key, deleted_at, deletion_seq, has_directory, ",
    user_columns!(),
    ", ",
    written_columns!(),
    " FROM users"
);

/// Reads the user of a row that begins with the columns of one.
pub(super) fn user(row: &Row<'_>) -> rusqlite::Result<User> {
    let id = UserId::from_random(Uuid::from_bytes(row.get(ID)?));
    let address = row.get_ref(EMAIL)?.as_str()?;
    let key = row.get_ref(EMAIL_FOLDED)?.as_str_or_null()?.unwrap_or(address);
    let email = Email::from_stored(address, key)
        .ok_or_else(|| damaged(EMAIL, Type::Text, "not an address"))?;
    Ok(User {
        id,
        email,
        created_at: timestamp(row, CREATED_AT)?,
        last_login_at: optional_time(row, LAST_LOGIN_AT)?,
        storage_path: storage_path(id, row.get_ref(STORAGE_PATH)?, STORAGE_PATH)?,
        updated_at: timestamp(row, UPDATED_AT)?,
        version: row.get(VERSION)?,
        suspended_at: optional_time(row, SUSPENDED_AT)?,
        external_id: optional(row, EXTERNAL_ID, ExternalId::from_stored)?,
        name: optional(row, NAME, Name::from_stored)?,
        attributes: optional(row, ATTRIBUTES, Attributes::from_stored)?,
    })
}

fn optional_time(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Timestamp>> {
    row.get::<_, Option<i64>>(column)?.map(|us| time(us, column)).transpose()
}

/// Reads a text that few users have.
fn optional<T>(
    row: &Row<'_>,
    column: usize,
    accept: impl FnOnce(&str) -> Option<T>,
) -> rusqlite::Result<Option<T>> {
    let Some(text) = row.get_ref(column)?.as_str_or_null()? else { return Ok(None) };
    accept(text)
        .map(Some)
        .ok_or_else(|| damaged(column, Type::Text, "not a text that the store wrote"))
}

/// Returns the column `storage_path` of a user, which is NULL if the path is derived from the id.
fn chosen_path(user: &User) -> Option<&str> {
    (user.storage_path != StoragePath::derived(user.id)).then_some(user.storage_path.as_str())
}

/// Returns the storage path of a user from that column.
pub(crate) fn storage_path(
    id: UserId,
    value: ValueRef<'_>,
    column: usize,
) -> rusqlite::Result<StoragePath> {
    match value.as_str_or_null()? {
        None => Ok(StoragePath::derived(id)),
        Some(path) => path.parse().map_err(|error: Error| damaged(column, Type::Text, error)),
    }
}

/// Returns the column `skeleton` of a user with this key.
pub(crate) fn skeleton_of_key(key: &str) -> Option<String> {
    let shown = shown(key);
    (!shown.is_ascii()).then(|| skeleton(&shown))
}

/// Reads a column that holds a time.
pub(super) fn timestamp(row: &Row<'_>, column: usize) -> rusqlite::Result<Timestamp> {
    time(row.get(column)?, column)
}

fn time(us: i64, column: usize) -> rusqlite::Result<Timestamp> {
    Timestamp::from_unix_us(us).map_err(|error| damaged(column, Type::Integer, error))
}

/// Returns the error for a value that the program never wrote: another one did, or the file is
/// damaged.
pub(super) fn damaged(
    column: usize,
    kind: Type,
    why: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, kind, why.into())
}

/// Refuses a row whose number isn't higher than that of the row before it: the pages of the file
/// are mixed up, and a walk that goes on behind this row would go round in a circle.
pub(super) fn check_order(before: i64, seq: i64, column: usize) -> rusqlite::Result<()> {
    if seq > before {
        Ok(())
    } else {
        Err(damaged(column, Type::Integer, "the rows are not in their order"))
    }
}
