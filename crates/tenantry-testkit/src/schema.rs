use std::path::Path;

use tenantry::sqlite::rusqlite::Connection;

/// The migrations that the library carries in itself.
mod embedded {
    refinery::embed_migrations!("../tenantry/src/sqlite/migrations");
}

/// Makes the database of a store of this schema version.
pub fn of_version(version: i32, path: &Path) -> Connection {
    let mut conn = Connection::open(path).unwrap();
    conn.execute_batch("PRAGMA journal_mode = WAL").unwrap();
    let mut runner = embedded::migrations::runner().set_target(refinery::Target::Version(version));
    runner.set_migration_table_name("tenantry_migrations").run(&mut conn).unwrap();
    conn
}
