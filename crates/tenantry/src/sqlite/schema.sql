-- The schema as it is now: what all migrations together make. It documents the database for whoever
-- reads it with other tools; nothing is created from it. A test compares it with what the
-- migrations make, and so keeps it true.  Besides, PRAGMA application_id is 0x546E7279 ('Tnry') and
-- PRAGMA user_version the number of the newest migration.

CREATE TABLE users (
    -- The order of creation, which pages and cursors follow. AUTOINCREMENT, because a number that
    -- were used again after the last user is purged would put a new user behind a cursor that is
    -- already past it.
    seq INTEGER PRIMARY KEY AUTOINCREMENT CHECK (seq > 0),

    -- UUID version 4, 16 bytes. Unique by the index users_id.
    id BLOB NOT NULL CHECK (length(id) = 16),

    -- The address as the person wrote it.
    email TEXT NOT NULL,
    -- The canonical key if it differs from the address. SQLite's own folding knows ASCII only.
    email_folded TEXT CHECK (email_folded <> email),
    -- The canonical key: computed by the program, compared as bytes, unique among the living.
    email_key TEXT NOT NULL GENERATED ALWAYS AS (coalesce(email_folded, email)) VIRTUAL,

    -- When the user was deleted, NULL while they live. The view tenantry_living_users leaves out
    -- the others.
    deleted_at INTEGER CHECK (deleted_at BETWEEN -62135596800000000 AND 253402207200000000),
    -- The order of deletion, from tenantry_store.last_deletion.
    deletion_seq INTEGER CHECK (deletion_seq > 0),

    -- The UTS 39 skeleton of the key as people read it: addresses that look alike have the same.
    -- NULL where all characters of that are ASCII.
    skeleton TEXT,

    -- Times are microseconds since 1970-01-01T00:00:00Z, within what RFC 3339 can show.
    created_at INTEGER NOT NULL CHECK (created_at BETWEEN -62135596800000000 AND 253402207200000000),
    last_login_at INTEGER CHECK (last_login_at BETWEEN -62135596800000000 AND 253402207200000000),
    updated_at INTEGER NOT NULL CHECK (updated_at BETWEEN -62135596800000000 AND 253402207200000000),
    -- How often the account was changed, from 1 to what a JSON number holds exactly.
    version INTEGER NOT NULL CHECK (version BETWEEN 1 AND 9007199254740991),

    -- NULL where the path is derived from the id (3f/a2/3fa2…), which is unique as the id is: so
    -- the usual user costs neither the 42 bytes nor an entry in an index.
    storage_path TEXT CHECK (length(CAST(storage_path AS BLOB)) BETWEEN 1 AND 512),
    -- Whether the user's directory was ever made: so one that never was is told from one that is
    -- lost.
    has_directory INTEGER NOT NULL DEFAULT 0 CHECK (has_directory IN (0, 1)),

    -- Since when the user is suspended: they don't sign in. NULL if they aren't.
    suspended_at INTEGER CHECK (suspended_at BETWEEN -62135596800000000 AND 253402207200000000),
    -- The id that another system has for the user. It is no key: several may have the same.
    external_id TEXT
        CHECK (length(external_id) <= 256 AND length(CAST(external_id AS BLOB)) BETWEEN 1 AND 1024),
    -- What people call the user.
    name TEXT CHECK (length(name) <= 256 AND length(CAST(name AS BLOB)) BETWEEN 1 AND 1024),
    -- A JSON object of the application's, on one line.
    attributes TEXT CHECK (
        length(CAST(attributes AS BLOB)) BETWEEN 2 AND 16384
        AND json_valid(attributes) AND substr(attributes, 1, 1) = '{'
    ),

    -- Not even another program can add Ada@Example.com beside ada@example.com. An address is pure
    -- ASCII if it has as many characters as octets; NUL, at which SQLite ends both length() and
    -- LIKE, can't stand in either column.
    CONSTRAINT email_key_is_of_email CHECK (
        instr(CAST(email AS BLOB), x'00') = 0
        AND (email_folded IS NULL OR instr(CAST(email_folded AS BLOB), x'00') = 0)
        AND (length(email) <> length(CAST(email AS BLOB)) OR coalesce(email_folded, email) = lower(email))
    ),
    CONSTRAINT email_is_of_a_possible_length CHECK (length(CAST(email AS BLOB)) BETWEEN 3 AND 254),
    CONSTRAINT deleted_users_are_in_order CHECK ((deleted_at IS NULL) = (deletion_seq IS NULL))
) STRICT;

