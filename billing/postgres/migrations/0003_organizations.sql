-- +goose Up
-- What an organization wants to spend in each period, in nano-USD; NULL is no
-- limit.
ALTER TABLE organizations ADD COLUMN budget bigint CHECK (budget >= 0);
ALTER TABLE organizations ADD COLUMN budget_period text NOT NULL DEFAULT '';
-- Whether the most that a request may cost is held, rather than an estimate.
ALTER TABLE organizations ADD COLUMN hold_strict boolean NOT NULL DEFAULT false;
