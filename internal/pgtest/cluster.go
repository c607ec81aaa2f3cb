//go:build unix

package pgtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	superuser = "postgres"
	// testRole is an ordinary role, as gateways run with, and its database.
	testRole     = "gateway"
	startTimeout = time.Minute
)

// guard ends the server and removes its files when its standard input ends,
// which it does when the process that holds the other end closes it, exits or
// is killed. A server that does not end within ten seconds is left alone.
const guard = `
read -r _
if server=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null); then
	kill -INT "$server"
	tries=0
	while kill -0 "$server" && [ "$tries" -lt 100 ]; do
		tries=$((tries + 1))
		sleep 0.1
	done
fi 2>/dev/null
rm -rf "$1"
`

// Stop is a way to end a server.
type Stop syscall.Signal

const (
	// Fast rolls back what is open and writes everything to its files.
	Fast = Stop(syscall.SIGINT)
	// Immediate drops everything, as a failing host does; the next start
	// recovers.
	Immediate = Stop(syscall.SIGQUIT)
	// Kill leaves the server no moment: kill -9 of its first process, at
	// which the others end by themselves.
	Kill = Stop(syscall.SIGKILL)
)

// Cluster is a running PostgreSQL server with files of its own, which ends
// with the process that started it, however that ends. It may be stopped and
// started again on the same files. It does not force writes to the disk
// (fsync=off): what it has written is with the operating system, where kill -9
// does not lose it.
type Cluster struct {
	dir   string
	bin   string
	owner *syscall.Credential

	guard *exec.Cmd
	alive io.Closer // the other end of the guard's standard input

	server *exec.Cmd
	exited chan struct{} // closed when server has ended
}

// StartCluster starts a private cluster, whatever TEST_DATABASE_URL says.
func StartCluster() (*Cluster, error) {
	c, err := newCluster()
	if err != nil {
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	err = c.start()
	if err == nil {
		err = c.createRole()
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("start PostgreSQL: %w", err)
	}
	return c, nil
}

// createRole creates the role that all tests use: row-level security is not
// for superusers, and would not be tested with one.
func (c *Cluster) createRole() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.dsn(superuser))
	if err != nil {
		return err
	}
	// Whoever drops a database ends what an autovacuum does in it.
	_, err = conn.Exec(ctx, "CREATE ROLE "+testRole+" LOGIN CREATEDB IN ROLE pg_signal_backend")
	if err == nil {
		_, err = conn.Exec(ctx, "CREATE DATABASE "+testRole+" OWNER "+testRole)
	}
	return errors.Join(err, conn.Close(ctx))
}

// newCluster makes the files of a server.
func newCluster() (*Cluster, error) {
	bin, err := findBinaries()
	if err != nil {
		return nil, err
	}
	owner, err := serverOwner()
	if err != nil {
		return nil, err
	}
	dir, err := makeDir(owner)
	if err != nil {
		return nil, err
	}
	c := &Cluster{dir: dir, bin: bin, owner: owner}
	if err := c.init(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return c, nil
}

// findBinaries returns the folder of the newest server that is installed.
func findBinaries() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(path), nil
	}
	var found []string
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin/initdb", "/usr/pgsql-*/bin/initdb",
		"/opt/homebrew/opt/postgresql*/bin/initdb", "/usr/local/opt/postgresql*/bin/initdb",
	} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		found = append(found, paths...)
	}
	if len(found) == 0 {
		return "", fmt.Errorf("no PostgreSQL server found: install one (Debian: apt-get install postgresql, "+
			"macOS: brew install postgresql) or set %s", Variable)
	}
	return filepath.Dir(slices.Max(found)), nil
}

