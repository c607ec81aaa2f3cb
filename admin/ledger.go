package admin

import (
	"context"
	"fmt"
	"net/http"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/danielgtaylor/huma/v2"
)

// verification is the proof of the books, of all organizations.
type verification struct {
	ImbalanceNanos billing.Money `json:"imbalance_nanos" doc:"The sum of all differences between what must be equal."`
	Balanced       bool          `json:"balanced" doc:"Whether there are none."`
}

func (a *api) registerLedger() {
	tags := []string{"Ledger"}
	register(a, huma.Operation{
		OperationID: "verify-ledger", Method: http.MethodGet, Path: "/v1/ledger/verify", Tags: tags,
		Summary: "Prove that the books balance",
	}, a.verifyLedger)
	register(a, huma.Operation{
		OperationID: "flush", Method: http.MethodPost, Path: "/v1/flush", Tags: tags,
		Summary: "Post all that is settled so far",
	}, a.flush)
}

func (a *api) verifyLedger(ctx context.Context, _ *struct{}) (*body[verification], error) {
	imbalance, err := a.gateway.Store().Imbalance(ctx)
	if err != nil {
		return nil, fmt.Errorf("verifying the ledger: %w", err)
	}
	return &body[verification]{verification{ImbalanceNanos: imbalance, Balanced: imbalance == 0}}, nil
}

func (a *api) flush(ctx context.Context, _ *struct{}) (*struct{}, error) {
	if err := a.gateway.Flush(ctx); err != nil {
		return nil, fmt.Errorf("flushing: %w", err)
	}
	return nil, nil
}
