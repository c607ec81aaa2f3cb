package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"modernc.org/sqlite"
	codes "modernc.org/sqlite/lib"
)

// bulkSizes are how many rows one statement may insert, the largest first. A
// call of a statement costs as much as some ten columns of a row, but the
// arguments of more rows than these are worth more in garbage than they save.
var bulkSizes = [...]int{32, 4, 1}

// bulk inserts rows of T by as few statements as it can.
type bulk[T any] struct {
	stmts [len(bulkSizes)]*sql.Stmt
	// args adds the arguments of a row, in the order of its values.
	args func(a *arguments, row *T)
}

// newBulk prepares an INSERT that lacks its rows, each of these values, between
// its head and its tail.
func newBulk[T any](ctx context.Context, db *sql.DB, q bulkQuery, args func(*arguments, *T)) (*bulk[T], error) {
	b := &bulk[T]{args: args}
	for i, size := range bulkSizes {
		stmt, err := db.PrepareContext(ctx, q.head+" "+q.row+strings.Repeat(", "+q.row, size-1)+q.tail)
		if err != nil {
			return nil, fmt.Errorf("prepare statement: %w", err)
		}
		b.stmts[i] = stmt
	}
	return b, nil
}

type bulkQuery struct{ head, row, tail string }

// rowArgs are the arguments of a statement for as many rows.
type rowArgs[T any] struct {
	rows []T
	args func(a *arguments, row *T)
}

func (r *rowArgs[T]) addTo(a *arguments) {
	for i := range r.rows {
		r.args(a, &r.rows[i])
	}
}

// insert inserts the rows in their order, except those whose unique columns are
// there already, and returns the indexes of these.
func (b *bulk[T]) insert(ctx context.Context, tx *sql.Tx, rows []T) (known []int, err error) {
	args := &rowArgs[T]{args: b.args}
	done := 0
	for i, size := range bulkSizes {
		if len(rows)-done < size {
			continue
		}
		stmt := tx.StmtContext(ctx, b.stmts[i])
		for ; len(rows)-done >= size; done += size {
			args.rows = rows[done : done+size]
			_, err := stmt.ExecContext(ctx, args)
			if isDuplicate(err) {
				known, err = b.insertEach(ctx, tx, rows, done, size, known)
			}
			if err != nil {
				return nil, err
			}
		}
	}
	return known, nil
}

// insertEach inserts some of the rows one by one, after a statement for all of
// them has failed and so has inserted none. It appends to known.
func (b *bulk[T]) insertEach(ctx context.Context, tx *sql.Tx, rows []T, first, n int, known []int) ([]int, error) {
	stmt := tx.StmtContext(ctx, b.stmts[len(bulkSizes)-1])
	args := &rowArgs[T]{args: b.args}
	for i := first; i < first+n; i++ {
		args.rows = rows[i : i+1]
		switch _, err := stmt.ExecContext(ctx, args); {
		case isDuplicate(err):
			known = append(known, i)
		case err != nil:
			return nil, err
		}
	}
	return known, nil
}

// isDuplicate tells whether a row was refused because its unique columns are
// there already.
func isDuplicate(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) &&
		(e.Code() == codes.SQLITE_CONSTRAINT_PRIMARYKEY || e.Code() == codes.SQLITE_CONSTRAINT_UNIQUE)
}
