-- Tokens, by which clients of a service are known.

PRAGMA user_version = 5;

CREATE TABLE tenantry_tokens (
    -- Never given out again.
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    -- What stands in the record of who did what. A token that was rotated has a row for each of its secrets.
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
