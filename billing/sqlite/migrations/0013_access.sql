-- +goose Up
-- What opens the management API. Of secrets there are SHA-256 hashes. Times are
-- microseconds since 1970.
CREATE TABLE operator_tokens (
	id           TEXT PRIMARY KEY,
	name         TEXT NOT NULL,
	hash         BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
	prefix       TEXT NOT NULL,
	created_by   TEXT NOT NULL,
	created_at   INTEGER NOT NULL,
	expires_at   INTEGER,
	revoked_at   INTEGER,
	last_used_at INTEGER
) STRICT, WITHOUT ROWID;

-- Browsers that somebody has logged in with. previous_hash is that of the
-- cookie's value before the last rotation.
CREATE TABLE sessions (
	id             TEXT PRIMARY KEY,
	hash           BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
	previous_hash  BLOB UNIQUE CHECK (length(previous_hash) = 32),
	previous_until INTEGER,
	issuer         TEXT NOT NULL,
	subject        TEXT NOT NULL,
	email          TEXT NOT NULL,
	name           TEXT NOT NULL,
	csrf_token     TEXT NOT NULL,
	created_at     INTEGER NOT NULL,
	rotated_at     INTEGER NOT NULL,
	last_seen_at   INTEGER NOT NULL,
	expires_at     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Logins that are under way.
CREATE TABLE logins (
	state      BLOB PRIMARY KEY CHECK (length(state) = 32),
	browser    BLOB NOT NULL CHECK (length(browser) = 32),
	nonce      TEXT NOT NULL,
	verifier   TEXT NOT NULL,
	return_to  TEXT NOT NULL,
	expires_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX logins_by_end ON logins (expires_at);
