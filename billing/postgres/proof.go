package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/proof"
	"github.com/caddy-llm-gateway/gateway/billing/internal/schema"
)

const (
	lockPartitions = `LOCK TABLE requests IN ACCESS SHARE MODE`

	// rememberedHours is how many hours one statement remembers.
	rememberedHours = 5000
	// verifyTimeout bounds each statement of a verification on the server, so
	// that none goes on when its node is gone. Pages take milliseconds; the
	// sums of all allowances read a year of rollups.
	verifyTimeout = 10 * time.Minute
)

// Verify implements billing.Reports. It reads on a connection of its own, from
// one snapshot, so that requests do not wait for it.
func (s *Store) Verify(ctx context.Context, o billing.VerifyOptions) (billing.Verification, error) {
	db := connect(s.pool.Config().ConnConfig)
	v, err := verify(ctx, db, o, s.remember)
	if err := errors.Join(err, db.Close()); err != nil {
		return billing.Verification{}, fmt.Errorf("verify: %w", oneLine{err})
	}
	return v, nil
}

// Verify verifies the books in a database without changing them, whoever else
// uses it. A database of another schema than this program's is refused.
func Verify(ctx context.Context, dsn string, o billing.VerifyOptions) (v billing.Verification, err error) {
	config, err := pgxpool.ParseConfig(dsn) // as Open does, for the same settings
	if err != nil {
		return billing.Verification{}, fmt.Errorf("verify: %w", oneLine{err})
	}
	db := connect(config.ConnConfig)
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := schema.Check(ctx, db, migrations); err != nil {
		return billing.Verification{}, fmt.Errorf("verify: %w", oneLine{err})
	}
	if v, err = verify(ctx, db, o, nil); err != nil {
		return billing.Verification{}, fmt.Errorf("verify: %w", oneLine{err})
	}
	return v, nil
}

// connect returns connections for verifications.
func connect(config *pgx.ConnConfig) *sql.DB {
	config = config.Copy()
	// Plans are made for the arguments, as for reports.
	config.DefaultQueryExecMode = planned
	config.RuntimeParams["statement_timeout"] = fmt.Sprint(verifyTimeout.Milliseconds())
	config.RuntimeParams["default_transaction_read_only"] = "on"
	// Pages are read in the order of an index, however few rows the planner
	// expects: to sort the rest of a table for each page would take forever.
	config.RuntimeParams["enable_bitmapscan"] = "off"
	return stdlib.OpenDB(*config)
}

func verify(ctx context.Context, db *sql.DB, o billing.VerifyOptions, remember func(context.Context, proof.Sound) error) (billing.Verification, error) {
	return proof.Verify(ctx, proof.Store{
		Begin:    func(ctx context.Context) (*sql.Tx, error) { return beginSnapshot(ctx, db) },
		Queries:  &proofQueries,
		Remember: remember,
	}, o)
}

// beginSnapshot begins a transaction that sees one moment. The lock comes first:
// rows in a partition that is dropped after that moment would not be seen, nor
// their sums.
func beginSnapshot(ctx context.Context, db *sql.DB) (*sql.Tx, error) {
	tx, err := db.BeginTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true})
	if err != nil {
		return nil, err
	}
	if _, err := tx.ExecContext(ctx, lockPartitions); err != nil {
		return nil, errors.Join(err, tx.Rollback())
	}
	return tx, nil
}

func (s *Store) remember(ctx context.Context, sound proof.Sound) error {
	if l := sound.Ledger; l != nil {
		_, err := s.pool.Exec(ctx, rememberLedger, sound.OrganizationID, l.Entries, l.Balance, l.Credited, l.Debited, l.Hash)
		if err != nil {
			return err
		}
	}
	for some := range slices.Chunk(sound.Hours, rememberedHours) {
		_, err := s.pool.Exec(ctx, rememberHours, sound.OrganizationID,
			column(some, func(h *proof.Hour) time.Time { return h.Start }),
			column(some, func(h *proof.Hour) int64 { return h.Requests }),
			column(some, func(h *proof.Hour) int64 { return h.PromptTokens }),
			column(some, func(h *proof.Hour) int64 { return h.CompletionTokens }),
			column(some, func(h *proof.Hour) int64 { return h.CachedTokens }),
			column(some, func(h *proof.Hour) int64 { return h.ReasoningTokens }),
			column(some, func(h *proof.Hour) int64 { return int64(h.Cost) }),
			column(some, func(h *proof.Hour) int64 { return int64(h.MarketCost) }))
		if err != nil {
			return err
		}
	}
	return nil
}
