package books

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// NoLimit is the limit of an allowance that has none.
const NoLimit billing.Money = math.MaxInt64

// CheckWants returns the wants with their allowances' starts in UTC, or an
// error as CheckLeases does.
func CheckWants(wants []billing.Want) ([]billing.Want, error) {
	checked := make([]billing.Want, len(wants))
	for i, w := range wants {
		a := w.Allowance
		if err := checkLease(billing.Lease{Allowance: a, Amount: min(w.Need, w.Ahead)}); err != nil {
			return nil, fmt.Errorf("%s allowance of %q: %w", a.Kind, a.OrganizationID, err)
		}
		w.Allowance.Start = a.Start.UTC()
		checked[i] = w
	}
	return checked, nil
}

// CheckLeases returns the leases with their allowances' starts in UTC, or an
// error if one does not name an allowance that spend is ever booked on: a
// grant from such a one would be a grant beyond the limit.
func CheckLeases(leases []billing.Lease) ([]billing.Lease, error) {
	checked := make([]billing.Lease, len(leases))
	for i, l := range leases {
		if err := checkLease(l); err != nil {
			return nil, fmt.Errorf("%s allowance of %q: %w", l.Allowance.Kind, l.Allowance.OrganizationID, err)
		}
		l.Allowance.Start = l.Allowance.Start.UTC()
		checked[i] = l
	}
	return checked, nil
}

func checkLease(l billing.Lease) error {
	a := l.Allowance
	if _, err := billing.ParsePeriod(string(a.Period)); err != nil {
		return err
	}
	switch a.Kind {
	case billing.Credits:
		if a.Period != billing.Never {
			return fmt.Errorf("credits have no period, not %s", a.Period)
		}
	case billing.Budget, billing.ProjectBudget, billing.KeySpend:
	default:
		return errors.New("unknown kind")
	}
	switch {
	case a.OrganizationID == "":
		return errors.New("no organization")
	case (a.Kind == billing.KeySpend || a.Kind == billing.ProjectBudget) != (a.Subject != ""):
		return errors.New("a key or a project is named for what is its, and only for that")
	case !isStart(a):
		return fmt.Errorf("no %s period starts at %s", a.Period, a.Start)
	case l.Amount < 0:
		return fmt.Errorf("negative amount %d", l.Amount)
	}
	return nil
}

// isStart tells whether the allowance's period can start when it says, be it on
// a day that weeks of some organization start on.
func isStart(a billing.Allowance) bool {
	return slices.ContainsFunc(billing.WeekStarts, func(w billing.WeekStart) bool {
		return a.Period.Start(a.Start, w).Equal(a.Start)
	})
}

// IsKept tells whether what is settled in the allowance is kept as a number. A
// week and a month are the sums of their days.
func IsKept(a billing.Allowance) bool {
	return a.Period == billing.Daily || a.Period == billing.Never
}

// Kept are the numbers whose sum is settled in an allowance: those of one period
// with a start in the span.
type Kept struct {
	Period billing.Period
	Span
}

// KeptOf returns where to find what is settled in an allowance.
func KeptOf(a billing.Allowance) Kept {
	start := a.Start.UTC()
	if a.Period == billing.Never {
		return Kept{billing.Never, Span{From: start, To: start.Add(time.Microsecond)}}
	}
	return Kept{billing.Daily, Span{From: start, To: a.End()}}
}

// State is what a store knows of an allowance.
type State struct {
	// Credited is the limit of credits.
	Credited billing.Money
	Settled  billing.Money
	// Leased of the allowance, and of others that a cost in it may count in.
	Leased billing.Money
	// Budget is the organization's, and WeekStart the day that its weeks start
	// on; "" is any.
	Budget    PeriodLimit
	WeekStart billing.WeekStart
	// Project is the limit of a project. One that has no settings has none.
	Project PeriodLimit
	// Key is the limit of a key's spend; nil if there is no such key.
	Key *PeriodLimit
}

// PeriodLimit is the part of a key, a project or an organization that limits its
// spend.
type PeriodLimit struct {
	Limit *billing.Money
	Reset billing.Period
}

// limit returns what may be settled and leased of an allowance together.
func (s State) limit(a billing.Allowance) billing.Money {
	switch {
	case a.Kind == billing.Credits:
		return s.Credited
	case a.Kind == billing.Budget:
		return s.Budget.in(a, s.WeekStart)
	case a.Kind == billing.ProjectBudget:
		return s.Project.in(a, s.WeekStart)
	case s.Key == nil:
		return 0
	}
	return s.Key.in(a, s.WeekStart)
}

