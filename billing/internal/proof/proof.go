// Package proof verifies the books of a store. What must be equal, and how to
// find out, is the same in both stores; only their SQL differs.
package proof

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// pageSize is how many rows or entries are in memory at once.
const pageSize = 1000

// Store is what a proof needs of a store.
type Store struct {
	// Begin starts a transaction that reads all books as of one moment.
	Begin   func(ctx context.Context) (*sql.Tx, error)
	Queries *Queries
	// Remember keeps what was found sound, past that transaction; nil to
	// forget it.
	Remember func(ctx context.Context, s Sound) error
}

// Sound is what was verified of an organization's books without finding a
// difference.
type Sound struct {
	OrganizationID string
	// Ledger is nil if it is where it was.
	Ledger *Ledger
	// Hours are those that were compared with their rows.
	Hours []Hour
}

// Verify verifies the books.
func Verify(ctx context.Context, s Store, o billing.VerifyOptions) (billing.Verification, error) {
	o.Mode = cmp.Or(o.Mode, billing.Incremental)
	if o.Mode != billing.Incremental && o.Mode != billing.Full {
		return billing.Verification{}, fmt.Errorf("unknown mode %q", o.Mode)
	}
	tx, err := s.Begin(ctx)
	if err != nil {
		return billing.Verification{}, fmt.Errorf("begin: %w", err)
	}
	defer tx.Rollback() // it has nothing to commit
	p := &proof{
		store:  s,
		books:  snapshot{tx: tx, queries: s.Queries},
		full:   o.Mode == billing.Full,
		report: newReport(cmp.Or(o.Examples, billing.DefaultExamples)),
	}
	begun := time.Now()
	if err := p.run(ctx); err != nil {
		return billing.Verification{}, err
	}
	return billing.Verification{
		Mode: o.Mode, At: begun.UTC(), Duration: time.Since(begun),
		Entries: p.entries, Requests: p.requests, Checks: p.report.checks,
	}, nil
}

// proof is one verification under way.
type proof struct {
	store  Store
	books  snapshot
	full   bool
	report *report
	// kept is the id below which requests may be dropped.
	kept string

	entries, requests int64 // read so far
}

func (p *proof) run(ctx context.Context) (err error) {
	if p.kept, err = p.books.kept(ctx); err != nil {
		return fmt.Errorf("read what is kept: %w", err)
	}
	orgs, err := p.books.organizations(ctx)
	if err != nil {
		return fmt.Errorf("list organizations: %w", err)
	}
	for _, org := range orgs {
		if err := p.organization(ctx, org); err != nil {
			return fmt.Errorf("organization %q: %w", org, err)
		}
	}
	if err := p.books.allowances(ctx, p.report.allowance); err != nil {
		return fmt.Errorf("compare allowances: %w", err)
	}
	if err := p.books.leases(ctx, p.report.lease); err != nil {
		return fmt.Errorf("compare leases: %w", err)
	}
	return nil
}

func (p *proof) organization(ctx context.Context, org string) error {
	ledger, err := p.ledger(ctx, org)
	if err != nil {
		return err
	}
	hours, err := p.hours(ctx, org)
	if err != nil {
		return err
	}
	if p.store.Remember == nil || ledger == nil && len(hours) == 0 {
		return nil
	}
	if err := p.store.Remember(ctx, Sound{OrganizationID: org, Ledger: ledger, Hours: hours}); err != nil {
		return fmt.Errorf("remember what is sound: %w", err)
	}
	return nil
}
