package postgres

import (
	"strings"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing/internal/columns"
	"github.com/caddy-llm-gateway/gateway/billing/internal/proof"
)

const (
	// Another node may have verified more in the meantime.
	rememberLedger = `
INSERT INTO verified_ledgers AS v (organization_id, entries, balance, credited, debited, hash)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (organization_id) DO UPDATE SET
	entries = excluded.entries,
	balance = excluded.balance,
	credited = excluded.credited,
	debited = excluded.debited,
	hash = excluded.hash
WHERE v.entries < excluded.entries`

	rememberHours = `
INSERT INTO verified_hours (organization_id, hour,
	requests, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost, market_cost)
SELECT $1, * FROM unnest($2::timestamptz[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
	$8::bigint[], $9::bigint[])
ON CONFLICT (organization_id, hour) DO UPDATE SET
	requests = excluded.requests,
	prompt_tokens = excluded.prompt_tokens,
	completion_tokens = excluded.completion_tokens,
	cached_tokens = excluded.cached_tokens,
	reasoning_tokens = excluded.reasoning_tokens,
	cost = excluded.cost,
	market_cost = excluded.market_cost`
)

// verifiedColumns are columns.Request, with the lists as text.
var verifiedColumns = strings.NewReplacer("changes", "changes::text", "attempt_log", "attempt_log::text").Replace(columns.Request)

