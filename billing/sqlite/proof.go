package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/proof"
	"github.com/caddy-llm-gateway/gateway/billing/internal/schema"
)

// rememberedHours is how many hours one transaction remembers. Posts wait for
// it, as there is one writer.
const rememberedHours = 500

// Verify implements billing.Reports. It reads on a connection of its own, from
// one snapshot: the write-ahead log grows while it does, but no one waits.
func (s *Store) Verify(ctx context.Context, o billing.VerifyOptions) (v billing.Verification, err error) {
	if err := s.checkFile(); err != nil {
		return billing.Verification{}, fmt.Errorf("verify: %w", err)
	}
	db, err := sql.Open("sqlite", readOnlyDSN(s.path))
	if err != nil {
		return billing.Verification{}, fmt.Errorf("verify: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return verify(ctx, db, o, s.remember)
}

// Verify verifies the books in the file at path without changing them, whoever
// else has it open. A file of another schema than this program's is refused.
func Verify(ctx context.Context, path string, o billing.VerifyOptions) (v billing.Verification, err error) {
	if _, err := os.Stat(path); err != nil {
		return billing.Verification{}, fmt.Errorf("verify: %w", err)
	}
	db, err := sql.Open("sqlite", readOnlyDSN(path))
	if err != nil {
		return billing.Verification{}, fmt.Errorf("verify %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := schema.Check(ctx, db, migrations); err != nil {
		return billing.Verification{}, fmt.Errorf("verify %s: %w", path, err)
	}
	return verify(ctx, db, o, nil)
}

func verify(ctx context.Context, db *sql.DB, o billing.VerifyOptions, remember func(context.Context, proof.Sound) error) (billing.Verification, error) {
	v, err := proof.Verify(ctx, proof.Store{
		Begin:    func(ctx context.Context) (*sql.Tx, error) { return db.BeginTx(ctx, nil) },
		Queries:  &proofQueries,
		Remember: remember,
	}, o)
	if err != nil {
		return billing.Verification{}, fmt.Errorf("verify: %w", causeOf(ctx, err))
	}
	return v, nil
}

func (s *Store) remember(ctx context.Context, sound proof.Sound) error {
	if l := sound.Ledger; l != nil {
		err := s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, rememberLedger, sound.OrganizationID,
				l.Entries, int64(l.Balance), int64(l.Credited), int64(l.Debited), l.Hash)
			return err
		})
		if err != nil {
			return err
		}
	}
	for some := range slices.Chunk(sound.Hours, rememberedHours) {
		err := s.write(ctx, func(ctx context.Context, tx *sql.Tx) error {
			for _, h := range some {
				_, err := tx.ExecContext(ctx, rememberHours, sound.OrganizationID, micros(h.Start), h.Requests,
					h.PromptTokens, h.CompletionTokens, h.CachedTokens, h.ReasoningTokens, int64(h.Cost), int64(h.MarketCost))
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
