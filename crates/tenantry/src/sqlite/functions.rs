//! Functions that the store's own statements call.

use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;

use super::rows::skeleton_of_key;
use crate::Result;
use crate::domain::search_text::shown;

/// The key of an address as people read it, its labels in Unicode.
pub(super) const SHOWN: &str = "tenantry_shown";
/// The skeleton of a key, or NULL if the key as people read it is ASCII. The migration to schema
/// version 3 calls it.
const SKELETON: &str = "tenantry_skeleton";

/// Makes the functions known to a connection.
pub(super) fn register(conn: &Connection) -> Result<()> {
    // No schema may call it: other programs that read the database don't have it.
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_DIRECTONLY;
    conn.create_scalar_function(SHOWN, 1, flags, |context| {
        let key = context.get_raw(0).as_str()?;
        Ok(shown(key).into_owned())
    })?;
    conn.create_scalar_function(SKELETON, 1, flags, |context| {
        let key = context.get_raw(0).as_str()?;
        Ok(skeleton_of_key(key))
    })?;
    Ok(())
}
