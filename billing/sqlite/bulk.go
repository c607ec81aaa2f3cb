package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	driver "modernc.org/sqlite"
	codes "modernc.org/sqlite/lib"
)

// bulkSizes are how many rows one statement may insert, the largest first. A
// call of a statement costs as much as some ten columns of a row, but the
// arguments of more rows than these are worth more in garbage than they save.
var bulkSizes = [...]int{16, 4, 1}

// bulk inserts rows of T by as few statements as it can.
type bulk[T any] struct {
	columns int
	stmts   [len(bulkSizes)]*sql.Stmt
	// args appends the arguments of a row, in the order of the columns.
	args func(args []any, row *T) []any
}

// newBulk prepares an INSERT that lacks its rows, each of these columns.
func newBulk[T any](ctx context.Context, db *sql.DB, insert, columns string, args func([]any, *T) []any) (*bulk[T], error) {
	b := &bulk[T]{columns: 1 + strings.Count(columns, ","), args: args}
	row := "(?" + strings.Repeat(", ?", b.columns-1) + ")"
	for i, size := range bulkSizes {
		stmt, err := db.PrepareContext(ctx, insert+" "+row+strings.Repeat(", "+row, size-1))
		if err != nil {
			return nil, fmt.Errorf("prepare statement: %w", err)
		}
		b.stmts[i] = stmt
	}
	return b, nil
}

// insert inserts the rows in their order, except those whose unique columns are
// there already, and returns the indexes of these.
func (b *bulk[T]) insert(ctx context.Context, tx *sql.Tx, rows []T) (known []int, err error) {
	args := make([]any, 0, b.columns*min(len(rows), bulkSizes[0]))
	done := 0
	for i, size := range bulkSizes {
		if len(rows)-done < size {
			continue
		}
		stmt := tx.StmtContext(ctx, b.stmts[i])
		for ; len(rows)-done >= size; done += size {
			err := b.exec(ctx, stmt, rows[done:done+size], args)
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
	for i := first; i < first+n; i++ {
		switch err := b.exec(ctx, stmt, rows[i:i+1], nil); {
		case isDuplicate(err):
			known = append(known, i)
		case err != nil:
			return nil, err
		}
	}
	return known, nil
}

// exec runs a statement for as many rows as it is for. It uses the space of
// args for the arguments.
func (b *bulk[T]) exec(ctx context.Context, stmt *sql.Stmt, rows []T, args []any) error {
	args = args[:0]
	for i := range rows {
		args = b.args(args, &rows[i])
	}
	_, err := stmt.ExecContext(ctx, args...)
	return err
}

// isDuplicate tells whether a row was refused because its unique columns are
// there already.
func isDuplicate(err error) bool {
	var e *driver.Error
	return errors.As(err, &e) &&
		(e.Code() == codes.SQLITE_CONSTRAINT_PRIMARYKEY || e.Code() == codes.SQLITE_CONSTRAINT_UNIQUE)
}
