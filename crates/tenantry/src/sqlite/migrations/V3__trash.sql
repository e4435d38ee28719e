-- A deleted user keeps the row in `users` until the purge, so that foreign keys to it hold until then.
--
-- Besides what every SQLite has, this calls tenantry_skeleton, a function of the program's that makes the skeleton
-- of a key; and it needs PRAGMA foreign_keys = OFF and PRAGMA legacy_alter_table = ON, which leave the references of
-- an application's tables, views and triggers to `users` as they are while another table takes its name.

PRAGMA user_version = 3;

ALTER TABLE users RENAME TO tenantry_users_before;

CREATE TABLE users (
    -- The order of creation, which pages and cursors follow. AUTOINCREMENT, because a number that were used
    -- again after the last user is purged would put a new user behind a cursor that is already past it.
    seq INTEGER PRIMARY KEY AUTOINCREMENT CHECK (seq > 0),

    -- UUID version 4, 16 bytes. Unique by the index users_id.
    id BLOB NOT NULL CHECK (length(id) = 16),

    -- The address as the person wrote it.
    email TEXT NOT NULL,
    -- The canonical key if it differs from the address. SQLite's own folding knows ASCII only.
    email_folded TEXT CHECK (email_folded <> email),
    -- The canonical key: computed by the program, compared as bytes, unique among the living.
    email_key TEXT NOT NULL GENERATED ALWAYS AS (coalesce(email_folded, email)) VIRTUAL,

    -- When the user was deleted, NULL while they live. The view tenantry_living_users leaves out the others.
    deleted_at INTEGER CHECK (deleted_at BETWEEN -62135596800000000 AND 253402207200000000),
    -- The order of deletion, from tenantry_store.last_deletion.
    deletion_seq INTEGER CHECK (deletion_seq > 0),

    -- The UTS 39 skeleton of the key as people read it: addresses that look alike have the same. NULL where all
    -- characters of that are ASCII.
    skeleton TEXT,

    -- Times are microseconds since 1970-01-01T00:00:00Z, within what RFC 3339 can show.
    created_at INTEGER NOT NULL CHECK (created_at BETWEEN -62135596800000000 AND 253402207200000000),
    last_login_at INTEGER CHECK (last_login_at BETWEEN -62135596800000000 AND 253402207200000000),
    updated_at INTEGER NOT NULL CHECK (updated_at BETWEEN -62135596800000000 AND 253402207200000000),
    -- How often the account was changed, from 1 to what a JSON number holds exactly.
    version INTEGER NOT NULL CHECK (version BETWEEN 1 AND 9007199254740991),

    -- NULL where the path is derived from the id (3f/a2/3fa2…), which is unique as the id is: so the usual
    -- user costs neither the 42 bytes nor an entry in an index.
    storage_path TEXT CHECK (length(CAST(storage_path AS BLOB)) BETWEEN 1 AND 512),
    -- Whether the user's directory was ever made: so one that never was is told from one that is lost.
    has_directory INTEGER NOT NULL DEFAULT 0 CHECK (has_directory IN (0, 1)),

    -- Not even another program can add Ada@Example.com beside ada@example.com. An address is pure ASCII if it has
    -- as many characters as octets; NUL, at which SQLite ends both length() and LIKE, can't stand in either column.
    CONSTRAINT email_key_is_of_email CHECK (
        instr(CAST(email AS BLOB), x'00') = 0
        AND (email_folded IS NULL OR instr(CAST(email_folded AS BLOB), x'00') = 0)
        AND (length(email) <> length(CAST(email AS BLOB)) OR coalesce(email_folded, email) = lower(email))
    ),
    CONSTRAINT email_is_of_a_possible_length CHECK (length(CAST(email AS BLOB)) BETWEEN 3 AND 254),
    CONSTRAINT deleted_users_are_in_order CHECK ((deleted_at IS NULL) = (deletion_seq IS NULL))
) STRICT;

INSERT INTO users (
    seq, id, email, email_folded, skeleton, created_at, last_login_at, updated_at, version, storage_path, has_directory
)
SELECT
    seq, id, email, nullif(email_key, email), tenantry_skeleton(email_key), created_at, last_login_at, updated_at,
    version, storage_path, has_directory
FROM tenantry_users_before ORDER BY seq;

INSERT INTO users (
    seq, id, email, email_folded, skeleton, created_at, last_login_at, updated_at, version, storage_path, has_directory,
    deleted_at, deletion_seq
)
SELECT
    user_seq, id, email, nullif(email_key, email), tenantry_skeleton(email_key), created_at, last_login_at, updated_at,
    version, storage_path, has_directory, deleted_at, seq
FROM tenantry_trash ORDER BY user_seq;

-- The last numbers that were given out, also to users who are purged by now.
DELETE FROM sqlite_sequence WHERE name = 'users';
INSERT INTO sqlite_sequence (name, seq) SELECT 'users', seq FROM sqlite_sequence WHERE name = 'tenantry_users_before';
ALTER TABLE tenantry_store ADD COLUMN last_deletion INTEGER NOT NULL DEFAULT 0;
UPDATE tenantry_store
SET last_deletion = coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'tenantry_trash'), 0);

DROP TABLE tenantry_users_before;
DROP TABLE tenantry_trash;

CREATE UNIQUE INDEX users_id ON users (id);
-- Of the living alone: the address of a deleted user is free.
CREATE UNIQUE INDEX users_email_key ON users (email_key) WHERE deleted_at IS NULL;
-- Paths that callers chose, the deleted users' too. That none lies inside another is the program's to check; it
-- searches here.
CREATE UNIQUE INDEX users_storage_path ON users (storage_path) WHERE storage_path IS NOT NULL;
CREATE UNIQUE INDEX users_deletion_seq ON users (deletion_seq) WHERE deletion_seq IS NOT NULL;
CREATE INDEX users_deleted_email_key ON users (email_key, deletion_seq) WHERE deleted_at IS NOT NULL;
CREATE INDEX users_skeleton ON users (skeleton) WHERE skeleton IS NOT NULL;

-- For SQL of an application's own.
CREATE VIEW tenantry_living_users AS
SELECT id, email, email_key, created_at, last_login_at, updated_at, version FROM users WHERE deleted_at IS NULL;
