package admin

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/danielgtaylor/huma/v2"
)

// usage is what requests used and cost.
type usage struct {
	From   *time.Time   `json:"from" doc:"Start, inclusive; null is the beginning."`
	To     *time.Time   `json:"to" doc:"End, exclusive; null is now."`
	Totals Totals       `json:"totals"`
	Groups []usageGroup `json:"groups" nullable:"false" doc:"They sum to the totals; empty without group_by."`
}

// Totals are sums of requests.
type Totals struct {
	Requests         int64         `json:"requests"`
	PromptTokens     int64         `json:"prompt_tokens"`
	CompletionTokens int64         `json:"completion_tokens"`
	CachedTokens     int64         `json:"cached_tokens"`
	ReasoningTokens  int64         `json:"reasoning_tokens"`
	CostNanos        billing.Money `json:"cost_nanos" doc:"What the organization pays."`
	MarketCostNanos  billing.Money `json:"market_cost_nanos" doc:"What the providers' list prices come to."`
	SavingsNanos     billing.Money `json:"savings_nanos" doc:"The difference."`
	SavingsPercent   percent       `json:"savings_percent" doc:"The difference in percent of the market cost, to 2 decimals."`
}

func newTotals(t billing.Totals) Totals {
	return Totals{
		Requests:         t.Requests,
		PromptTokens:     t.PromptTokens,
		CompletionTokens: t.CompletionTokens,
		CachedTokens:     t.CachedTokens,
		ReasoningTokens:  t.ReasoningTokens,
		CostNanos:        t.Cost,
		MarketCostNanos:  t.MarketCost,
		SavingsNanos:     t.MarketCost - t.Cost,
		SavingsPercent:   savings(t.Cost, t.MarketCost),
	}
}

type usageInput struct {
	Interval
	Selection
	KeySelection
	Breakdown
	Owner string `query:"owner" maxLength:"200" doc:"Requests with keys of this member, by id."`
}

type keyUsageInput struct {
	ID string `path:"id" doc:"The key's id."`
	Interval
	Selection
	Breakdown
}

func (a *api) registerUsage() {
	register(a, huma.Operation{
		OperationID: "get-usage", Method: http.MethodGet, Path: "/v1/usage", Tags: []string{"Usage"},
		Summary: "What requests used and cost",
	}, a.getUsage)
	register(a, huma.Operation{
		OperationID: "get-key-usage", Method: http.MethodGet, Path: "/v1/keys/{id}/usage", Tags: []string{"Usage", "Keys"},
		Summary: "What requests with one key used and cost",
	}, a.getKeyUsage)
}

func (a *api) getUsage(ctx context.Context, in *usageInput) (*body[usage], error) {
	f, err := usageFilter(in.Interval, in.Selection, in.KeyID, in.Owner)
	if err != nil {
		return nil, err
	}
	return a.answerUsage(ctx, f, in.Breakdown, in.Timezone)
}

func (a *api) getKeyUsage(ctx context.Context, in *keyUsageInput) (*body[usage], error) {
	k, err := a.findKey(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	f, err := usageFilter(in.Interval, in.Selection, []string{k.ID}, "")
	if err != nil {
		return nil, err
	}
	return a.answerUsage(ctx, f, in.Breakdown, in.Timezone)
}

// usageFilter reads the parameters. All faults are reported together.
func usageFilter(in Interval, sel Selection, keyIDs []string, owner string) (billing.Filter, error) {
	var f faults
	out := sel.read(&f, keyIDs)
	out.From, out.To = in.read(&f)
	f.checkTexts("owner", owner)
	out.Owner = owner
	return out, f.err()
}

func (a *api) answerUsage(ctx context.Context, f billing.Filter, b Breakdown, timezone string) (*body[usage], error) {
	if err := ownFilter(ctx, &f.Owner); err != nil {
		return nil, err
	}
	zone, err := parseTimezone(timezone)
	if err != nil {
		return nil, fmt.Errorf("reading the time zone: %w", err)
	}
	if err := b.check(); err != nil {
		return nil, err
	}
	u, err := a.gateway.Store().Usage(ctx, organizationOf(ctx), f, billing.Grouping{
		By:        mapped(b.GroupBy, func(by string) billing.Dimension { return billing.Dimension(by) }),
		Interval:  billing.Interval(b.Every),
		Zone:      zone,
		WeekStart: a.weekStart(callerOf(ctx).account.Organization),
	})
	if errors.Is(err, billing.ErrTooManyGroups) {
		return nil, b.tooManyGroups()
	}
	if err != nil {
		return nil, fmt.Errorf("reading usage: %w", err)
	}
	return &body[usage]{usage{
		From:   timeOrNil(u.From),
		To:     timeOrNil(u.To),
		Totals: newTotals(u.Totals),
		Groups: b.groups(u.Groups),
	}}, nil
}

// percent is hundredths of a percent.
type percent struct{ hundredths *big.Int }

// savings is the share of the market cost that was saved, rounded half away
// from zero. It is 0 where there is nothing to compare with.
func savings(cost, market billing.Money) percent {
	if market == 0 {
		return percent{new(big.Int)}
	}
	saved := new(big.Int).Sub(big.NewInt(int64(market)), big.NewInt(int64(cost)))
	// round(x / m) = trunc((2x ± m) / 2m)
	x := saved.Mul(saved, big.NewInt(2*100*100))
	m := big.NewInt(int64(market))
	if x.Sign() < 0 {
		x.Sub(x, m)
	} else {
		x.Add(x, m)
	}
	return percent{x.Quo(x, m.Lsh(m, 1))}
}

// MarshalJSON writes a number with at most two decimals.
func (p percent) MarshalJSON() ([]byte, error) {
	r := new(big.Rat).SetFrac(p.hundredths, big.NewInt(100))
	return []byte(trimDecimal(r.FloatString(2))), nil
}

// Schema is a number's.
func (percent) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeNumber}
}
