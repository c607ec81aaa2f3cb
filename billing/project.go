package billing

import "time"

// Project is a group of an organization's keys that share a budget. Keys name
// it in their Project, also one that has no settings yet.
type Project struct {
	OrganizationID string
	// Name is unique in the organization.
	Name      string
	CreatedAt time.Time
	// Budget is the spend allowed in each period, all of its keys together; nil
	// is no limit.
	Budget       *Money
	BudgetPeriod Period
	// BudgetSoft is the spend in each period from which on requests are served
	// with a warning; nil is none.
	BudgetSoft *Money
}

// ProjectBudgetOf is the allowance of a project's budget in the period that
// contains t, limited or not.
func ProjectBudgetOf(p *Project, t time.Time, week WeekStart) Allowance {
	period := p.BudgetPeriod
	if period == "" {
		period = Never
	}
	return Allowance{
		OrganizationID: p.OrganizationID, Kind: ProjectBudget, Subject: p.Name,
		Period: period, Start: period.Start(t, week),
	}
}
