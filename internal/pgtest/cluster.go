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
	superuser    = "postgres"
	startTimeout = time.Minute
)

// supervise runs the server until its standard input ends, which it does when
// the process that holds the other end stops it, exits or is killed.
const supervise = `
"$1" -D "$2/data" -k "$2" -c listen_addresses= -c fsync=off -c full_page_writes=off \
	-c max_connections=200 -c shared_buffers=64MB >"$2/log" 2>&1 &
server=$!
read -r _
kill -INT "$server"
wait "$server"
rm -rf "$2"
`

// cluster is a running PostgreSQL server with files of its own.
type cluster struct {
	dir     string
	process *exec.Cmd
	alive   io.Closer
}

func startCluster() (*cluster, error) {
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
	c := &cluster{dir: dir}
	if err := c.start(bin, owner); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if err := c.wait(); err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, "log")) // only to explain the error
		c.stop()
		return nil, fmt.Errorf("%w\n%s", err, log)
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

func (c *cluster) start(bin string, owner *syscall.Credential) error {
	attributes := &syscall.SysProcAttr{Credential: owner, Setpgid: true}
	initdb := exec.Command(filepath.Join(bin, "initdb"), "--pgdata", filepath.Join(c.dir, "data"),
		"--username", superuser, "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync")
	initdb.SysProcAttr, initdb.Dir = attributes, c.dir
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w\n%s", err, bytes.TrimSpace(out))
	}
	c.process = exec.Command("/bin/sh", "-c", supervise, "sh", filepath.Join(bin, "postgres"), c.dir)
	c.process.SysProcAttr, c.process.Dir = attributes, c.dir
	alive, err := c.process.StdinPipe()
	if err != nil {
		return err
	}
	c.alive = alive
	return c.process.Start()
}

// wait returns when the server answers.
func (c *cluster) wait() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, c.dsn())
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("server did not answer within %s: %w", startTimeout, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// stop ends the server and removes its files.
func (c *cluster) stop() {
	c.alive.Close()
	// It ends by a signal to its server, or is gone already: either is the end.
	_ = c.process.Wait()
}

func (c *cluster) dsn() string {
	q := url.Values{"host": {c.dir}}
	return (&url.URL{Scheme: "postgres", User: url.User(superuser), Path: "/" + superuser, RawQuery: q.Encode()}).String()
}