CREATE UNIQUE INDEX users_id ON users (id);
-- Of the living alone: the address of a deleted user is free.
CREATE UNIQUE INDEX users_email_key ON users (email_key) WHERE deleted_at IS NULL;
-- Paths that callers chose, the deleted users' too. That none lies inside another is the program's
-- to check; it searches here.
CREATE UNIQUE INDEX users_storage_path ON users (storage_path) WHERE storage_path IS NOT NULL;
CREATE UNIQUE INDEX users_deletion_seq ON users (deletion_seq) WHERE deletion_seq IS NOT NULL;
CREATE INDEX users_deleted_email_key ON users (email_key, deletion_seq) WHERE deleted_at IS NOT NULL;
CREATE INDEX users_skeleton ON users (skeleton) WHERE skeleton IS NOT NULL;
CREATE INDEX tenantry_users_external_id ON users (external_id) WHERE external_id IS NOT NULL AND deleted_at IS NULL;

-- For SQL of an application's own.
CREATE VIEW tenantry_living_users AS
SELECT
    id, email, email_key, created_at, last_login_at, updated_at, version, suspended_at, external_id, name, attributes
FROM users WHERE deleted_at IS NULL;

-- Purged users: neither their id nor their storage path is ever given out again. No address stands
-- here.
CREATE TABLE tenantry_retired_users (
    id BLOB NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    -- NULL: only schema version 1 kept paths here.
    storage_path TEXT
) STRICT, WITHOUT ROWID;

CREATE INDEX tenantry_retired_users_storage_path
    ON tenantry_retired_users (storage_path) WHERE storage_path IS NOT NULL;

-- Which store this is. The same id stands in a file in storage/, so that a database and the
-- directories of another store are never taken for a pair.
CREATE TABLE tenantry_store (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    id BLOB NOT NULL CHECK (length(id) = 16),
    -- Whether that file was written: from then on storage/ has to have it.
    is_marked INTEGER NOT NULL CHECK (is_marked IN (0, 1)),
    -- Counts commits that are there only to wait for the disk: one that changes nothing writes
    -- nothing.
    log_syncs INTEGER NOT NULL DEFAULT 0,
    -- The number of the last deletion, in the order of which the trash is listed. It is never given
    -- out again.
    last_deletion INTEGER NOT NULL DEFAULT 0,
    -- A number at random from when the change feed began.
    changes_epoch INTEGER NOT NULL DEFAULT 0,
    -- Whether logins are in the change feed.
    has_logins_in_changes INTEGER NOT NULL DEFAULT 0 CHECK (has_logins_in_changes IN (0, 1))
) STRICT;

-- The change feed: every committed change of a user, written by the transaction that makes it. The
-- oldest are removed as the retention says.
CREATE TABLE tenantry_changes (
    -- The order of the commits, because there is one writer at a time. No AUTOINCREMENT: the newest
    -- row is never deleted, so no number is used again.
    seq INTEGER PRIMARY KEY CHECK (seq > 0),
    -- When the transaction made the change, in microseconds since 1970-01-01T00:00:00Z.
    at INTEGER NOT NULL,
    -- 1 created, 2 updated, 3 deleted, 4 restored, 5 purged, 6 adopted, 7 suspended, 8 resumed, 9
    -- logged in.
    kind INTEGER NOT NULL,
    -- No foreign key: a change outlives its user.
    user_id BLOB NOT NULL CHECK (length(user_id) = 16),
    -- The version that the user had after it.
    version INTEGER NOT NULL,
    -- Who did it, NULL for the library itself. Never an address.
    actor TEXT
    -- No index: it is read by seq alone, and an index would cost each write a page of its own.
) STRICT;

