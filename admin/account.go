package admin

import (
	"context"
	"net/http"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/danielgtaylor/huma/v2"
)

type account struct {
	Organization organization  `json:"organization"`
	Role         string        `json:"role" enum:"owner,admin,developer,finance,viewer,operator" doc:"What the caller may do."`
	BalanceNanos billing.Money `json:"balance_nanos" doc:"The sum of all ledger entries."`
	HeldNanos    billing.Money `json:"held_nanos" doc:"Held for open requests on the node that answers."`
}

type organization struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

func (a *api) registerAccount() {
	register(a, huma.Operation{
		OperationID: "get-account", Method: http.MethodGet, Path: "/v1/account", Tags: []string{"Account"},
		Summary: "The organization, its balance, and the caller's role",
	}, a.getAccount)
}

func (a *api) getAccount(ctx context.Context, _ *struct{}) (*body[account], error) {
	c := callerOf(ctx)
	org := c.account.Organization
	return &body[account]{account{
		Organization: organization{ID: org.ID, Name: org.Name},
		Role:         string(c.role),
		BalanceNanos: c.account.Balance,
		HeldNanos:    a.gateway.Held(org.ID),
	}}, nil
}
