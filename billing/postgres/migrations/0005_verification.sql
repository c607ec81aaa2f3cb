-- +goose Up
-- What verifications found sound, so that the next one can go on from there.
-- Amounts are nano-USD.

-- How far each organization's ledger was verified, and its sums there.
CREATE TABLE verified_ledgers (
	organization_id text COLLATE "C" PRIMARY KEY,
	entries         bigint NOT NULL,
	balance         bigint NOT NULL,
	credited        bigint NOT NULL,
	debited         bigint NOT NULL,
	-- SHA-256 of all columns of all entries so far.
	hash            bytea NOT NULL CHECK (length(hash) = 32)
);

-- The sums of each hour when they were compared with its rows.
CREATE TABLE verified_hours (
	organization_id   text COLLATE "C" NOT NULL,
	hour              timestamptz NOT NULL,
	requests          bigint NOT NULL,
	prompt_tokens     bigint NOT NULL,
	completion_tokens bigint NOT NULL,
	cached_tokens     bigint NOT NULL,
	reasoning_tokens  bigint NOT NULL,
	cost              bigint NOT NULL,
	market_cost       bigint NOT NULL,
	PRIMARY KEY (organization_id, hour)
);
