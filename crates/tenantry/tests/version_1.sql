-- The record of the first migration, for tests that make a store of that version. A test of the
-- library's holds the checksum.
CREATE TABLE tenantry_migrations (
    version INTEGER NOT NULL PRIMARY KEY, name TEXT NOT NULL, applied_on TEXT NOT NULL, checksum TEXT NOT NULL
) STRICT;
INSERT INTO tenantry_migrations VALUES (1, 'users', '2026-01-01T00:00:00Z', '2837392614996719911');
