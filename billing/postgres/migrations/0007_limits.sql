-- +goose Up
-- Keys of a project share a budget. Amounts are nano-USD, NULL is no limit.
ALTER TABLE keys ADD COLUMN project text COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE keys ADD COLUMN rate_limit_tpm bigint NOT NULL DEFAULT 0 CHECK (rate_limit_tpm >= 0);
ALTER TABLE keys ADD COLUMN max_concurrent bigint NOT NULL DEFAULT 0 CHECK (max_concurrent >= 0);
ALTER TABLE keys ADD COLUMN usage_soft_limit bigint CHECK (usage_soft_limit >= 0);

ALTER TABLE organizations ADD COLUMN budget_soft bigint CHECK (budget_soft >= 0);
ALTER TABLE organizations ADD COLUMN week_start text NOT NULL DEFAULT '';
ALTER TABLE organizations ADD COLUMN rate_limit_rpm bigint NOT NULL DEFAULT 0 CHECK (rate_limit_rpm >= 0);

ALTER TABLE requests ADD COLUMN project text COLLATE "C" NOT NULL DEFAULT '';
-- What became of each attempt to get an answer from a provider.
ALTER TABLE requests ADD COLUMN attempt_log jsonb NOT NULL DEFAULT '[]';
