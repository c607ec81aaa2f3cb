package cli

import (
	"encoding/json"
	"maps"
	"net/url"
	"slices"
	"time"

	"github.com/spf13/cobra"
)

// change is one record of who changed what.
type change struct {
	ID          string    `json:"id"`
	At          time.Time `json:"at"`
	ActorKind   string    `json:"actor_kind"`
	ActorID     *string   `json:"actor_id"`
	ActorName   *string   `json:"actor_name"`
	ClientIP    *string   `json:"client_ip"`
	Action      string    `json:"action"`
	SubjectKind string    `json:"subject_kind"`
	SubjectID   string    `json:"subject_id"`
	// Before and After have the fields that differ; nil where there was nothing.
	Before map[string]json.RawMessage `json:"before"`
	After  map[string]json.RawMessage `json:"after"`
}

// fields are the names of those that differ; none of what was made or removed,
// where all do.
func (c change) fields() string {
	if c.Before == nil || c.After == nil {
		return none
	}
	differ := maps.Clone(c.Before)
	maps.Copy(differ, c.After)
	return joined(slices.Sorted(maps.Keys(differ)))
}

// by is who made the change.
func (c change) by() string {
	if name := orElse(text(c.ActorName), text(c.ActorID)); name != none {
		return c.ActorKind + " " + name
	}
	return c.ActorKind
}

// changeFilter are the flags that select changes.
type changeFilter struct {
	span
	named filterFlags
}

func (f *changeFilter) addTo(cmd *cobra.Command) {
	f.span.addTo(cmd)
	f.named = filterFlags{}
	f.named.addTo(cmd,
		filterFlag{"actor", "actor", "changes by the token or member of this id or name"},
		filterFlag{"action", "action", "changes of this kind, such as key.update"},
		filterFlag{"subject-kind", "subject_kind", "changes of what is of this kind, such as key"},
		filterFlag{"subject-id", "subject_id", "changes of what has this id"},
		filterFlag{"scope", "scope", "gateway: changes of the gateway itself, of no organization; organization by default"},
	)
	complete(cmd, "scope", "organization", "gateway")
}

func (f *changeFilter) values() (url.Values, error) {
	q := f.named.values()
	f.addValues(q)
	return q, nil
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
	var f changeFilter
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Lists changes, newest first",
		Long: `Lists the organization's changes, newest first, with the fields that changed.
--json has their values, before and after. Times are in UTC; --timezone is that
of the dates in --from and --to.`,
		Example: `  caddy llm-gateway changes list --from 2026-11-01
  caddy llm-gateway changes list --subject-kind key --subject-id key_01jd...`,
		Args: exactly(),
	}
	f.addTo(cmd)
	addList(cmd, s, pathOf("changes"), f.values, view[change]{
		columns: []column{left("ID"), left("TIME"), left("BY"), left("FROM"), left("ACTION"), left("SUBJECT"), left("FIELDS")},
		row: func(c change) []string {
			return []string{
				c.ID, moment(&c.At), c.by(), text(c.ClientIP), printable(c.Action),
				printable(c.SubjectKind + " " + c.SubjectID), c.fields(),
			}
		},
	})
	return cmd
}

func exportChangesCommand(s *settings) *cobra.Command {
	var f changeFilter
	cmd := &cobra.Command{
		Use:     "export",
		Short:   "Exports changes as CSV or JSON",
		Long:    "Exports the organization's changes, with the values before and after." + exportHelp,
		Example: "  caddy llm-gateway changes export --from 2026-11-01 --format jsonl -o changes.jsonl",
		Args:    exactly(),
	}
	f.addTo(cmd)
	addExport(cmd, s, pathOf("changes", "export"), f.values)
	return cmd
}
