-- Only functions that also older versions of SQLite know: the file is to be read and copied with whatever is at hand.
--
-- Tenantry's tables are `users` and whatever begins with `tenantry_`; every other name belongs to the application.
-- A shipped migration is never edited: a test holds its checksum.

-- 'Tnry'. With it a file says whose it is, and another application's file is refused.
PRAGMA application_id = 0x546E7279;
-- The schema version that this migration leaves: the number in its file's name.
PRAGMA user_version = 1;

CREATE TABLE users (
    -- The order of creation, which pages and cursors follow. AUTOINCREMENT, because a number that were used
    -- again after the last user is deleted would put a new user behind a cursor that is already past it.
    seq INTEGER PRIMARY KEY AUTOINCREMENT CHECK (seq > 0),

    -- UUID version 4, 16 bytes.
    id BLOB NOT NULL UNIQUE CHECK (length(id) = 16),

    -- The canonical key: computed by the program, compared as bytes. SQLite's own folding knows ASCII only.
    email_key TEXT NOT NULL COLLATE BINARY UNIQUE,
    -- The address as the person wrote it.
    email TEXT NOT NULL,

    -- Times are microseconds since 1970-01-01T00:00:00Z, within what RFC 3339 can show.
    created_at INTEGER NOT NULL CHECK (created_at BETWEEN -62135596800000000 AND 253402207200000000),
    last_login_at INTEGER CHECK (last_login_at BETWEEN -62135596800000000 AND 253402207200000000),
    updated_at INTEGER NOT NULL CHECK (updated_at BETWEEN -62135596800000000 AND 253402207200000000),
    -- How often the account was changed, from 1 to what a JSON number holds exactly.
    version INTEGER NOT NULL CHECK (version BETWEEN 1 AND 9007199254740991),

    -- NULL where the path is derived from the id (3f/a2/3fa2…), which is unique as the id is: so the usual
    -- user costs neither the 42 bytes nor an entry in an index.
    storage_path TEXT CHECK (length(CAST(storage_path AS BLOB)) BETWEEN 1 AND 512),

    -- Not even another program can add Ada@Example.com beside ada@example.com. An address is pure ASCII if it has
    -- as many characters as octets; NUL, at which SQLite ends both length() and LIKE, can't stand in either column.
    CONSTRAINT email_key_is_of_email CHECK (
        instr(CAST(email AS BLOB), x'00') = 0
        AND instr(CAST(email_key AS BLOB), x'00') = 0
        AND (length(email) <> length(CAST(email AS BLOB)) OR email_key = lower(email))
    ),
    CONSTRAINT email_is_of_a_possible_length CHECK (length(CAST(email AS BLOB)) BETWEEN 3 AND 254)
) STRICT;

-- Paths that callers chose. That none lies inside another is the program's to check; it searches here.
CREATE UNIQUE INDEX users_storage_path ON users (storage_path) WHERE storage_path IS NOT NULL;

-- Deleted users: neither their id nor their storage path is ever given out again. No address stands here.
CREATE TABLE tenantry_retired_users (
    id BLOB NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    -- NULL where the path was derived from the id.
    storage_path TEXT
) STRICT, WITHOUT ROWID;

CREATE INDEX tenantry_retired_users_storage_path
    ON tenantry_retired_users (storage_path) WHERE storage_path IS NOT NULL;
