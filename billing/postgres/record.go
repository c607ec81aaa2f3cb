package postgres

import (
	"context"
	"fmt"
	"math"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
	"github.com/caddy-llm-gateway/gateway/billing/internal/columns"
)

const (
	// The lock is held until the transaction ends, so that the numbers of an
	// organization's records are in the order of the commits: who has seen one
	// has seen all before it. A statement of its own, as a row has its number
	// before it is inserted.
	lockRecords = `SELECT pg_advisory_xact_lock(hashtextextended('changes/' || $1, 0))`

	insertRecord = `INSERT INTO changes (` + columns.Change + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`

	selectRecords = `SELECT ` + columns.Change + ` FROM changes
WHERE organization_id = $1 AND seq < $2 AND at >= $3 AND at < $4
	AND ($5::text = '' OR actor_id = $5 OR actor_name = $5)
	AND ($6::text = '' OR action = $6) AND ($7::text = '' OR subject_kind = $7) AND ($8::text = '' OR subject_id = $8)
	AND ($10::text = '' OR id = $10)
ORDER BY seq DESC LIMIT $9`

	selectRecordSeq = `SELECT seq FROM changes WHERE organization_id = $1 AND id = $2`
)

// recordChange writes the record of a change, if there is one, at the end of
// the transaction that makes the change: after it, the transaction locks nothing
// but to record more.
func recordChange(ctx context.Context, tx pgx.Tx, c *billing.ChangeRecord) error {
	if c == nil {
		return nil
	}
	var batch pgx.Batch
	batch.Queue(lockRecords, c.Subject.OrganizationID)
	batch.Queue(insertRecord,
		c.ID, c.Subject.OrganizationID, c.At,
		string(c.Actor.Kind), c.Actor.ID, c.Actor.Name, c.Actor.ClientIP, c.Actor.UserAgent,
		c.Action, string(c.Subject.Kind), c.Subject.ID, columns.OptionalJSON(c.Before), columns.OptionalJSON(c.After))
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
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
		if err := s.of(org).QueryRow(ctx, selectRecordSeq, org, page.After).Scan(&before); err != nil {
			return nil, fmt.Errorf("list changes after %q: %w", page.After, notFound(err))
		}
	}
	span := books.SpanOf(billing.Filter{From: f.From, To: f.To})
	records, err := list(ctx, s.of(org), columns.ScanChange, selectRecords, planned, org, before, span.From, span.To,
		f.Actor, f.Action, string(f.SubjectKind), f.SubjectID, books.PageLimit(page), f.ID)
	if err != nil {
		return nil, fmt.Errorf("list changes: %w", err)
	}
	return records, nil
}
