-- +goose Up
-- What opens the management API. Of secrets there are SHA-256 hashes.
CREATE TABLE operator_tokens (
	id           text COLLATE "C" PRIMARY KEY,
	name         text NOT NULL,
	hash         bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
	prefix       text NOT NULL,
	created_by   text NOT NULL,
	created_at   timestamptz NOT NULL,
	expires_at   timestamptz,
	revoked_at   timestamptz,
	last_used_at timestamptz
);

-- Browsers that somebody has logged in with. previous_hash is that of the
-- cookie's value before the last rotation.
CREATE TABLE sessions (
	id             text COLLATE "C" PRIMARY KEY,
	hash           bytea NOT NULL UNIQUE CHECK (octet_length(hash) = 32),
	previous_hash  bytea UNIQUE CHECK (octet_length(previous_hash) = 32),
	previous_until timestamptz,
	issuer         text NOT NULL,
	subject        text NOT NULL,
	email          text NOT NULL,
	name           text NOT NULL,
	csrf_token     text NOT NULL,
	created_at     timestamptz NOT NULL,
	rotated_at     timestamptz NOT NULL,
	last_seen_at   timestamptz NOT NULL,
	expires_at     timestamptz NOT NULL
);

-- Logins that are under way.
CREATE TABLE logins (
	state      bytea PRIMARY KEY CHECK (octet_length(state) = 32),
	browser    bytea NOT NULL CHECK (octet_length(browser) = 32),
	nonce      text NOT NULL,
	verifier   text NOT NULL,
	return_to  text NOT NULL,
	expires_at timestamptz NOT NULL
);

CREATE INDEX logins_by_end ON logins (expires_at);
