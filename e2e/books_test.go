package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
)

// auditRow is what the management API says about one request.
type auditRow struct {
	RequestID        string `json:"request_id"`
	Provider         string `json:"provider"`
	Model            string `json:"model"`
	Endpoint         string `json:"endpoint"`
	PromptTokens     int64  `json:"prompt_tokens"`
	CompletionTokens int64  `json:"completion_tokens"`
	CachedTokens     int64  `json:"cached_tokens"`
	CacheWriteTokens int64  `json:"cache_write_tokens"`
	ReasoningTokens  int64  `json:"reasoning_tokens"`
	CostNanos        int64  `json:"cost_nanos"`
	MarketCostNanos  int64  `json:"market_cost_nanos"`
	Status           int    `json:"status"`
	Error            string `json:"error"`
	KeyName          string `json:"key_name"`
	Streaming        bool   `json:"streaming"`
	UserAgent        string `json:"user_agent"`
	UsageSource      string `json:"usage_source"`
	PriceRuleID      string `json:"price_rule_id"`
}

type transaction struct {
	ID                string `json:"id"`
	Type              string `json:"type"`
	AmountNanos       int64  `json:"amount_nanos"`
	BalanceAfterNanos int64  `json:"balance_after_nanos"`
	RequestID         string `json:"request_id"`
}

type list[T any] struct {
	Data       []T     `json:"data"`
	NextCursor *string `json:"next_cursor"`
}

// all reads a list to its end, page by page.
func all[T any](ctx context.Context, g *gateway, path string) ([]T, error) {
	var items []T
	query := url.Values{"limit": {"100"}}
	for {
		var page list[T]
		if err := g.call(ctx, http.MethodGet, path+"?"+query.Encode(), nil, &page); err != nil {
			return nil, err
		}
		items = append(items, page.Data...)
		if page.NextCursor == nil || *page.NextCursor == "" {
			return items, nil
		}
		query.Set("cursor", *page.NextCursor)
	}
}

// flush returns when every settlement so far is in the books.
func (g *gateway) flush(ctx context.Context) error {
	return g.call(ctx, http.MethodPost, "/v1/flush", nil, nil)
}

// audit returns a request's row, once it is posted.
func (g *gateway) audit(ctx context.Context, requestID string) (auditRow, error) {
	var row auditRow
	if requestID == "" {
		return row, errors.New("the response had no X-Request-Id")
	}
	if err := g.flush(ctx); err != nil {
		return row, err
	}
	return row, g.call(ctx, http.MethodGet, "/v1/audit/"+requestID, nil, &row)
}

// mustAudit returns a request's row, or fails the test.
func (g *gateway) mustAudit(t *testing.T, requestID string) auditRow {
	t.Helper()
	row, err := g.audit(t.Context(), requestID)
	if err != nil {
		t.Fatal(err)
	}
	return row
}

// charge is what one request must have put into the books.
type charge struct {
	provider  string
	model     string
	endpoint  string
	streaming bool
	used      tokens
	// free is set for endpoints that cost nothing.
	free bool
}

// checkBooked fails the test unless exactly this charge is booked under the
// request.
func (g *gateway) checkBooked(t *testing.T, requestID string, want charge) {
	t.Helper()
	if err := g.booked(t.Context(), requestID, want); err != nil {
		t.Error(err)
	}
}

