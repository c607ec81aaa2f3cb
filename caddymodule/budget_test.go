package caddymodule

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/metering"
)

const cent = metering.USD / 100

// organize changes the organization as the management API does.
func (n *node) organize(t *testing.T, change func(*billing.Organization)) {
	t.Helper()
	org, err := n.app.Store().UpdateOrganization(t.Context(), billing.DefaultOrganization, func(o *billing.Organization) error {
		change(o)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.app.OrganizationChanged(t.Context(), org); err != nil {
		t.Fatal(err)
	}
}

// ask sends a chat request and returns its status and the gateway's error.
func (n *node) ask(t *testing.T, key, body string, script ...string) (status int, refused string) {
	t.Helper()
	res := n.do(t, "POST", chat, key, body, script...)
	read(t, res)
	return res.StatusCode, res.Header.Get("X-Gateway-Error")
}

// spent is the organization's spend of this month, once all is posted.
func (n *node) spent(t *testing.T) billing.Money {
	t.Helper()
	if err := n.app.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	month := billing.BudgetOf(billing.DefaultOrganization, billing.Monthly, time.Now(), billing.Sunday)
	spent, err := n.app.Store().Spend(t.Context(), []billing.Allowance{month})
	if err != nil {
		t.Fatal(err)
	}
	return spent[0]
}

func TestBudgetAppliesToTheNextRequest(t *testing.T) {
	n := start(t, "")
	n.buy(t, 10*metering.USD)
	keys := []string{n.key(t, nil), n.key(t, nil)}
	for i, step := range []struct {
		budget *billing.Money
		want   string
		spent  billing.Money // after it
	}{
		{nil, "", cent},
		{new(3 * cent), "", 2 * cent}, // of which one before there was a budget
		{new(3 * cent), "budget_exceeded", 2 * cent},
		{new(4 * cent), "", 3 * cent},
		{new(cent), "budget_exceeded", 3 * cent},
		{nil, "", 4 * cent},
		{new(billing.Money(0)), "budget_exceeded", 4 * cent},
	} {
		n.organize(t, func(o *billing.Organization) { o.Budget, o.BudgetPeriod = step.budget, billing.Monthly })
		status, refused := n.ask(t, keys[i%len(keys)], aBitMoreThanACent, costsACent...)
		if refused != step.want || (status == 200) != (step.want == "") || step.want != "" && status != 403 {
			t.Errorf("step %d: %d %q, want %q", i, status, refused, step.want)
		}
		if spent := n.spent(t); spent != step.spent {
			t.Errorf("step %d: spent %s, want %s", i, spent, step.spent)
		}
	}
}

func TestBudgetChangedOnAnotherNodeIsSeen(t *testing.T) {
	n := start(t, "")
	n.buy(t, metering.USD)
	key := n.key(t, nil)
	if status, refused := n.ask(t, key, hello); status != 200 {
		t.Fatalf("without a budget: %d %q", status, refused)
	}
	_, err := n.app.Store().UpdateOrganization(t.Context(), billing.DefaultOrganization, func(o *billing.Organization) error {
		o.Budget = new(billing.Money(1))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if _, refused := n.ask(t, key, hello); refused == "budget_exceeded" {
			return
		}
	}
	t.Error("requests go on after the budget was set")
}

func TestRefusalNamesTheFirstLimitThatIsShort(t *testing.T) {
	n := start(t, "")
	n.organize(t, func(o *billing.Organization) { o.Budget = new(billing.Money(0)) })
	limited := n.key(t, func(k *billing.Key) { k.UsageLimit = new(billing.Money(0)) })
	free := n.key(t, nil)
	for _, step := range []struct {
		buy       billing.Money
		key, want string
	}{
		{0, limited, "spend_exceeded"},
		{0, free, "insufficient_credits"},
		{metering.USD, limited, "spend_exceeded"},
		{0, free, "budget_exceeded"},
	} {
		if step.buy > 0 {
			n.buy(t, step.buy)
		}
		if status, refused := n.ask(t, step.key, hello); status != 403 || refused != step.want {
			t.Errorf("after buying %s: %d %q, want %q", step.buy, status, refused, step.want)
		}
	}
}

func TestStrictHoldIsForTheWorstCase(t *testing.T) {
	n := start(t, "default_max_tokens 16\nmax_output_tokens 1000")
	n.organize(t, func(o *billing.Organization) { o.HoldStrict = true })
	n.buy(t, metering.USD)
	key := n.key(t, nil)
	const (
		text  = `{"model":"gpt-4o","service_tier":"default"%s,"messages":[{"role":"user","content":"Hello"}]}`
		image = `{"model":"gpt-4o","service_tier":"default","messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"https://example.com/x.png"}}]}]}`
	)
	for _, test := range []struct {
		name, body, want string
	}{
		{"text", fmt.Sprintf(text, ""), ""},
		{"capped", fmt.Sprintf(text, `,"max_tokens":50000`), ""},
		{"capped too high", fmt.Sprintf(text, `,"max_tokens":110000`), "insufficient_credits"},
		{"many answers", fmt.Sprintf(text, `,"n":110`), "insufficient_credits"},
		{"picture", image, "insufficient_credits"},
		{"provider's own tool", strings.Replace(fmt.Sprintf(text, `,"web_search_options":{}`), "gpt-4o", "gpt-4o-mini", 1), "insufficient_credits"},
	} {
		if status, refused := n.ask(t, key, test.body); refused != test.want || (status == 200) != (test.want == "") {
			t.Errorf("%s: %d %q, want %q", test.name, status, refused, test.want)
		}
	}
}

func TestStrictOrganizationNeverOwesMoney(t *testing.T) {
	const payloads = `{"model":"gpt-4o","messages":[{"role":"user","content":"%s"}],"x":[%s]}`
	payload := `{"data":"` + strings.Repeat("A", 64) + `"},`
	for name, test := range map[string]struct {
		body   string
		script []string
	}{
		"whole answers": {hello, nil},
		"streams":       {stream, nil},
		// Of which the tokens are estimated, by the size of the texts.
		"streams without a usage": {stream, []string{"X-Sandbox-Fail", "no_usage", "X-Sandbox-Text-Bytes", "20000"}},
		"answers without a usage": {fmt.Sprintf(payloads, "Hello", strings.Repeat(payload, 9)+payload[:len(payload)-1]),
			[]string{"X-Sandbox-Fail", "no_usage", "X-Sandbox-Text-Bytes", "8000"}},
	} {
		t.Run(name, func(t *testing.T) {
			n := start(t, "default_max_tokens 1\nmax_output_tokens 2000")
			n.organize(t, func(o *billing.Organization) {
				o.HoldStrict, o.Budget, o.BudgetPeriod = true, new(40*cent), billing.Monthly
			})
			n.buy(t, 50*cent)
			key := n.key(t, nil)
			body := strings.Replace(test.body, "{", `{"service_tier":"default",`, 1)
			var group sync.WaitGroup
			for range 8 {
				group.Go(func() {
					for range 25 { // more than there is money for
						n.ask(t, key, body, append(test.script, "X-Sandbox-Prompt", "1500", "X-Sandbox-Completion", "2000")...)
					}
				})
			}
			group.Wait()
			// All cost nearly their worst case, which is 2.5 to 6 cents.
			if spent := n.spent(t); spent > 40*cent || spent < 34*cent {
				t.Errorf("spent %s of a budget of 0.40", spent)
			}
		})
	}
}

func TestLittleMoneyIsEnoughForWhatIsHeldOnAGuess(t *testing.T) {
	for _, test := range []struct {
		name, extra string
		money       billing.Money
		want        string
	}{
		// By default 4096 tokens are held, 4.1 cents, of which a 16th must be left.
		{"no limit", "", cent / 2, ""},
		{"no limit, less than a share", "", cent / 5, "insufficient_credits"},
		{"two answers", `"n":2,`, cent / 2, "insufficient_credits"},
		{"limited by the client", `"max_tokens":4096,`, cent / 2, "insufficient_credits"},
		{"stream", `"stream":true,`, cent / 10, ""},
		{"stream that is limited", `"stream":true,"max_tokens":4096,`, cent / 10, ""},
		{"stream that cannot begin", `"stream":true,`, cent / 20, "insufficient_credits"},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := start(t, "")
			n.buy(t, test.money)
			status, refused := n.ask(t, n.key(t, nil), strings.Replace(hello, "{", "{"+test.extra, 1))
			if refused != test.want || (status == 200) != (test.want == "") {
				t.Errorf("%d %q, want %q", status, refused, test.want)
			}
		})
	}
}
