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

// limitInput is a limit of spend in a body, and where it is kept.
type limitInput struct {
	field string
	sent  optional[dollarText]
	kept  **billing.Money
}

func (l limitInput) apply(f *faults) {
	if !l.sent.Set {
		return
	}
	*l.kept = nil
	if l.sent.Null {
		return
	}
	amount, err := l.sent.Value.amount()
	if err != nil {
		f.add("body."+l.field, err.Error())
	}
	*l.kept = &amount
}

// applyLimits changes a limit and its soft limit, those that were sent. It
// refuses a soft limit that warns of nothing, since the limit itself refuses the
// request.
func applyLimits(f *faults, limit, soft limitInput) {
	before := len(*f)
	limit.apply(f)
	soft.apply(f)
	if len(*f) > before || *limit.kept == nil || *soft.kept == nil || **soft.kept <= **limit.kept {
		return
	}
	if soft.sent.Set {
		f.add("body."+soft.field, "expected at most "+limit.field)
	} else {
		f.add("body."+limit.field, "expected at least "+soft.field+", which is set already")
	}
}

// periodBounds are when an allowance's period begins and ends; nil for never.
func periodBounds(a billing.Allowance) (start, end *time.Time) {
	if a.Period == billing.Never {
		return nil, nil
	}
	return new(a.Start), new(a.End())
}
