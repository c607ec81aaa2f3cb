package admin

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/danielgtaylor/huma/v2"
)

// budget is an organization's limit on its own spend, in answers.
type budget struct {
	MaxDollars  *dollars       `json:"max_dollars" doc:"What may be spent in each period, in USD; null is no limit."`
	MaxNanos    *billing.Money `json:"max_nanos" doc:"The same, exactly."`
	Period      string         `json:"period" enum:"daily,weekly,monthly,never"`
	Hold        string         `json:"hold" enum:"estimate,strict" doc:"What is held for a request before it is sent."`
	SpentNanos  billing.Money  `json:"spent_nanos" doc:"Spent in the current period, by all keys."`
	PeriodStart *time.Time     `json:"period_start" doc:"When the current period began; null for never."`
	PeriodEnd   *time.Time     `json:"period_end" doc:"When the next one begins; null for never."`
}

// holdMode says what is held for a request before it is sent.
type holdMode string

const (
	holdEstimate holdMode = "estimate"
	holdStrict   holdMode = "strict"
)

// Schema lists the modes.
func (holdMode) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Enum: []any{string(holdEstimate), string(holdStrict)}}
}

// putBudget replaces the settings that it names.
type putBudget struct {
	MaxDollars optional[dollarText]  `json:"max_dollars,omitzero" doc:"What may be spent in each period by all keys together, in USD, with at most 9 decimals, taken exactly; 0 allows nothing, null is no limit."`
	Period     optional[resetPeriod] `json:"period,omitzero" example:"monthly" doc:"When the spend starts anew, in UTC; never by default."`
	Hold       optional[holdMode]    `json:"hold,omitzero" example:"strict" doc:"estimate holds what a request may well cost, strict the most that it can; estimate by default."`
}

type putBudgetInput struct {
	Body putBudget
}

func (a *api) registerBudget() {
	tags := []string{"Budget"}
	register(a, huma.Operation{
		OperationID: "get-budget", Method: http.MethodGet, Path: "/v1/budget", Tags: tags,
		Summary: "The organization's budget and what is spent of it",
	}, a.getBudget)
	register(a, huma.Operation{
		OperationID: "put-budget", Method: http.MethodPut, Path: "/v1/budget", Tags: tags,
		Summary:     "Set the organization's budget",
		Description: "A field that is absent stays as it is, null sets its default.",
	}, a.putBudget)
}

func (a *api) getBudget(ctx context.Context, _ *struct{}) (*body[budget], error) {
	return a.answerBudget(ctx, callerOf(ctx).account.Organization)
}

func (a *api) putBudget(ctx context.Context, in *putBudgetInput) (*body[budget], error) {
	org, err := a.gateway.Store().UpdateOrganization(ctx, organizationOf(ctx), in.Body.apply)
	if err != nil {
		return nil, fmt.Errorf("changing a budget: %w", err)
	}
	a.gateway.OrganizationChanged(org)
	return a.answerBudget(ctx, org)
}

// apply changes the settings that are there. Those that are null come with
// their type's zero value.
func (p putBudget) apply(org *billing.Organization) error {
	var f faults
	if p.MaxDollars.Set {
		org.Budget = checkLimit(&f, "body.max_dollars", p.MaxDollars)
	}
	if p.Period.Set {
		org.BudgetPeriod = billing.Period(p.Period.Value)
	}
	if p.Hold.Set {
		org.HoldStrict = p.Hold.Value == holdStrict
	}
	return f.err()
}

func (a *api) answerBudget(ctx context.Context, org billing.Organization) (*body[budget], error) {
	now, period := time.Now(), org.BudgetPeriod
	if period == "" {
		period = billing.Never
	}
	spent, err := a.gateway.Store().BudgetSpend(ctx, org.ID, period, now)
	if err != nil {
		return nil, fmt.Errorf("reading the spend of an organization: %w", err)
	}
	b := budget{
		MaxDollars: (*dollars)(org.Budget),
		MaxNanos:   org.Budget,
		Period:     string(period),
		Hold:       string(holdEstimate),
		SpentNanos: spent,
	}
	if org.HoldStrict {
		b.Hold = string(holdStrict)
	}
	if period != billing.Never {
		b.PeriodStart, b.PeriodEnd = new(period.Start(now)), new(period.End(now))
	}
	return &body[budget]{b}, nil
}
