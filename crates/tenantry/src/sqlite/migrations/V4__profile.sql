-- What a service and identity providers need of a user. Each is NULL where it is unused, which takes one byte.

PRAGMA user_version = 4;

-- Since when the user is suspended: they don't sign in.
ALTER TABLE users ADD COLUMN suspended_at INTEGER
    CHECK (suspended_at BETWEEN -62135596800000000 AND 253402207200000000);
-- The id that another system has for the user. It is no key: several may have the same.
ALTER TABLE users ADD COLUMN external_id TEXT
    CHECK (length(external_id) <= 256 AND length(CAST(external_id AS BLOB)) BETWEEN 1 AND 1024);
-- What people call the user.
ALTER TABLE users ADD COLUMN name TEXT
    CHECK (length(name) <= 256 AND length(CAST(name AS BLOB)) BETWEEN 1 AND 1024);
-- A JSON object of the application's, on one line.
ALTER TABLE users ADD COLUMN attributes TEXT
    CHECK (length(CAST(attributes AS BLOB)) BETWEEN 2 AND 16384 AND json_valid(attributes) AND substr(attributes, 1, 1) = '{');

CREATE INDEX tenantry_users_external_id ON users (external_id) WHERE external_id IS NOT NULL AND deleted_at IS NULL;

-- With more columns than before.
DROP VIEW tenantry_living_users;
CREATE VIEW tenantry_living_users AS
SELECT
    id, email, email_key, created_at, last_login_at, updated_at, version, suspended_at, external_id, name, attributes
FROM users WHERE deleted_at IS NULL;
