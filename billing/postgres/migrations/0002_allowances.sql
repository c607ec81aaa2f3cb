-- +goose Up
-- Amounts are nano-USD.

-- What is spent and handed out of each limit, in each period. Settled sums are
-- kept for every key and every organization and all periods, whether or not
-- there is a limit, so that one may be set at any time and be exact at once.
CREATE TABLE allowances (
	organization_id text COLLATE "C" NOT NULL,
	key_id          text COLLATE "C" NOT NULL,
	kind            text COLLATE "C" NOT NULL,
	period          text COLLATE "C" NOT NULL,
	period_start    timestamptz NOT NULL,
	-- The limit of credits: the sum of all entries but usage debits.
	credited        bigint NOT NULL DEFAULT 0,
	settled         bigint NOT NULL DEFAULT 0 CHECK (settled >= 0),
	leased          bigint NOT NULL DEFAULT 0 CHECK (leased >= 0),
	PRIMARY KEY (organization_id, key_id, kind, period, period_start)
) WITH (fillfactor = 50);

-- The parts of allowances that nodes have, to spend without asking.
CREATE TABLE leases (
	node            text COLLATE "C" NOT NULL,
	organization_id text COLLATE "C" NOT NULL,
	key_id          text COLLATE "C" NOT NULL,
	kind            text COLLATE "C" NOT NULL,
	period          text COLLATE "C" NOT NULL,
	period_start    timestamptz NOT NULL,
	amount          bigint NOT NULL CHECK (amount > 0),
	PRIMARY KEY (node, organization_id, key_id, kind, period, period_start)
) WITH (fillfactor = 50);

-- Sums of requests by hour.
CREATE TABLE rollups_hourly (
	organization_id   text COLLATE "C" NOT NULL,
	hour              timestamptz NOT NULL,
	key_id            text COLLATE "C" NOT NULL,
	provider          text COLLATE "C" NOT NULL,
	model             text COLLATE "C" NOT NULL,
	requests          bigint NOT NULL,
	prompt_tokens     bigint NOT NULL,
	completion_tokens bigint NOT NULL,
	cached_tokens     bigint NOT NULL,
	reasoning_tokens  bigint NOT NULL,
	cost              bigint NOT NULL,
	market_cost       bigint NOT NULL,
	PRIMARY KEY (organization_id, hour, key_id, provider, model)
) WITH (fillfactor = 50);
