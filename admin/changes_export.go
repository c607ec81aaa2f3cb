package admin

import (
	"context"

	"github.com/danielgtaylor/huma/v2"

	"github.com/caddy-llm-gateway/gateway/billing"
)

type exportChangesInput struct {
	ChangeSelection
	ExportOptions
}

// changeColumns are those of the CSV file: the fields of a change.
var changeColumns = []column[change]{
	{"id", func(c *cells, r *change) { c.text(r.ID) }},
	{"at", func(c *cells, r *change) { c.time(r.At) }},
	{"actor_kind", func(c *cells, r *change) { c.text(r.ActorKind) }},
	{"actor_id", func(c *cells, r *change) { c.optional(r.ActorID) }},
	{"actor_name", func(c *cells, r *change) { c.optional(r.ActorName) }},
	{"client_ip", func(c *cells, r *change) { c.optional(r.ClientIP) }},
	{"user_agent", func(c *cells, r *change) { c.optional(r.UserAgent) }},
	{"action", func(c *cells, r *change) { c.text(r.Action) }},
	{"subject_kind", func(c *cells, r *change) { c.text(r.SubjectKind) }},
	{"subject_id", func(c *cells, r *change) { c.text(r.SubjectID) }},
	{"before", func(c *cells, r *change) { c.text(string(r.Before)) }},
	{"after", func(c *cells, r *change) { c.text(string(r.After)) }},
}

func (a *api) exportChanges(ctx context.Context, in *exportChangesInput) (*huma.StreamResponse, error) {
	org, f, err := in.read(ctx)
	if err != nil {
		return nil, err
	}
	return export(ctx, a, &in.ExportOptions, exported[billing.ChangeRecord, change]{
		name: "changes",
		page: func(ctx context.Context, page billing.Page) ([]billing.ChangeRecord, error) {
			return a.gateway.Store().ListChanges(ctx, org, f, page)
		},
		find: func(ctx context.Context, id string) ([]billing.ChangeRecord, error) {
			one := f
			one.ID = id
			return a.gateway.Store().ListChanges(ctx, org, one, billing.Page{Limit: 1})
		},
		id:      func(c *billing.ChangeRecord) string { return c.ID },
		row:     newChange,
		columns: changeColumns,
	})
}
