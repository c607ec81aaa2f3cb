-- The sum of absolute differences between what must be equal. Both sides of an
-- equality go into one table, the second with its sign turned, so that what is
-- on one side only counts as well.
WITH
-- Requests by rollup and, in turn, rollups by allowance. Hence allowances are
-- compared with rows, at the price of comparing them with rollups.
rows_by_hour AS (
	SELECT organization_id, date_trunc('hour', arrived_at, 'UTC') AS hour,
		key_id, provider, model, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost, market_cost
	FROM requests
),
hours AS (
	SELECT organization_id, key_id, hour, date_trunc('day', hour, 'UTC') AS day, sum(cost) AS cost
	FROM rollups_hourly GROUP BY 1, 2, 3
),
spent AS (
	SELECT organization_id, key_id, 'never' AS period, timestamptz '1970-01-01 00:00:00+00' AS period_start, cost
	FROM hours
	UNION ALL
	SELECT organization_id, key_id, 'daily', day, cost
	FROM hours
	UNION ALL
	-- Hours rather than days: a day of the session's time zone may be longer.
	SELECT organization_id, key_id, 'weekly',
		day - extract(dow FROM day AT TIME ZONE 'UTC') * interval '24 hours', cost
	FROM hours
	UNION ALL
	SELECT organization_id, key_id, 'monthly', date_trunc('month', hour, 'UTC'), cost
	FROM hours
),
differences (amount) AS (
	-- Accounts and entries.
	SELECT abs(sum(balance)) + abs(sum(entries)) FROM (
		SELECT organization_id, balance, entries FROM accounts
		UNION ALL
		SELECT organization_id, -amount, -1 FROM entries
	) AS sides GROUP BY organization_id
	UNION ALL
	-- Each balance and the sum so far; each number and the count so far.
	SELECT abs(balance_after - sum(amount) OVER ledger) + abs(seq - count(*) OVER ledger)
	FROM entries
	WINDOW ledger AS (PARTITION BY organization_id ORDER BY seq ROWS UNBOUNDED PRECEDING)
	UNION ALL
	-- Costs and debits.
	SELECT abs(sum(cost)) FROM (
		SELECT organization_id, request_id, cost FROM requests
		UNION ALL
		SELECT organization_id, request_id, amount FROM entries WHERE type = 'usage_debit'
	) AS sides GROUP BY organization_id, request_id
	UNION ALL
	-- Rollups and rows.
	SELECT abs(sum(requests)) + abs(sum(prompt_tokens)) + abs(sum(completion_tokens)) + abs(sum(cached_tokens))
		+ abs(sum(reasoning_tokens)) + abs(sum(cost)) + abs(sum(market_cost)) FROM (
		SELECT organization_id, hour, key_id, provider, model, requests, prompt_tokens, completion_tokens,
			cached_tokens, reasoning_tokens, cost, market_cost
		FROM rollups_hourly
		UNION ALL
		SELECT organization_id, hour, key_id, provider, model, -1, -prompt_tokens, -completion_tokens,
			-cached_tokens, -reasoning_tokens, -cost, -market_cost
		FROM rows_by_hour
	) AS sides GROUP BY organization_id, hour, key_id, provider, model
	UNION ALL
	-- Spend of keys and budgets in each period, and rows.
	SELECT abs(sum(settled)) FROM (
		SELECT organization_id, key_id, kind, period, period_start, settled
		FROM allowances WHERE kind <> 'credits'
		UNION ALL
		SELECT organization_id, key_id, 'key', period, period_start, -cost FROM spent
		UNION ALL
		SELECT organization_id, '', 'budget', period, period_start, -cost FROM spent
	) AS sides GROUP BY organization_id, key_id, kind, period, period_start
	UNION ALL
	-- Credits, and debits and other entries.
	SELECT abs(sum(settled)) + abs(sum(credited)) FROM (
		SELECT organization_id, settled, credited FROM allowances WHERE kind = 'credits'
		UNION ALL
		SELECT organization_id, amount, 0 FROM entries WHERE type = 'usage_debit'
		UNION ALL
		SELECT organization_id, 0, -amount FROM entries WHERE type <> 'usage_debit'
	) AS sides GROUP BY organization_id
	UNION ALL
	-- What is leased, and leases.
	SELECT abs(sum(leased)) FROM (
		SELECT organization_id, key_id, kind, period, period_start, leased FROM allowances
		UNION ALL
		SELECT organization_id, key_id, kind, period, period_start, -amount FROM leases
	) AS sides GROUP BY organization_id, key_id, kind, period, period_start
)
SELECT coalesce(sum(amount), 0)::bigint FROM differences
