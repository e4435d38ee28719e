-- The users' directories: who has one, who is in the trash, and what is still to be done in the file system.

PRAGMA user_version = 2;

-- Which store this is. The same id stands in a file in storage/, so that a database and the directories of another
-- store are never taken for a pair.
CREATE TABLE tenantry_store (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    id BLOB NOT NULL CHECK (length(id) = 16),
    -- Whether that file was written: from then on storage/ has to have it.
    is_marked INTEGER NOT NULL CHECK (is_marked IN (0, 1)),
    -- Counts commits that are there only to wait for the disk: one that changes nothing writes nothing.
    log_syncs INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Whether the user's directory was ever made: so one that never was is told from one that is lost.
ALTER TABLE users ADD COLUMN has_directory INTEGER NOT NULL DEFAULT 0 CHECK (has_directory IN (0, 1));

-- Deleted users who can be restored. The columns are those of users; the address is free for others.
CREATE TABLE tenantry_trash (
    -- The order of deletion.
    seq INTEGER PRIMARY KEY AUTOINCREMENT CHECK (seq > 0),
    deleted_at INTEGER NOT NULL CHECK (deleted_at BETWEEN -62135596800000000 AND 253402207200000000),
    -- users.seq, which nobody else gets meanwhile.
    user_seq INTEGER NOT NULL UNIQUE,
    id BLOB NOT NULL UNIQUE CHECK (length(id) = 16),
    email_key TEXT NOT NULL,
    email TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    last_login_at INTEGER,
    updated_at INTEGER NOT NULL,
    version INTEGER NOT NULL,
    storage_path TEXT,
    has_directory INTEGER NOT NULL CHECK (has_directory IN (0, 1))
) STRICT;

CREATE UNIQUE INDEX tenantry_trash_storage_path ON tenantry_trash (storage_path) WHERE storage_path IS NOT NULL;

-- What is to be done in the file system, recorded in the transaction of the rows that it belongs to and removed when
-- it is done. What a crash leaves is done when the store is opened.
CREATE TABLE tenantry_intents (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    -- At most one for each user: the next begins when this one is done. NULL if it isn't about a user.
    user_id BLOB UNIQUE CHECK (length(user_id) = 16),
    action TEXT NOT NULL CHECK (action IN ('make', 'trash', 'restore', 'purge', 'discard', 'quarantine', 'erase')),
    -- What to discard (a storage path) or to move to quarantine (a path within the data directory).
    path BLOB,
    -- The name that it gets in quarantine.
    name TEXT,
    recorded_at INTEGER NOT NULL
) STRICT;

-- Storage paths that somebody had who was purged, or before an adoption, and all directories above them. Digests, because
-- a path may hold the address that was purged.
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
