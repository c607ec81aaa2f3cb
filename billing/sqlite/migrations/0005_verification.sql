-- +goose Up
-- What verifications found sound, so that the next one can go on from there.
-- Amounts are nano-USD. Times are microseconds since 1970 in UTC.

-- How far each organization's ledger was verified, and its sums there.
CREATE TABLE verified_ledgers (
	organization_id TEXT NOT NULL PRIMARY KEY,
	entries         INTEGER NOT NULL,
	balance         INTEGER NOT NULL,
	credited        INTEGER NOT NULL,
	debited         INTEGER NOT NULL,
	-- SHA-256 of all columns of all entries so far.
	hash            BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT, WITHOUT ROWID;

-- The sums of each hour when they were compared with its rows.
CREATE TABLE verified_hours (
	organization_id   TEXT NOT NULL,
	hour              INTEGER NOT NULL,
	requests          INTEGER NOT NULL,
	prompt_tokens     INTEGER NOT NULL,
	completion_tokens INTEGER NOT NULL,
	cached_tokens     INTEGER NOT NULL,
	reasoning_tokens  INTEGER NOT NULL,
	cost              INTEGER NOT NULL,
	market_cost       INTEGER NOT NULL,
	PRIMARY KEY (organization_id, hour)
) STRICT, WITHOUT ROWID;
