//go:build unix

package postgres_test

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pressly/goose/v3"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/billingtest"
	"github.com/caddy-llm-gateway/gateway/internal/pgtest"
)

func TestRetention(t *testing.T) {
	billingtest.RunRetention(t, open, raw, aged,
		"DROP TRIGGER entries_no_update ON entries", "DROP TRIGGER entries_no_delete ON entries",
		"DROP TRIGGER requests_no_update ON requests", "DROP TRIGGER requests_no_delete ON requests")
}

// aged ends the first partition of an empty database half a year ago, as if that
// had been its first month.
func aged(t *testing.T, s billing.Store) {
	t.Helper()
	exec(t, raw(t), `ALTER TABLE requests DETACH PARTITION requests_first`)
	exec(t, raw(t), fmt.Sprintf(`ALTER TABLE requests ATTACH PARTITION requests_first FOR VALUES FROM (MINVALUE) TO ('%s')`,
		billing.IDFloor(billing.RequestIDPrefix, monthStart(-6))))
	if err := s.PrepareRequests(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// monthStart is when a month before or after this one begins.
func monthStart(months int) time.Time {
	now := time.Now().UTC()
	return time.Date(now.Year(), now.Month()+time.Month(months), 1, 0, 0, 0, 0, time.UTC)
}

func exec(t *testing.T, db *sql.DB, query string, args ...any) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), query, args...); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// column returns the only column of a query's rows, as text.
func column(t *testing.T, db *sql.DB, query string, args ...any) []string {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query, args...)
	if err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	defer rows.Close()
	var all []string
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			t.Fatal(err)
		}
		all = append(all, text)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

func owed(id string, at time.Time, cost billing.Money) billing.Settlement {
	return billing.Settlement{RequestID: id, OrganizationID: "org", KeyID: "key", At: at, Cost: cost}
}

func mustPost(t *testing.T, s billing.Store, batch ...billing.Settlement) {
	t.Helper()
	if conflicts, err := s.Post(t.Context(), "node", batch); err != nil || len(conflicts) > 0 {
		t.Fatalf("post: %v, %v", conflicts, err)
	}
}

func mustBalance(t *testing.T, s billing.Store) {
	t.Helper()
	v, err := s.Verify(t.Context(), billing.VerifyOptions{Mode: billing.Full})
	if err != nil || v.Imbalance() != 0 {
		t.Errorf("failed checks %+v, %v", v.Failed(), err)
	}
}

func TestTheDatabaseMakesTheSameIDs(t *testing.T) {
	t.Parallel()
	open(t).Close()
	for _, at := range []time.Time{
		{}, time.UnixMilli(1), time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC),
		time.Date(2027, 2, 28, 23, 59, 59, 999_000_000, time.UTC), time.Date(9999, 12, 31, 23, 0, 0, 0, time.UTC),
	} {
		floor := billing.IDFloor(billing.RequestIDPrefix, at)
		if got := column(t, raw(t), "SELECT request_id_floor($1)", at); got[0] != floor {
			t.Errorf("%s: %s, want %s", at, got[0], floor)
		}
		want := max(0, at.UnixMilli())
		got := column(t, raw(t), "SELECT round(extract(epoch FROM request_id_time($1)) * 1000)::bigint", floor)
		if got[0] != fmt.Sprint(want) {
			t.Errorf("time of %s is %s, want %d", floor, got[0], want)
		}
	}
}