-- What is to be done in the file system, recorded in the transaction of the rows that it belongs to
-- and removed when it is done. What a crash leaves is done when the store is opened.
CREATE TABLE tenantry_intents (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    -- At most one for each user: the next begins when this one is done. NULL if it isn't about a
    -- user.
    user_id BLOB UNIQUE CHECK (length(user_id) = 16),
    action TEXT NOT NULL CHECK (action IN ('make', 'trash', 'restore', 'purge', 'discard', 'quarantine', 'erase')),
    -- What to discard (a storage path) or to move to quarantine (a path within the data directory).
    path BLOB,
    -- The name that it gets in quarantine.
    name TEXT,
    recorded_at INTEGER NOT NULL
) STRICT;

-- Storage paths that somebody had who was purged, or before an adoption, and all directories above
-- them. Digests, because a path may hold the address that was purged.
CREATE TABLE tenantry_retired_paths (
    -- The first 16 bytes of BLAKE3 over the store's id and the path.
    digest BLOB NOT NULL PRIMARY KEY CHECK (length(digest) = 16),
    -- 1 for the path itself, 0 for a directory above it.
    is_whole INTEGER NOT NULL CHECK (is_whole IN (0, 1))
) STRICT, WITHOUT ROWID;

-- What the users' directories held when they were last measured.
CREATE TABLE tenantry_usage (
    user_id BLOB NOT NULL PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    measured_at INTEGER NOT NULL,
    files INTEGER NOT NULL,
    apparent_bytes INTEGER NOT NULL,
    allocated_bytes INTEGER NOT NULL,
    -- How many directories could not be read, and so don't count.
    unreadable INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Tokens, by which clients of a service are known.
CREATE TABLE tenantry_tokens (
    -- Never given out again.
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    -- What stands in the record of who did what. A token that was rotated has a row for each of its
    -- secrets.
    name TEXT NOT NULL CHECK (length(CAST(name AS BLOB)) BETWEEN 1 AND 64),
    -- The SHA-256 of the secret, which itself is kept nowhere.
    digest BLOB NOT NULL CHECK (length(digest) = 32),
    -- The names of the scopes, separated by spaces.
    scopes TEXT NOT NULL CHECK (length(scopes) > 0),
    -- The one user whom it reaches, with whose purge it goes. NULL for all.
    user_id BLOB REFERENCES users (id) ON DELETE CASCADE,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    last_used_at INTEGER,
    revoked_at INTEGER,
    -- When a rotation made another secret, NULL for the newest one.
    replaced_at INTEGER,
    created_by TEXT NOT NULL
) STRICT;

CREATE UNIQUE INDEX tenantry_tokens_digest ON tenantry_tokens (digest);
-- A name is never given to another token, even after a revocation.
CREATE UNIQUE INDEX tenantry_tokens_name ON tenantry_tokens (name) WHERE replaced_at IS NULL;
CREATE INDEX tenantry_tokens_user_id ON tenantry_tokens (user_id) WHERE user_id IS NOT NULL;

-- What a request came to, kept in its own transaction for 24 hours. The result holds personal data,
-- and goes with the purge of the user.
CREATE TABLE tenantry_requests (
    -- The order in which they came, and expire.
    seq INTEGER PRIMARY KEY,
    -- The SHA-256 of the caller and the key that they sent.
    key BLOB NOT NULL CHECK (length(key) = 32),
    -- The SHA-256 of the request, since another one with the same key is refused.
    request BLOB NOT NULL CHECK (length(request) = 32),
    -- The result, as JSON.
    reply TEXT NOT NULL,
    user_id BLOB NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    kept_at INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX tenantry_requests_key ON tenantry_requests (key);
CREATE INDEX tenantry_requests_user_id ON tenantry_requests (user_id);

-- Which migrations were applied when, as the refinery crate records it.
CREATE TABLE tenantry_migrations (
    version INTEGER NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    applied_on TEXT NOT NULL,
    checksum TEXT NOT NULL
) STRICT;
