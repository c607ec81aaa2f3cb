package sqlite

import (
	"context"
	"database/sql/driver"
	"fmt"
	"net/url"

	"modernc.org/sqlite"
)

// newConnector returns the driver's connector with options, for connections to
// the store's own file whose statements also take bulkArgs.
func (s *Store) newConnector(options url.Values) (driver.Connector, error) {
	c, err := sqlite.NewConnector(dsn(s.path, options))
	if err != nil {
		return nil, err
	}
	return connector{c, s.checkFile}, nil
}

type connector struct {
	driver.Connector
	check func() error
}

// Connect implements driver.Connector. Connections are made when they are
// needed: another file may be in the place of the store's by then.
func (c connector) Connect(ctx context.Context) (driver.Conn, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	opened, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	full, ok := opened.(fullConn)
	if !ok {
		_ = opened.Close()
		return nil, fmt.Errorf("%T lacks methods of a connection", opened)
	}
	return conn{full}, nil
}

// fullConn is all that a connection of the driver can do for database/sql,
// which makes do without what it does not see.
type fullConn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
	driver.Pinger
	driver.SessionResetter
	driver.Validator
}

// conn is a connection of the driver whose statements also take bulkArgs.
type conn struct{ fullConn }

// PrepareContext implements driver.ConnPrepareContext.
func (c conn) PrepareContext(ctx context.Context, query string) (driver.Stmt, error) {
	prepared, err := c.fullConn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	full, ok := prepared.(fullStmt)
	if !ok {
		_ = prepared.Close()
		return nil, fmt.Errorf("%T lacks methods of a statement", prepared)
	}
	return &stmt{fullStmt: full}, nil
}

type fullStmt interface {
	driver.Stmt
	driver.StmtExecContext
	driver.StmtQueryContext
}

// bulkArgs is an argument that stands for all the arguments of a statement. To
// database/sql it is one: it checks and copies each, at more cost than all else
// that happens to them.
type bulkArgs interface {
	addTo(a *arguments)
}

// stmt is a statement of the driver that also takes bulkArgs.
type stmt struct {
	fullStmt
	// args are those of the last call. Calls have the connection for themselves.
	args arguments
}

// CheckNamedValue implements driver.NamedValueChecker.
func (s *stmt) CheckNamedValue(v *driver.NamedValue) error {
	if _, ok := v.Value.(bulkArgs); ok {
		return nil
	}
	return driver.ErrSkip
}

// ExecContext implements driver.StmtExecContext.
func (s *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	if len(args) == 1 {
		if bulk, ok := args[0].Value.(bulkArgs); ok {
			s.args.used = 0
			bulk.addTo(&s.args)
			args = s.args.values[:s.args.used]
		}
	}
	return s.fullStmt.ExecContext(ctx, args)
}

// arguments are those of a statement, in order. They use the space of the
// arguments before them, and their values where these are the same: to make an
// interface of a value allocates.
type arguments struct {
	values []driver.NamedValue
	used   int
}

func (a *arguments) add(v driver.Value) { a.next().Value = v }

func (a *arguments) text(texts ...string) { addAll(a, texts) }

func (a *arguments) number(numbers ...int64) { addAll(a, numbers) }

func addAll[T comparable](a *arguments, values []T) {
	for _, v := range values {
		arg := a.next()
		if last, ok := arg.Value.(T); !ok || last != v {
			arg.Value = v
		}
	}
}

func (a *arguments) next() *driver.NamedValue {
	if a.used == len(a.values) {
		a.values = append(a.values, driver.NamedValue{Ordinal: a.used + 1})
	}
	a.used++
	return &a.values[a.used-1]
}
