package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/danielgtaylor/huma/v2"
)

type adjustInput struct {
	ID             string `path:"id" doc:"The organization's id."`
	IdempotencyKey string `header:"Idempotency-Key" minLength:"1" maxLength:"255" pattern:"^[!-~]+$" patternDescription:"of visible ASCII characters" doc:"Your own name for this adjustment: repeating it with the same content answers the first one again."`
	Body           adjust
}

// adjust is the body that corrects a balance.
type adjust struct {
	AmountDollars  signedDollarText `json:"amount_dollars" doc:"What is added to the balance, in USD, with at most 9 decimals, taken exactly; negative takes away." example:"-2.50"`
	Reason         string           `json:"reason" minLength:"1" maxLength:"500" doc:"Why, for the ledger."`
	IdempotencyKey optional[string] `json:"idempotency_key,omitzero" minLength:"1" maxLength:"255" pattern:"^[!-~]+$" patternDescription:"of visible ASCII characters" doc:"In place of the Idempotency-Key header."`
}

// Resolve refuses what looks like an idempotency key and would not be one: the
// adjustment would be made once more.
func (in *adjustInput) Resolve(ctx huma.Context) []error {
	return checkIdempotencyHeader(ctx, "expected one value of 1 to 255 visible ASCII characters")
}

func (a *api) registerAdjustments(tags []string) {
	register(a, huma.Operation{
		OperationID: "adjust-balance", Method: http.MethodPost, Path: "/v1/organizations/{id}/adjustments", Tags: tags,
		Summary: "Correct an organization's balance", DefaultStatus: http.StatusCreated,
		Description: "The correction is another entry of the ledger, which names the reason and who made it. Nothing that is in the ledger changes.",
	}, a.adjust)
}

func (a *api) adjust(ctx context.Context, in *adjustInput) (*body[transaction], error) {
	account, err := a.findOrganization(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC().Truncate(timeUnit)
	e, err := in.entry(account.Organization.ID, now)
	if err != nil {
		return nil, err
	}
	e.Actor = actorText(billing.ActorOf(ctx))
	e, err = a.gateway.Store().Append(ctx, e)
	if errors.Is(err, billing.ErrBalanceRange) {
		var f faults
		f.add("body.amount_dollars", "expected an amount that leaves a balance of less than 9.2 billion")
		return nil, f.err()
	}
	if err != nil {
		return nil, fmt.Errorf("adjusting a balance: %w", err)
	}
	return &body[transaction]{newTransaction(e)}, nil
}

// entry is what is asked for as a line of an organization's ledger.
func (in *adjustInput) entry(org string, now time.Time) (billing.Entry, error) {
	var f faults
	amount, err := in.Body.AmountDollars.signed()
	switch {
	case err != nil:
		f.add("body.amount_dollars", err.Error())
	case amount == 0:
		f.add("body.amount_dollars", "expected an amount other than 0")
	}
	if strings.TrimSpace(in.Body.Reason) == "" || !billing.IsPlainText(in.Body.Reason) {
		f.add("body.reason", "expected a reason without control characters")
	}
	key := in.IdempotencyKey
	switch own := in.Body.IdempotencyKey; {
	case !own.Set || own.Null:
	case key != "" && own.Value != key:
		f.add("body.idempotency_key", "expected the value of the "+idempotencyHeader+" header, or only one of the two")
	default:
		key = own.Value
	}
	if key == "" {
		key = billing.NewID("adj", now)
	}
	return billing.Entry{
		OrganizationID: org, Type: billing.Adjustment, Amount: amount, CreatedAt: now,
		Reason: in.Body.Reason, IdempotencyKey: "adjustment:" + key,
	}, f.err()
}

// actorText is who has done something, in the ledger and in invitations.
func actorText(who billing.Actor) string {
	name := who.Name
	if name == "" {
		name = who.ID
	}
	return string(who.Kind) + ":" + name
}
