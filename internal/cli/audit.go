package cli

import (
	"context"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// auditRow is one request.
type auditRow struct {
	RequestID        string         `json:"request_id"`
	CreatedAt        time.Time      `json:"created_at"`
	Provider         string         `json:"provider"`
	Model            string         `json:"model"`
	Endpoint         string         `json:"endpoint"`
	PromptTokens     int64          `json:"prompt_tokens"`
	CompletionTokens int64          `json:"completion_tokens"`
	CachedTokens     int64          `json:"cached_tokens"`
	CacheWriteTokens int64          `json:"cache_write_tokens"`
	ReasoningTokens  int64          `json:"reasoning_tokens"`
	CostNanos        metering.Money `json:"cost_nanos"`
	MarketCostNanos  metering.Money `json:"market_cost_nanos"`
	LatencyMS        int64          `json:"latency_ms"`
	TTFBMS           int64          `json:"ttfb_ms"`
	Status           int64          `json:"status"`
	Error            *string        `json:"error"`
	KeyID            string         `json:"key_id"`
	KeyName          string         `json:"key_name"`
	ClientIP         string         `json:"client_ip"`
	Streaming        bool           `json:"streaming"`
	UserAgent        string         `json:"user_agent"`
	UsageSource      string         `json:"usage_source"`
	PriceRuleID      *string        `json:"price_rule_id"`
	Attempts         int64          `json:"attempts"`
	Changes          []string       `json:"changes"`
	// Calculation is answered for one request alone, if its rates are recorded.
	Calculation *calculation `json:"calculation"`
}

// calculation is what a price is made of, exactly.
type calculation struct {
	Lines []struct {
		Model  *string `json:"model"`
		Text   string  `json:"text"`
		Amount string  `json:"amount"`
	} `json:"lines"`
	MarketAmount    string `json:"market_amount"`
	DiscountPercent string `json:"discount_percent"`
	DiscountAmount  string `json:"discount_amount"`
	Amount          string `json:"amount"`
}

// auditFilter are the flags that select requests.
type auditFilter struct {
	span
	named filterFlags
}

// auditBounds are the numbers of which there is a least and a greatest.
var auditBounds = []string{
	"cost_nanos", "market_cost_nanos", "latency_ms", "ttfb_ms", "prompt_tokens", "completion_tokens", "cached_tokens", "tokens", "attempts",
}

func (f *auditFilter) addTo(cmd *cobra.Command) {
	f.span.addTo(cmd)
	f.named = filterFlags{}
	f.named.addRepeatedTo(cmd, keyFlag)
	f.named.addRepeatedTo(cmd, requestFlags...)
	f.named.addRepeatedTo(cmd,
		filterFlag{"key-name", "key_name", "requests with a key that had this name"},
		filterFlag{"endpoint", "endpoint", "requests to this endpoint, such as chat/completions"},
		filterFlag{"status", "status", "requests answered with this HTTP status, or a class such as 4xx"},
		filterFlag{"error", "error", "requests that were refused or ended with this error"},
		filterFlag{"usage-source", "usage_source", "requests whose tokens were counted so: provider, provider_partial, drained, estimated, none"},
		filterFlag{"price-rule-id", "price_rule_id", "requests priced by this rule"},
	)
	f.named.addTo(cmd,
		filterFlag{"request-id", "request_id", "the request of this id"},
		filterFlag{"client-ip", "client_ip", "requests from this address or CIDR range"},
		filterFlag{"user-agent", "user_agent", "requests whose user agent contains this text"},
		filterFlag{"streaming", "streaming", "true or false: requests that were streamed, or not"},
		filterFlag{"changed", "changed", "true or false: requests whose parameters a translation had to alter, or not"},
		orderFlag,
	)
	for _, name := range auditBounds {
		flag := strings.ReplaceAll(name, "_", "-")
		f.named.addTo(cmd,
			filterFlag{"min-" + flag, "min_" + name, "requests with at least so many " + name},
			filterFlag{"max-" + flag, "max_" + name, "requests with at most so many " + name},
		)
	}
	complete(cmd, "usage-source", "provider", "provider_partial", "drained", "estimated", "none")
	complete(cmd, "streaming", "true", "false")
	complete(cmd, "changed", "true", "false")
	complete(cmd, orderFlag.flag, "desc", "asc")
}

// orderFlag turns a list round.
var orderFlag = filterFlag{"order", "order", "desc, newest first, by default; or asc, oldest first"}

func (f *auditFilter) values() (url.Values, error) {
	q := f.named.values()
	f.addValues(q)
	return q, nil
}

func auditCommand() *cobra.Command {
	return noun(&cobra.Command{
		Use:   "audit",
		Short: "Lists, shows and exports requests, and what each has cost",
		Long: `The audit trail has a row for each request: when, by whom and to which model,
what it used and what it cost. It never has any content of prompts or
completions.`,
		Example: `  caddy llm-gateway audit list --limit 20
  caddy llm-gateway audit export -o audit.csv`,
	}, func(s *settings) []*cobra.Command {
		return []*cobra.Command{listAuditCommand(s), showAuditCommand(s), exportAuditCommand(s)}
	})
}

func listAuditCommand(s *settings) *cobra.Command {
	var f auditFilter
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Lists requests, newest first",
		Long: `Lists the organization's requests, newest first. Of those that were refused, a
key has up to 60 rows in a minute. Times are in UTC; --timezone is that of the
dates in --from and --to.`,
		Example: `  caddy llm-gateway audit list --from 2026-11-01 --model gpt-4o-2024-08-06
  caddy llm-gateway audit list --status 403 --status 5xx --streaming true --min-cost-nanos 1000000`,
		Args: exactly(),
	}
	f.addTo(cmd)
	addList(cmd, s, pathOf("audit"), f.values, view[auditRow]{
		columns: []column{
			left("REQUEST"), left("TIME"), left("KEY"), left("PROVIDER"), left("MODEL"), right("STATUS"),
			right("PROMPT"), right("COMPLETION"), right("COST"), left("ERROR"),
		},
		row: func(a auditRow) []string {
			return []string{
				printable(a.RequestID), moment(&a.CreatedAt), printable(a.KeyName), printable(a.Provider), printable(a.Model),
				count(a.Status), count(a.PromptTokens), count(a.CompletionTokens), usd(a.CostNanos), text(a.Error),
			}
		},
	})
	return cmd
}

func showAuditCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "show <request-id>",
		Short: "Shows one request, and how its price came about",
		Long: `Shows all fields of one request, by the X-Request-Id of its answer, and what its
price is made of.`,
		Example: "  caddy llm-gateway audit show req_01jd...",
		Args:    exactly("request-id"),
		RunE: s.run(func(ctx context.Context, s *session, args []string) error {
			return answer(ctx, s, get(pathOf("audit", args[0]), nil), showRequest)
		}),
	}
}

func exportAuditCommand(s *settings) *cobra.Command {
	var f auditFilter
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Exports requests as CSV or JSON",
		Long:  "Exports the organization's requests." + exportHelp,
		Example: `  caddy llm-gateway audit export --from 2026-11-01 --to 2026-11-30 -o november.csv
  caddy llm-gateway audit export --format jsonl | jq -s 'map(.cost_nanos) | add'
  until caddy llm-gateway audit export --resume -o all.jsonl; do sleep 5; done`,
		Args: exactly(),
	}
	f.addTo(cmd)
	addExport(cmd, s, pathOf("audit", "export"), f.values)
	return cmd
}

func showRequest(w io.Writer, a auditRow) error {
	err := fields(w,
		field{"Request", printable(a.RequestID)},
		field{"Time", moment(&a.CreatedAt)},
		field{"Key", printable(a.KeyName) + " (" + a.KeyID + ")"},
		field{"Client", printable(a.ClientIP)},
		field{"User agent", printable(a.UserAgent)},
		field{"Endpoint", printable(a.Endpoint)},
		field{"Provider", printable(a.Provider)},
		field{"Model", printable(a.Model)},
		field{"Streaming", yesNo(a.Streaming)},
		field{"Status", count(a.Status)},
		field{"Error", text(a.Error)},
		field{"Attempts", count(a.Attempts)},
		field{"Latency", milliseconds(a.LatencyMS)},
		field{"First byte", milliseconds(a.TTFBMS)},
		field{"Prompt tokens", count(a.PromptTokens)},
		field{"  cached", count(a.CachedTokens)},
		field{"  written to cache", count(a.CacheWriteTokens)},
		field{"Completion tokens", count(a.CompletionTokens)},
		field{"  reasoning", count(a.ReasoningTokens)},
		field{"Counted by", a.UsageSource},
		field{"Changes", orElse(joined(a.Changes), none)},
		field{"Price rule", text(a.PriceRuleID)},
		field{"Market cost", usd(a.MarketCostNanos)},
		field{"Cost", usd(a.CostNanos)},
	)
	if err != nil || a.Calculation == nil {
		return err
	}
	return a.Calculation.show(w)
}

func (c *calculation) show(w io.Writer) error {
	if _, err := io.WriteString(w, "\n"); err != nil {
		return err
	}
	rows := make([][]string, 0, len(c.Lines)+3)
	for _, l := range c.Lines {
		item := l.Text
		if l.Model != nil {
			item += " (" + *l.Model + ")"
		}
		rows = append(rows, []string{printable(item), printable(l.Amount)})
	}
	rows = append(rows,
		[]string{"market price", printable(c.MarketAmount)},
		[]string{"discount " + printable(c.DiscountPercent), printable(c.DiscountAmount)},
		[]string{"price", printable(c.Amount)})
	return table(w, []column{left("CALCULATION"), right("USD")}, rows)
}

func milliseconds(n int64) string { return (time.Duration(n) * time.Millisecond).String() }

func joined(list []string) string {
	if len(list) == 0 {
		return none
	}
	return printable(strings.Join(list, ", "))
}
