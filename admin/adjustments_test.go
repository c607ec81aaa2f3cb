package admin

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddy-llm-gateway/gateway/billing"
)

const adjustments = "/v1/organizations/acme/adjustments"

func TestAdjustmentsAreExactEntriesOfTheLedger(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	for _, x := range []struct {
		amount         string
		nanos, balance int64
	}{
		{`"0.1"`, 100_000_000, 100_000_000},
		{`0.2`, 200_000_000, 300_000_000},
		{`-1e-9`, -1, 299_999_999},
		{`"-2.500000001"`, -2_500_000_001, -2_200_000_002},
		{`123456789.123456789`, 123_456_789_123_456_789, 123_456_786_923_456_787},
	} {
		c.do(http.MethodPost, adjustments, fmt.Sprintf(`{"amount_dollars":%s,"reason":"it's \"so\", 日本"}`, x.amount)).
			want(t, http.StatusCreated, `"type":"adjustment"`, fmt.Sprintf(`"amount_nanos":%d,"balance_after_nanos":%d,`, x.nanos, x.balance),
				`"reason":"it's \"so\", 日本"`, `"actor":"operator:admin_token"`, `"request_id":null`)
	}
	c.with(organizationHeader, otherOrg).do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK, `"balance_nanos":123456786923456787`)
	c.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK, `"balance_nanos":0`)
	v, err := g.store.Verify(t.Context(), billing.VerifyOptions{Mode: billing.Full})
	if err != nil || v.Imbalance() != 0 || v.Entries != 5 {
		t.Errorf("books after adjustments: %+v, %v", v, err)
	}
}

func TestAnAdjustmentIsMadeOncePerIdempotencyKey(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	const content = `"amount_dollars":5,"reason":"goodwill"`
	first := c.with(idempotencyHeader, "ticket-1").do(http.MethodPost, adjustments, `{`+content+`}`).want(t, http.StatusCreated)
	for _, again := range []answer{
		c.with(idempotencyHeader, "ticket-1").do(http.MethodPost, adjustments, `{`+content+`}`),
		c.do(http.MethodPost, adjustments, `{`+content+`,"idempotency_key":"ticket-1"}`),
		c.with(idempotencyHeader, "ticket-1").do(http.MethodPost, adjustments, `{"amount_dollars":"5.00","reason":"goodwill","idempotency_key":"ticket-1"}`),
	} {
		if again.want(t, http.StatusCreated).body != first.body {
			t.Errorf("again is %s, first was %s", again.body, first.body)
		}
	}
	for _, other := range []string{`"amount_dollars":6,"reason":"goodwill"`, `"amount_dollars":5,"reason":"other"`} {
		c.do(http.MethodPost, adjustments, `{`+other+`,"idempotency_key":"ticket-1"}`).want(t, http.StatusConflict, "idempotency key")
	}
	// Another organization's key, and another kind of entry's, is another key.
	c.do(http.MethodPost, "/v1/organizations/default/adjustments", `{`+content+`,"idempotency_key":"ticket-1"}`).want(t, http.StatusCreated)
	c.do(http.MethodPost, adjustments, `{`+content+`,"idempotency_key":"req:1"}`).want(t, http.StatusCreated)
	// Without a key each is its own.
	for range 2 {
		c.do(http.MethodPost, adjustments, `{`+content+`,"idempotency_key":null}`).want(t, http.StatusCreated)
	}
	c.do(http.MethodGet, "/v1/organizations/acme", "").want(t, http.StatusOK, `"balance_nanos":20000000000`)
}

func TestFaultyAdjustmentsAreRefusedByField(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	long := `"` + strings.Repeat("x", maxBody-100) + `"`
	for field, values := range map[string][]string{
		"amount_dollars": {
			`0`, `-0`, `"0.00"`, `1e-10`, `"-0.0000000001"`, `9300000000`, `-1e400`, `1e999999999`, `"NaN"`, `"-Infinity"`, `""`, `"-"`, `"--1"`,
			`"+1"`, `" 1"`, `"1 "`, `"1,000"`, `"1e3"`, `true`, `null`, `[1]`, `{}`, long,
		},
		"reason":          {`""`, `"  "`, `"a\u0000"`, `"a\nb"`, `1`, `null`, `[]`, `"` + strings.Repeat("é", 501) + `"`, long},
		"idempotency_key": {`""`, `"a b"`, `"ä"`, `"a\n"`, `"\u0000"`, `1`, `[]`, `"` + strings.Repeat("x", 256) + `"`},
		"type":            {`"purchase"`}, "actor": {`"somebody"`}, "balance_after_nanos": {`1`},
	} {
		for _, value := range values {
			fields := map[string]string{"amount_dollars": `1`, "reason": `"x"`, field: value}
			var body []string
			for name, v := range fields {
				body = append(body, fmt.Sprintf("%q:%s", name, v))
			}
			c.do(http.MethodPost, adjustments, "{"+strings.Join(body, ",")+"}").
				want(t, http.StatusUnprocessableEntity, `"location":"body.`+field+`"`)
		}
	}
	const fine = `{"amount_dollars":1,"reason":"x","idempotency_key":"a"}`
	for _, key := range []string{"", "a b", "\u00e9", strings.Repeat("x", 256)} {
		c.with(idempotencyHeader, key).do(http.MethodPost, adjustments, fine).
			want(t, http.StatusUnprocessableEntity, `"location":"header.Idempotency-Key"`)
	}
	c.with(idempotencyHeader, "b").do(http.MethodPost, adjustments, fine).
		want(t, http.StatusUnprocessableEntity, `"location":"body.idempotency_key"`)
	for _, missing := range []string{`{"reason":"x"}`, `{"amount_dollars":1}`, `{}`} {
		c.do(http.MethodPost, adjustments, missing).want(t, http.StatusUnprocessableEntity, "required property")
	}
	c.with(organizationHeader, otherOrg).do(http.MethodGet, "/v1/billing/transactions", "").want(t, http.StatusOK, `"data":[]`)
}

func TestABalanceDoesNotOverflow(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	const most = `{"amount_dollars":"9223372036.854775807","reason":"x"}`
	// Repeated it is what it was, and not as much again.
	for range 2 {
		c.with(idempotencyHeader, "most").do(http.MethodPost, adjustments, most).
			want(t, http.StatusCreated, `"balance_after_nanos":9223372036854775807`)
	}
	c.do(http.MethodPost, adjustments, `{"amount_dollars":"0.000000001","reason":"x"}`).
		want(t, http.StatusUnprocessableEntity, `"location":"body.amount_dollars"`)
	c.do(http.MethodPost, adjustments, strings.Replace(most, `"9`, `"-9`, 1)).want(t, http.StatusCreated, `"balance_after_nanos":0`)
}
