-- +goose Up
-- Sums of requests, in several series: by quarters of hours, hours and days for
-- each key (key_15m, key_1h, key_1d) and of all keys, with no key_id (all_15m,
-- all_1h, all_1d). Zones are off UTC by whole quarters: so the days of all of
-- them are sums of rollups.
CREATE TABLE rollups (
	organization_id   text COLLATE "C" NOT NULL,
	series            text COLLATE "C" NOT NULL,
	start             timestamptz NOT NULL,
	key_id            text COLLATE "C" NOT NULL,
	project           text COLLATE "C" NOT NULL,
	provider          text COLLATE "C" NOT NULL,
	model             text COLLATE "C" NOT NULL,
	requests          bigint NOT NULL,
	prompt_tokens     bigint NOT NULL,
	completion_tokens bigint NOT NULL,
	cached_tokens     bigint NOT NULL,
	reasoning_tokens  bigint NOT NULL,
	cost              bigint NOT NULL,
	market_cost       bigint NOT NULL,
	PRIMARY KEY (series, organization_id, start, key_id, project, provider, model)
) WITH (fillfactor = 50);

-- For what is asked of one key of many.
CREATE INDEX rollups_by_key ON rollups (organization_id, key_id, series, start);

INSERT INTO rollups
SELECT organization_id, 'key_15m', date_bin('15 minutes', arrived_at, timestamptz '0001-01-01 00:00:00+00'), key_id, project, provider, model,
	count(*), sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), sum(reasoning_tokens), sum(cost), sum(market_cost)
FROM requests GROUP BY 1, 3, 4, 5, 6, 7;

INSERT INTO rollups
SELECT organization_id, 'key_1h', date_trunc('hour', start, 'UTC'), key_id, project, provider, model,
	sum(requests), sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), sum(reasoning_tokens), sum(cost), sum(market_cost)
FROM rollups WHERE series = 'key_15m' GROUP BY 1, 3, 4, 5, 6, 7;

INSERT INTO rollups
SELECT organization_id, 'key_1d', date_trunc('day', start, 'UTC'), key_id, project, provider, model,
	sum(requests), sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), sum(reasoning_tokens), sum(cost), sum(market_cost)
FROM rollups WHERE series = 'key_1h' GROUP BY 1, 3, 4, 5, 6, 7;

INSERT INTO rollups
SELECT organization_id, 'all_15m', start, '', project, provider, model,
	sum(requests), sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), sum(reasoning_tokens), sum(cost), sum(market_cost)
FROM rollups WHERE series = 'key_15m' GROUP BY 1, 3, 5, 6, 7;

INSERT INTO rollups
SELECT organization_id, 'all_1h', date_trunc('hour', start, 'UTC'), '', project, provider, model,
	sum(requests), sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), sum(reasoning_tokens), sum(cost), sum(market_cost)
FROM rollups WHERE series = 'all_15m' GROUP BY 1, 3, 5, 6, 7;

INSERT INTO rollups
SELECT organization_id, 'all_1d', date_trunc('day', start, 'UTC'), '', project, provider, model,
	sum(requests), sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), sum(reasoning_tokens), sum(cost), sum(market_cost)
FROM rollups WHERE series = 'all_1h' GROUP BY 1, 3, 5, 6, 7;

DROP TABLE rollups_hourly;
