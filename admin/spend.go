package admin

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// weekStart is the day that the weeks of an organization start on.
func (a *api) weekStart(org billing.Organization) billing.WeekStart {
	return cmp.Or(org.WeekStart, a.gateway.WeekStart(), billing.Sunday)
}

// keySpend is what keys of the caller's organization have spent in the current
// periods of their limits, by id; of all time without a limit.
func (a *api) keySpend(ctx context.Context, keys []billing.Key, now time.Time) (map[string]billing.Money, error) {
	week := a.weekStart(callerOf(ctx).account.Organization)
	allowances := mapped(keys, func(k billing.Key) billing.Allowance {
		if k.UsageLimit == nil && k.UsageSoftLimit == nil {
			k.UsageLimitReset = billing.Never
		}
		return billing.SpendOf(&k, now, week)
	})
	spend, err := a.gateway.Store().Spend(ctx, allowances)
	if err != nil {
		return nil, fmt.Errorf("reading the spend of keys: %w", err)
	}
	byKey := make(map[string]billing.Money, len(keys))
	for i, k := range keys {
		byKey[k.ID] = spend[i]
	}
	return byKey, nil
}

// checkSoft finds a soft limit that warns of nothing any more, since the limit
// itself refuses the request. The field is the one that was sent.
func checkSoft(f *faults, soft, limit *billing.Money, field string) {
	if soft != nil && limit != nil && *soft > *limit {
		f.add(field, "expected the soft limit to be at most the limit")
	}
}

// periodBounds are when an allowance's period begins and ends; nil for never.
func periodBounds(a billing.Allowance) (start, end *time.Time) {
	if a.Period == billing.Never {
		return nil, nil
	}
	return new(a.Start), new(a.End())
}
