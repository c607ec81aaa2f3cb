-- +goose Up
-- Sums of requests, in several series: by quarters of hours, hours and days for
-- each key (key_15m, key_1h, key_1d) and of all keys, with no key_id (all_15m,
-- all_1h, all_1d). Zones are off UTC by whole quarters: so the days of all of
-- them are sums of rollups.
CREATE TABLE rollups (
	organization_id   TEXT NOT NULL,
	series            TEXT NOT NULL,
	start             INTEGER NOT NULL,
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
	PRIMARY KEY (series, organization_id, start, key_id, project, provider, model)
) STRICT, WITHOUT ROWID;

-- For what is asked of one key of many.
CREATE INDEX rollups_by_key ON rollups (organization_id, key_id, series, start);

INSERT INTO rollups
SELECT organization_id, 'key_15m', arrived_at - ((arrived_at % 900000000) + 900000000) % 900000000, key_id, project, provider, model,
	count(*), sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), sum(reasoning_tokens), sum(cost), sum(market_cost)
FROM requests GROUP BY 1, 3, 4, 5, 6, 7;

INSERT INTO rollups
SELECT organization_id, 'key_1h', start - ((start % 3600000000) + 3600000000) % 3600000000, key_id, project, provider, model,
	sum(requests), sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), sum(reasoning_tokens), sum(cost), sum(market_cost)
FROM rollups WHERE series = 'key_15m' GROUP BY 1, 3, 4, 5, 6, 7;

INSERT INTO rollups
SELECT organization_id, 'key_1d', start - ((start % 86400000000) + 86400000000) % 86400000000, key_id, project, provider, model,
	sum(requests), sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), sum(reasoning_tokens), sum(cost), sum(market_cost)
FROM rollups WHERE series = 'key_1h' GROUP BY 1, 3, 4, 5, 6, 7;

INSERT INTO rollups
SELECT organization_id, 'all_15m', start, '', project, provider, model,
	sum(requests), sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), sum(reasoning_tokens), sum(cost), sum(market_cost)
FROM rollups WHERE series = 'key_15m' GROUP BY 1, 3, 5, 6, 7;

INSERT INTO rollups
SELECT organization_id, 'all_1h', start - ((start % 3600000000) + 3600000000) % 3600000000, '', project, provider, model,
	sum(requests), sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), sum(reasoning_tokens), sum(cost), sum(market_cost)
FROM rollups WHERE series = 'all_15m' GROUP BY 1, 3, 5, 6, 7;

INSERT INTO rollups
SELECT organization_id, 'all_1d', start - ((start % 86400000000) + 86400000000) % 86400000000, '', project, provider, model,
	sum(requests), sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), sum(reasoning_tokens), sum(cost), sum(market_cost)
FROM rollups WHERE series = 'all_1h' GROUP BY 1, 3, 5, 6, 7;

DROP TABLE rollups_hourly;
