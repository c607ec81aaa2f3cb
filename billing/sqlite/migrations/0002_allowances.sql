-- +goose Up
-- Amounts are nano-USD. Times are microseconds since 1970 in UTC.

-- What is spent and handed out of each limit, in each period. Settled sums are
-- kept for every key and every organization and all periods, whether or not
-- there is a limit, so that one may be set at any time and be exact at once.
CREATE TABLE allowances (
	organization_id TEXT NOT NULL,
	key_id          TEXT NOT NULL,
	kind            TEXT NOT NULL,
	period          TEXT NOT NULL,
	period_start    INTEGER NOT NULL,
	-- The limit of credits: the sum of all entries but usage debits.
	credited        INTEGER NOT NULL DEFAULT 0,
	settled         INTEGER NOT NULL DEFAULT 0 CHECK (settled >= 0),
	leased          INTEGER NOT NULL DEFAULT 0 CHECK (leased >= 0),
	PRIMARY KEY (organization_id, key_id, kind, period, period_start)
) STRICT, WITHOUT ROWID;

-- The parts of allowances that nodes have, to spend without asking.
CREATE TABLE leases (
	node            TEXT NOT NULL,
	organization_id TEXT NOT NULL,
	key_id          TEXT NOT NULL,
	kind            TEXT NOT NULL,
	period          TEXT NOT NULL,
	period_start    INTEGER NOT NULL,
	amount          INTEGER NOT NULL CHECK (amount > 0),
	PRIMARY KEY (node, organization_id, key_id, kind, period, period_start)
) STRICT, WITHOUT ROWID;

-- Sums of requests by hour.
CREATE TABLE rollups_hourly (
	organization_id   TEXT NOT NULL,
	hour              INTEGER NOT NULL,
	key_id            TEXT NOT NULL,
	provider          TEXT NOT NULL,
	model             TEXT NOT NULL,
	requests          INTEGER NOT NULL,
	prompt_tokens     INTEGER NOT NULL,
	completion_tokens INTEGER NOT NULL,
	cached_tokens     INTEGER NOT NULL,
	reasoning_tokens  INTEGER NOT NULL,
	cost              INTEGER NOT NULL,
	market_cost       INTEGER NOT NULL,
	PRIMARY KEY (organization_id, hour, key_id, provider, model)
) STRICT, WITHOUT ROWID;
