package admin

import (
	"context"
	"database/sql"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func TestPackagesAreThoseOfTheConfiguration(t *testing.T) {
	t.Parallel()
	newClient(t, newGateway(t)).do(http.MethodGet, "/v1/billing/packages", "").want(t, http.StatusOK,
		`{"data":[{"id":"starter","price_nanos":10000000000,"credits_nanos":10000000000},`+
			`{"id":"team","price_nanos":90000000000,"credits_nanos":100000000000}],"next_cursor":null}`)
}

func TestPurchaseInDevelopmentGrantsAtOnce(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	a := c.do(http.MethodPost, "/v1/billing/purchase", `{"package_id":"team"}`).want(t, http.StatusCreated,
		`"type":"purchase"`, `"amount_nanos":100000000000`, `"balance_after_nanos":100000000000`, `"request_id":null`,
		`"payment_id":"dev_`, `"reason":"package team"`, `"actor":"operator:admin_token"`)
	c.do(http.MethodGet, "/v1/billing/transactions", "").want(t, http.StatusOK, strings.TrimSpace(a.body))
	c.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK, `"balance_nanos":100000000000`)
	// without an idempotency key each one counts
	c.do(http.MethodPost, "/v1/billing/purchase", `{"package_id":"team"}`).
		want(t, http.StatusCreated, `"balance_after_nanos":200000000000`)
	c.with(organizationHeader, otherOrg).do(http.MethodGet, "/v1/billing/transactions", "").
		want(t, http.StatusOK, `"data":[]`)
}

func TestRepeatedPurchaseIsHarmless(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t)).with("Idempotency-Key", "order 1 – é")
	first := c.do(http.MethodPost, "/v1/billing/purchase", `{"package_id":"starter"}`).want(t, http.StatusCreated)
	second := c.do(http.MethodPost, "/v1/billing/purchase", `{"package_id":"starter"}`).want(t, http.StatusCreated)
	if first.body != second.body {
		t.Errorf("repeated, the answer is another: %s, first %s", second.body, first.body)
	}
	c.do(http.MethodPost, "/v1/billing/purchase", `{"package_id":"team"}`).
		want(t, http.StatusConflict, "the idempotency key was used for other content")
	c.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK, `"balance_nanos":10000000000`)

	c.with("Idempotency-Key", "order 2").do(http.MethodPost, "/v1/billing/purchase", `{"package_id":"starter"}`).
		want(t, http.StatusCreated, `"balance_after_nanos":20000000000`)
	c.with(organizationHeader, otherOrg).do(http.MethodPost, "/v1/billing/purchase", `{"package_id":"team"}`).
		want(t, http.StatusCreated, `"balance_after_nanos":100000000000`)
}

func TestFaultyPurchases(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	for _, body := range []string{`{"package_id":"nope"}`, `{"package_id":""}`, `{"package_id":null}`, `{"package_id":1}`, `{"package_id":"Starter"}`} {
		c.do(http.MethodPost, "/v1/billing/purchase", body).want(t, http.StatusUnprocessableEntity, `"location":"body.package_id"`)
	}
	c.do(http.MethodPost, "/v1/billing/purchase", `{}`).want(t, http.StatusUnprocessableEntity, "package_id")
	twice := c.with("Idempotency-Key", "order 1")
	twice.header.Add("Idempotency-Key", "order 2")
	twice.do(http.MethodPost, "/v1/billing/purchase", `{"package_id":"starter"}`).
		want(t, http.StatusUnprocessableEntity, `"location":"header.Idempotency-Key"`)
	for _, key := range []string{"", strings.Repeat("x", 256), "\xff", "a\x00b"} {
		c.with("Idempotency-Key", key).do(http.MethodPost, "/v1/billing/purchase", `{"package_id":"starter"}`).
			want(t, http.StatusUnprocessableEntity, `"location":"header.Idempotency-Key"`)
	}
	c.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK, `"balance_nanos":0`)
}

func TestPurchaseWithoutBilling(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.purchaser, g.packages = nil, nil
	c := newClient(t, g)
	c.do(http.MethodPost, "/v1/billing/purchase", `{"package_id":"starter"}`).
		want(t, http.StatusNotFound, "billing is not configured: add a billing block to llm_gateway")
	c.do(http.MethodGet, "/v1/billing/packages", "").want(t, http.StatusOK, `"data":[]`)
}

// cashier takes orders for which to pay elsewhere.
type cashier struct{ order billing.Order }

func (c *cashier) Purchase(_ context.Context, o billing.Order) (billing.Receipt, error) {
	c.order = o
	return billing.Receipt{CheckoutURL: "https://pay.example/session/1"}, nil
}

func TestPurchaseThatMustBePaidAnswersWhere(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	shop := &cashier{}
	g.purchaser = shop
	c := newClient(t, g).with(organizationHeader, otherOrg).with("Idempotency-Key", "order 1")
	c.do(http.MethodPost, "/v1/billing/purchase", `{"package_id":"team"}`).
		want(t, http.StatusOK, `{"checkout_url":"https://pay.example/session/1"}`)
	want := billing.Order{OrganizationID: otherOrg, Package: g.packages[1], Actor: "operator:admin_token", IdempotencyKey: "order 1", ReturnURL: "http://example.com/"}
	if shop.order != want {
		t.Errorf("order %+v, want %+v", shop.order, want)
	}
}

