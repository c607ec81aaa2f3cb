package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// account is an organization's money.
type account struct {
	Organization organization   `json:"organization"`
	Role         string         `json:"role"`
	BalanceNanos metering.Money `json:"balance_nanos"`
	HeldNanos    metering.Money `json:"held_nanos"`
}

// creditPackage is an amount of credits for sale.
type creditPackage struct {
	ID           string         `json:"id"`
	PriceNanos   metering.Money `json:"price_nanos"`
	CreditsNanos metering.Money `json:"credits_nanos"`
}

// transaction is a ledger entry.
type transaction struct {
	ID                string         `json:"id"`
	Type              string         `json:"type"`
	AmountNanos       metering.Money `json:"amount_nanos"`
	BalanceAfterNanos metering.Money `json:"balance_after_nanos"`
	CreatedAt         time.Time      `json:"created_at"`
	RequestID         *string        `json:"request_id"`
	PaymentID         *string        `json:"payment_id"`
	Reason            *string        `json:"reason"`
	Actor             *string        `json:"actor"`
}

func creditsCommand() *cobra.Command {
	return noun(&cobra.Command{
		Use:   "credits",
		Short: "Shows the balance, buys credits, and lists the ledger",
		Long: `Credits are prepaid: requests are served while there are some. The commands act
on the organization that --org names.`,
		Example: `  caddy llm-gateway credits buy starter
  caddy llm-gateway credits balance`,
	}, func(s *settings) []*cobra.Command {
		return []*cobra.Command{
			balanceCommand(s), packagesCommand(s), buyCommand(s), adjustCommand(s), transactionsCommand(s),
		}
	})
}

func balanceCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "balance",
		Short: "Shows the balance, and what open requests hold of it",
		Long: `Shows the organization's balance, which is the sum of its ledger, and what open
requests hold of it on the gateway that is asked.`,
		Example: "  caddy llm-gateway credits balance --org acme",
		Args:    exactly(),
		RunE: s.run(func(ctx context.Context, s *session, _ []string) error {
			return answer(ctx, s, get(pathOf("account"), nil), func(w io.Writer, a account) error {
				return fields(w,
					field{"Organization", fmt.Sprintf("%s (%s)", a.Organization.ID, printable(a.Organization.Name))},
					field{"Balance", usd(a.BalanceNanos)},
					field{"Held", usd(a.HeldNanos)},
					field{"Your role", a.Role},
				)
			})
		}),
	}
}

func packagesCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:     "packages",
		Short:   "Lists the packages of credits for sale",
		Long:    "Lists the packages of credits that the gateway's configuration has for sale.",
		Example: "  caddy llm-gateway credits packages",
		Args:    exactly(),
		RunE: s.run(func(ctx context.Context, s *session, _ []string) error {
			return answer(ctx, s, get(pathOf("billing", "packages"), nil), func(w io.Writer, found struct {
				Data []creditPackage `json:"data"`
			}) error {
				var rows [][]string
				for _, p := range found.Data {
					rows = append(rows, []string{printable(p.ID), usd(p.PriceNanos), usd(p.CreditsNanos)})
				}
				return table(w, []column{left("PACKAGE"), right("PRICE"), right("CREDITS")}, rows)
			})
		}),
	}
}

func buyCommand(s *settings) *cobra.Command {
	var once idempotency
	cmd := &cobra.Command{
		Use:   "buy <package>",
		Short: "Buys a package of credits",
		Long: `Buys a package of credits. With development billing they are granted at once;
with Stripe the answer is the address to pay at, and they are granted when that
is done.`,
		Example: `  caddy llm-gateway credits packages
  caddy llm-gateway credits buy starter`,
		Args: exactly("package"),
		RunE: s.run(func(ctx context.Context, s *session, args []string) error {
			return answer(ctx, s, call{
				method: http.MethodPost, path: pathOf("billing", "purchase"),
				body: map[string]any{"package_id": args[0]}, idempotencyKey: once.name(),
			}, showPurchase)
		}),
	}
	once.addTo(cmd)
	return cmd
}

// purchase is where to pay, or the transaction that has granted the credits.
type purchase struct {
	CheckoutURL string `json:"checkout_url"`
	transaction
}

func showPurchase(w io.Writer, p purchase) error {
	if p.CheckoutURL != "" {
		_, err := fmt.Fprintf(w, "Pay here, and the credits are granted:\n\n  %s\n", printable(p.CheckoutURL))
		return err
	}
	return showTransaction(w, p.transaction)
}

