package admin

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/danielgtaylor/huma/v2"
)

// change is one record of who changed what.
type change struct {
	ID          string     `json:"id"`
	At          time.Time  `json:"at"`
	ActorKind   string     `json:"actor_kind" doc:"operator, member, or system: the gateway itself."`
	ActorID     *string    `json:"actor_id" doc:"Of the operator token or the member."`
	ActorName   *string    `json:"actor_name" doc:"The actor's name at the time."`
	ClientIP    *string    `json:"client_ip"`
	UserAgent   *string    `json:"user_agent"`
	Action      string     `json:"action" doc:"The kind of the subject and what was done." example:"key.update"`
	SubjectKind string     `json:"subject_kind"`
	SubjectID   string     `json:"subject_id" doc:"The id; of a project, its name."`
	Before      jsonObject `json:"before" doc:"The fields that differ, as they were; null for what was created."`
	After       jsonObject `json:"after" doc:"The fields that differ, as they became; null for what was deleted."`
}

// jsonObject is an object of any fields, or null.
type jsonObject json.RawMessage

// MarshalJSON writes it as it is, null if there is none.
func (o jsonObject) MarshalJSON() ([]byte, error) { return json.RawMessage(o).MarshalJSON() }

// Schema is that of an object of any fields.
func (jsonObject) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeObject, Nullable: true, AdditionalProperties: true}
}

func newChange(c billing.ChangeRecord) change {
	return change{
		ID:          c.ID,
		At:          c.At.UTC(),
		ActorKind:   string(c.Actor.Kind),
		ActorID:     orNil(c.Actor.ID),
		ActorName:   orNil(c.Actor.Name),
		ClientIP:    orNil(c.Actor.ClientIP),
		UserAgent:   orNil(c.Actor.UserAgent),
		Action:      c.Action,
		SubjectKind: string(c.Subject.Kind),
		SubjectID:   c.Subject.ID,
		Before:      jsonObject(c.Before),
		After:       jsonObject(c.After),
	}
}

// changeScope says whose changes are meant.
type changeScope string

const (
	organizationScope changeScope = "organization"
	gatewayScope      changeScope = "gateway"
)

// Schema lists the scopes.
func (changeScope) Schema(huma.Registry) *huma.Schema {
	s := enumOf(organizationScope, gatewayScope)
	s.Default = string(organizationScope)
	return s
}

// subjectKind is a billing.SubjectKind in requests.
type subjectKind billing.SubjectKind

// Schema lists the kinds.
func (subjectKind) Schema(huma.Registry) *huma.Schema {
	return enumOf(billing.SubjectKinds...)
}

// ChangeSelection are the parameters that select changes.
type ChangeSelection struct {
	Interval
	Actor       string      `query:"actor" maxLength:"200" doc:"Changes by the actor of this id or name."`
	Action      string      `query:"action" maxLength:"200" doc:"Changes of this kind." example:"key.update"`
	SubjectKind subjectKind `query:"subject_kind" doc:"Changes of what is of this kind."`
	SubjectID   string      `query:"subject_id" maxLength:"200" doc:"Changes of what has this id; of the project of this name."`
	Scope       changeScope `query:"scope" doc:"gateway selects changes of the gateway itself, of no organization: for operators alone."`
}

type changesInput struct {
	Paging
	ChangeSelection
}

func (a *api) registerChanges() {
	register(a, huma.Operation{
		OperationID: "list-changes", Method: http.MethodGet, Path: "/v1/changes", Tags: []string{"Changes"},
		Summary: "Who changed what, newest first",
		Description: "Each change of an organization, its keys, projects and members, and each entry of its ledger that no request has made, " +
			"is recorded in the transaction that makes it.",
	}, a.listChanges)
	registerExport(a, huma.Operation{
		OperationID: "export-changes", Method: http.MethodGet, Path: "/v1/changes/export", Tags: []string{"Changes"},
		Summary: "All changes that are selected, as a file",
	}, a.exportChanges)
}

func (a *api) listChanges(ctx context.Context, in *changesInput) (*body[list[change]], error) {
	page, err := in.page()
	if err != nil {
		return nil, err
	}
	org, f, err := in.read(ctx)
	if err != nil {
		return nil, err
	}
	found, err := a.gateway.Store().ListChanges(ctx, org, f, page)
	if err != nil {
		return nil, listError("changes", err)
	}
	records, next := cut(in.Paging, found, func(c billing.ChangeRecord) string { return c.ID })
	return &body[list[change]]{list[change]{Data: mapped(records, newChange), NextCursor: next}}, nil
}

// read returns whose changes are selected, "" for the gateway's own, and which.
func (s ChangeSelection) read(ctx context.Context) (org string, out billing.ChangeFilter, err error) {
	var f faults
	out = billing.ChangeFilter{
		Actor: s.Actor, Action: s.Action, SubjectKind: billing.SubjectKind(s.SubjectKind), SubjectID: s.SubjectID,
	}
	out.From, out.To = s.Interval.read(&f)
	f.checkTexts("actor", s.Actor)
	f.checkTexts("action", s.Action)
	f.checkTexts("subject_id", s.SubjectID)
	if err := f.err(); err != nil {
		return "", billing.ChangeFilter{}, err
	}
	if s.Scope != gatewayScope {
		return organizationOf(ctx), out, nil
	}
	if callerOf(ctx).role != billing.RoleOperator {
		return "", billing.ChangeFilter{}, errNotOperator
	}
	return "", out, nil
}
