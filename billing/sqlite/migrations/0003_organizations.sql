-- +goose Up
-- What an organization wants to spend in each period, in nano-USD; NULL is no
-- limit.
ALTER TABLE organizations ADD COLUMN budget INTEGER CHECK (budget >= 0);
ALTER TABLE organizations ADD COLUMN budget_period TEXT NOT NULL DEFAULT '';
-- Whether the most that a request may cost is held, rather than an estimate.
ALTER TABLE organizations ADD COLUMN hold_strict INTEGER NOT NULL DEFAULT 0;
