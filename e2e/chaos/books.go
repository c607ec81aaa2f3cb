package chaos

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// row is an audit row.
type row struct {
	organization string
	requestID    string
	marker       string
	keyID        string
	usage        metering.Usage
	source       metering.Source
	cost         int64
	err          string
	status       int
}

// entry is an entry of the ledger.
type entry struct {
	organization string
	kind         string
	amount       int64
	requestID    string
}

// account is an organization's balance.
type account struct {
	organization string
	balance      int64
}

// books are the contents of the database, read past the gateways.
type books struct {
	rows     []row
	entries  []entry
	accounts []account
}

const (
	selectRows = `SELECT organization_id, request_id, user_agent, key_id,
	input_tokens + input_audio_tokens + input_image_tokens, cache_read_tokens + cache_read_audio_tokens,
	cache_write_tokens + cache_write_long_tokens, output_tokens + output_audio_tokens + output_image_tokens,
	usage_source, cost, error, status FROM requests`
	selectEntries  = `SELECT organization_id, type, amount, request_id FROM entries`
	selectAccounts = `SELECT organization_id, balance FROM accounts`
	selectPosted   = `SELECT EXISTS (SELECT FROM requests WHERE organization_id = $1 AND request_id = $2)`
	selectLeased   = `SELECT coalesce(sum(amount), 0)::bigint FROM leases WHERE kind = 'credits'`
	// selectCredits says by how much what is spent and leased of credits is
	// above what was bought, where that is most.
	selectCredits = `SELECT coalesce(max(settled + leased - credited), 0)::bigint FROM allowances WHERE kind = 'credits'`
)

// readBooks reads all of them, from the one state of a transaction.
func readBooks(ctx context.Context, dsn string) (*books, error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, fmt.Errorf("read books: %w", err)
	}
	defer conn.Close(ctx)
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return nil, fmt.Errorf("read books: %w", err)
	}
	defer func() { _ = tx.Rollback(ctx) }() // nothing was written
	b := &books{}
	if b.rows, err = selectAll(ctx, tx, selectRows, func(r *row) []any {
		return []any{&r.organization, &r.requestID, &r.marker, &r.keyID, &r.usage.Input, &r.usage.CacheRead,
			&r.usage.CacheWrite, &r.usage.Output, &r.source, &r.cost, &r.err, &r.status}
	}); err != nil {
		return nil, fmt.Errorf("read audit rows: %w", err)
	}
	for i := range b.rows {
		b.rows[i].marker, _, _ = strings.Cut(b.rows[i].marker, " ") // what follows only takes up room
	}
	if b.entries, err = selectAll(ctx, tx, selectEntries, func(e *entry) []any {
		return []any{&e.organization, &e.kind, &e.amount, &e.requestID}
	}); err != nil {
		return nil, fmt.Errorf("read entries: %w", err)
	}
	if b.accounts, err = selectAll(ctx, tx, selectAccounts, func(a *account) []any {
		return []any{&a.organization, &a.balance}
	}); err != nil {
		return nil, fmt.Errorf("read accounts: %w", err)
	}
	return b, nil
}

// selectOne reads a number.
func selectOne(ctx context.Context, dsn, query string) (n int64, err error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return 0, fmt.Errorf("connect to PostgreSQL: %w", err)
	}
	defer conn.Close(ctx)
	if err := conn.QueryRow(ctx, query).Scan(&n); err != nil {
		return 0, fmt.Errorf("%s: %w", query, err)
	}
	return n, nil
}

func selectAll[T any](ctx context.Context, tx pgx.Tx, query string, columns func(*T) []any) ([]T, error) {
	rows, err := tx.Query(ctx, query)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (v T, err error) {
		return v, row.Scan(columns(&v)...)
	})
}

// lagProbe measures how long answers take to get into the books: it follows
// one at a time from its end until its row is there.
type lagProbe struct {
	dsn      string
	requests chan *attempt // 1 deep
	done     chan struct{}
	longest  time.Duration // once done
	samples  int
}

func startLagProbe(dsn string) *lagProbe {
	p := &lagProbe{dsn: dsn, requests: make(chan *attempt, 1), done: make(chan struct{})}
	go p.run()
	return p
}

// offer gives the probe a request to follow, if it has none.
func (p *lagProbe) offer(a *attempt) {
	if !a.complete {
		return
	}
	select {
	case p.requests <- a:
	default:
	}
}

// finish returns the longest lag that was seen, and of how many requests.
func (p *lagProbe) finish() (time.Duration, int) {
	close(p.requests)
	<-p.done
	return p.longest, p.samples
}

func (p *lagProbe) run() {
	defer close(p.done)
	// The database comes and goes; the probe has its own patience.
	var conn *pgx.Conn
	for a := range p.requests {
		for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			var posted bool
			if conn, posted = p.look(conn, a); posted {
				p.samples++
				p.longest = max(p.longest, time.Since(a.ended))
				break
			}
		}
	}
	if conn != nil {
		conn.Close(context.Background())
	}
}

// look tells whether a request is in the books. It returns the connection to
// go on with, nil if there is none.
func (p *lagProbe) look(conn *pgx.Conn, a *attempt) (_ *pgx.Conn, posted bool) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if conn == nil || conn.IsClosed() {
		var err error
		if conn, err = pgx.Connect(ctx, p.dsn); err != nil {
			return nil, false
		}
	}
	if err := conn.QueryRow(ctx, selectPosted, a.organization, a.requestID).Scan(&posted); err != nil {
		conn.Close(ctx)
		return nil, false
	}
	return conn, posted
}
