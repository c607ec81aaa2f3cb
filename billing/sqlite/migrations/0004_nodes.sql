-- +goose Up
-- The gateways that use the books: one at a time here.
CREATE TABLE nodes (
	id           TEXT PRIMARY KEY,
	incarnation  TEXT NOT NULL,
	host         TEXT NOT NULL,
	version      TEXT NOT NULL,
	started_at   INTEGER NOT NULL,
	seen_at      INTEGER NOT NULL,
	beats        INTEGER NOT NULL,
	lease_ttl_ns INTEGER NOT NULL,
	expired      INTEGER NOT NULL,
	unposted     INTEGER NOT NULL,
	lag_ns       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
