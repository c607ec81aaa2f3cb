package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/danielgtaylor/huma/v2"
)

// creditPackage is an amount of credits for sale.
type creditPackage struct {
	ID           string        `json:"id"`
	PriceNanos   billing.Money `json:"price_nanos" doc:"What it costs."`
	CreditsNanos billing.Money `json:"credits_nanos" doc:"What it adds to the balance."`
}

func newCreditPackage(p billing.Package) creditPackage {
	return creditPackage{ID: p.ID, PriceNanos: p.Price, CreditsNanos: p.Credits}
}

// transaction is a ledger entry.
type transaction struct {
	ID                string        `json:"id"`
	Type              string        `json:"type" enum:"purchase,usage_debit,adjustment,refund,dispute"`
	AmountNanos       billing.Money `json:"amount_nanos" doc:"Negative for a debit."`
	BalanceAfterNanos billing.Money `json:"balance_after_nanos" doc:"The balance including this entry."`
	CreatedAt         time.Time     `json:"created_at"`
	RequestID         *string       `json:"request_id" doc:"The request that a usage_debit pays for."`
	PaymentID         *string       `json:"payment_id" doc:"The payment of a purchase, refund or dispute."`
	Reason            *string       `json:"reason"`
	Actor             *string       `json:"actor" doc:"Who made it."`
}

func newTransaction(e billing.Entry) transaction {
	return transaction{
		ID:                e.ID,
		Type:              string(e.Type),
		AmountNanos:       e.Amount,
		BalanceAfterNanos: e.BalanceAfter,
		CreatedAt:         e.CreatedAt.UTC(),
		RequestID:         orNil(e.RequestID),
		PaymentID:         orNil(e.PaymentID),
		Reason:            orNil(e.Reason),
		Actor:             orNil(e.Actor),
	}
}

// checkout is where to pay for a purchase.
type checkout struct {
	CheckoutURL string `json:"checkout_url" format:"uri"`
}

type purchaseInput struct {
	IdempotencyKey string `header:"Idempotency-Key" minLength:"1" maxLength:"255" doc:"Your own name for this purchase: repeating it with the same package answers the first one again."`
	Body           struct {
		PackageID string `json:"package_id" doc:"The id of a package."`
	}
}

// Resolve refuses what looks like an idempotency key and would not be one: the
// purchase would be made once more.
func (in *purchaseInput) Resolve(ctx huma.Context) []error {
	return checkIdempotencyHeader(ctx, "expected one value of 1 to 255 characters")
}

const webhookPath = "/v1/billing/webhook"

type webhookInput struct {
	Signature string `header:"Stripe-Signature" doc:"Stripe's signature of the body."`
	RawBody   []byte `contentType:"application/json"`
}

// purchaseOutput has a transaction or a checkout as its body.
type purchaseOutput struct {
	Status int
	Body   any
}

func (a *api) registerBilling() {
	tags := []string{"Billing"}
	register(a, huma.Operation{
		OperationID: "list-packages", Method: http.MethodGet, Path: "/v1/billing/packages", Tags: tags,
		Summary: "Credit packages for sale, in the order of the configuration",
	}, a.listPackages)
	register(a, huma.Operation{
		OperationID: "purchase-package", Method: http.MethodPost, Path: "/v1/billing/purchase", Tags: tags,
		Summary:       "Buy a credit package",
		DefaultStatus: http.StatusCreated,
		Responses: map[string]*huma.Response{
			"200": response[checkout](a, "Pay at this address"),
			"201": response[transaction](a, "Granted, as this transaction"),
		},
	}, a.purchase)
	a.registerWebhook(tags)
	register(a, huma.Operation{
		OperationID: "list-transactions", Method: http.MethodGet, Path: "/v1/billing/transactions", Tags: tags,
		Summary: "Ledger entries, in their order",
	}, a.listTransactions)
	registerExport(a, huma.Operation{
		OperationID: "export-transactions", Method: http.MethodGet, Path: "/v1/billing/transactions/export", Tags: tags,
		Summary: "All ledger entries that are selected, as a file",
	}, a.exportTransactions)
}

// registerWebhook adds the operation that Stripe calls. Its signature covers
// the body's very bytes, so these are not read as JSON on the way.
func (a *api) registerWebhook(tags []string) {
	request := &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{}}
	registerOpen(a, huma.Operation{
		OperationID: "receive-webhook", Method: http.MethodPost, Path: webhookPath, Tags: tags,
		Summary:     "Take an event from Stripe",
		RequestBody: request, SkipValidateBody: true,
	}, a.receiveWebhook)
	request.Content["application/json"].Schema = &huma.Schema{Type: huma.TypeObject, Description: "A Stripe event."}
}

func (a *api) receiveWebhook(ctx context.Context, in *webhookInput) (*struct{}, error) {
	receiver, ok := a.gateway.Purchaser().(billing.WebhookReceiver)
	if !ok {
		return nil, &problem{status: http.StatusNotFound, Message: "no webhooks are expected: llm_gateway has no billing stripe block"}
	}
	err := receiver.Webhook(ctx, in.RawBody, in.Signature)
	if errors.Is(err, billing.ErrWebhook) {
		return nil, &problem{status: http.StatusBadRequest, Message: "not signed by Stripe, or too long ago: check webhook_secret and the clock"}
	}
	if err != nil {
		// The sender cannot help any of this, a conflict neither: it is paid
		// money that is not in the books, so the operator must know.
		a.gateway.Logger().Error("a payment could not be granted: Stripe will deliver its webhook again", "error", err)
		return nil, errInternal
	}
	return nil, nil
}

func (a *api) listPackages(context.Context, *struct{}) (*body[list[creditPackage]], error) {
	return &body[list[creditPackage]]{list[creditPackage]{Data: mapped(a.gateway.Packages(), newCreditPackage)}}, nil
}

func (a *api) purchase(ctx context.Context, in *purchaseInput) (*purchaseOutput, error) {
	purchaser := a.gateway.Purchaser()
	if purchaser == nil {
		return nil, &problem{
			status:  http.StatusNotFound,
			Message: "billing is not configured: add a billing block to llm_gateway",
		}
	}
	p, err := a.findPackage(in.Body.PackageID)
	if err != nil {
		return nil, err
	}
	if !billing.IsPlainText(in.IdempotencyKey) {
		var f faults
		f.add("header.Idempotency-Key", "expected text without control characters")
		return nil, f.err()
	}
	origin := callerOf(ctx).origin
	receipt, err := purchaser.Purchase(ctx, billing.Order{
		OrganizationID: organizationOf(ctx),
		Package:        p,
		Actor:          actorText(billing.ActorOf(ctx)),
		IdempotencyKey: in.IdempotencyKey,
		ReturnURL:      origin.String(),
	})
	if err != nil {
		return nil, fmt.Errorf("purchasing: %w", err)
	}
	if receipt.Entry == nil {
		return &purchaseOutput{Status: http.StatusOK, Body: checkout{CheckoutURL: receipt.CheckoutURL}}, nil
	}
	return &purchaseOutput{Status: http.StatusCreated, Body: newTransaction(*receipt.Entry)}, nil
}

func (a *api) findPackage(id string) (billing.Package, error) {
	for _, p := range a.gateway.Packages() {
		if p.ID == id {
			return p, nil
		}
	}
	var f faults
	f.add("body.package_id", "expected the id of a package: see /v1/billing/packages")
	return billing.Package{}, f.err()
}
