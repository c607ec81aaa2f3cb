//go:build unix

package postgres

import (
	"context"
	"errors"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
	"github.com/caddy-llm-gateway/gateway/billing/internal/columns"
	"github.com/caddy-llm-gateway/gateway/internal/pgtest"
)

// openTwo opens books of two organizations, each of which has everything.
func openTwo(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.Context(), pgtest.DSN(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	for _, org := range []string{"org_a", "org_b"} {
		fill(t, s, org)
	}
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func fill(t *testing.T, s *Store, org string) {
	t.Helper()
	must(t, s.EnsureOrganization(t.Context(), billing.Organization{ID: org, CreatedAt: time.Now()}))
	must(t, s.CreateKey(t.Context(), billing.Key{ID: "key_" + org, OrganizationID: org, Name: org, Owner: memberOf(org).ID, Hash: billing.HashSecret(org), CreatedAt: time.Now()}))
	must(t, s.CreateMember(t.Context(), memberOf(org)))
	_, err := s.PutProject(t.Context(), org, "project", func(*billing.Project) error { return nil })
	must(t, err)
	_, err = s.Append(t.Context(), billing.Entry{OrganizationID: org, Type: billing.Purchase, Amount: 100, IdempotencyKey: "1", CreatedAt: time.Now()})
	must(t, err)
	_, _, err = s.RotateKey(t.Context(), org, "key_"+org, billing.Rotation{
		Hash: billing.HashSecret("new " + org), Prefix: "new", At: time.Now(), Overlap: time.Hour,
	})
	must(t, err)
	one := owed("req_" + org)
	one.OrganizationID, one.KeyID, one.At = org, "key_"+org, time.Now()
	_, err = s.Post(t.Context(), "node", []billing.Settlement{one})
	must(t, err)
}

func memberOf(org string) billing.Member {
	return billing.Member{ID: "mem_" + org, OrganizationID: org, Email: org + "@example.com", Role: billing.RoleViewer, CreatedAt: time.Now()}
}

// guardedTables are the tables with a policy, and the column that it is about.
func guardedTables(t *testing.T, s *Store) map[string]string {
	t.Helper()
	rows, err := s.pool.Query(t.Context(), `
SELECT c.relname, CASE c.relname WHEN 'organizations' THEN 'id' ELSE 'organization_id' END
FROM pg_class c WHERE c.relrowsecurity AND c.relforcerowsecurity AND EXISTS (SELECT FROM pg_policy WHERE polrelid = c.oid)`)
	must(t, err)
	tables := make(map[string]string)
	var table, column string
	_, err = pgx.ForEachRow(rows, []any{&table, &column}, func() error {
		tables[table] = column
		return nil
	})
	must(t, err)
	return tables
}

func TestASuperuserBypassesPolicies(t *testing.T) {
	t.Parallel()
	cluster, err := pgtest.StartCluster() // whose superuser is known
	must(t, err)
	t.Cleanup(cluster.Close)
	address, err := url.Parse(cluster.DSN())
	must(t, err)
	address.User, address.Path = url.User("postgres"), "/postgres"
	pool, err := pgxpool.New(t.Context(), address.String())
	must(t, err)
	defer pool.Close()
	s := &Store{pool: pool, reports: books.NewTurns(1)}
	if bypasses, err := s.BypassesPolicies(t.Context()); err != nil || !bypasses {
		t.Errorf("superuser bypasses policies: %t, %v", bypasses, err)
	}
}

// A query that forgot to name the organization finds nothing of another.
func TestAScopeHasTheRowsOfItsOrganizationAlone(t *testing.T) {
	t.Parallel()
	s := openTwo(t)
	if bypasses, err := s.BypassesPolicies(t.Context()); err != nil || bypasses {
		t.Fatalf("tests run as a role without policies: %t, %v", bypasses, err)
	}
	tables := guardedTables(t, s)
	for _, table := range []string{
		"organizations", "keys", "key_secrets", "projects", "accounts", "entries", "requests", "allowances",
		"rollups", "requests_default", "members", "changes",
	} {
		column := tables[table]
		if column == "" {
			t.Errorf("%s has no policy", table)
			continue
		}
		all := "SELECT DISTINCT " + column + "::text FROM " + table + " ORDER BY 1"
		text := func(row columns.Row) (id string, err error) {
			err = row.Scan(&id)
			return id, err
		}
		for _, org := range []string{"org_a", "org_b"} {
			found, err := list(t.Context(), s.of(org), text, all)
			if err != nil || !slices.Equal(found, []string{org}) {
				t.Errorf("%s: %s sees the rows of %v, %v", table, org, found, err)
			}
			found, err = list(t.Context(), s.of(org), text, all, planned)
			if err != nil || !slices.Equal(found, []string{org}) {
				t.Errorf("%s: %s sees the rows of %v, %v", table, org, found, err)
			}
		}
		found, err := list(t.Context(), s.pool, text, all)
		if err != nil || !slices.Equal(found, []string{"org_a", "org_b"}) {
			t.Errorf("%s: without a scope there are rows of %v, %v", table, found, err)
		}
		if found, err = list(t.Context(), s.of("org_c"), text, all); err != nil || len(found) > 0 {
			t.Errorf("%s: another organization sees the rows of %v, %v", table, found, err)
		}
	}
	for _, table := range []string{"leases", "quotas", "verified_ledgers", "verified_hours"} {
		if tables[table] != "" {
			t.Errorf("%s has a policy", table)
		}
	}
}

func TestAScopeWritesNothingOfAnother(t *testing.T) {
	t.Parallel()
	s := openTwo(t)
	for _, query := range []string{
		"UPDATE keys SET name = 'stolen'", "UPDATE organizations SET name = 'stolen'", "UPDATE accounts SET balance = balance + 1",
		"UPDATE projects SET budget = 1",
	} {
		err := s.writeFor(t.Context(), "org_a", func(tx pgx.Tx) error {
			done, err := tx.Exec(t.Context(), query)
			if err == nil && done.RowsAffected() != 1 {
				t.Errorf("%s changed %d rows", query, done.RowsAffected())
			}
			return err
		})
		must(t, err)
	}
	err := s.writeFor(t.Context(), "org_a", func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), "UPDATE keys SET organization_id = 'org_b'")
		return err
	})
	if e, ok := errors.AsType[*pgconn.PgError](err); !ok || e.Code != "42501" {
		t.Errorf("a key was given to another organization: %v", err)
	}
}

