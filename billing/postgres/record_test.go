//go:build unix

package postgres

import (
	"fmt"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
)

// selectWaiting counts the transactions that wait for a record's number.
const selectWaiting = `SELECT count(*) FROM pg_locks
WHERE locktype = 'advisory' AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`

// A record that is not committed yet has a number, and none that is greater may
// be seen before it.
func TestRecordsAreNumberedInTheOrderOfCommits(t *testing.T) {
	t.Parallel()
	s := openTwo(t)
	tx, err := s.pool.Begin(t.Context())
	must(t, err)
	defer tx.Rollback(t.Context())
	first := billing.Key{ID: "key_first", OrganizationID: "org_a", CreatedAt: time.Now()}
	must(t, recordChange(t.Context(), tx, books.KeyCreated(t.Context(), first)))

	create := func(org, id string) error {
		return s.CreateKey(t.Context(), billing.Key{ID: id, OrganizationID: org, Hash: billing.HashSecret(id), CreatedAt: time.Now()})
	}
	must(t, create("org_b", "key_elsewhere")) // waits for nobody
	second := make(chan error, 1)
	go func() { second <- create("org_a", "key_second") }()
	for waiting := 0; waiting == 0; {
		select {
		case err := <-second:
			t.Fatalf("a later record is committed before an earlier one, with error %v", err)
		default:
			must(t, s.pool.QueryRow(t.Context(), selectWaiting).Scan(&waiting))
		}
	}
	must(t, tx.Commit(t.Context()))
	must(t, <-second)
	l, err := s.ListChanges(t.Context(), "org_a", billing.ChangeFilter{}, billing.Page{Limit: 2})
	must(t, err)
	if got := fmt.Sprint(l[0].Subject.ID, " ", l[1].Subject.ID); got != "key_second key_first" {
		t.Errorf("newest changes are %s", got)
	}
}

// Changes of keys, projects and members lock in an order in which no two wait
// for each other.
func TestChangesOfAllKindsDoNotDeadlock(t *testing.T) {
	t.Parallel()
	s := openTwo(t)
	const each = 20
	done := make(chan error)
	for _, change := range []func(n int) error{
		func(n int) error {
			_, err := s.PutProject(t.Context(), "org_a", "project", func(p *billing.Project) error {
				p.Budget = new(billing.Money(n))
				return nil
			})
			return err
		},
		func(n int) error {
			_, err := s.UpdateMember(t.Context(), "org_a", memberOf("org_a").ID, func(m *billing.Member) error {
				m.Name = fmt.Sprint("name ", n)
				return nil
			})
			return err
		},
		func(n int) error {
			_, err := s.UpdateOrganization(t.Context(), "org_a", func(o *billing.Organization) error {
				o.Name = fmt.Sprint("name ", n)
				return nil
			})
			return err
		},
		func(n int) error {
			_, err := s.UpdateKey(t.Context(), "org_a", "key_org_a", func(k *billing.Key) error {
				k.Name = fmt.Sprint("name ", n)
				return nil
			})
			return err
		},
		func(n int) error {
			_, err := s.Append(t.Context(), billing.Entry{
				OrganizationID: "org_a", Type: billing.Purchase, Amount: 1, IdempotencyKey: fmt.Sprint("purchase ", n), CreatedAt: time.Now(),
			})
			return err
		},
	} {
		go func() {
			var err error
			for n := 0; n < each && err == nil; n++ {
				err = change(n)
			}
			done <- err
		}()
	}
	for range 5 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
