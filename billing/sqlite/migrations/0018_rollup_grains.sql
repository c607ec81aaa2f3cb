-- +goose Up
-- More series of sums of requests, between those that there are: by half hours,
-- three hours and six, for each key (key_30m, key_3h, key_6h) and of all keys
-- (all_30m, all_3h, all_6h). Where a zone's days begin is one or two rollups of
-- each series away from where UTC's do.
INSERT INTO rollups (organization_id, series, start, key_id, project, provider, model,
	requests, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost, market_cost)
SELECT organization_id, 'key_30m', start - ((start % 1800000000) + 1800000000) % 1800000000, key_id, project, provider, model,
	sum(requests), sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), sum(reasoning_tokens), sum(cost), sum(market_cost)
FROM rollups WHERE series = 'key_15m' GROUP BY 1, 3, 4, 5, 6, 7;

INSERT INTO rollups (organization_id, series, start, key_id, project, provider, model,
	requests, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost, market_cost)
SELECT organization_id, 'key_3h', start - ((start % 10800000000) + 10800000000) % 10800000000, key_id, project, provider, model,
	sum(requests), sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), sum(reasoning_tokens), sum(cost), sum(market_cost)
FROM rollups WHERE series = 'key_1h' GROUP BY 1, 3, 4, 5, 6, 7;

INSERT INTO rollups (organization_id, series, start, key_id, project, provider, model,
	requests, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost, market_cost)
SELECT organization_id, 'key_6h', start - ((start % 21600000000) + 21600000000) % 21600000000, key_id, project, provider, model,
	sum(requests), sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), sum(reasoning_tokens), sum(cost), sum(market_cost)
FROM rollups WHERE series = 'key_3h' GROUP BY 1, 3, 4, 5, 6, 7;

INSERT INTO rollups (organization_id, series, start, key_id, project, provider, model,
	requests, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost, market_cost)
SELECT organization_id, 'all_30m', start - ((start % 1800000000) + 1800000000) % 1800000000, key_id, project, provider, model,
	sum(requests), sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), sum(reasoning_tokens), sum(cost), sum(market_cost)
FROM rollups WHERE series = 'all_15m' GROUP BY 1, 3, 4, 5, 6, 7;

INSERT INTO rollups (organization_id, series, start, key_id, project, provider, model,
	requests, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost, market_cost)
SELECT organization_id, 'all_3h', start - ((start % 10800000000) + 10800000000) % 10800000000, key_id, project, provider, model,
	sum(requests), sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), sum(reasoning_tokens), sum(cost), sum(market_cost)
FROM rollups WHERE series = 'all_1h' GROUP BY 1, 3, 4, 5, 6, 7;

INSERT INTO rollups (organization_id, series, start, key_id, project, provider, model,
	requests, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost, market_cost)
SELECT organization_id, 'all_6h', start - ((start % 21600000000) + 21600000000) % 21600000000, key_id, project, provider, model,
	sum(requests), sum(prompt_tokens), sum(completion_tokens), sum(cached_tokens), sum(reasoning_tokens), sum(cost), sum(market_cost)
FROM rollups WHERE series = 'all_3h' GROUP BY 1, 3, 4, 5, 6, 7;