// Under a policy that shows nothing without a scope, all that is done for one
// organization still works: so none of it goes around the wall.
func TestWhatIsDoneForAnOrganizationIsScoped(t *testing.T) {
	t.Parallel()
	s := openTwo(t)
	for table, column := range guardedTables(t, s) {
		_, err := s.pool.Exec(t.Context(), "ALTER POLICY own_organization ON "+pgx.Identifier{table}.Sanitize()+
			" USING (current_setting('llm_gateway.organization', true) = "+column+")")
		must(t, err)
	}
	if _, err := s.KeysByHash(t.Context(), []billing.KeyHash{billing.HashSecret("new org_a")}); err != nil {
		t.Fatal(err)
	}
	var none int
	must(t, s.pool.QueryRow(t.Context(), "SELECT count(*) FROM keys").Scan(&none))
	if none != 0 {
		t.Fatalf("%d keys are seen without a scope", none)
	}
	const org, key, member = "org_a", "key_org_a", "mem_org_a"
	page, count := billing.Page{}, func(n int, err error) error {
		if err == nil && n != 1 {
			t.Errorf("found %d, want 1", n)
		}
		return err
	}
	for name, do := range map[string]func(ctx context.Context) error{
		"Account":      func(ctx context.Context) error { _, err := s.Account(ctx, org); return err },
		"Organization": func(ctx context.Context) error { _, err := s.Organization(ctx, org); return err },
		"EnsureOrganization": func(ctx context.Context) error {
			return s.EnsureOrganization(ctx, billing.Organization{ID: org, CreatedAt: time.Now()})
		},
		"UpdateOrganization": func(ctx context.Context) error {
			_, err := s.UpdateOrganization(ctx, org, func(*billing.Organization) error { return nil })
			return err
		},
		"CreateOrganization": func(ctx context.Context) error {
			other := billing.Member{ID: "mem_other", Email: "other@example.com", Role: billing.RoleOwner, CreatedAt: time.Now()}
			return s.CreateOrganization(ctx, billing.Organization{ID: "org_other", CreatedAt: time.Now()}, other)
		},
		"ListMembers": func(ctx context.Context) error {
			l, err := s.ListMembers(ctx, org, billing.MemberFilter{Role: memberOf(org).Role}, page)
			return count(len(l), err)
		},
		"Member": func(ctx context.Context) error { _, err := s.Member(ctx, org, member); return err },
		"UpdateMember": func(ctx context.Context) error {
			_, err := s.UpdateMember(ctx, org, member, func(*billing.Member) error { return nil })
			return err
		},
		"CreateMember and DeleteMember": func(ctx context.Context) error {
			m := billing.Member{ID: "mem_new", OrganizationID: org, Email: "new@example.com", Role: billing.RoleOwner, CreatedAt: time.Now()}
			err := s.CreateMember(ctx, m)
			if err != nil {
				return err
			}
			return s.DeleteMember(ctx, org, m.ID, func(billing.Member) error { return nil })
		},
		"ListChanges": func(ctx context.Context) error {
			l, err := s.ListChanges(ctx, org, billing.ChangeFilter{Action: "key.create", SubjectID: key}, page)
			if err == nil && len(l) == 1 {
				_, err = s.ListChanges(ctx, org, billing.ChangeFilter{}, billing.Page{After: l[0].ID})
			}
			return count(len(l), err)
		},
		"CreateKey": func(ctx context.Context) error {
			return s.CreateKey(ctx, billing.Key{ID: "key_new", OrganizationID: org, Name: "new", Owner: "mem_none", Hash: billing.HashSecret("key_new"), CreatedAt: time.Now()})
		},
		"PutProject and DeleteProject": func(ctx context.Context) error {
			_, err := s.PutProject(ctx, org, "new", func(*billing.Project) error { return nil })
			if err != nil {
				return err
			}
			return s.DeleteProject(ctx, org, "new", func(billing.Project) error { return nil })
		},
		"ListProjects": func(ctx context.Context) error { l, err := s.ListProjects(ctx, org, page); return count(len(l), err) },
		"Project":      func(ctx context.Context) error { _, err := s.Project(ctx, org, "project"); return err },
		"PutProject": func(ctx context.Context) error {
			_, err := s.PutProject(ctx, org, "project", func(*billing.Project) error { return nil })
			return err
		},
		"ListKeys": func(ctx context.Context) error {
			l, err := s.ListKeys(ctx, org, billing.KeyFilter{Owner: member}, page)
			return count(len(l), err)
		},
		"Key": func(ctx context.Context) error { _, err := s.Key(ctx, org, key); return err },
		"UpdateKey": func(ctx context.Context) error {
			_, err := s.UpdateKey(ctx, org, key, func(*billing.Key) error { return nil })
			return err
		},
		"RotateKey": func(ctx context.Context) error {
			_, _, err := s.RotateKey(ctx, org, key, billing.Rotation{Hash: billing.HashSecret("newest"), Prefix: "newest", At: time.Now()})
			return err
		},
		"Append": func(ctx context.Context) error {
			_, err := s.Append(ctx, billing.Entry{OrganizationID: org, Type: billing.Purchase, Amount: 100, IdempotencyKey: "1", CreatedAt: time.Now()})
			return err
		},
		"Transactions": func(ctx context.Context) error {
			l, err := s.Transactions(ctx, org, billing.EntryFilter{}, page)
			return count(len(l)-1, err)
		},
		"Transactions, oldest first": func(ctx context.Context) error {
			l, err := s.Transactions(ctx, org, billing.EntryFilter{}, billing.Page{OldestFirst: true})
			return count(len(l)-1, err)
		},
		"Requests": func(ctx context.Context) error {
			l, err := s.Requests(ctx, org, billing.Filter{}, page)
			return count(len(l), err)
		},
		"Requests of a key": func(ctx context.Context) error {
			_, err := s.Requests(ctx, org, billing.Filter{KeyIDs: []string{key}}, page)
			return err
		},
		"Request": func(ctx context.Context) error { _, err := s.Request(ctx, org, "req_"+org); return err },
		"Usage": func(ctx context.Context) error {
			u, err := s.Usage(ctx, org, billing.Filter{}, billing.Grouping{})
			return count(int(u.Requests), err)
		},
		"Usage by dates and keys": func(ctx context.Context) error {
			u, err := s.Usage(ctx, org, billing.Filter{KeyIDs: []string{key}}, billing.Grouping{By: []billing.Dimension{billing.ByDate, billing.ByKey}})
			return count(len(u.Groups), err)
		},
		"Usage of an owner": func(ctx context.Context) error {
			u, err := s.Usage(ctx, org, billing.Filter{Owner: member}, billing.Grouping{})
			return count(int(u.Requests), err)
		},
	} {
		if err := do(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// countedConn counts how often the client turns from reading to writing: the
// trips to the server.
type countedConn struct {
	net.Conn
	trips *atomic.Int64
	read  atomic.Bool
}

func (c *countedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.read.Store(true)
	}
	return n, err
}

func (c *countedConn) Write(b []byte) (int, error) {
	if c.read.Swap(false) {
		c.trips.Add(1)
	}
	return c.Conn.Write(b)
}

func TestAScopeCostsNoTrip(t *testing.T) {
	t.Parallel()
	openTwo(t)
	config, err := pgxpool.ParseConfig(pgtest.DSN(t))
	must(t, err)
	config.MaxConns = 1
	var trips atomic.Int64
	dial := config.ConnConfig.DialFunc
	config.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		return &countedConn{Conn: conn, trips: &trips}, err
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	must(t, err)
	defer pool.Close()
	s := &Store{pool: pool, reports: books.NewTurns(1)}
	for name, do := range map[string]func() error{
		"one row": func() error { _, err := s.Key(t.Context(), "org_a", "key_org_a"); return err },
		"a page of what is planned for its arguments": func() error {
			_, err := s.Requests(t.Context(), "org_a", billing.Filter{}, billing.Page{})
			return err
		},
	} {
		must(t, do()) // prepares the statements
		before := trips.Load()
		must(t, do())
		if n := trips.Load() - before; n != 1 {
			t.Errorf("%s: %d trips to the server", name, n)
		}
	}
}

// Neither rows that are not read to their end nor errors keep a connection.
func TestScopesGiveTheirConnectionsBack(t *testing.T) {
	t.Parallel()
	s := openTwo(t)
	for range 3 * s.pool.Config().MaxConns {
		if _, err := s.Key(t.Context(), "org_a", "key_org_b"); !errors.Is(err, billing.ErrNotFound) {
			t.Fatalf("error is %v", err)
		}
		rows, err := s.of("org_a").Query(t.Context(), "SELECT generate_series(1, 10000)")
		must(t, err)
		rows.Next()
		rows.Close()
		var n int
		err = s.of("org_a").QueryRow(t.Context(), "SELECT 1 / (id::integer - 1) FROM generate_series(0, 1) AS id").Scan(&n)
		if err == nil {
			err = s.of("org_a").QueryRow(t.Context(), "SELECT no_such_column FROM keys").Scan(&n)
		}
		if err == nil || !strings.Contains(err.Error(), "no_such_column") && !strings.Contains(err.Error(), "division") {
			t.Fatalf("error is %v", err)
		}
	}
	if n := s.pool.Stat().AcquiredConns(); n != 0 {
		t.Errorf("%d connections are in use", n)
	}
}
