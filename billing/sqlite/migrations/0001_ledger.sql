-- +goose Up
-- Amounts are nano-USD. Times are microseconds since 1970 in UTC.

CREATE TABLE organizations (
	id         TEXT NOT NULL PRIMARY KEY,
	name       TEXT NOT NULL,
	created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE keys (
	id                TEXT NOT NULL PRIMARY KEY,
	organization_id   TEXT NOT NULL REFERENCES organizations (id),
	name              TEXT NOT NULL,
	hash              BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
	prefix            TEXT NOT NULL,
	allowed_providers TEXT NOT NULL CHECK (json_valid(allowed_providers)),
	allowed_models    TEXT NOT NULL CHECK (json_valid(allowed_models)),
	allowed_ips       TEXT NOT NULL CHECK (json_valid(allowed_ips)),
	rate_limit_rpm    INTEGER NOT NULL,
	usage_limit       INTEGER,
	usage_limit_reset TEXT NOT NULL,
	expires_at        INTEGER,
	revoked_at        INTEGER,
	created_at        INTEGER NOT NULL,
	last_used_at      INTEGER
) STRICT;

CREATE INDEX keys_by_creation ON keys (organization_id, created_at, id);

-- One row, advanced by each change of a key.
CREATE TABLE keys_version (
	id      INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
	version INTEGER NOT NULL
) STRICT;

INSERT INTO keys_version (id, version) VALUES (1, 0);

-- One row a request: the audit trail. Neither organization nor key is a
-- foreign key: what was spent is recorded even if its owner is unknown here.
-- The ids are made from the times of arrival, so that what is sorted by id is
-- sorted by time too, and needs no index by time.
CREATE TABLE requests (
	organization_id         TEXT NOT NULL,
	request_id              TEXT NOT NULL,
	key_id                  TEXT NOT NULL,
	key_name                TEXT NOT NULL,
	arrived_at              INTEGER NOT NULL,
	provider                TEXT NOT NULL,
	model                   TEXT NOT NULL,
	endpoint                TEXT NOT NULL,
	input_tokens            INTEGER NOT NULL,
	input_audio_tokens      INTEGER NOT NULL,
	input_image_tokens      INTEGER NOT NULL,
	cache_read_tokens       INTEGER NOT NULL,
	cache_read_audio_tokens INTEGER NOT NULL,
	cache_write_tokens      INTEGER NOT NULL,
	cache_write_long_tokens INTEGER NOT NULL,
	output_tokens           INTEGER NOT NULL,
	output_audio_tokens     INTEGER NOT NULL,
	output_image_tokens     INTEGER NOT NULL,
	web_searches            INTEGER NOT NULL,
	reasoning_tokens        INTEGER NOT NULL,
	usage_source            TEXT NOT NULL,
	usage_mismatch          INTEGER NOT NULL,
	service_tier            TEXT NOT NULL,
	cost                    INTEGER NOT NULL CHECK (cost >= 0),
	market_cost             INTEGER NOT NULL CHECK (market_cost >= 0),
	price_rule_id           TEXT NOT NULL,
	latency_ns              INTEGER NOT NULL,
	ttfb_ns                 INTEGER NOT NULL,
	status                  INTEGER NOT NULL,
	error                   TEXT NOT NULL,
	client_ip               TEXT NOT NULL,
	user_agent              TEXT NOT NULL,
	streaming               INTEGER NOT NULL,
	attempts                INTEGER NOT NULL,
	changes                 TEXT NOT NULL,
	recovered               INTEGER NOT NULL,
	-- SHA-256 of the content, by which a replay is told from a conflict.
	hash                    BLOB NOT NULL CHECK (length(hash) = 32),
	prompt_tokens           INTEGER NOT NULL AS (input_tokens + input_audio_tokens + input_image_tokens
		+ cache_read_tokens + cache_read_audio_tokens + cache_write_tokens + cache_write_long_tokens) VIRTUAL,
	completion_tokens       INTEGER NOT NULL AS (output_tokens + output_audio_tokens + output_image_tokens) VIRTUAL,
	cached_tokens           INTEGER NOT NULL AS (cache_read_tokens + cache_read_audio_tokens) VIRTUAL,
	PRIMARY KEY (organization_id, request_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX requests_by_key ON requests (key_id, request_id);

-- The state of each organization's ledger.
CREATE TABLE accounts (
	organization_id TEXT NOT NULL PRIMARY KEY,
	balance         INTEGER NOT NULL,
	entries         INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The ledger. An organization's entries are numbered from 1 without gaps.
CREATE TABLE entries (
	organization_id TEXT NOT NULL,
	seq             INTEGER NOT NULL CHECK (seq > 0),
	type            TEXT NOT NULL,
	amount          INTEGER NOT NULL CHECK (amount <> 0),
	balance_after   INTEGER NOT NULL,
	created_at      INTEGER NOT NULL,
	request_id      TEXT NOT NULL,
	payment_id      TEXT NOT NULL,
	reason          TEXT NOT NULL,
	actor           TEXT NOT NULL,
	idempotency_key TEXT NOT NULL CHECK (idempotency_key <> ''),
	-- SHA-256 of what the entry was made from.
	hash            BLOB NOT NULL CHECK (length(hash) = 32),
	PRIMARY KEY (organization_id, seq),
	-- One debit a request: its idempotency key is made from the request's id.
	CHECK (type <> 'usage_debit' OR amount < 0 AND idempotency_key = 'req:' || request_id)
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX entries_idempotency ON entries (organization_id, idempotency_key);

-- +goose StatementBegin
CREATE TRIGGER requests_no_update BEFORE UPDATE ON requests
BEGIN
	SELECT RAISE(ABORT, 'requests are append-only');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER requests_no_delete BEFORE DELETE ON requests
BEGIN
	SELECT RAISE(ABORT, 'requests are append-only');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER entries_no_update BEFORE UPDATE ON entries
BEGIN
	SELECT RAISE(ABORT, 'entries are append-only');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER entries_no_delete BEFORE DELETE ON entries
BEGIN
	SELECT RAISE(ABORT, 'entries are append-only');
END;
-- +goose StatementEnd