var proofQueries = proof.Queries{
	// It skips from one organization to the next in the tables that have many
	// rows for each.
	Organizations: `
WITH RECURSIVE
of_requests (id) AS (
	SELECT min(organization_id) FROM requests
	UNION ALL
	SELECT (SELECT min(organization_id) FROM requests WHERE organization_id > id) FROM of_requests WHERE id IS NOT NULL
),
of_entries (id) AS (
	SELECT min(organization_id) FROM entries
	UNION ALL
	SELECT (SELECT min(organization_id) FROM entries WHERE organization_id > id) FROM of_entries WHERE id IS NOT NULL
),
of_allowances (id) AS (
	SELECT min(organization_id) FROM allowances
	UNION ALL
	SELECT (SELECT min(organization_id) FROM allowances WHERE organization_id > id) FROM of_allowances WHERE id IS NOT NULL
),
of_rollups (series, id) AS (
	SELECT series, '' COLLATE "C" FROM unnest(ARRAY[` + proof.SeriesNames + `]) AS s (series)
	UNION ALL
	SELECT o.series, (SELECT min(r.organization_id) FROM rollups r WHERE r.series = o.series AND r.organization_id > o.id)
	FROM of_rollups o WHERE o.id IS NOT NULL
)
SELECT id FROM (
	SELECT id FROM of_requests
	UNION
	SELECT id FROM of_entries
	UNION
	SELECT id FROM of_allowances
	UNION
	SELECT id FROM of_rollups WHERE id <> ''
	UNION
	SELECT organization_id FROM accounts
	UNION
	SELECT organization_id FROM verified_ledgers
) AS o WHERE id IS NOT NULL ORDER BY id`,

	Account: `
SELECT coalesce(a.balance, 0), coalesce(a.entries, 0), coalesce(c.credited, 0), coalesce(c.settled, 0),
	(SELECT coalesce(max(seq), 0) FROM entries WHERE organization_id = $1),
	coalesce(v.entries, 0), coalesce(v.balance, 0), coalesce(v.credited, 0), coalesce(v.debited, 0), v.hash
FROM (SELECT 1) AS one
LEFT JOIN accounts a ON a.organization_id = $1
LEFT JOIN allowances c ON c.organization_id = $1 AND c.subject = '' AND c.kind = 'credits'
	AND c.period = 'never' AND c.period_start = timestamptz '1970-01-01 00:00:00+00'
LEFT JOIN verified_ledgers v ON v.organization_id = $1`,

	Entries: `
SELECT ` + columns.Entry + ` FROM entries
WHERE organization_id = $1 AND seq > $2 ORDER BY seq LIMIT $3`,

	// The range says which partitions to read, and an array is looked up in their
	// indexes: a join may be with all rows, where the planner knows none yet.
	Requests: `
SELECT ` + verifiedColumns + ` FROM requests
WHERE organization_id = $1 AND request_id = ANY (ARRAY(SELECT json_array_elements_text($2::json)))
	AND request_id >= $3 AND request_id <= $4`,

	FreeRequests: `
SELECT ` + verifiedColumns + ` FROM requests
WHERE organization_id = $1 AND request_id >= $2 AND request_id < $3 AND request_id > $4 AND cost = 0
ORDER BY request_id LIMIT $5`,

	// The subquery is not a join: a planner that knows nothing of the tables yet
	// would compare each row with each entry.
	Undebited: `
SELECT request_id, cost FROM requests r
WHERE organization_id = $1 AND cost <> 0 AND (
	SELECT count(*) FROM entries e
	WHERE e.organization_id = $1 AND e.idempotency_key = 'req:' || r.request_id AND e.type = 'usage_debit'
) = 0`,

	ChangedHours: `
WITH h AS (
	SELECT start AS hour, sum(requests)::bigint AS requests, sum(prompt_tokens)::bigint AS prompt_tokens,
		sum(completion_tokens)::bigint AS completion_tokens, sum(cached_tokens)::bigint AS cached_tokens,
		sum(reasoning_tokens)::bigint AS reasoning_tokens, sum(cost)::bigint AS cost, sum(market_cost)::bigint AS market_cost
	FROM rollups WHERE organization_id = $1 AND series = 'all_1h' GROUP BY start
)
SELECT h.hour, h.requests, h.prompt_tokens, h.completion_tokens, h.cached_tokens,
	h.reasoning_tokens, h.cost, h.market_cost,
	coalesce(v.requests, 0), coalesce(v.prompt_tokens, 0), coalesce(v.completion_tokens, 0), coalesce(v.cached_tokens, 0),
	coalesce(v.reasoning_tokens, 0), coalesce(v.cost, 0), coalesce(v.market_cost, 0)
FROM h LEFT JOIN verified_hours v ON v.organization_id = $1 AND v.hour = h.hour
WHERE v.requests IS NULL OR h.requests <> v.requests OR h.prompt_tokens <> v.prompt_tokens
	OR h.completion_tokens <> v.completion_tokens OR h.cached_tokens <> v.cached_tokens
	OR h.reasoning_tokens <> v.reasoning_tokens OR h.cost <> v.cost OR h.market_cost <> v.market_cost
UNION ALL
SELECT v.hour, 0, 0, 0, 0, 0, 0, 0,
	v.requests, v.prompt_tokens, v.completion_tokens, v.cached_tokens,
	v.reasoning_tokens, v.cost, v.market_cost
FROM verified_hours v
WHERE v.organization_id = $1
	AND NOT EXISTS (
		SELECT 1 FROM rollups r
		WHERE r.organization_id = v.organization_id AND r.series = 'all_1h' AND r.start = v.hour
	)
ORDER BY 1`,

	SumPage: `
SELECT 'key_15m', date_bin('15 minutes', arrived_at, timestamptz '0001-01-01 00:00:00+00'), key_id, project, provider, model,
	count(*), sum(prompt_tokens)::bigint, sum(completion_tokens)::bigint, sum(cached_tokens)::bigint,
	sum(reasoning_tokens)::bigint, sum(cost)::bigint, sum(market_cost)::bigint, max(request_id)
FROM (
	SELECT request_id, arrived_at, key_id, project, provider, model, prompt_tokens, completion_tokens, cached_tokens,
		reasoning_tokens, cost, market_cost
	FROM requests WHERE organization_id = $1 AND request_id > $2 ORDER BY request_id LIMIT $3
) AS page GROUP BY 2, 3, 4, 5, 6`,

	SumHour: `
SELECT 'key_15m', date_bin('15 minutes', arrived_at, timestamptz '0001-01-01 00:00:00+00'), key_id, project, provider, model,
	count(*), sum(prompt_tokens)::bigint, sum(completion_tokens)::bigint, sum(cached_tokens)::bigint,
	sum(reasoning_tokens)::bigint, sum(cost)::bigint, sum(market_cost)::bigint
FROM requests
WHERE organization_id = $1 AND request_id >= $2 AND request_id < $3
	AND arrived_at >= $4 AND arrived_at < $5
GROUP BY 2, 3, 4, 5, 6`,

	Rollups: `
SELECT series, start, key_id, project, provider, model,
	requests, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost, market_cost
FROM rollups WHERE organization_id = $1 AND series = $4 AND start >= $2 AND start < $3`,

	RollupDays: `
SELECT DISTINCT date_trunc('day', start, 'UTC')
FROM rollups WHERE organization_id = $1 AND series IN (` + proof.SeriesNames + `) ORDER BY 1`,

	// Rollups are compared with rows: so allowances are, by the sums of days. Only days
	// and all time have any.
	Allowances: `
WITH days AS MATERIALIZED (
	SELECT organization_id, key_id, project, start AS day, sum(cost) AS cost
	FROM rollups WHERE series = 'key_1d' GROUP BY 1, 2, 3, 4
),
spent AS MATERIALIZED (
	SELECT organization_id, '' AS subject, 'budget' AS kind, day, sum(cost) AS cost FROM days GROUP BY 1, 4
	UNION ALL
	SELECT organization_id, project, 'project', day, sum(cost) FROM days WHERE project <> '' GROUP BY 1, 2, 4
	UNION ALL
	SELECT organization_id, key_id, 'key', day, sum(cost) FROM days GROUP BY 1, 2, 4
)
SELECT organization_id, subject, kind, period, period_start, sum(cost)::bigint, sum(settled)::bigint FROM (
	SELECT organization_id, subject, kind, period, period_start, 0 AS cost, settled FROM allowances WHERE settled <> 0
	UNION ALL
	SELECT organization_id, subject, kind, 'daily', day, cost, 0 FROM spent
	UNION ALL
	SELECT organization_id, subject, kind, 'never', timestamptz '1970-01-01 00:00:00+00', cost, 0 FROM spent
	UNION ALL
	SELECT organization_id, '', 'credits', 'never', timestamptz '1970-01-01 00:00:00+00', cost, 0 FROM spent WHERE kind = 'budget'
) AS sides GROUP BY 1, 2, 3, 4, 5 HAVING sum(cost) <> sum(settled) ORDER BY 1, 2, 3, 4, 5`,

	Leases: `
SELECT organization_id, subject, kind, period, period_start, sum(amount)::bigint, sum(leased)::bigint FROM (
	SELECT organization_id, subject, kind, period, period_start, 0 AS amount, leased FROM allowances WHERE leased <> 0
	UNION ALL
	SELECT organization_id, subject, kind, period, period_start, amount, 0 FROM leases
) AS sides GROUP BY 1, 2, 3, 4, 5 HAVING sum(amount) <> sum(leased) ORDER BY 1, 2, 3, 4, 5`,

	Kept: `SELECT first_id FROM requests_kept`,

	Dropped: `
SELECT 'key_15m', start, key_id, project, provider, model,
	requests, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, cost, market_cost, debits
FROM dropped_requests WHERE organization_id = $1 AND start >= $2 AND start < $3`,

	RequestPage: `
SELECT ` + verifiedColumns + ` FROM requests
WHERE organization_id = $1 AND request_id >= $2 AND request_id < $3 AND request_id > $4
ORDER BY request_id LIMIT $5`,

	Debits: `
SELECT ` + columns.Entry + ` FROM entries
WHERE organization_id = $1 AND idempotency_key = ANY (ARRAY(SELECT 'req:' || json_array_elements_text($2::json)))`,

	Time: func(t time.Time) any { return t },
}
