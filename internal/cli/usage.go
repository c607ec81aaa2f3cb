package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// span are the flags of a time from which and until which.
type span struct{ from, to string }

func (s *span) addTo(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&s.from, "from", "", "start, inclusive: a date or an RFC 3339 time")
	flags.StringVar(&s.to, "to", "", "end: a date, which is included, or an RFC 3339 time, which is not")
}

func (s *span) addValues(q url.Values) {
	setIf(q, "from", s.from)
	setIf(q, "to", s.to)
}

func (s *span) values() (url.Values, error) {
	q := url.Values{}
	s.addValues(q)
	return q, nil
}

// usageQuery are the flags of a command that shows usage.
type usageQuery struct {
	span
	groupBy                       []string
	interval, timezone            string
	key, provider, model, project string
}

func (u *usageQuery) addTo(cmd *cobra.Command) {
	u.span.addTo(cmd)
	flags := cmd.Flags()
	flags.StringSliceVar(&u.groupBy, "group-by", nil, "one or two of date, key, provider, model, project")
	flags.StringVar(&u.interval, "interval", "", "what dates are grouped into: hour, day, week, month")
	flags.StringVar(&u.timezone, "timezone", "", "time zone of dates, such as Europe/Zurich; UTC by default")
	flags.StringVar(&u.provider, "provider", "", "requests to this provider only")
	flags.StringVar(&u.model, "model", "", "requests priced as this model only")
	flags.StringVar(&u.project, "project", "", "requests of this project only")
	complete(cmd, "group-by", "date", "key", "provider", "model", "project")
	complete(cmd, "interval", "hour", "day", "week", "month")
}

func (u *usageQuery) values() url.Values {
	q := url.Values{}
	u.addValues(q)
	for name, value := range map[string]string{
		"group_by": strings.Join(u.groupBy, ","), "interval": u.interval, "timezone": u.timezone,
		"key_id": u.key, "provider": u.provider, "model": u.model, "project": u.project,
	} {
		setIf(q, name, value)
	}
	return q
}

// usage is what requests used and cost.
type usage struct {
	From   *time.Time `json:"from"`
	To     *time.Time `json:"to"`
	Totals totals     `json:"totals"`
	Groups []struct {
		Key map[string]any `json:"key"`
		totals
	} `json:"groups"`
}

type totals struct {
	Requests         int64          `json:"requests"`
	PromptTokens     int64          `json:"prompt_tokens"`
	CompletionTokens int64          `json:"completion_tokens"`
	CachedTokens     int64          `json:"cached_tokens"`
	ReasoningTokens  int64          `json:"reasoning_tokens"`
	CostNanos        metering.Money `json:"cost_nanos"`
	MarketCostNanos  metering.Money `json:"market_cost_nanos"`
	SavingsNanos     metering.Money `json:"savings_nanos"`
	SavingsPercent   json.Number    `json:"savings_percent"`
}

func usageCommand() *cobra.Command {
	var q usageQuery
	s := new(settings)
	cmd := &cobra.Command{
		Use:   "usage",
		Short: "Shows what requests used and cost",
		Long: `Shows requests, tokens, what they cost, what the providers' list prices come to,
and the savings; in total, or in groups by one or two of date, key, provider,
model and project.`,
		Example: `  caddy llm-gateway usage --from 2026-11-01 --to 2026-11-30
  caddy llm-gateway usage --group-by date,model --interval week --timezone Europe/Zurich
  caddy llm-gateway usage --group-by key --json`,
		Args: exactly(),
		RunE: s.run(func(ctx context.Context, s *session, _ []string) error {
			return answer(ctx, s, get(pathOf("usage"), q.values()), showUsage)
		}),
	}
	s.addTo(cmd)
	q.addTo(cmd)
	cmd.Flags().StringVar(&q.key, "key", "", "requests with the key of this id only")
	return cmd
}

// showUsage prints a row for each group, and one for all.
func showUsage(w io.Writer, u usage) error {
	fmt.Fprintf(w, "From %s to %s\n\n", orElse(moment(u.From), "the beginning"), orElse(moment(u.To), "now"))
	names := groupNames(u)
	var columns []column
	for _, name := range names {
		columns = append(columns, left(strings.ToUpper(strings.ReplaceAll(name, "_", " "))))
	}
	columns = append(columns, right("REQUESTS"), right("PROMPT"), right("COMPLETION"), right("CACHED"), right("REASONING"),
		right("COST"), right("MARKET"), right("SAVED"), right("SAVED %"))
	var rows [][]string
	for _, g := range u.Groups {
		var row []string
		for _, name := range names {
			row = append(row, groupValue(g.Key[name]))
		}
		rows = append(rows, append(row, g.cells()...))
	}
	total := make([]string, len(names))
	if len(names) > 0 {
		total[0] = "Total"
	}
	return table(w, columns, append(rows, append(total, u.Totals.cells()...)))
}

// groupNames are the fields that groups are told apart by, the date first.
func groupNames(u usage) []string {
	if len(u.Groups) == 0 {
		return nil
	}
	names := slices.Sorted(maps.Keys(u.Groups[0].Key))
	slices.SortStableFunc(names, func(a, b string) int {
		switch {
		case a == b:
			return 0
		case a == "date":
			return -1
		case b == "date":
			return 1
		}
		return 0
	})
	return names
}

func groupValue(v any) string {
	if v == nil || v == "" {
		return none
	}
	return printable(fmt.Sprint(v))
}

func (t totals) cells() []string {
	return []string{
		count(t.Requests), count(t.PromptTokens), count(t.CompletionTokens), count(t.CachedTokens), count(t.ReasoningTokens),
		usd(t.CostNanos), usd(t.MarketCostNanos), usd(t.SavingsNanos), t.SavingsPercent.String(),
	}
}

// orElse returns other where there is no value.
func orElse(value, other string) string {
	if value == none {
		return other
	}
	return value
}