// hookedCashier is told of payments, too.
type hookedCashier struct {
	cashier
	err             error
	body, signature string
}

func (c *hookedCashier) Webhook(_ context.Context, body []byte, signature string) error {
	c.body, c.signature = string(body), signature
	return c.err
}

func TestWebhookReachesBillingAsItCame(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	shop := &hookedCashier{}
	g.purchaser = shop
	c := newClient(t, g).with("Stripe-Signature", "t=1,v1=ab")
	c.header.Del("Authorization")
	const body = " {\"b\": 1,\n\"a\":1.0e0}\n"
	c.do(http.MethodPost, "/v1/billing/webhook", body).want(t, http.StatusNoContent)
	if shop.body != body || shop.signature != "t=1,v1=ab" {
		t.Errorf("body %q, signature %q", shop.body, shop.signature)
	}

	largest := `"` + strings.Repeat("x", maxBody-2) + `"`
	c.with("Content-Type", "text/plain").do(http.MethodPost, "/v1/billing/webhook", largest+" ").
		want(t, http.StatusRequestEntityTooLarge, "larger than 1 MiB")
	if shop.body != body {
		t.Error("a body that is too large reached billing")
	}
}

func TestWebhookThatIsNotTaken(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err    error
		status int
		part   string
		logged bool
	}{
		"forged":                  {fmt.Errorf("%w: no signature", billing.ErrWebhook), http.StatusBadRequest, "not signed by Stripe", false},
		"paid with other content": {fmt.Errorf("append: %w", billing.ErrConflict), http.StatusInternalServerError, "internal error", true},
		"unknown organization":    {fmt.Errorf("append: %w", billing.ErrNotFound), http.StatusInternalServerError, "internal error", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGateway(t)
			g.purchaser = &hookedCashier{err: test.err}
			newClient(t, g).do(http.MethodPost, "/v1/billing/webhook", "{}").want(t, test.status, test.part)
			if logged := strings.Contains(g.log.String(), test.err.Error()); logged != test.logged {
				t.Errorf("logged: %t, want %t: %s", logged, test.logged, g.log.String())
			}
		})
	}
}

func TestWebhookWithoutAnybodyToTakeIt(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	for _, purchaser := range []billing.Purchaser{g.purchaser, nil} {
		g.purchaser = purchaser
		newClient(t, g).do(http.MethodPost, "/v1/billing/webhook", "{}").
			want(t, http.StatusNotFound, "no webhooks are expected: llm_gateway has no billing stripe block")
	}
}

func TestTransactionsIncludeDebits(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	c.do(http.MethodPost, "/v1/billing/purchase", `{"package_id":"starter"}`).want(t, http.StatusCreated)
	g.post(t, request("r1", "key_a", day(1, 12), 123))
	c.do(http.MethodGet, "/v1/billing/transactions?limit=1", "").want(t, http.StatusOK, `"type":"usage_debit"`,
		`"amount_nanos":-123`, `"balance_after_nanos":9999999877`, `"request_id":"r1"`, `"payment_id":null`).
		lacks(t, `"next_cursor":null`)
}

func TestBooksAreVerified(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	g.post(t, request("r1", "key_a", day(1, 12), 123))
	c.do(http.MethodPost, "/v1/billing/purchase", `{"package_id":"starter"}`).want(t, http.StatusCreated)
	c.do(http.MethodGet, "/v1/ledger/verify", "").want(t, http.StatusOK, `{"imbalance_nanos":0,"balanced":true,`,
		`"mode":"incremental"`, `"entries_read":2,"requests_read":1`, `{"name":"balances","imbalance_nanos":0,"examples":[]}`)
	c.do(http.MethodGet, "/v1/ledger/verify", "").want(t, http.StatusOK, `"entries_read":0,"requests_read":0`)
	c.do(http.MethodGet, "/v1/ledger/verify?mode=full", "").want(t, http.StatusOK, `"mode":"full"`, `"entries_read":2`)
	c.do(http.MethodGet, "/v1/ledger/verify?mode=half", "").want(t, http.StatusUnprocessableEntity)
}

func TestDifferencesInTheBooksAreShown(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	g.post(t, request("r1", "key_a", day(1, 12), 123), request("r2", "key_a", day(1, 12), 123))
	db, err := sql.Open("sqlite", g.path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), "UPDATE accounts SET balance = balance + 7, entries = 1"); err != nil {
		t.Fatal(err)
	}
	c.do(http.MethodGet, "/v1/ledger/verify?examples=1", "").want(t, http.StatusOK, `{"imbalance_nanos":8,"balanced":false,`,
		`{"name":"balances","imbalance_nanos":8,"examples":[{"organization_id":"default","subject":"account",`+
			`"field":"balance","expected":"-246","found":"-239"}]}`)
}

func TestFlushReturnsWhenAllIsPosted(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	g.flush = func(context.Context) error {
		g.post(t, request("r1", "key_a", day(1, 12), 123))
		return nil
	}
	c := newClient(t, g)
	c.do(http.MethodGet, "/v1/audit/r1", "").want(t, http.StatusNotFound)
	c.do(http.MethodPost, "/v1/flush", "").want(t, http.StatusNoContent)
	c.do(http.MethodGet, "/v1/audit/r1", "").want(t, http.StatusOK)
}
