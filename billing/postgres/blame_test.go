//go:build unix

package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/internal/books"
	"github.com/caddy-llm-gateway/gateway/internal/pgtest"
)

func owed(id string) billing.Settlement {
	return billing.Settlement{RequestID: id, OrganizationID: "org", At: time.Now(), Model: "m", Cost: 5}
}

func TestFewErrorsAreASettlementsOwn(t *testing.T) {
	t.Parallel()
	rows, err := books.NewRows([]billing.Settlement{owed("req_1")})
	if err != nil {
		t.Fatal(err)
	}
	for code, own := range map[string]bool{
		"22003": true,  // numeric_value_out_of_range
		"22021": true,  // character_not_in_repertoire
		"22P05": true,  // untranslatable_character
		"54000": true,  // program_limit_exceeded
		"08006": false, // connection_failure
		"22P02": false, // invalid_text_representation: a prepared statement of another schema
		"22P03": false, // invalid_binary_representation: likewise
		"23502": false, // not_null_violation: a column of another version
		"23505": false, // unique_violation: entries that are out of step with their account
		"23514": false, // check_violation: leased sums that are out of step
		"25006": false, // read_only_sql_transaction: a failover
		"25P02": false, // in_failed_sql_transaction
		"26000": false, // invalid_sql_statement_name: a pooler
		"28P01": false, // invalid_password
		"40001": false, // serialization_failure
		"40P01": false, // deadlock_detected
		"42501": false, // insufficient_privilege
		"42703": false, // undefined_column
		"42P01": false, // undefined_table
		"53100": false, // disk_full
		"53200": false, // out_of_memory
		"53300": false, // too_many_connections
		"54001": false, // statement_too_complex
		"55P03": false, // lock_not_available
		"57014": false, // query_canceled
		"57P01": false, // admin_shutdown
		"57P03": false, // cannot_connect_now
		"58030": false, // io_error
		"P0001": false, // raise_exception: a trigger of another version
		"XX000": false, // internal_error
		"XX001": false, // data_corrupted
	} {
		cause := fmt.Errorf("insert requests: %w", &pgconn.PgError{Code: code})
		err := blame(rows, cause)
		if errors.Is(err, billing.ErrInvalid) != own || !errors.Is(err, cause) {
			t.Errorf("%s is a settlement's own: %t, want %t (%v)", code, !own, own, err)
		}
	}
}

func TestErrorsOfTheServerMayPass(t *testing.T) {
	t.Parallel()
	dsn := pgtest.DSN(t)
	s, err := Open(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for i, test := range []struct{ setting, value, meanwhile, want string }{
		{"default_transaction_read_only", "on", "SELECT 1", "25006"},
		{"statement_timeout", "50", "LOCK TABLE requests IN SHARE MODE", "57014"},
	} {
		config, err := pgxpool.ParseConfig(dsn)
		if err != nil {
			t.Fatal(err)
		}
		config.ConnConfig.RuntimeParams[test.setting] = test.value
		pool, err := pgxpool.NewWithConfig(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		defer pool.Close()
		another, err := s.pool.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := another.Exec(t.Context(), test.meanwhile); err != nil {
			t.Fatal(err)
		}
		one := owed(fmt.Sprintf("req_%d", i))
		limited := &Store{pool: pool}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err = limited.Post(ctx, "node", []billing.Settlement{one})
		if err == nil || errors.Is(err, billing.ErrInvalid) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error is %v, want %s, and none of the settlement's", test.setting, err, test.want)
		}
		if err := another.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Post(t.Context(), "node", []billing.Settlement{one}); err != nil {
			t.Errorf("%s: afterwards: %v", test.setting, err)
		}
	}
}

// A text may be too long for an index. It is noise, since others are compressed.
func TestTextTooLongForAnIndexIsTheSettlementsOwn(t *testing.T) {
	t.Parallel()
	s, err := Open(t.Context(), pgtest.DSN(t))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	random := rand.New(rand.NewPCG(1, 1))
	var noise strings.Builder
	for range 20_000 {
		noise.WriteByte(byte(' ' + random.IntN(90)))
	}
	bad := owed("req_1")
	bad.Model = noise.String()
	_, err = s.Post(t.Context(), "node", []billing.Settlement{owed("req_0"), bad})
	if !errors.Is(err, billing.ErrInvalid) {
		t.Errorf("error is %v, want %v", err, billing.ErrInvalid)
	}
	if _, err := s.Post(t.Context(), "node", []billing.Settlement{owed("req_0")}); err != nil {
		t.Error(err)
	}
}
