package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// span are the flags of a time from which and until which.
type span struct{ from, to, timezone string }

func (s *span) addTo(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&s.from, "from", "", "start, inclusive: a date or an RFC 3339 time")
	flags.StringVar(&s.to, "to", "", "end: a date, which is included, or an RFC 3339 time, which is not")
	flags.StringVar(&s.timezone, "timezone", "", "time zone of dates, such as Europe/Zurich; UTC by default")
}

func (s *span) addValues(q url.Values) {
	addIf(q, "from", s.from)
	addIf(q, "to", s.to)
	addIf(q, "timezone", s.timezone)
}

// requestFlags select requests, in usage and in the audit.
var requestFlags = []filterFlag{
	{"provider", "provider", "requests to this provider"},
	{"model", "model", "requests priced as this model"},
	{"project", "project", "requests of this project"},
}

// keyFlag selects requests by their keys.
var keyFlag = filterFlag{"key", "key_id", "requests with the key of this id"}

// usageQuery are the flags of a command that shows usage.
type usageQuery struct {
	span
	named   filterFlags
	groupBy []string
}

func (u *usageQuery) addTo(cmd *cobra.Command) {
	u.span.addTo(cmd)
	cmd.Flags().StringSliceVar(&u.groupBy, "group-by", nil, "one or two of date, key, provider, model, project")
	u.named = filterFlags{}
	u.named.addTo(cmd,
		filterFlag{"interval", "interval", "what dates are grouped into: hour, day, week, month"},
		filterFlag{"sort", "sort", "what groups are sorted by: one of --group-by, or a sum, such as requests or cost"},
		filterFlag{"order", "order", "asc or desc"},
		filterFlag{"limit", "limit", "the most groups to show; the others are summed up"},
	)
	u.named.addRepeatedTo(cmd, requestFlags...)
	complete(cmd, "group-by", "date", "key", "provider", "model", "project")
	complete(cmd, "interval", "hour", "day", "week", "month")
	complete(cmd, "order", "asc", "desc")
}

func (u *usageQuery) values() url.Values {
	q := u.named.values()
	u.addValues(q)
	addIf(q, "group_by", strings.Join(u.groupBy, ","))
	return q
}

// usage is what requests used and cost.
type usage struct {
	From   *time.Time   `json:"from"`
	To     *time.Time   `json:"to"`
	Totals totals       `json:"totals"`
	Groups []usageGroup `json:"groups"`
}

// usageGroup is the part of usage that is alike in what it is grouped by.
type usageGroup struct {
	Key struct {
		Date *string `json:"date"`
		Key  *struct {
			ID   string `json:"id"`
			Name string `json:"name"`
		} `json:"key"`
		Provider *string `json:"provider"`
		Model    *string `json:"model"`
		Project  *string `json:"project"`
	} `json:"key"`
	// Other sums up the groups beyond the limit.
	Other bool `json:"other"`
	totals
}

// common is what the group has in common, by what is grouped by.
func (g usageGroup) common() (titles, cells []string) {
	add := func(title string, value *string) {
		if value != nil {
			titles, cells = append(titles, title), append(cells, text(value))
		}
	}
	add("DATE", g.Key.Date)
	if k := g.Key.Key; k != nil {
		name := strings.TrimSpace(k.Name + " (" + k.ID + ")")
		add("KEY", &name)
	}
	add("PROVIDER", g.Key.Provider)
	add("MODEL", g.Key.Model)
	add("PROJECT", g.Key.Project)
	return titles, cells
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
  caddy llm-gateway usage --model gpt-4o-2024-08-06 --model o3-2025-04-16
  caddy llm-gateway usage --group-by key --json`,
		Args: exactly(),
		RunE: s.run(func(ctx context.Context, s *session, _ []string) error {
			return answer(ctx, s, get(pathOf("usage"), q.values()), showUsage)
		}),
	}
	s.addTo(cmd)
	q.addTo(cmd)
	q.named.addRepeatedTo(cmd, keyFlag)
	q.named.addTo(cmd, filterFlag{"owner", "owner", "requests with the keys of the member of this id"})
	return cmd
}

// showUsage prints a row for each group, and one for all.
func showUsage(w io.Writer, u usage) error {
	fmt.Fprintf(w, "From %s to %s (UTC)\n\n", orElse(moment(u.From), "the beginning"), orElse(moment(u.To), "now"))
	var columns []column
	var rows [][]string
	for _, g := range u.Groups {
		titles, cells := g.common()
		if columns == nil {
			for _, title := range titles {
				columns = append(columns, left(title))
			}
		}
		row := heading("Others", len(columns))
		if !g.Other {
			copy(row, cells)
		}
		rows = append(rows, append(row, g.cells()...))
	}
	rows = append(rows, append(heading("Total", len(columns)), u.Totals.cells()...))
	columns = append(columns, right("REQUESTS"), right("PROMPT"), right("COMPLETION"), right("CACHED"), right("REASONING"),
		right("COST"), right("MARKET"), right("SAVED"), right("SAVED %"))
	return table(w, columns, rows)
}

// heading is a row's text in the first of its columns, if there are any.
func heading(text string, columns int) []string {
	cells := make([]string, columns)
	if columns > 0 {
		cells[0] = text
	}
	return cells
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
