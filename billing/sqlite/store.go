// Package sqlite keeps the books in a file on this machine. It has no server
// and needs no cgo.
package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/pressly/goose/v3"
	"modernc.org/sqlite" // also the driver
	codes "modernc.org/sqlite/lib"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
	"github.com/caddy-llm-gateway/gateway/billing/internal/schema"
)

//go:embed migrations/*.sql
var migrations embed.FS

const selectIdentity = `SELECT database FROM identity`

// readers is how many queries may run at once, beside the one writer.
const readers = 4

const (
	queryOnly = "query_only(1)"
	// smallCache has a reader keep 512 KiB of pages, for which SQLite's default
	// is 2 MiB. They help within a query alone: any commit makes readers forget
	// theirs, and the kernel has the pages too.
	smallCache = "cache_size(-512)"
)

// Store is a billing.Store in a file.
type Store struct {
	// SQLite has one writer at a time: a pool of one connection is its queue,
	// which a context can leave.
	writer *sql.DB
	reader *sql.DB
	posts  *postStatements
	sheets books.Sheets
	kept   atomic.Pointer[kept]
	// reports are those that read many rows.
	reports *books.Turns

	path string
	file os.FileInfo // what path was when it was opened
}

var _ billing.Store = (*Store)(nil)

// Open opens the store in the file at path, creating it and its directory if
// they are missing, and brings its schema up to date.
func Open(ctx context.Context, path string) (*Store, error) {
	s, err := open(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", path, err)
	}
	return s, nil
}

func open(ctx context.Context, path string) (*Store, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	file, err := create(path)
	if err != nil {
		return nil, err
	}
	s := &Store{path: path, file: file, reports: books.NewTurns(readers)}
	writer, err := s.newConnector(url.Values{"_txlock": {"immediate"}})
	if err != nil {
		return nil, err
	}
	reader, err := s.newConnector(url.Values{"_pragma": {queryOnly, smallCache}})
	if err != nil {
		return nil, err
	}
	s.writer, s.reader = sql.OpenDB(writer), sql.OpenDB(reader)
	s.writer.SetMaxOpenConns(1)
	s.reader.SetMaxOpenConns(readers)
	s.reader.SetMaxIdleConns(readers)
	if err := migrate(ctx, s.writer); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if err := s.loadKept(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if s.posts, err = prepare(ctx, s.writer); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// create makes the file unless it exists, readable by its owner alone. SQLite
// gives its other files the same mode.
func create(path string) (os.FileInfo, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	return info, errors.Join(err, f.Close())
}

// dsn returns the address of the file with the settings of each connection.
// A commit is on disk when it returns (synchronous FULL); deletes by REPLACE
// fire the triggers that forbid them (recursive_triggers).
//
// The file must be there (mode rw). Where it is away for a moment, SQLite would
// make an empty one, which then takes over the log of the one that comes back.
func dsn(path string, options url.Values) string {
	q := url.Values{"mode": {"rw"}, "_pragma": {
		"busy_timeout(5000)",
		"journal_mode(WAL)",
		"synchronous(FULL)",
		"foreign_keys(1)",
		"recursive_triggers(1)",
	}}
	for name, values := range options {
		q[name] = append(q[name], values...)
	}
	return (&url.URL{Scheme: "file", OmitHost: true, Path: filepath.ToSlash(path), RawQuery: q.Encode()}).String()
}

// readOnlyDSN returns the address of a file that must be there and is not
// changed.
func readOnlyDSN(path string) string {
	q := url.Values{"mode": {"ro"}, "_pragma": {"busy_timeout(5000)", queryOnly, smallCache}}
	return (&url.URL{Scheme: "file", OmitHost: true, Path: filepath.ToSlash(path), RawQuery: q.Encode()}).String()
}

func migrate(ctx context.Context, db *sql.DB) error {
	p, err := schema.NewProvider(goose.DialectSQLite3, db, migrations)
	if err != nil {
		return err
	}
	// Another process may be migrating the same file. Of two that try the same
	// migration one fails, without a trace; it gets further by trying again for
	// as long as the schema gets newer.
	for last := int64(-2); ; {
		version, err := schema.Up(ctx, p)
		if err == nil || version <= last || ctx.Err() != nil {
			return err
		}
		last = version
	}
}

// Ping tells whether the file can be written and read.
func (s *Store) Ping(ctx context.Context) error {
	if err := s.checkFile(); err != nil {
		return fmt.Errorf("ping store: %w", err)
	}
	if err := s.writer.PingContext(ctx); err != nil {
		return fmt.Errorf("ping store: %w", err)
	}
	if _, err := s.Identity(ctx); err != nil {
		return fmt.Errorf("ping store: %w", err)
	}
	return nil
}

// Identity implements billing.Store.
func (s *Store) Identity(ctx context.Context) (string, error) {
	var id string
	if err := s.reader.QueryRowContext(ctx, selectIdentity).Scan(&id); err != nil {
		return "", fmt.Errorf("read identity of the database: %w", err)
	}
	return id, nil
}

// Close closes the file.
func (s *Store) Close() error {
	return errors.Join(s.reader.Close(), s.writer.Close())
}

// checkFile tells whether the file is still the one that was opened. A file
// that was deleted takes commits like any other, until it is closed and gone.
func (s *Store) checkFile() error {
	now, err := os.Stat(s.path)
	if errors.Is(err, os.ErrNotExist) || err == nil && !os.SameFile(now, s.file) {
		return fmt.Errorf("database file %s was deleted or replaced; restore it and restart", s.path)
	}
	if err != nil {
		return fmt.Errorf("check database file: %w", err)
	}
	return nil
}

// write runs f in the writing transaction. Waiting for its turn ends with ctx.
// The statements of f do not: they take microseconds, and the driver would
// start a goroutine for each to watch a context that can end. The end of ctx
// rolls the transaction back between two statements.
func (s *Store) write(ctx context.Context, f func(ctx context.Context, tx *sql.Tx) error) error {
	tx, err := s.begin(ctx)
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer tx.Rollback() // does nothing after the commit
	if err := s.checkFile(); err != nil {
		return err
	}
	if err := f(context.WithoutCancel(ctx), tx); err != nil {
		return causeOf(ctx, err)
	}
	if err := tx.Commit(); err != nil {
		return causeOf(ctx, fmt.Errorf("commit: %w", err))
	}
	// The file may have gone in between, and what was committed with it.
	return s.checkFile()
}

// busyFor is how long other processes that write are waited for.
const busyFor = 30 * time.Second

// begin waits for its turn among processes, too. SQLite lets them in without
// any order, so that one may be unlucky for longer than its busy_timeout.
func (s *Store) begin(ctx context.Context) (*sql.Tx, error) {
	var busy error
	for began := time.Now(); ; {
		tx, err := s.writer.BeginTx(ctx, nil)
		switch {
		case isBusy(err) && ctx.Err() == nil && time.Since(began) <= busyFor:
			busy = err
		case err != nil && busy != nil && !isBusy(err): // the time has run out in between
			return nil, fmt.Errorf("%w: %w", err, busy)
		default:
			return tx, err
		}
	}
}

func isBusy(err error) bool {
	e, ok := errors.AsType[*sqlite.Error](err)
	return ok && e.Code()&0xff == codes.SQLITE_BUSY // the rest says why
}

// causeOf returns why the context ended where that is all that err means.
func causeOf(ctx context.Context, err error) error {
	if errors.Is(err, sql.ErrTxDone) && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func micros(t time.Time) int64 { return t.UnixMicro() }

// optionalMicros stores the zero time as NULL.
func optionalMicros(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return t.UnixMicro()
}