// booked returns an error unless exactly this charge is booked under the
// request: the audit row's tokens and money, and one debit of the same amount.
func (g *gateway) booked(ctx context.Context, requestID string, want charge) error {
	row, err := g.audit(ctx, requestID)
	if err != nil {
		return err
	}
	wantRow := auditRow{
		RequestID:        requestID,
		Provider:         want.provider,
		Model:            want.model,
		Endpoint:         want.endpoint,
		PromptTokens:     want.used.prompt(),
		CompletionTokens: want.used.output,
		CachedTokens:     want.used.cacheRead,
		CacheWriteTokens: want.used.cacheWrite + want.used.cacheWriteLong,
		ReasoningTokens:  want.used.reasoning,
		Status:           http.StatusOK,
		Streaming:        want.streaming,
		UsageSource:      "provider",
		// Not what this compares: who asked.
		KeyName: row.KeyName, UserAgent: row.UserAgent,
	}
	if want.free {
		wantRow.UsageSource = "none"
	} else {
		if wantRow.MarketCostNanos, err = nanos(want.model, want.used, marketRate); err != nil {
			return err
		}
		if wantRow.CostNanos, err = nanos(want.model, want.used, ownRate); err != nil {
			return err
		}
		wantRow.PriceRuleID = cmp.Or(row.PriceRuleID, "a rule")
	}
	if diff := gocmp.Diff(wantRow, row); diff != "" {
		return fmt.Errorf("audit row of %s (-want +got):\n%s", requestID, diff)
	}
	debits, err := g.debits(ctx, requestID)
	if err != nil {
		return err
	}
	var wantDebits []int64
	if wantRow.CostNanos != 0 {
		wantDebits = []int64{-wantRow.CostNanos}
	}
	if diff := gocmp.Diff(wantDebits, debits); diff != "" {
		return fmt.Errorf("debits of %s (-want +got):\n%s", requestID, diff)
	}
	return nil
}

// checkNotCharged fails the test if a request left a debit.
func (g *gateway) checkNotCharged(t *testing.T, requestID string) {
	t.Helper()
	if err := g.notCharged(t.Context(), requestID); err != nil {
		t.Error(err)
	}
}

func (g *gateway) notCharged(ctx context.Context, requestID string) error {
	if err := g.flush(ctx); err != nil {
		return err
	}
	debits, err := g.debits(ctx, requestID)
	if err != nil {
		return err
	}
	if len(debits) != 0 {
		return fmt.Errorf("request %s was charged %d", requestID, debits)
	}
	return nil
}

func (g *gateway) debits(ctx context.Context, requestID string) ([]int64, error) {
	if requestID == "" {
		return nil, errors.New("no request id")
	}
	entries, err := all[transaction](ctx, g, "/v1/billing/transactions")
	if err != nil {
		return nil, err
	}
	var amounts []int64
	for _, e := range entries {
		if e.RequestID == requestID {
			amounts = append(amounts, e.AmountNanos)
		}
	}
	return amounts, nil
}

// checkBooksBalance proves the books of the default organization: the ledger,
// the balance and the audit trail say the same, and so does the product's own
// verification.
func (g *gateway) checkBooksBalance(t *testing.T) (debits *big.Int) {
	t.Helper()
	if err := g.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	entries, err := all[transaction](t.Context(), g, "/v1/billing/transactions")
	if err != nil {
		t.Fatal(err)
	}
	balance, debits := new(big.Int), new(big.Int)
	for _, e := range entries {
		balance.Add(balance, big.NewInt(e.AmountNanos))
		if e.Type == "usage_debit" {
			debits.Sub(debits, big.NewInt(e.AmountNanos))
		}
	}
	var account struct {
		BalanceNanos int64 `json:"balance_nanos"`
		HeldNanos    int64 `json:"held_nanos"`
	}
	g.must(t, http.MethodGet, "/v1/account", nil, &account)
	if balance.Cmp(big.NewInt(account.BalanceNanos)) != 0 {
		t.Errorf("entries sum to %s, balance is %d", balance, account.BalanceNanos)
	}
	if account.HeldNanos != 0 {
		t.Errorf("%d is still held, with no request open", account.HeldNanos)
	}
	rows, err := all[auditRow](t.Context(), g, "/v1/audit")
	if err != nil {
		t.Fatal(err)
	}
	costs := new(big.Int)
	for _, r := range rows {
		costs.Add(costs, big.NewInt(r.CostNanos))
	}
	if costs.Cmp(debits) != 0 {
		t.Errorf("audit rows cost %s, debits are %s", costs, debits)
	}
	var verified struct {
		ImbalanceNanos *int64          `json:"imbalance_nanos"`
		Checks         json.RawMessage `json:"checks"`
	}
	g.must(t, http.MethodGet, "/v1/ledger/verify?mode=full", nil, &verified)
	if verified.ImbalanceNanos == nil || *verified.ImbalanceNanos != 0 {
		t.Errorf("the books do not balance: %s", verified.Checks)
	}
	return debits
}
