//! The values of a user as embedders write them into tables of their own and read them back: an id
//! is a BLOB of 16 bytes, as in `users (id)`, a time an INTEGER of microseconds since 1970, an
//! address, a path, a name, an external id and attributes are TEXT.

use rusqlite::ToSql;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef};
use uuid::Uuid;

use crate::{Attributes, Email, ExternalId, Name, StoragePath, Timestamp, UserId};

impl ToSql for UserId {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.as_uuid().into_bytes().to_vec()))
    }
}

impl FromSql for UserId {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let uuid = Uuid::from_slice(value.as_blob()?).map_err(FromSqlError::other)?;
        Self::from_uuid(uuid).map_err(FromSqlError::other)
    }
}

impl ToSql for Timestamp {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.as_unix_us()))
    }
}

impl FromSql for Timestamp {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Self::from_unix_us(value.as_i64()?).map_err(FromSqlError::other)
    }
}

macro_rules! as_text {
    ($($type:ty),+) => {
        $(
            impl ToSql for $type {
                fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                    Ok(ToSqlOutput::from(self.as_str()))
                }
            }

            impl FromSql for $type {
                fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                    value.as_str()?.parse().map_err(FromSqlError::other)
                }
            }
        )+
    };
}

as_text!(Attributes, Email, ExternalId, Name, StoragePath);

/// An id as the store's own statements take it.
pub(super) fn blob(id: UserId) -> [u8; 16] {
    id.as_uuid().into_bytes()
}

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    #[test]
    fn values_are_read_back_from_a_strict_table_as_they_were_written() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("CREATE TABLE t (id BLOB, at INTEGER, email TEXT, path TEXT) STRICT")
            .unwrap();
        let id: UserId = "3fa2b1c4-0000-4000-8000-000000000001".parse().unwrap();
        let at = Timestamp::from_unix_us(-1_700_000_000_123_456).unwrap();
        let email: Email = "Ada@B\u{fc}cher.example".parse().unwrap();
        let path: StoragePath = "customers/ada".parse().unwrap();
        conn.execute("INSERT INTO t VALUES (?1, ?2, ?3, ?4)", (id, at, &email, &path)).unwrap();
        let row = conn.query_row("SELECT * FROM t", [], |row| {
            Ok((
                row.get::<_, UserId>(0)?,
                row.get::<_, Timestamp>(1)?,
                row.get::<_, Email>(2)?,
                row.get(3)?,
            ))
        });
        assert_eq!(row.unwrap(), (id, at, email, path));
        let same = "SELECT id = x'3fa2b1c4000040008000000000000001' FROM t";
        assert!(conn.query_row(same, [], |row| row.get::<_, bool>(0)).unwrap());
    }

    #[test]
    fn a_value_that_is_not_one_is_an_error() {
        let conn = Connection::open_in_memory().unwrap();
        let id = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, UserId>(0));
        for sql in [
            "SELECT x'00'",
            "SELECT zeroblob(16)",
            "SELECT NULL",
            "SELECT '3fa2b1c4-0000-4000-8000-000000000001'",
        ] {
            assert!(id(sql).is_err(), "{sql}");
        }
        assert!(conn.query_row("SELECT 1 << 62", [], |row| row.get::<_, Timestamp>(0)).is_err());
        assert!(conn.query_row("SELECT 'ada'", [], |row| row.get::<_, Email>(0)).is_err());
        assert!(conn.query_row("SELECT '../ada'", [], |row| row.get::<_, StoragePath>(0)).is_err());
    }
}
