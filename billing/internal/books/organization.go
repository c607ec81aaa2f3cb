package books

import (
	"errors"
	"fmt"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// NewOrganization returns an organization in the form that it is stored in.
func NewOrganization(o billing.Organization) (billing.Organization, error) {
	switch {
	case o.ID == "":
		return billing.Organization{}, errors.New("organization has no id")
	case o.Budget != nil && *o.Budget < 0:
		return billing.Organization{}, fmt.Errorf("negative budget %d", *o.Budget)
	case o.BudgetSoft != nil && *o.BudgetSoft < 0:
		return billing.Organization{}, fmt.Errorf("negative soft budget %d", *o.BudgetSoft)
	case o.RateLimitRPM < 0:
		return billing.Organization{}, fmt.Errorf("negative rate limit %d", o.RateLimitRPM)
	}
	if o.WeekStart != "" {
		if _, err := billing.ParseWeekStart(string(o.WeekStart)); err != nil {
			return billing.Organization{}, err
		}
	}
	if err := checkPeriod(o.BudgetPeriod); err != nil {
		return billing.Organization{}, err
	}
	o.Name, o.CreatedAt = Text(o.Name), Time(o.CreatedAt)
	return o, nil
}

// ChangeOrganization lets change alter an organization, within what may
// change.
func ChangeOrganization(o billing.Organization, change func(*billing.Organization) error) (billing.Organization, error) {
	before := o
	if err := change(&o); err != nil {
		return billing.Organization{}, err
	}
	o.ID, o.CreatedAt = before.ID, before.CreatedAt
	return NewOrganization(o)
}
