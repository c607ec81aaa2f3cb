package admin

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/danielgtaylor/huma/v2"
)

// verification is the proof of the books, of all organizations.
type verification struct {
	ImbalanceNanos billing.Money `json:"imbalance_nanos" doc:"The sum of all differences between what must be equal."`
	Balanced       bool          `json:"balanced" doc:"Whether there are none."`
	Mode           string        `json:"mode" enum:"incremental,full"`
	VerifiedAt     time.Time     `json:"verified_at" doc:"The moment that the proof is of."`
	DurationMS     int64         `json:"duration_ms"`
	EntriesRead    int64         `json:"entries_read" doc:"Ledger entries that were read and hashed."`
	RequestsRead   int64         `json:"requests_read" doc:"Audit rows that were read and hashed."`
	Checks         []ledgerCheck `json:"checks" nullable:"false"`
}

type ledgerCheck struct {
	Name           string        `json:"name"`
	ImbalanceNanos billing.Money `json:"imbalance_nanos" doc:"Amounts in nano-USD, numbers and tokens as such, a changed text or hash as 1."`
	Examples       []difference  `json:"examples" nullable:"false" doc:"The first differences."`
}

type difference struct {
	OrganizationID string `json:"organization_id"`
	Subject        string `json:"subject" doc:"What differs, such as: entry 5."`
	Field          string `json:"field"`
	Expected       string `json:"expected" doc:"What the other records say."`
	Found          string `json:"found"`
}

type verifyInput struct {
	Mode     string `query:"mode" enum:"incremental,full" default:"incremental" doc:"Whether to read what is new, or everything: minutes, for millions of requests."`
	Examples int    `query:"examples" minimum:"1" maximum:"1000" default:"5" doc:"The most examples for each check."`
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

func (a *api) verifyLedger(ctx context.Context, in *verifyInput) (*body[verification], error) {
	v, err := a.gateway.Verify(ctx, billing.VerifyOptions{Mode: billing.VerifyMode(in.Mode), Examples: in.Examples})
	if err != nil {
		return nil, fmt.Errorf("verifying the ledger: %w", err)
	}
	return &body[verification]{verification{
		ImbalanceNanos: v.Imbalance(),
		Balanced:       v.Imbalance() == 0,
		Mode:           string(v.Mode),
		VerifiedAt:     v.At,
		DurationMS:     v.Duration.Milliseconds(),
		EntriesRead:    v.Entries,
		RequestsRead:   v.Requests,
		Checks: mapped(v.Checks, func(c billing.Check) ledgerCheck {
			return ledgerCheck{
				Name: c.Name, ImbalanceNanos: c.Imbalance,
				Examples: mapped(c.Examples, func(d billing.Difference) difference { return difference(d) }),
			}
		}),
	}}, nil
}

func (a *api) flush(ctx context.Context, _ *struct{}) (*struct{}, error) {
	if err := a.gateway.Flush(ctx); err != nil {
		return nil, fmt.Errorf("flushing: %w", err)
	}
	return nil, nil
}
