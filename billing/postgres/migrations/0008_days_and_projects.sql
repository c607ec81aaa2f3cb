-- +goose Up
-- What is settled is kept by day and for all time; a week or a month is the sum
-- of its days, whatever day it starts on. Leases stay with their periods.
ALTER TABLE allowances RENAME COLUMN key_id TO subject;
ALTER TABLE leases RENAME COLUMN key_id TO subject;
UPDATE allowances SET settled = 0 WHERE period IN ('weekly', 'monthly') AND settled <> 0;
DELETE FROM allowances WHERE period IN ('weekly', 'monthly') AND leased = 0;

-- The settings of groups of keys. Amounts are nano-USD, NULL is no limit.
CREATE TABLE projects (
	organization_id text COLLATE "C" NOT NULL REFERENCES organizations (id),
	name            text COLLATE "C" NOT NULL,
	created_at      timestamptz NOT NULL,
	budget          bigint CHECK (budget >= 0),
	budget_period   text NOT NULL,
	budget_soft     bigint CHECK (budget_soft >= 0),
	PRIMARY KEY (organization_id, name)
);

-- Sums of requests by hour, also by project: rows of before have none.
ALTER TABLE rollups_hourly ADD COLUMN project text COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE rollups_hourly DROP CONSTRAINT rollups_hourly_pkey;
ALTER TABLE rollups_hourly ADD PRIMARY KEY (organization_id, hour, key_id, project, provider, model);
