-- +goose Up
-- What is settled is kept by day and for all time; a week or a month is the sum
-- of its days, whatever day it starts on. Leases stay with their periods.
ALTER TABLE allowances RENAME COLUMN key_id TO subject;
ALTER TABLE leases RENAME COLUMN key_id TO subject;
UPDATE allowances SET settled = 0 WHERE period IN ('weekly', 'monthly') AND settled <> 0;
DELETE FROM allowances WHERE period IN ('weekly', 'monthly') AND leased = 0;

-- The settings of groups of keys. Amounts are nano-USD, NULL is no limit.
CREATE TABLE projects (
	organization_id TEXT NOT NULL REFERENCES organizations (id),
	name            TEXT NOT NULL,
	created_at      INTEGER NOT NULL,
	budget          INTEGER CHECK (budget >= 0),
	budget_period   TEXT NOT NULL,
	budget_soft     INTEGER CHECK (budget_soft >= 0),
	PRIMARY KEY (organization_id, name)
) STRICT, WITHOUT ROWID;

-- Sums of requests by hour, also by project: rows of before have none.
CREATE TABLE rollups_by_project (
	organization_id   TEXT NOT NULL,
	hour              INTEGER NOT NULL,
	key_id            TEXT NOT NULL,
	project           TEXT NOT NULL,
	provider          TEXT NOT NULL,
	model             TEXT NOT NULL,
	requests          INTEGER NOT NULL,
	prompt_tokens     INTEGER NOT NULL,
	completion_tokens INTEGER NOT NULL,
	cached_tokens     INTEGER NOT NULL,
	reasoning_tokens  INTEGER NOT NULL,
	cost              INTEGER NOT NULL,
	market_cost       INTEGER NOT NULL,
	PRIMARY KEY (organization_id, hour, key_id, project, provider, model)
) STRICT, WITHOUT ROWID;

INSERT INTO rollups_by_project
SELECT organization_id, hour, key_id, '', provider, model,
	requests, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost, market_cost
FROM rollups_hourly;

DROP TABLE rollups_hourly;
ALTER TABLE rollups_by_project RENAME TO rollups_hourly;
