package cli

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// organization is one that keeps books at the gateway.
type organization struct {
	ID           string         `json:"id"`
	Name         string         `json:"name"`
	CreatedAt    *time.Time     `json:"created_at"`
	BalanceNanos metering.Money `json:"balance_nanos"`
	version
	Warning string `json:"warning"`
}

// budget is an organization's limit on its own spend.
type budget struct {
	MaxDollars   *dollars       `json:"max_dollars"`
	SoftDollars  *dollars       `json:"soft_dollars"`
	Period       string         `json:"period"`
	WeekStart    string         `json:"week_start"`
	Hold         string         `json:"hold"`
	RateLimitRPM *int64         `json:"rate_limit_rpm"`
	SpentNanos   metering.Money `json:"spent_nanos"`
	PeriodStart  *time.Time     `json:"period_start"`
	PeriodEnd    *time.Time     `json:"period_end"`
	version
}

func organizationsCommand() *cobra.Command {
	return noun(&cobra.Command{
		Use:     "orgs",
		Aliases: []string{"organizations"},
		Short:   "Creates, lists and edits organizations, and sets their budgets",
		Long: `Organizations have credits, keys and members of their own, and see nothing of
each other. A new gateway has one, named default. All other commands act on the
one that --org or $GATEWAY_ORG names.

Only the operator makes and lists organizations.`,
		Example: `  caddy llm-gateway orgs create --id acme --name 'Acme Inc.'
  caddy llm-gateway orgs list`,
	}, func(s *settings) []*cobra.Command {
		return []*cobra.Command{
			listOrganizationsCommand(s), createOrganizationCommand(s),
			showOrganizationCommand(s), editOrganizationCommand(s), budgetCommand(s),
		}
	})
}

func listOrganizationsCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "Lists the organizations",
		Long:    "Lists all organizations of the gateway, with their balances.",
		Example: "  caddy llm-gateway orgs list --all",
		Args:    exactly(),
	}
	addList(cmd, s, pathOf("organizations"), nil, view[organization]{
		columns: []column{left("ID"), left("NAME"), right("BALANCE"), left("CREATED")},
		row: func(o organization) []string {
			return []string{o.ID, printable(o.Name), usd(o.BalanceNanos), moment(o.CreatedAt)}
		},
	})
	return cmd
}

func createOrganizationCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "create --name NAME [flags]",
		Short: "Creates an organization",
		Long: `Creates an organization, without credits and keys. With --owner-email its owner
is invited: who accepts with that verified address becomes it.`,
		Example: `  caddy llm-gateway orgs create --id acme --name 'Acme Inc.' --owner-email ada@acme.example
  export GATEWAY_ORG=acme`,
		Args: exactly(),
	}
	in := newInput(cmd)
	in.text("name", "name, for people")
	in.text("id", "id, by which commands and the API name it; a random one by default")
	in.text("owner-email", "e-mail address of the owner to invite, who joins by signing in: no mail is sent")
	addCreate(in, s, pathOf("organizations"), showOrganization)
	return cmd
}

func showOrganizationCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:     "show <id>",
		Short:   "Shows one organization",
		Long:    "Shows an organization and its balance.",
		Example: "  caddy llm-gateway orgs show acme",
		Args:    exactly("id"),
		RunE: s.run(func(ctx context.Context, s *session, args []string) error {
			return answer(ctx, s, get(pathOf("organizations", args[0]), nil), showOrganization)
		}),
	}
}

func editOrganizationCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "edit <id> [flags]",
		Short:   "Changes an organization",
		Long:    "Changes the name of an organization. Its id stays, and so do its books.",
		Example: "  caddy llm-gateway orgs edit acme --name 'Acme Corporation'",
		Args:    exactly("id"),
	}
	in := newInput(cmd)
	in.text("name", "name, for people")
	addEdit(in, s, http.MethodPatch, func(args []string) string { return pathOf("organizations", args[0]) }, showOrganization)
	return cmd
}

func budgetCommand(s *settings) *cobra.Command {
	return Group(&cobra.Command{
		Use:   "budget",
		Short: "Shows and sets an organization's budget",
		Long: `An organization's budget is what all its keys together may spend in a period,
whatever credits there are. The commands act on the organization that --org
names.`,
		Example: `  caddy llm-gateway orgs budget get --org acme
  caddy llm-gateway orgs budget set --org acme --max-dollars 100 --period monthly`,
	}, getBudgetCommand(s), setBudgetCommand(s))
}

func getBudgetCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:     "get",
		Aliases: []string{"show"},
		Short:   "Shows the budget, and what is spent of it",
		Long:    "Shows the organization's budget, and what is spent of it in the current period.",
		Example: "  caddy llm-gateway orgs budget get",
		Args:    exactly(),
		RunE: s.run(func(ctx context.Context, s *session, _ []string) error {
			return answer(ctx, s, get(pathOf("budget"), nil), showBudget)
		}),
	}
}

func setBudgetCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "set [flags]",
		Short: "Changes fields of the budget",
		Long: `Changes the fields whose flags are given; the others stay as they are. What was
spent in the period before counts.`,
		Example: `  caddy llm-gateway orgs budget set --max-dollars 100 --soft-dollars 80 --period monthly
  caddy llm-gateway orgs budget set --max-dollars none`,
		Args: exactly(),
	}
	in := newInput(cmd)
	in.clearable("max-dollars", "what may be spent in each period, in USD; 0 allows nothing")
	in.clearable("soft-dollars", "spend from which on requests are served with a warning, in USD")
	in.choice("period", "when the spend starts anew", "daily", "weekly", "monthly", "never")
	in.clearable("week-start", "day that weeks start on: sunday, monday or saturday")
	in.choice("hold", "what is held for a request before it is sent", "estimate", "strict")
	in.number("rate-limit-rpm", "requests per calendar minute, all keys together")
	addEdit(in, s, http.MethodPut, func(_ []string) string { return pathOf("budget") }, showBudget)
	return cmd
}

func showOrganization(w io.Writer, o organization) error {
	return fields(w, withWarning(o.Warning,
		field{"ID", o.ID},
		field{"Name", printable(o.Name)},
		field{"Balance", usd(o.BalanceNanos)},
		field{"Created", moment(o.CreatedAt)},
		field{"Version", o.shown()},
	)...)
}

func showBudget(w io.Writer, b budget) error {
	return fields(w,
		field{"Limit", limit(b.MaxDollars)},
		field{"Soft limit", limit(b.SoftDollars)},
		field{"Spent", usd(b.SpentNanos)},
		field{"Period", b.Period},
		field{"Period start", moment(b.PeriodStart)},
		field{"Period end", moment(b.PeriodEnd)},
		field{"Week start", b.WeekStart},
		field{"Hold", b.Hold},
		field{"Requests per minute", number(b.RateLimitRPM)},
		field{"Version", b.shown()},
	)
}
