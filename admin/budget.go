package admin

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/danielgtaylor/huma/v2"
)

// budget is an organization's limit on its own spend, in answers.
type budget struct {
	MaxDollars   *dollars          `json:"max_dollars" doc:"What may be spent in each period, in USD; null is no limit."`
	MaxNanos     *billing.Money    `json:"max_nanos" doc:"The same, exactly."`
	SoftDollars  *dollars          `json:"soft_dollars" doc:"From which spend in each period on requests are served with a warning, in USD; null is none."`
	Period       string            `json:"period" enum:"daily,weekly,monthly,never"`
	WeekStart    billing.WeekStart `json:"week_start" enum:"sunday,monday,saturday" doc:"When weekly periods begin, at 00:00 UTC: of the budget, of projects and of keys."`
	Hold         string            `json:"hold" enum:"estimate,strict" doc:"What is held for a request before it is sent."`
	RateLimitRPM *int64            `json:"rate_limit_rpm" doc:"Requests per calendar minute, by all keys; null is no limit."`
	SpentNanos   billing.Money     `json:"spent_nanos" doc:"Spent in the current period, by all keys."`
	PeriodStart  *time.Time        `json:"period_start" doc:"When the current period began; null for never."`
	PeriodEnd    *time.Time        `json:"period_end" doc:"When the next one begins; null for never."`
}

// holdMode says what is held for a request before it is sent.
type holdMode string

const (
	holdEstimate holdMode = "estimate"
	holdStrict   holdMode = "strict"
)

// Schema lists the modes.
func (holdMode) Schema(huma.Registry) *huma.Schema {
	return enumOf(holdEstimate, holdStrict)
}

// weekDay is a billing.WeekStart in requests.
type weekDay billing.WeekStart

// Schema lists the days.
func (weekDay) Schema(huma.Registry) *huma.Schema {
	return enumOf(billing.WeekStarts...)
}

// BudgetLimits are the fields that the budgets of organizations and of projects
// have in common.
type BudgetLimits struct {
	MaxDollars  optional[dollarText]  `json:"max_dollars,omitzero" doc:"What may be spent in each period by all keys together, in USD, with at most 9 decimals, taken exactly; 0 allows nothing, null is no limit."`
	SoftDollars optional[dollarText]  `json:"soft_dollars,omitzero" doc:"From which spend in each period on requests are served with the header X-Budget-Warning, in USD; at most max_dollars; null is none."`
	Period      optional[resetPeriod] `json:"period,omitzero" example:"monthly" doc:"When the spend starts anew, in UTC; never by default."`
}

// budgetFields are where BudgetLimits are kept.
type budgetFields struct {
	limit, soft **billing.Money
	period      *billing.Period
}

// apply changes the settings that are there. Those that are null come with
// their type's zero value.
func (l BudgetLimits) apply(f *faults, to budgetFields) {
	applyLimits(f, limitInput{"max_dollars", l.MaxDollars, to.limit}, limitInput{"soft_dollars", l.SoftDollars, to.soft})
	if l.Period.Set {
		*to.period = billing.Period(l.Period.Value)
	}
}

// putBudget replaces the settings that it names.
type putBudget struct {
	BudgetLimits
	WeekStart    optional[weekDay]     `json:"week_start,omitzero" example:"monday" doc:"The day that weekly periods begin on, at 00:00 UTC, for all limits of the organization; null leaves it to the gateway's configuration."`
	Hold         optional[holdMode]    `json:"hold,omitzero" example:"strict" doc:"estimate holds what a request may well cost, strict the most that it can; estimate by default."`
	RateLimitRPM optional[wholeNumber] `json:"rate_limit_rpm,omitzero" doc:"Requests per calendar minute, by all keys together; 0 or null is no limit."`
}

type putBudgetInput struct {
	Body putBudget
}

func (a *api) registerBudget() {
	tags := []string{"Budget"}
	registerTagged(a, huma.Operation{
		OperationID: "get-budget", Method: http.MethodGet, Path: "/v1/budget", Tags: tags,
		Summary: "The organization's budget and what is spent of it",
	}, a.getBudget)
	registerTagged(a, ifMatch(huma.Operation{
		OperationID: "put-budget", Method: http.MethodPut, Path: "/v1/budget", Tags: tags,
		Summary:     "Set the organization's budget",
		Description: "A field that is absent stays as it is, null sets its default.",
	}), a.putBudget)
}

func (a *api) getBudget(ctx context.Context, _ *struct{}) (*tagged[budget], error) {
	return a.answerBudget(ctx, callerOf(ctx).account.Organization)
}

func (a *api) putBudget(ctx context.Context, in *putBudgetInput) (*tagged[budget], error) {
	org, err := a.gateway.Store().UpdateOrganization(ctx, organizationOf(ctx), func(o *billing.Organization) error {
		if err := checkMatch(ctx, budgetTag(*o)); err != nil {
			return err
		}
		return in.Body.apply(o)
	})
	if err != nil {
		return nil, fmt.Errorf("changing a budget: %w", err)
	}
	a.gateway.OrganizationChanged(org)
	return a.answerBudget(ctx, org)
}

func (p putBudget) apply(org *billing.Organization) error {
	var f faults
	p.BudgetLimits.apply(&f, budgetFields{&org.Budget, &org.BudgetSoft, &org.BudgetPeriod})
	if p.WeekStart.Set {
		org.WeekStart = billing.WeekStart(p.WeekStart.Value)
	}
	if p.Hold.Set {
		org.HoldStrict = p.Hold.Value == holdStrict
	}
	if p.RateLimitRPM.Set {
		org.RateLimitRPM = int64(p.RateLimitRPM.Value)
	}
	return f.err()
}

func (a *api) answerBudget(ctx context.Context, org billing.Organization) (*tagged[budget], error) {
	period, week := cmp.Or(org.BudgetPeriod, billing.Never), a.weekStart(org)
	current := billing.BudgetOf(org.ID, period, time.Now(), week)
	spent, err := a.gateway.Store().Spend(ctx, []billing.Allowance{current})
	if err != nil {
		return nil, fmt.Errorf("reading the spend of an organization: %w", err)
	}
	b := budget{
		MaxDollars:   (*dollars)(org.Budget),
		MaxNanos:     org.Budget,
		SoftDollars:  (*dollars)(org.BudgetSoft),
		Period:       string(period),
		WeekStart:    week,
		Hold:         string(holdEstimate),
		RateLimitRPM: orNil(org.RateLimitRPM),
		SpentNanos:   spent[0],
	}
	if org.HoldStrict {
		b.Hold = string(holdStrict)
	}
	b.PeriodStart, b.PeriodEnd = periodBounds(current)
	return &tagged[budget]{budgetTag(org), b}, nil
}
