package admin

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/danielgtaylor/huma/v2"
)

// node is a gateway that shares the books.
type node struct {
	ID           string        `json:"id" doc:"Stays the same for as long as the journal directory does."`
	State        string        `json:"state" enum:"registered,expired" doc:"expired: no heartbeat came for lease_ttl, and its leases were given back."`
	Host         string        `json:"host" doc:"Name of the machine."`
	Version      string        `json:"version"`
	StartedAt    time.Time     `json:"started_at"`
	LastSeenAt   time.Time     `json:"last_seen_at" doc:"Its last heartbeat, by the clock of the database. One comes every two seconds."`
	LeaseTTL     float64       `json:"lease_ttl_seconds" doc:"How long after a heartbeat its leases last; 0 is for ever."`
	Unposted     int           `json:"unposted" doc:"Settlements in its journal that were not in the store, at that heartbeat."`
	Lag          float64       `json:"lag_seconds" doc:"Age of the oldest of them."`
	Leases       int           `json:"leases" doc:"How many allowances it has leased from."`
	CreditsNanos billing.Money `json:"leased_credits_nanos" doc:"Credits that it has leased, of all organizations."`
}

func newNode(n billing.Node) node {
	state := "registered"
	if n.Expired {
		state = "expired"
	}
	return node{
		ID: n.ID, State: state, Host: n.Host, Version: n.Version,
		StartedAt: n.StartedAt.UTC(), LastSeenAt: n.SeenAt.UTC(), LeaseTTL: n.LeaseTTL.Seconds(),
		Unposted: n.Unposted, Lag: n.Lag.Seconds(), Leases: n.Leases, CreditsNanos: n.Leased,
	}
}

// nodeLease is a part of an allowance that a node may spend without asking.
type nodeLease struct {
	OrganizationID string                `json:"organization_id"`
	Kind           billing.AllowanceKind `json:"kind" enum:"credits,budget,project,key"`
	KeyID          *string               `json:"key_id" doc:"The key whose limit it is part of."`
	Project        *string               `json:"project" doc:"The project whose budget it is part of."`
	Period         billing.Period        `json:"period" enum:"daily,weekly,monthly,never"`
	PeriodStart    time.Time             `json:"period_start"`
	AmountNanos    billing.Money         `json:"amount_nanos"`
}

func newNodeLease(l billing.Lease) nodeLease {
	a := l.Allowance
	n := nodeLease{
		OrganizationID: a.OrganizationID, Kind: a.Kind,
		Period: a.Period, PeriodStart: a.Start.UTC(), AmountNanos: l.Amount,
	}
	switch a.Kind {
	case billing.KeySpend:
		n.KeyID = &a.Subject
	case billing.ProjectBudget:
		n.Project = &a.Subject
	}
	return n
}

func (a *api) registerNodes() {
	tags := []string{"Nodes"}
	register(a, huma.Operation{
		OperationID: "list-nodes", Method: http.MethodGet, Path: "/v1/nodes", Tags: tags,
		Summary: "Gateways that share the books, by id",
	}, a.listNodes)
	register(a, huma.Operation{
		OperationID: "list-node-leases", Method: http.MethodGet, Path: "/v1/nodes/{id}/leases", Tags: tags,
		Summary: "What a node may spend without asking the store",
	}, a.listNodeLeases)
}

func (a *api) listNodes(ctx context.Context, _ *struct{}) (*body[list[node]], error) {
	nodes, err := a.gateway.Store().ListNodes(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing nodes: %w", err)
	}
	return &body[list[node]]{list[node]{Data: mapped(nodes, newNode)}}, nil
}

type nodeInput struct {
	ID string `path:"id"`
}

func (a *api) listNodeLeases(ctx context.Context, in *nodeInput) (*body[list[nodeLease]], error) {
	nodes, err := a.gateway.Store().ListNodes(ctx)
	if err != nil {
		return nil, fmt.Errorf("listing nodes: %w", err)
	}
	if !slices.ContainsFunc(nodes, func(n billing.Node) bool { return n.ID == in.ID }) {
		return nil, &problem{status: http.StatusNotFound, Message: "no such node: see /v1/nodes"}
	}
	leases, err := a.gateway.Store().LeasesOf(ctx, in.ID)
	if err != nil {
		return nil, fmt.Errorf("listing leases: %w", err)
	}
	return &body[list[nodeLease]]{list[nodeLease]{Data: mapped(leases, newNodeLease)}}, nil
}
