package stripe

import (
	"encoding/json"
	"errors"
	"maps"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stripe/stripe-go/v76/webhook"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/sqlite"
	"github.com/caddy-llm-gateway/gateway/metering"
)

func mustParse(t *testing.T, usd string) billing.Money {
	t.Helper()
	m, err := metering.ParseUSD(usd)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// shop is a purchaser with real books, in which the organization acme exists.
type shop struct {
	Purchaser
	store billing.Store
}

func newShop(t *testing.T) shop {
	t.Helper()
	store, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "gateway.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	if err := store.EnsureOrganization(t.Context(), billing.Organization{ID: "acme", Name: "Acme Inc.", CreatedAt: time.Now()}); err != nil {
		t.Fatal(err)
	}
	return shop{Purchaser: Purchaser{Checkout: newCheckout(t, ""), Ledger: store}, store: store}
}

// want fails the test unless the ledger has just these entries and balances.
func (s shop) want(t *testing.T, want ...billing.Entry) {
	t.Helper()
	got, err := s.store.Transactions(t.Context(), "acme", billing.EntryFilter{}, billing.Page{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(billing.Entry{}, "ID", "CreatedAt")); diff != "" {
		t.Errorf("ledger (-want +got):\n%s", diff)
	}
	v, err := s.store.Verify(t.Context(), billing.VerifyOptions{Mode: billing.Full})
	if err != nil || v.Imbalance() != 0 {
		t.Errorf("failed checks %+v, %v", v.Failed(), err)
	}
}

var bought = billing.Entry{
	OrganizationID: "acme", Type: billing.Purchase, Amount: 100e9, BalanceAfter: 100e9, PaymentID: "pi_1",
	Reason: "package team", Actor: "member:ann@example.com", IdempotencyKey: "stripe:pi_1",
}

type object = map[string]any

// paidSession is a checkout session as Stripe tells of it once it is paid.
func paidSession() object {
	return object{
		"id": "cs_1", "object": "checkout.session", "mode": "payment", "status": "complete", "payment_status": "paid",
		"currency": "usd", "amount_total": 9099, "client_reference_id": "acme", "payment_intent": "pi_1",
		"metadata": object{
			"llm_gateway_organization": "acme", "llm_gateway_package": "team", "llm_gateway_credits_nanos": "100000000000",
			"llm_gateway_actor": "member:ann@example.com",
		},
	}
}

func event(t *testing.T, kind string, session object) []byte {
	t.Helper()
	b, err := json.Marshal(object{
		"id": "evt_1", "object": "event", "api_version": "2030-01-01.other", "type": kind, "data": object{"object": session},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func sign(body []byte, secret string, at time.Time) string {
	return webhook.GenerateTestSignedPayload(&webhook.UnsignedPayload{Payload: body, Secret: secret, Timestamp: at}).Header
}

func (s shop) deliver(t *testing.T, body []byte) error {
	t.Helper()
	return s.Webhook(t.Context(), body, sign(body, testSecret, time.Now()))
}

const (
	completed = "checkout.session.completed"
	succeeded = "checkout.session.async_payment_succeeded"
)

func TestPaymentIsGrantedOnceHoweverOftenDelivered(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	body := event(t, completed, paidSession())
	var deliveries sync.WaitGroup
	for range 20 {
		deliveries.Go(func() {
			if err := s.deliver(t, body); err != nil {
				t.Error(err)
			}
		})
	}
	deliveries.Wait()
	s.want(t, bought)
	if err := s.deliver(t, event(t, succeeded, paidSession())); err != nil { // another event about it
		t.Error(err)
	}
	s.want(t, bought)

	second := paidSession()
	second["id"], second["payment_intent"] = "cs_2", "pi_2"
	if err := s.deliver(t, event(t, completed, second)); err != nil {
		t.Fatal(err)
	}
	again := bought
	again.PaymentID, again.IdempotencyKey, again.BalanceAfter = "pi_2", "stripe:pi_2", 200e9
	s.want(t, again, bought)
}

func TestLatePaymentIsGrantedWhenItArrives(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	session := paidSession()
	session["payment_status"] = "unpaid"
	if err := s.deliver(t, event(t, completed, session)); err != nil {
		t.Fatal(err)
	}
	s.want(t)
	if err := s.deliver(t, event(t, succeeded, paidSession())); err != nil {
		t.Fatal(err)
	}
	s.want(t, bought)
}

func TestSessionWithoutPaymentIntentIsItsOwnPayment(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	session := paidSession()
	session["payment_intent"] = nil
	if err := s.deliver(t, event(t, completed, session)); err != nil {
		t.Fatal(err)
	}
	want := bought
	want.PaymentID, want.IdempotencyKey = "cs_1", "stripe:cs_1"
	s.want(t, want)
}

func TestUnsignedWebhooksGrantNothing(t *testing.T) {
	t.Parallel()
	body := event(t, completed, paidSession())
	changed := append([]byte(" "), body...)
	now := time.Now()
	for name, test := range map[string]struct {
		body      []byte
		signature string
	}{
		"no signature":         {body, ""},
		"no timestamp":         {body, "v1=00"},
		"text":                 {body, "trust me"},
		"another secret":       {body, sign(body, "whsec_other", now)},
		"no secret":            {body, sign(body, "", now)},
		"of another body":      {changed, sign(body, testSecret, now)},
		"old":                  {body, sign(body, testSecret, now.Add(-6*time.Minute))},
		"old, with a new time": {body, sign(body, "whsec_other", now) + "," + sign(body, testSecret, now.Add(-6*time.Minute))},
		"signed, not JSON":     {[]byte("{"), sign([]byte("{"), testSecret, now)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			if err := s.Webhook(t.Context(), test.body, test.signature); !errors.Is(err, billing.ErrWebhook) {
				t.Errorf("error %v, want ErrWebhook", err)
			}
			s.want(t)
		})
	}
}

func TestEventsThatGrantNothing(t *testing.T) {
	t.Parallel()
	with := func(name string, value any) object {
		session := paidSession()
		session[name] = value
		return session
	}
	metadata := func(name string, value any) object {
		session := paidSession()
		changed := maps.Clone(session["metadata"].(object))
		if changed[name] = value; value == nil {
			delete(changed, name)
		}
		session["metadata"] = changed
		return session
	}
	for name, test := range map[string]struct {
		body []byte
		// fails tells that Stripe must deliver it again and the operator know.
		fails bool
	}{
		"unpaid":               {event(t, completed, with("payment_status", "unpaid")), false},
		"nothing to pay":       {event(t, completed, with("payment_status", "no_payment_required")), false},
		"no metadata":          {event(t, completed, with("metadata", object{})), false},
		"metadata of others":   {event(t, completed, with("metadata", object{"organization": "acme", "credits": "100"})), false},
		"failed payment":       {event(t, "checkout.session.async_payment_failed", paidSession()), false},
		"expired":              {event(t, "checkout.session.expired", paidSession()), false},
		"unknown event":        {event(t, "account.updated", paidSession()), false},
		"other currency":       {event(t, completed, with("currency", "jpy")), true},
		"no currency":          {event(t, completed, with("currency", nil)), true},
		"unknown organization": {event(t, completed, metadata("llm_gateway_organization", "nobody")), true},
		"no organization":      {event(t, completed, metadata("llm_gateway_organization", nil)), true},
		"no package":           {event(t, completed, metadata("llm_gateway_package", nil)), true},
		"no credits":           {event(t, completed, metadata("llm_gateway_credits_nanos", nil)), true},
		"credits of 0":         {event(t, completed, metadata("llm_gateway_credits_nanos", "0")), true},
		"negative credits":     {event(t, completed, metadata("llm_gateway_credits_nanos", "-5")), true},
		"fractional credits":   {event(t, completed, metadata("llm_gateway_credits_nanos", "1.5")), true},
		"too many credits":     {event(t, completed, metadata("llm_gateway_credits_nanos", "9223372036854775808")), true},
		"not a session":        {[]byte(`{"id":"evt_1","type":"checkout.session.completed","data":{"object":{"id":5}}}`), true},
		"no data":              {[]byte(`{"id":"evt_1","type":"checkout.session.completed"}`), true},
		"no id":                {event(t, completed, func() object { s := with("id", ""); s["payment_intent"] = nil; return s }()), true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			err := s.deliver(t, test.body)
			if (err != nil) != test.fails || errors.Is(err, billing.ErrWebhook) {
				t.Errorf("error %v, want one: %t", err, test.fails)
			}
			s.want(t)
		})
	}
}

func TestPaymentWithOtherContentIsAConflict(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	if err := s.deliver(t, event(t, completed, paidSession())); err != nil {
		t.Fatal(err)
	}
	session := paidSession()
	session["metadata"].(object)["llm_gateway_credits_nanos"] = "200000000000"
	if err := s.deliver(t, event(t, completed, session)); !errors.Is(err, billing.ErrConflict) {
		t.Errorf("error %v, want ErrConflict", err)
	}
	s.want(t, bought)
}

// Sessions of before name nobody: they are granted, and delivered again, as they were.
func TestPaymentOfNobodyNamedIsStripes(t *testing.T) {
	t.Parallel()
	s := newShop(t)
	session := paidSession()
	delete(session["metadata"].(object), "llm_gateway_actor")
	for range 2 {
		if err := s.deliver(t, event(t, completed, session)); err != nil {
			t.Fatal(err)
		}
	}
	want := bought
	want.Actor = "stripe"
	s.want(t, want)
}