func adjustCommand(s *settings) *cobra.Command {
	var reason string
	var once idempotency
	cmd := &cobra.Command{
		Use:   "adjust <amount> --reason TEXT",
		Short: "Adds an amount to the ledger, or takes one off it",
		Long: `Adds an adjustment of an amount in USD to the ledger of the organization. One
that takes credits is negative; write it last, after --, so that it is not
taken for a flag. Only the operator adjusts, and the ledger keeps the reason.`,
		Example: `  caddy llm-gateway credits adjust 25.00 --reason 'trial' --org acme
  caddy llm-gateway credits adjust --reason 'trial has ended' --org acme -- -12.50`,
		Args: exactly("amount"),
	}
	cmd.RunE = s.run(func(ctx context.Context, s *session, args []string) error {
		if err := need(cmd, "reason"); err != nil {
			return err
		}
		if _, err := metering.ParseUSD(args[0]); err != nil {
			return misusef("%q is no <amount>: expected dollars such as 25.00, with at most 9 decimals", args[0])
		}
		org := s.organization
		if org == "" {
			org = defaultOrganization
		}
		return answer(ctx, s, call{
			method: http.MethodPost, path: pathOf("organizations", org, "adjustments"),
			body:           map[string]any{"amount_dollars": args[0], "reason": reason},
			idempotencyKey: once.name(),
		}, showTransaction)
	})
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the ledger")
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		return fmt.Errorf("%w; write a negative amount last, after --", err)
	})
	once.addTo(cmd)
	return cmd
}

// defaultOrganization is the one that an operator's token acts on unless told
// otherwise.
const defaultOrganization = "default"

func transactionsCommand(s *settings) *cobra.Command {
	return Group(&cobra.Command{
		Use:   "transactions",
		Short: "Lists and exports the ledger",
		Long: `The ledger has an entry for each purchase, debit, adjustment, refund and
dispute; the balance is the sum of them.`,
		Example: `  caddy llm-gateway credits transactions list
  caddy llm-gateway credits transactions export -o ledger.csv`,
	}, listTransactionsCommand(s), exportTransactionsCommand(s))
}

func listTransactionsCommand(s *settings) *cobra.Command {
	var f entryFilter
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Lists the ledger, newest first",
		Long:  "Lists the entries of the organization's ledger, newest first.",
		Example: `  caddy llm-gateway credits transactions list --limit 10
  caddy llm-gateway credits transactions list --type purchase --type refund --from 2026-11-01`,
		Args: exactly(),
	}
	f.addTo(cmd)
	addList(cmd, s, pathOf("billing", "transactions"), f.values, view[transaction]{
		columns: []column{
			left("ID"), left("TIME"), left("TYPE"), right("AMOUNT"), right("BALANCE"), left("FOR"),
		},
		row: func(t transaction) []string {
			return []string{
				t.ID, moment(&t.CreatedAt), t.Type, usd(t.AmountNanos), usd(t.BalanceAfterNanos), t.subject(),
			}
		},
	})
	return cmd
}

// entryFilter are the flags that select entries of the ledger.
type entryFilter struct {
	span
	named filterFlags
}

func (f *entryFilter) addTo(cmd *cobra.Command) {
	f.span.addTo(cmd)
	f.named = filterFlags{}
	f.named.addRepeatedTo(cmd, filterFlag{"type", "type", "entries of this type: purchase, usage_debit, adjustment, refund, dispute"})
	f.named.addTo(cmd, orderFlag)
	complete(cmd, "type", "purchase", "usage_debit", "adjustment", "refund", "dispute")
	complete(cmd, orderFlag.flag, "desc", "asc")
}

func (f *entryFilter) values() (url.Values, error) {
	q := f.named.values()
	f.addValues(q)
	return q, nil
}

func exportTransactionsCommand(s *settings) *cobra.Command {
	var f entryFilter
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Exports the ledger as CSV or JSON",
		Long:  "Exports the entries of the organization's ledger." + exportHelp,
		Example: `  caddy llm-gateway credits transactions export -o ledger.csv
  caddy llm-gateway credits transactions export --format jsonl --from 2026-11-01 -o ledger.jsonl`,
		Args: exactly(),
	}
	f.addTo(cmd)
	addExport(cmd, s, pathOf("billing", "transactions", "export"), f.values)
	return cmd
}

// subject is what an entry is for.
func (t transaction) subject() string {
	for _, s := range []*string{t.RequestID, t.PaymentID, t.Reason} {
		if s != nil && *s != "" {
			return printable(*s)
		}
	}
	return none
}

func showTransaction(w io.Writer, t transaction) error {
	return fields(w,
		field{"ID", t.ID},
		field{"Type", t.Type},
		field{"Amount", usd(t.AmountNanos)},
		field{"Balance", usd(t.BalanceAfterNanos)},
		field{"Time", moment(&t.CreatedAt)},
		field{"Request", text(t.RequestID)},
		field{"Payment", text(t.PaymentID)},
		field{"Reason", text(t.Reason)},
		field{"By", text(t.Actor)},
	)
}
