//go:build unix

// Package pgtest gives tests a PostgreSQL database. Each test process starts a
// private cluster, which ends with the process, however that ends; with
// TEST_DATABASE_URL set, the server that it names is used instead.
package pgtest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Variable names the server to use instead of a private cluster: a URL or
// key=value settings, of a user that may create databases.
const Variable = "TEST_DATABASE_URL"

// Start starts a private cluster, or takes the server of TEST_DATABASE_URL,
// and returns the address of its maintenance database. stop ends the cluster.
func Start() (dsn string, stop func(), err error) {
	if dsn := os.Getenv(Variable); dsn != "" {
		return dsn, func() {}, nil
	}
	c, err := StartCluster()
	if err != nil {
		return "", nil, err
	}
	return c.DSN(), c.Close, nil
}

// server is a running server.
type server struct {
	dsn string
	// stop keeps the server alive by being referred to: with the last
	// reference goes the open file that tells it to go on.
	stop func()
}

// shared is the server of this process's tests. Nobody stops it: it ends with
// the process.
var shared = sync.OnceValues(func() (server, error) {
	dsn, stop, err := Start()
	return server{dsn: dsn, stop: stop}, err
})

var (
	databases sync.Map // by test: the address of its database
	created   atomic.Int64
)

// DSN returns the address of a database of the test's own, empty at first, the
// same at each call. It is dropped when the test ends.
func DSN(t testing.TB) string {
	t.Helper()
	if dsn, ok := databases.Load(t); ok {
		return dsn.(string)
	}
	server, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("gateway_test_%d_%d", os.Getpid(), created.Add(1))
	execute(t, server.dsn, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize())
	t.Cleanup(func() {
		databases.Delete(t)
		execute(t, server.dsn, "DROP DATABASE "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)")
	})
	dsn, err := withDatabase(server.dsn, name)
	if err != nil {
		t.Fatal(err)
	}
	databases.Store(t, dsn)
	return dsn
}

// Run runs one of PostgreSQL's own programs, such as pg_dump.
func Run(t testing.TB, program string, args ...string) {
	t.Helper()
	bin, err := findBinaries()
	if err != nil {
		t.Fatalf("%s: %v: it is needed even if the server is another machine's", program, err)
	}
	// The server's programs may be linked to from elsewhere, one by one.
	initdb, err := filepath.EvalSymlinks(filepath.Join(bin, "initdb"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(filepath.Dir(initdb), program)
	if out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", program, err, out)
	}
}

func execute(t testing.TB, dsn, query string) {
	t.Helper()
	// The test's own context has ended when its cleanup runs.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatalf("connect to PostgreSQL: %v", err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

// withDatabase returns the address of another database on the same server.
func withDatabase(dsn, name string) (string, error) {
	if !strings.Contains(dsn, "://") {
		return dsn + " dbname=" + name, nil // the last setting counts
	}
	u, err := url.Parse(dsn)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", Variable, err)
	}
	u.Path = "/" + name
	return u.String(), nil
}
