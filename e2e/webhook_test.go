package e2e

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestPaymentArrivesByWebhook delivers Stripe's word of a payment, signed, with
// a wrong signature, and again.
func TestPaymentArrivesByWebhook(t *testing.T) {
	t.Parallel()
	onEachStore(t, func(t *testing.T, storage string) {
		const secret = "whsec_for_tests"
		g := startGateway(t, config{storage: storage, upstream: "http://127.0.0.1:1", billing: `stripe {
			secret_key sk_test_for_tests
			webhook_secret ` + secret + `
			package team 90.99 100.00
		}`})
		const event = `{"id":"evt_1","object":"event","type":"checkout.session.completed","data":{"object":{
			"id":"cs_1","object":"checkout.session","mode":"payment","status":"complete","payment_status":"paid",
			"currency":"usd","amount_total":9099,"client_reference_id":"default","payment_intent":"pi_1",
			"metadata":{"llm_gateway_organization":"default","llm_gateway_package":"team","llm_gateway_credits_nanos":"100000000000"}}}}`
		for _, delivery := range []struct {
			secret string
			status int
		}{
			{"another", http.StatusBadRequest},
			{secret, http.StatusNoContent},
			{secret, http.StatusNoContent},
		} {
			res, body := g.send(t, "", http.MethodPost, "/v1/billing/webhook", strings.NewReader(event), map[string]string{
				"Content-Type": "application/json", "Stripe-Signature": stripeSignature(event, delivery.secret, time.Now()),
			})
			if res.StatusCode != delivery.status {
				t.Errorf("signed with %q: status %d, want %d: %s", delivery.secret, res.StatusCode, delivery.status, body)
			}
		}
		var account struct {
			BalanceNanos int64 `json:"balance_nanos"`
		}
		g.must(t, http.MethodGet, "/v1/account", nil, &account)
		if account.BalanceNanos != 100e9 {
			t.Errorf("the balance is %d, want the package once", account.BalanceNanos)
		}
	})
}

// stripeSignature is the header that Stripe signs a webhook with:
// https://docs.stripe.com/webhooks#verify-manually
func stripeSignature(body, secret string, at time.Time) string {
	mac := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(mac, "%d.%s", at.Unix(), body)
	return fmt.Sprintf("t=%d,v1=%s", at.Unix(), hex.EncodeToString(mac.Sum(nil)))
}