func TestRequestsOfBeforeBecomeThePartitionOfBefore(t *testing.T) {
	t.Parallel()
	db := raw(t)
	p, err := goose.NewProvider(goose.DialectPostgres, db, os.DirFS("migrations"), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.UpTo(t.Context(), 16); err != nil {
		t.Fatal(err)
	}
	exec(t, db, "CREATE INDEX requests_by_status ON requests (status)") // such as another version may have made
	exec(t, db, "CREATE TABLE sheets (id text PRIMARY KEY)")
	exec(t, db, "ALTER TABLE requests ADD COLUMN sheet_id text REFERENCES sheets (id)")
	ids := []string{
		billing.IDFloor(billing.RequestIDPrefix, monthStart(-20)), billing.IDFloor(billing.RequestIDPrefix, time.Now()), "abc",
		billing.IDFloor(billing.RequestIDPrefix, monthStart(1)), "~ any text",
	}
	for _, id := range ids {
		exec(t, db, `
INSERT INTO requests (organization_id, request_id, key_id, key_name, arrived_at, provider, model, endpoint,
	input_tokens, input_audio_tokens, input_image_tokens, cache_read_tokens, cache_read_audio_tokens,
	cache_write_tokens, cache_write_long_tokens, output_tokens, output_audio_tokens, output_image_tokens,
	web_searches, reasoning_tokens, usage_source, usage_mismatch, service_tier, cost, market_cost,
	price_rule_id, latency_ns, ttfb_ns, status, error, client_ip, user_agent, streaming, attempts, changes, recovered, hash)
VALUES ('org', $1, 'key', '', now(), '', '', '', 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, '', false, '', 0, 0,
	'', 0, 0, 0, '', '', '', false, 0, '[]', false, sha256(''))`, id)
	}
	s := open(t)
	defer s.Close()
	if err := s.PrepareRequests(t.Context()); err != nil {
		t.Fatal(err)
	}
	next := "requests_" + monthStart(1).Format("2006_01")
	got := column(t, db, "SELECT tableoid::regclass || ' ' || request_id || ' ' || prompt_tokens FROM requests ORDER BY tableoid::regclass::text, request_id COLLATE \"C\"")
	want := []string{
		next + " " + ids[3] + " 3", // from the default partition
		"requests_default ~ any text 3",
		"requests_first abc 3", "requests_first " + ids[0] + " 3", "requests_first " + ids[1] + " 3",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") && strings.Join(got, "\n") != strings.Join(append(want[1:], want[0]), "\n") {
		t.Errorf("rows are in\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, partition := range []string{"requests_first", next, "requests_default"} {
		if n := column(t, db, "SELECT count(*) FROM pg_indexes WHERE tablename = $1", partition); n[0] != "3" {
			t.Errorf("%s has %s indexes", partition, n[0])
		}
		if n := column(t, db, "SELECT count(*) FROM pg_constraint WHERE conrelid = $1::regclass AND contype = 'f'", partition); n[0] != "1" {
			t.Errorf("%s has %s foreign keys", partition, n[0])
		}
		for _, change := range []string{"UPDATE %s SET status = 1", "DELETE FROM %s", "TRUNCATE %s"} {
			if _, err := db.ExecContext(t.Context(), fmt.Sprintf(change, partition)); err == nil || !strings.Contains(err.Error(), "append-only") {
				t.Errorf("%s: error is %v", fmt.Sprintf(change, partition), err)
			}
		}
	}
}

func TestPartitionsAreMadeAheadByAnyNode(t *testing.T) {
	t.Parallel()
	s := open(t)
	defer s.Close()
	at := monthStart(2).Add(time.Hour)
	mustPost(t, s, owed(billing.NewID(billing.RequestIDPrefix, at), at, 5)) // its clock was wrong
	var failed [4]error
	done := make(chan int)
	for i := range failed {
		go func() { failed[i] = s.PrepareRequests(t.Context()); done <- i }()
	}
	for range failed {
		<-done
	}
	for _, err := range failed {
		if err != nil {
			t.Error(err)
		}
	}
	got := column(t, raw(t), "SELECT name FROM request_partitions ORDER BY end_id")
	want := []string{"requests_first"}
	for month := 1; month <= 3; month++ {
		want = append(want, "requests_"+monthStart(month).Format("2006_01"))
	}
	want = append(want, "requests_default")
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("partitions are %v, want %v", got, want)
	}
	if where := column(t, raw(t), "SELECT tableoid::regclass FROM requests"); where[0] != want[2] {
		t.Errorf("the request is in %v, want %s", where, want[2])
	}
	mustBalance(t, s)
}

// A range of ids is looked for in its months alone.
func TestQueriesReadTheirMonthsAlone(t *testing.T) {
	t.Parallel()
	s := open(t)
	defer s.Close()
	aged(t, s)
	from, to := monthStart(-3).AddDate(0, 0, 3), monthStart(-3).AddDate(0, 0, 20)
	plan := strings.Join(column(t, raw(t), fmt.Sprintf(`EXPLAIN SELECT * FROM requests
WHERE organization_id = 'org' AND request_id >= '%s' AND request_id < '%s' ORDER BY request_id DESC LIMIT 100`,
		billing.IDFloor(billing.RequestIDPrefix, from), billing.IDFloor(billing.RequestIDPrefix, to))), "\n")
	if n := strings.Count(plan, "requests_2"); n < 1 || strings.Count(plan, "on requests_"+monthStart(-3).Format("2006_01")) != strings.Count(plan, "on requests_") {
		t.Errorf("plan reads more than the month:\n%s", plan)
	}
}

// What is posted to a partition after it was proven lets it stay.
func TestAPartitionIsNotDroppedWithWhatWasNotProven(t *testing.T) {
	t.Parallel()
	s := open(t)
	defer s.Close()
	aged(t, s)
	db, at := raw(t), monthStart(-4).Add(time.Hour)
	name := "requests_" + monthStart(-4).Format("2006_01")
	exec(t, db, "SELECT watch_request_partition($1)", name)
	mustPost(t, s, owed(billing.NewID(billing.RequestIDPrefix, at), at, 5))
	if done := column(t, db, "SELECT drop_request_partition($1, 0, '{}', '{}')", name); done[0] != "false" {
		t.Errorf("partition with a new request was dropped: %s", done[0])
	}
	if n, err := s.DropRequests(t.Context(), monthStart(-2)); err != nil || n != 1 {
		t.Errorf("dropped %d, %v", n, err)
	}
	mustBalance(t, s)
}

// A query that waits for nothing else goes on while a partition cannot be
// dropped, because another reads it.
func TestPostsDoNotWaitForAPartitionThatCannotBeDropped(t *testing.T) {
	t.Parallel()
	s := open(t)
	defer s.Close()
	aged(t, s)
	tx, err := raw(t).BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.ExecContext(t.Context(), "SELECT count(*) FROM requests"); err != nil {
		t.Fatal(err)
	}
	dropped := make(chan error)
	go func() {
		_, err := s.DropRequests(t.Context(), monthStart(-2))
		dropped <- err
	}()
	posts := 0
	for {
		select {
		case err := <-dropped:
			if err == nil || !strings.Contains(err.Error(), "lock timeout") || posts == 0 {
				t.Errorf("after %d posts: error is %v", posts, err)
			}
			if err := tx.Rollback(); err != nil {
				t.Fatal(err)
			}
			if _, err := s.DropRequests(t.Context(), monthStart(-2)); err != nil {
				t.Error(err)
			}
			return
		default:
			at := time.Now()
			mustPost(t, s, owed(billing.NewID(billing.RequestIDPrefix, at), at, 5))
			posts++
		}
	}
}

// It is how docs/storage.md says to do it.
func TestABackupHasTheWholeBooks(t *testing.T) {
	t.Parallel()
	s := open(t)
	t.Cleanup(func() { _ = s.Close() })
	aged(t, s)
	old, now := monthStart(-4).Add(time.Hour), time.Now()
	mustPost(t, s, owed(billing.NewID(billing.RequestIDPrefix, old), old, 5), owed(billing.NewID(billing.RequestIDPrefix, now), now, 7))
	if n, err := s.DropRequests(t.Context(), monthStart(-2)); err != nil || n != 1 {
		t.Fatalf("dropped %d, %v", n, err)
	}
	dump := filepath.Join(t.TempDir(), "gateway.dump")
	pgtest.Run(t, "pg_dump", "--format=custom", "--enable-row-security", "--file="+dump, pgtest.DSN(t))
	t.Run("restored", func(t *testing.T) {
		t.Parallel()
		pgtest.Run(t, "pg_restore", "--exit-on-error", "--no-owner", "--dbname="+pgtest.DSN(t), dump)
		restored := open(t)
		defer restored.Close()
		mustBalance(t, restored)
		if err := restored.PrepareRequests(t.Context()); err != nil {
			t.Error(err)
		}
		if rows, err := restored.Requests(t.Context(), "org", billing.Filter{}, billing.Page{}); err != nil || len(rows) != 1 {
			t.Errorf("%d rows, %v", len(rows), err)
		}
		if _, err := raw(t).ExecContext(t.Context(), "DELETE FROM requests"); err == nil {
			t.Error("requests can be deleted")
		}
		if n := column(t, raw(t), "SELECT count(*) FROM pg_class WHERE relforcerowsecurity"); n[0] == "0" {
			t.Error("no table has policies")
		}
	})
}
