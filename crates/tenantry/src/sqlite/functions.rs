//! Functions that the store's own statements call.

use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;

use crate::Result;
use crate::search_text::shown;

/// The key of an address as people read it, its labels in Unicode.
pub(super) const SHOWN: &str = "tenantry_shown";

/// Makes the functions known to a connection.
pub(super) fn register(conn: &Connection) -> Result<()> {
    // No schema may call it: other programs that read the database don't have it.
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC | FunctionFlags::SQLITE_DIRECTONLY;
    conn.create_scalar_function(SHOWN, 1, flags, |context| {
        let key = context.get_raw(0).as_str()?;
        Ok(shown(key).into_owned())
    })?;
    Ok(())
}
