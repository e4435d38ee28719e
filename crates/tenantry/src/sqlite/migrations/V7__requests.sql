-- Requests that are performed once, however often they are sent.

PRAGMA user_version = 7;

-- What a request came to, kept in its own transaction for 24 hours. The result holds personal data, and goes with the
-- purge of the user.
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
