package stripe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
)

const (
	testKey    = "sk_test_123"
	testSecret = "whsec_test"
)

var testOrder = billing.Order{
	OrganizationID: "acme",
	Package:        billing.Package{ID: "team", Price: 90_990_000_000, Credits: 100e9},
	Actor:          "operator",
	IdempotencyKey: "order 1",
	ReturnURL:      "https://gateway.example/",
}

func newCheckout(t *testing.T, base string) *Checkout {
	t.Helper()
	c, err := NewCheckout(Config{SecretKey: testKey, WebhookSecret: testSecret, APIBase: base})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// startMock runs stripe-mock, which checks requests against the description
// that Stripe publishes of its API, and returns its address.
func startMock(t *testing.T) string {
	t.Helper()
	path, err := exec.CommandContext(t.Context(), "go", "tool", "-modfile=../../tools/go.mod", "-n", "stripe-mock").Output()
	if err != nil {
		t.Fatalf("build stripe-mock: %v", err)
	}
	// An address without a port has the system choose one.
	mock := exec.CommandContext(t.Context(), strings.TrimSpace(string(path)), "-http-addr", "127.0.0.1:", "-https-addr", "127.0.0.1:")
	out, err := mock.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := mock.Start(); err != nil {
		t.Fatal(err)
	}
	address := make(chan string, 1)
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if a, ok := strings.CutPrefix(lines.Text(), "Listening for HTTP at address: "); ok {
				address <- a
			}
		}
		close(address)
	}()
	t.Cleanup(func() {
		mock.Process.Kill() // fails only if it has ended
		<-read
		mock.Wait() // tells that it was killed
	})
	select {
	case a, ok := <-address:
		if !ok {
			t.Fatal("stripe-mock ended")
		}
		return "http://" + a
	case <-time.After(time.Minute):
		t.Fatal("stripe-mock does not listen")
	}
	return ""
}

func TestPurchaseIsWhatStripeTakes(t *testing.T) {
	t.Parallel()
	p := Purchaser{Checkout: newCheckout(t, startMock(t))}
	receipt, err := p.Purchase(t.Context(), testOrder)
	if err != nil {
		t.Fatal(err)
	}
	if u, err := url.Parse(receipt.CheckoutURL); err != nil || u.Host != "checkout.stripe.com" || receipt.Entry != nil {
		t.Errorf("receipt %+v, want the address of a checkout and no entry", receipt)
	}

	params, err := p.Checkout.params(testOrder)
	if err != nil {
		t.Fatal(err)
	}
	params.AddExtra("surprise", "yes")
	if _, err := p.Checkout.sessions.New(params); err == nil {
		t.Error("stripe-mock takes anything")
	}
}

// fakeStripe answers like Stripe and remembers what it was asked.
type fakeStripe struct {
	url string

	mu     sync.Mutex
	header []http.Header
	form   []url.Values
}

func newFakeStripe(t *testing.T, answer http.HandlerFunc) *fakeStripe {
	t.Helper()
	f := &fakeStripe{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := r.ParseForm(); err != nil || r.URL.Path != "/v1/checkout/sessions" {
			t.Errorf("request to %s: %v", r.URL, err)
		}
		f.mu.Lock()
		f.header, f.form = append(f.header, r.Header), append(f.form, r.PostForm)
		f.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(server.Close)
	f.url = server.URL
	return f
}

func sells(w http.ResponseWriter, _ *http.Request) {
	fmt.Fprint(w, `{"id":"cs_1","url":"https://checkout.stripe.com/c/pay/cs_1"}`)
}

func refuses(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Stripe-Should-Retry", "false")
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}
}

func TestPurchaseAsksForThePackagesPrice(t *testing.T) {
	t.Parallel()
	f := newFakeStripe(t, sells)
	receipt, err := Purchaser{Checkout: newCheckout(t, f.url)}.Purchase(t.Context(), testOrder)
	if err != nil {
		t.Fatal(err)
	}
	if receipt != (billing.Receipt{CheckoutURL: "https://checkout.stripe.com/c/pay/cs_1"}) {
		t.Errorf("receipt %+v", receipt)
	}
	want := url.Values{
		"mode":                                   {"payment"},
		"client_reference_id":                    {"acme"},
		"success_url":                            {"https://gateway.example/"},
		"cancel_url":                             {"https://gateway.example/"},
		"line_items[0][quantity]":                {"1"},
		"line_items[0][price_data][currency]":    {"usd"},
		"line_items[0][price_data][unit_amount]": {"9099"},
		"line_items[0][price_data][product_data][name]": {"Credits: package team"},
		"metadata[llm_gateway_organization]":            {"acme"},
		"metadata[llm_gateway_package]":                 {"team"},
		"metadata[llm_gateway_credits_nanos]":           {"100000000000"},
		"metadata[llm_gateway_actor]":                   {"operator"},
	}
	if diff := cmp.Diff([]url.Values{want}, f.form); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	if got := f.header[0].Get("Authorization"); got != "Bearer "+testKey {
		t.Errorf("Authorization is %q", got)
	}
}

