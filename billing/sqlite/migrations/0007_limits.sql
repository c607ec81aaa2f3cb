-- +goose Up
-- Keys of a project share a budget. Amounts are nano-USD, NULL is no limit.
ALTER TABLE keys ADD COLUMN project TEXT NOT NULL DEFAULT '';
ALTER TABLE keys ADD COLUMN rate_limit_tpm INTEGER NOT NULL DEFAULT 0 CHECK (rate_limit_tpm >= 0);
ALTER TABLE keys ADD COLUMN max_concurrent INTEGER NOT NULL DEFAULT 0 CHECK (max_concurrent >= 0);
ALTER TABLE keys ADD COLUMN usage_soft_limit INTEGER CHECK (usage_soft_limit >= 0);

ALTER TABLE organizations ADD COLUMN budget_soft INTEGER CHECK (budget_soft >= 0);
ALTER TABLE organizations ADD COLUMN week_start TEXT NOT NULL DEFAULT '';
ALTER TABLE organizations ADD COLUMN rate_limit_rpm INTEGER NOT NULL DEFAULT 0 CHECK (rate_limit_rpm >= 0);

ALTER TABLE requests ADD COLUMN project TEXT NOT NULL DEFAULT '';
-- What became of each attempt to get an answer from a provider.
ALTER TABLE requests ADD COLUMN attempt_log TEXT NOT NULL DEFAULT '[]';
