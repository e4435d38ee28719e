-- The change feed: every committed change of a user, written by the transaction that makes it.

PRAGMA user_version = 6;

CREATE TABLE tenantry_changes (
    -- The order of the commits, because there is one writer at a time. No AUTOINCREMENT: the newest row is never
    -- deleted, so no number is used again.
    seq INTEGER PRIMARY KEY CHECK (seq > 0),
    -- When the transaction made the change, in microseconds since 1970-01-01T00:00:00Z.
    at INTEGER NOT NULL,
    -- 1 created, 2 updated, 3 deleted, 4 restored, 5 purged, 6 adopted, 7 suspended, 8 resumed, 9 logged in.
    kind INTEGER NOT NULL,
    -- No foreign key: a change outlives its user.
    user_id BLOB NOT NULL CHECK (length(user_id) = 16),
    -- The version that the user had after it.
    version INTEGER NOT NULL,
    -- Who did it, NULL for the library itself. Never an address.
    actor TEXT
    -- No index: it is read by seq alone, and an index would cost each write a page of its own.
) STRICT;

-- A number at random from when the feed began. A store of an older version that is upgraded twice, because its
-- snapshot was put back, has another one then, and cursors of the first feed aren't taken for places in the second.
ALTER TABLE tenantry_store ADD COLUMN changes_epoch INTEGER NOT NULL DEFAULT 0;
UPDATE tenantry_store SET changes_epoch = random() & 0xFFFFFFFF;
-- Whether logins are in the feed.
ALTER TABLE tenantry_store
ADD COLUMN has_logins_in_changes INTEGER NOT NULL DEFAULT 0 CHECK (has_logins_in_changes IN (0, 1));