// in returns what the limit allows in the allowance's period. In another one
// than its own that is nothing: who asks for it has not seen the limit.
func (l PeriodLimit) in(a billing.Allowance, week billing.WeekStart) billing.Money {
	switch {
	case l.Limit == nil:
		return NoLimit
	case l.Period() != a.Period:
		return 0
	case week != "" && !a.Period.Start(a.Start, week).Equal(a.Start):
		return 0
	}
	return *l.Limit
}

// Period returns the period of the limit.
func (l PeriodLimit) Period() billing.Period {
	if l.Limit == nil || l.Reset == "" {
		return billing.Never
	}
	return l.Reset
}

// aheadShare is the part of an allowance's room that one lease may take for
// requests that have not come yet: a quarter.
const aheadShare = 4

// Grant returns how much of what is wanted the allowance has room for. It is
// written as comparisons since sums could overflow.
func (s State) Grant(want billing.Want) billing.Money {
	limit := s.limit(want.Allowance)
	if limit <= s.Settled || limit-s.Settled <= s.Leased {
		return 0
	}
	room := limit - s.Settled - s.Leased
	if want.Need >= room {
		return room
	}
	rest := room - want.Need
	if limit != NoLimit {
		rest /= aheadShare
	}
	return want.Need + min(want.Ahead, rest)
}

// Leased is what all nodes have leased of an allowance, and the part of it that
// the asking node has.
type Leased struct {
	billing.Lease
	Own billing.Money
}

// Grants answers wants one after the other from the states of their
// allowances, and from what is leased of the spend that they limit. An allowance
// may be wanted more than once.
//
// What is leased in any period counts in each that overlaps it: where a limit
// gets another period, or weeks another start, what is spent out of leases of
// before counts in the new period, too.
func Grants(want []billing.Want, states []State, leases []Leased) []billing.Grant {
	grants := make([]billing.Grant, len(want))
	leased := make(map[billing.Payer][]Leased, len(want))
	for _, l := range leases {
		p := l.Allowance.Payer()
		leased[p] = append(leased[p], l)
	}
	for i, w := range want {
		s, p := states[i], w.Allowance.Payer()
		for _, l := range leased[p] {
			if l.Allowance.Overlaps(w.Allowance) {
				s.Leased = add(s.Leased, l.Amount)
				grants[i].Elsewhere = add(grants[i].Elsewhere, l.Amount-l.Own)
			}
		}
		grants[i].Lease = billing.Lease{Allowance: w.Allowance, Amount: s.Grant(w)}
		leased[p] = append(leased[p], Leased{grants[i].Lease, grants[i].Amount})
	}
	return grants
}

// add returns the sum of amounts that are not negative, or the most there is.
func add(a, b billing.Money) billing.Money { return a + min(b, NoLimit-a) }

// LeasesIn returns the leases of the grants.
func LeasesIn(grants []billing.Grant) []billing.Lease {
	leases := make([]billing.Lease, len(grants))
	for i, g := range grants {
		leases[i] = g.Lease
	}
	return leases
}

// Merge sums up leases of the same allowance, drops those of nothing, and
// sorts them.
func Merge(leases []billing.Lease) []billing.Lease {
	sums := make(map[billing.Allowance]billing.Money, len(leases))
	for _, l := range leases {
		// Amounts to give back may add up to more than there is money; what a
		// node has is less.
		sums[l.Allowance] += min(l.Amount, NoLimit-sums[l.Allowance])
	}
	return sorted(sums)
}

// sorted lists the amounts above zero in the order that they are written in.
func sorted(amounts map[billing.Allowance]billing.Money) []billing.Lease {
	list := make([]billing.Lease, 0, len(amounts))
	for a, amount := range amounts {
		if amount > 0 {
			list = append(list, billing.Lease{Allowance: a, Amount: amount})
		}
	}
	slices.SortFunc(list, func(x, y billing.Lease) int {
		a, b := x.Allowance, y.Allowance
		return cmp.Or(
			cmp.Compare(a.OrganizationID, b.OrganizationID),
			cmp.Compare(a.Subject, b.Subject),
			cmp.Compare(a.Kind, b.Kind),
			cmp.Compare(a.Period, b.Period),
			a.Start.Compare(b.Start),
		)
	})
	return list
}

// OrganizationsOf returns the organizations of the allowances of a list, sorted.
func OrganizationsOf[T any](list []T, of func(*T) *billing.Allowance) []string {
	ids := make([]string, 0, 1)
	for i := range list {
		ids = append(ids, of(&list[i]).OrganizationID)
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}