// serverOwner returns who the server runs as; nil for this process's own user.
// The server refuses to run as root.
func serverOwner() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup(superuser)
	if err != nil {
		return nil, fmt.Errorf("PostgreSQL does not run as root, and there is no user for it: %w", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("user %s: %w", superuser, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("user %s: %w", superuser, err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}

// makeDir makes the cluster's folder. Its path is short, since that of a unix
// socket must be.
func makeDir(owner *syscall.Credential) (string, error) {
	dir, err := os.MkdirTemp("/tmp", "pgtest-")
	if err != nil {
		return "", err
	}
	if owner != nil {
		if err := os.Chown(dir, int(owner.Uid), int(owner.Gid)); err != nil {
			return "", errors.Join(err, os.RemoveAll(dir))
		}
	}
	return dir, nil
}

// init makes the files, and starts the guard over them.
func (c *Cluster) init() error {
	initdb := c.command(filepath.Join(c.bin, "initdb"), "--pgdata", filepath.Join(c.dir, "data"),
		"--username", superuser, "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync")
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, bytes.TrimSpace(out))
	}
	c.guard = c.command("/bin/sh", "-c", guard, "sh", c.dir)
	alive, err := c.guard.StdinPipe()
	if err != nil {
		return err
	}
	c.alive = alive
	return c.guard.Start()
}

// command runs as the server's owner, in a process group of its own: an
// interrupt from the terminal is not for it.
func (c *Cluster) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr, cmd.Dir = &syscall.SysProcAttr{Credential: c.owner, Setpgid: true}, c.dir
	return cmd
}

// start starts the server and returns when it answers. What is left of a
// server that was killed may be in the way for a moment.
func (c *Cluster) start() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		err := c.startOnce(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// errExited: the server ended before it answered.
var errExited = errors.New("server ended")

func (c *Cluster) startOnce(ctx context.Context) error {
	log, err := os.OpenFile(filepath.Join(c.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the server has its own
	server := c.command(filepath.Join(c.bin, "postgres"), "-D", filepath.Join(c.dir, "data"), "-k", c.dir,
		"-c", "listen_addresses=", "-c", "fsync=off", "-c", "full_page_writes=off",
		"-c", "max_connections=200", "-c", "shared_buffers=64MB")
	server.Stdout, server.Stderr = log, log
	if err := server.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = server.Wait() // how it ended is in its log
	}()
	c.server, c.exited = server, exited
	if err := c.wait(ctx); err != nil {
		said, _ := os.ReadFile(log.Name()) // only to explain the error
		return fmt.Errorf("%w\n%s", err, said)
	}
	return nil
}

// wait returns when the server answers.
func (c *Cluster) wait(ctx context.Context) error {
	for {
		conn, err := pgx.Connect(ctx, c.dsn(superuser))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-c.exited:
			return errExited
		case <-ctx.Done():
			return fmt.Errorf("server did not answer within %s: %w", startTimeout, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Halt ends the server and keeps its files. It returns when the server's
// first process has ended.
func (c *Cluster) Halt(how Stop) error {
	select {
	case <-c.exited:
		return nil
	default:
	}
	if err := c.server.Process.Signal(syscall.Signal(how)); err != nil {
		return fmt.Errorf("stop PostgreSQL: %w", err)
	}
	<-c.exited
	return nil
}

// Resume starts a server that was halted, on the same files, and returns when
// it answers.
func (c *Cluster) Resume() error {
	if err := c.start(); err != nil {
		return fmt.Errorf("start PostgreSQL again: %w", err)
	}
	return nil
}

// Close ends the server and removes its files.
func (c *Cluster) Close() {
	if c.server != nil {
		_ = c.Halt(Fast) // it may be gone already
	}
	c.alive.Close()
	_ = c.guard.Wait() // it ends when the files are gone
}

// DSN is the address of the maintenance database, for a role that may create
// others and is no superuser.
func (c *Cluster) DSN() string { return c.dsn(testRole) }

// dsn is the address of a role's own database.
func (c *Cluster) dsn(role string) string {
	q := url.Values{"host": {c.dir}}
	return (&url.URL{Scheme: "postgres", User: url.User(role), Path: "/" + role, RawQuery: q.Encode()}).String()
}

// Socket is the path of the unix socket that the server listens on.
func (c *Cluster) Socket() string { return filepath.Join(c.dir, ".s.PGSQL.5432") }

// Log is the path of the server's log.
func (c *Cluster) Log() string { return filepath.Join(c.dir, "log") }
