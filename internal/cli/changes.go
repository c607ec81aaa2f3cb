package cli

import (
	"context"
	"net/url"
	"time"

	"github.com/spf13/cobra"
)

// change is what somebody changed.
type change struct {
	ID        string    `json:"id"`
	CreatedAt time.Time `json:"created_at"`
}

func changesCommand() *cobra.Command {
	return noun(&cobra.Command{
		Use:   "changes",
		Short: "Lists and exports who changed what, from where",
		Long: `Every change that is made through the management API is recorded: who made it,
from where, and what was before and after. Nothing removes such a record.`,
		Example: `  caddy llm-gateway changes list --limit 20
  caddy llm-gateway changes export -o changes.csv`,
	}, func(s *settings) []*cobra.Command {
		return []*cobra.Command{listChangesCommand(s), exportChangesCommand(s)}
	})
}

func listChangesCommand(s *settings) *cobra.Command {
	var p paging
	var when span
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "Lists changes, newest first",
		Long:    "Lists the organization's changes, newest first. --json has the values before and after.",
		Example: "  caddy llm-gateway changes list --from 2026-11-01",
		Args:    exactly(),
		RunE: s.run(func(ctx context.Context, s *session, _ []string) error {
			q := url.Values{}
			when.addValues(q)
			return list(ctx, s, &p, pathOf("changes"), q, view[change]{
				columns: []column{left("ID"), left("TIME")},
				row:     func(c change) []string { return []string{c.ID, moment(&c.CreatedAt)} },
			})
		}),
	}
	p.addTo(cmd)
	when.addTo(cmd)
	return cmd
}

func exportChangesCommand(s *settings) *cobra.Command {
	var when span
	cmd := &cobra.Command{
		Use:     "export",
		Short:   "Exports changes as CSV or JSON",
		Long:    "Exports the organization's changes, with the values before and after." + exportHelp,
		Example: "  caddy llm-gateway changes export --from 2026-11-01 --format jsonl -o changes.jsonl",
		Args:    exactly(),
	}
	when.addTo(cmd)
	addExport(cmd, s, pathOf("changes", "export"), when.values)
	return cmd
}
