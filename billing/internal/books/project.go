package books

import (
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// maxProjectName is in characters.
const maxProjectName = 64

// ChangeProject lets change alter a project, within what may change, and returns
// it in the form that it is stored in. A new one has no time of creation before.
func ChangeProject(p billing.Project, change func(*billing.Project) error) (billing.Project, error) {
	before := p
	if err := change(&p); err != nil {
		return billing.Project{}, err
	}
	p.OrganizationID, p.Name, p.CreatedAt = before.OrganizationID, before.Name, before.CreatedAt
	if p.CreatedAt.IsZero() {
		p.CreatedAt = time.Now()
	}
	p.CreatedAt = Time(p.CreatedAt)
	switch {
	case p.Name == "" || utf8.RuneCountInString(p.Name) > maxProjectName || Text(p.Name) != p.Name:
		return billing.Project{}, errors.New("a project's name is a text of 1 to 64 characters")
	case p.Budget != nil && *p.Budget < 0:
		return billing.Project{}, fmt.Errorf("negative budget %d", *p.Budget)
	case p.BudgetSoft != nil && *p.BudgetSoft < 0:
		return billing.Project{}, fmt.Errorf("negative soft budget %d", *p.BudgetSoft)
	}
	return p, checkPeriod(p.BudgetPeriod)
}
