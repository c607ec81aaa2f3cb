package admin

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// checkTightened is the error for a developer's change of a key that lets it do
// more than before, whoever has set what it may do: a limit that an owner or
// admin put on somebody's key holds. Names and warnings are the developer's own.
func checkTightened(ctx context.Context, before, after billing.Key) error {
	if _, restricted := ownOnly(ctx); !restricted {
		return nil
	}
	var f faults
	for _, x := range []struct {
		field  string
		looser bool
	}{
		{"allowed_providers", widensList(before.AllowedProviders, after.AllowedProviders)},
		{"allowed_models", widensList(before.AllowedModels, after.AllowedModels)},
		{"allowed_ips", widensList(before.AllowedIPs, after.AllowedIPs)},
		{"rate_limit_rpm", raisesRate(before.RateLimitRPM, after.RateLimitRPM)},
		{"rate_limit_tpm", raisesRate(before.RateLimitTPM, after.RateLimitTPM)},
		{"max_concurrent", raisesRate(before.MaxConcurrent, after.MaxConcurrent)},
		{"usage_limit_dollars", raisesLimit(before.UsageLimit, after.UsageLimit)},
		{"usage_limit_reset", before.UsageLimit != nil && before.UsageLimitReset != after.UsageLimitReset},
		{"expires_at", isLater(before.ExpiresAt, after.ExpiresAt)},
		{"project", before.Project != "" && before.Project != after.Project},
	} {
		if x.looser {
			f.add("body."+x.field, "your role, developer, lets you make a limit of your key tighter, "+
				"not raise, clear or replace it: ask an owner or admin")
		}
	}
	if len(f) == 0 {
		return nil
	}
	return f.problem(http.StatusForbidden)
}

// widensList tells whether a list of what is allowed has more than before. An
// empty one allows all.
func widensList(before, after []string) bool {
	if len(before) == 0 {
		return false
	}
	return len(after) == 0 || slices.ContainsFunc(after, func(entry string) bool { return !slices.Contains(before, entry) })
}

// raisesRate tells whether a limit is higher than before. 0 is none.
func raisesRate(before, after int64) bool { return before != 0 && (after == 0 || after > before) }

// raisesLimit tells whether a limit is higher than before. nil is none.
func raisesLimit(before, after *billing.Money) bool {
	return before != nil && (after == nil || *after > *before)
}

// isLater tells whether an end is later than before. The zero time is none.
func isLater(before, after time.Time) bool {
	return !before.IsZero() && (after.IsZero() || after.After(before))
}