func TestConfiguredAddressesWinOverTheOrders(t *testing.T) {
	t.Parallel()
	f := newFakeStripe(t, sells)
	c, err := NewCheckout(Config{
		SecretKey: testKey, WebhookSecret: testSecret, APIBase: f.url,
		SuccessURL: "https://shop.example/thanks", CancelURL: "https://shop.example/back",
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (Purchaser{Checkout: c}).Purchase(t.Context(), testOrder); err != nil {
		t.Fatal(err)
	}
	got := []string{f.form[0].Get("success_url"), f.form[0].Get("cancel_url")}
	if diff := cmp.Diff([]string{"https://shop.example/thanks", "https://shop.example/back"}, got); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
}

func TestIdempotencyKeyIsTheOrders(t *testing.T) {
	t.Parallel()
	f := newFakeStripe(t, sells)
	p := Purchaser{Checkout: newCheckout(t, f.url)}
	other, another, unnamed := testOrder, testOrder, testOrder
	other.OrganizationID = "other"
	another.IdempotencyKey = strings.Repeat("é", 127)
	unnamed.IdempotencyKey = ""
	for _, o := range []billing.Order{testOrder, testOrder, other, another, unnamed, unnamed} {
		if _, err := p.Purchase(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	distinct := map[string]int{}
	for _, h := range f.header {
		key := h.Get("Idempotency-Key")
		if key == "" || len(key) > 255 {
			t.Errorf("key %q: Stripe takes 1 to 255 characters", key)
		}
		distinct[key]++
	}
	if len(distinct) != 5 || distinct[f.header[0].Get("Idempotency-Key")] != 2 {
		t.Errorf("keys %v, want the same for the repeated order alone", distinct)
	}
}

func TestFailedAttemptIsRepeatedAsTheSame(t *testing.T) {
	t.Parallel()
	var once sync.Once
	f := newFakeStripe(t, func(w http.ResponseWriter, r *http.Request) {
		failed := false
		once.Do(func() { failed = true; w.WriteHeader(http.StatusInternalServerError) })
		if !failed {
			sells(w, r)
		}
	})
	unnamed := testOrder
	unnamed.IdempotencyKey = ""
	if _, err := (Purchaser{Checkout: newCheckout(t, f.url)}).Purchase(t.Context(), unnamed); err != nil {
		t.Fatal(err)
	}
	if len(f.header) != 2 || f.header[0].Get("Idempotency-Key") != f.header[1].Get("Idempotency-Key") {
		t.Errorf("requests %v, want two with the same idempotency key", f.header)
	}
}

func TestRefusedPurchases(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer   http.HandlerFunc
		conflict bool
	}{
		"key used for another package": {refuses(400, `{"error":{"type":"idempotency_error","message":"Keys for idempotent requests can only be used with the same parameters"}}`), true},
		"key in use":                   {refuses(409, `{"error":{"type":"idempotency_error","code":"idempotency_key_in_use","message":"in use"}}`), false},
		"wrong secret key":             {refuses(401, `{"error":{"type":"invalid_request_error","message":"Invalid API Key provided"}}`), false},
		"not Stripe":                   {refuses(502, `<html>`), false},
		"no address":                   {refuses(200, `{"id":"cs_1","url":null}`), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFakeStripe(t, test.answer)
			receipt, err := Purchaser{Checkout: newCheckout(t, f.url)}.Purchase(t.Context(), testOrder)
			if err == nil || receipt != (billing.Receipt{}) {
				t.Fatalf("receipt %+v, error %v", receipt, err)
			}
			if errors.Is(err, billing.ErrConflict) != test.conflict {
				t.Errorf("error %v, a conflict: want %t", err, test.conflict)
			}
			if strings.Contains(err.Error(), testKey) || strings.Contains(err.Error(), testSecret) {
				t.Errorf("error shows a secret: %v", err)
			}
		})
	}
}

func TestPurchaseEndsWithItsRequest(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	f := newFakeStripe(t, func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	_, err := Purchaser{Checkout: newCheckout(t, f.url)}.Purchase(ctx, testOrder)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

func TestCents(t *testing.T) {
	t.Parallel()
	for price, want := range map[string]int64{
		"0.50": 50, "10": 1000, "10.01": 1001, "999999.99": 99_999_999,
		"0": 0, "0.49": 0, "0.505": 0, "10.000000001": 0, "1000000": 0,
	} {
		nanos := mustParse(t, price)
		got, err := Cents(nanos)
		if got != want || (err == nil) != (want != 0) {
			t.Errorf("Cents(%s) = %d, %v, want %d", price, got, err, want)
		}
	}
	if _, err := Cents(-1000_000_000); err == nil {
		t.Error("a negative price is taken")
	}
	order := testOrder
	order.Package.Price = 1
	if _, err := (Purchaser{Checkout: newCheckout(t, "http://127.0.0.1:1")}).Purchase(t.Context(), order); err == nil || !strings.Contains(err.Error(), "whole cents") {
		t.Errorf("error %v, want one about whole cents", err)
	}
}

func TestIncompleteConfigurationIsAnError(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"no secret key":     {func(c *Config) { c.SecretKey = "" }, "secret_key is empty"},
		"no webhook secret": {func(c *Config) { c.WebhookSecret = "" }, "webhook_secret is empty"},
		"relative address":  {func(c *Config) { c.SuccessURL = "/thanks" }, "success_url"},
		"other scheme":      {func(c *Config) { c.CancelURL = "javascript:alert(1)" }, "cancel_url"},
		"no address":        {func(c *Config) { c.APIBase = "127.0.0.1:12111" }, "api_base"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := Config{SecretKey: testKey, WebhookSecret: testSecret}
			test.change(&c)
			_, err := NewCheckout(c)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %s", err, test.want)
			}
		})
	}
}
