package admin

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/danielgtaylor/huma/v2"
)

// project is a group of keys with a budget, in answers.
type project struct {
	Name        string        `json:"name"`
	MaxDollars  *dollars      `json:"max_dollars" doc:"What its keys may spend in each period, in USD; null is no limit."`
	SoftDollars *dollars      `json:"soft_dollars" doc:"From which spend in each period on requests are served with a warning, in USD; null is none."`
	Period      string        `json:"period" enum:"daily,weekly,monthly,never"`
	SpentNanos  billing.Money `json:"spent_nanos" doc:"Spent in the current period, by all its keys."`
	PeriodStart *time.Time    `json:"period_start" doc:"When the current period began; null for never."`
	PeriodEnd   *time.Time    `json:"period_end" doc:"When the next one begins; null for never."`
	CreatedAt   time.Time     `json:"created_at"`
}

type projectInput struct {
	Name string `path:"name" doc:"The project's name, as keys name it."`
}

type putProjectInput struct {
	Name string `path:"name" doc:"The project's name, as keys name it."`
	Body BudgetLimits
}

func (a *api) registerProjects() {
	tags := []string{"Projects"}
	register(a, huma.Operation{
		OperationID: "list-projects", Method: http.MethodGet, Path: "/v1/projects", Tags: tags,
		Summary: "Projects with a budget, by name",
	}, a.listProjects)
	registerTagged(a, huma.Operation{
		OperationID: "get-project", Method: http.MethodGet, Path: "/v1/projects/{name}", Tags: tags,
		Summary: "A project's budget and what is spent of it",
	}, a.getProject)
	registerTagged(a, ifMatch(huma.Operation{
		OperationID: "put-project", Method: http.MethodPut, Path: "/v1/projects/{name}", Tags: tags,
		Summary:     "Set a project's budget",
		Description: "A field that is absent stays as it is, null sets its default. What the project's keys have spent before counts.",
	}), a.putProject)
	register(a, ifMatch(huma.Operation{
		OperationID: "delete-project", Method: http.MethodDelete, Path: "/v1/projects/{name}", Tags: tags,
		Summary:     "Remove a project's budget",
		Description: "Its keys keep the name, and what they spend is still summed up under it.",
	}), a.deleteProject)
}

func (a *api) listProjects(ctx context.Context, in *Paging) (*body[list[project]], error) {
	page, err := in.page()
	if err != nil {
		return nil, err
	}
	found, err := a.gateway.Store().ListProjects(ctx, organizationOf(ctx), page)
	if err != nil {
		return nil, fmt.Errorf("listing projects: %w", err)
	}
	found, next := cut(*in, found, func(p billing.Project) string { return p.Name })
	data, err := a.projects(ctx, found)
	if err != nil {
		return nil, err
	}
	return &body[list[project]]{list[project]{Data: data, NextCursor: next}}, nil
}

func (a *api) getProject(ctx context.Context, in *projectInput) (*tagged[project], error) {
	if !projectName.MatchString(in.Name) {
		return nil, errNoProject
	}
	p, err := a.gateway.Store().Project(ctx, organizationOf(ctx), in.Name)
	if errors.Is(err, billing.ErrNotFound) {
		return nil, errNoProject
	}
	if err != nil {
		return nil, fmt.Errorf("reading a project: %w", err)
	}
	return a.answerProject(ctx, p)
}

func (a *api) putProject(ctx context.Context, in *putProjectInput) (*tagged[project], error) {
	var f faults
	if !projectName.MatchString(in.Name) {
		f.add("path.name", "expected what keys can have as their project: 1 to 64 letters, digits, '.', '_' and '-'")
		return nil, f.err()
	}
	p, err := a.gateway.Store().PutProject(ctx, organizationOf(ctx), in.Name, func(p *billing.Project) error {
		if err := checkMatch(ctx, projectTag(*p)); err != nil {
			return err
		}
		in.Body.apply(&f, budgetFields{&p.Budget, &p.BudgetSoft, &p.BudgetPeriod})
		return f.err()
	})
	if err != nil {
		return nil, fmt.Errorf("changing a project: %w", err)
	}
	a.gateway.ProjectChanged(p)
	return a.answerProject(ctx, p)
}

func (a *api) deleteProject(ctx context.Context, in *projectInput) (*struct{}, error) {
	if !projectName.MatchString(in.Name) {
		return nil, errNoProject
	}
	org := organizationOf(ctx)
	err := a.gateway.Store().DeleteProject(ctx, org, in.Name, func(p billing.Project) error {
		return checkMatch(ctx, projectTag(p))
	})
	if errors.Is(err, billing.ErrNotFound) {
		return nil, errNoProject
	}
	if err != nil {
		return nil, fmt.Errorf("deleting a project: %w", err)
	}
	a.gateway.ProjectChanged(billing.Project{OrganizationID: org, Name: in.Name})
	return nil, nil
}

// projectName is what the field project of keys may be.
var projectName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

func (a *api) answerProject(ctx context.Context, p billing.Project) (*tagged[project], error) {
	data, err := a.projects(ctx, []billing.Project{p})
	if err != nil {
		return nil, err
	}
	return &tagged[project]{projectTag(p), data[0]}, nil
}

// projects are the answers for projects of the caller's organization.
func (a *api) projects(ctx context.Context, found []billing.Project) ([]project, error) {
	now, week := time.Now(), a.weekStart(callerOf(ctx).account.Organization)
	current := mapped(found, func(p billing.Project) billing.Allowance { return billing.ProjectBudgetOf(&p, now, week) })
	spent, err := a.gateway.Store().Spend(ctx, current)
	if err != nil {
		return nil, fmt.Errorf("reading the spend of projects: %w", err)
	}
	data := make([]project, len(found))
	for i, p := range found {
		data[i] = project{
			Name:        p.Name,
			MaxDollars:  (*dollars)(p.Budget),
			SoftDollars: (*dollars)(p.BudgetSoft),
			Period:      string(current[i].Period),
			SpentNanos:  spent[i],
			CreatedAt:   p.CreatedAt.UTC(),
		}
		data[i].PeriodStart, data[i].PeriodEnd = periodBounds(current[i])
	}
	return data, nil
}
