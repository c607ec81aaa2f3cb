package sqlite

import (
	"context"
	"database/sql"
	"fmt"
	"math"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
	"github.com/caddy-llm-gateway/gateway/billing/internal/columns"
)

const (
	insertRecord = `INSERT INTO changes (` + columns.Change + `) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)`

	selectRecords = `SELECT ` + columns.Change + ` FROM changes
WHERE organization_id = ?1 AND seq < ?2 AND at >= ?3 AND at < ?4
	AND (?5 = '' OR actor_id = ?5 OR actor_name = ?5)
	AND (?6 = '' OR action = ?6) AND (?7 = '' OR subject_kind = ?7) AND (?9 = '' OR id = ?9)
ORDER BY seq DESC LIMIT ?8`

	selectRecordsOfSubject = `SELECT ` + columns.Change + ` FROM changes
WHERE organization_id = ?1 AND seq < ?2 AND at >= ?3 AND at < ?4
	AND (?5 = '' OR actor_id = ?5 OR actor_name = ?5)
	AND (?6 = '' OR action = ?6) AND (?7 = '' OR subject_kind = ?7) AND (?9 = '' OR id = ?9)
	AND subject_id = ?10
ORDER BY seq DESC LIMIT ?8`

	selectRecordSeq = `SELECT seq FROM changes WHERE organization_id = ?1 AND id = ?2`
)

// recordChange writes the record of a change, if there is one, in the
// transaction that makes the change.
func recordChange(ctx context.Context, tx *sql.Tx, c *billing.ChangeRecord) error {
	if c == nil {
		return nil
	}
	_, err := tx.ExecContext(ctx, insertRecord,
		c.ID, c.Subject.OrganizationID, micros(c.At),
		string(c.Actor.Kind), c.Actor.ID, c.Actor.Name, c.Actor.ClientIP, c.Actor.UserAgent,
		c.Action, string(c.Subject.Kind), c.Subject.ID, columns.OptionalJSON(c.Before), columns.OptionalJSON(c.After))
	if err != nil {
		return fmt.Errorf("record %s: %w", c.Action, err)
	}
	return nil
}

// ListChanges implements billing.ChangeLog.
func (s *Store) ListChanges(ctx context.Context, org string, f billing.ChangeFilter, page billing.Page) ([]billing.ChangeRecord, error) {
	done, err := s.reports.Take(ctx, org)
	if err != nil {
		return nil, fmt.Errorf("list changes: %w", err)
	}
	defer done()
	before := int64(math.MaxInt64)
	if page.After != "" {
		if err := s.reader.QueryRowContext(ctx, selectRecordSeq, org, page.After).Scan(&before); err != nil {
			return nil, fmt.Errorf("list changes after %q: %w", page.After, notFound(err))
		}
	}
	span := books.SpanOf(billing.Filter{From: f.From, To: f.To})
	query := selectRecords
	args := []any{
		org, before, micros(span.From), micros(span.To), f.Actor, f.Action, string(f.SubjectKind), books.PageLimit(page), f.ID,
	}
	if f.SubjectID != "" {
		query, args = selectRecordsOfSubject, append(args, f.SubjectID)
	}
	records, err := list(ctx, s.reader, columns.ScanChange, query, args...)
	if err != nil {
		return nil, fmt.Errorf("list changes: %w", err)
	}
	return records, nil
}
