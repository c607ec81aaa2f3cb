-- +goose Up
-- What has changed since some version: keys_version counts the changes of keys
-- and organizations, and each row has the number of its last one.
ALTER TABLE keys ADD COLUMN version INTEGER NOT NULL DEFAULT 0;
ALTER TABLE organizations ADD COLUMN version INTEGER NOT NULL DEFAULT 0;
CREATE INDEX keys_by_version ON keys (version);
CREATE INDEX organizations_by_version ON organizations (version);

-- When the last of a key's previous secrets ends.
ALTER TABLE keys ADD COLUMN previous_secret_expires_at INTEGER;

-- The secrets that were replaced and still work, each until its end.
CREATE TABLE key_secrets (
	hash            BLOB NOT NULL PRIMARY KEY CHECK (length(hash) = 32),
	organization_id TEXT NOT NULL,
	key_id          TEXT NOT NULL REFERENCES keys (id),
	expires_at      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX key_secrets_by_key ON key_secrets (key_id);

-- The last rotation of each key that may be asked for again. The reply is
-- sealed with what the database does not have.
CREATE TABLE key_rotations (
	key_id           TEXT NOT NULL PRIMARY KEY REFERENCES keys (id),
	organization_id  TEXT NOT NULL,
	-- SHA-256 of the idempotency key, and of what was asked for.
	idempotency_hash BLOB NOT NULL CHECK (length(idempotency_hash) = 32),
	request_hash     BLOB NOT NULL CHECK (length(request_hash) = 32),
	reply            BLOB NOT NULL,
	created_at       INTEGER NOT NULL
) STRICT;
