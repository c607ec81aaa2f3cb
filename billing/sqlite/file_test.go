package sqlite

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func TestWritesFailWhenTheFileIsGone(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(path string) error{
		"deleted": os.Remove,
		"moved":   func(path string) error { return os.Rename(path, path+".old") },
		"replaced": func(path string) error {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if err := os.WriteFile(path+".copy", b, 0o600); err != nil {
				return err
			}
			return os.Rename(path+".copy", path)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "gateway.db")
			s, err := Open(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			settlement := billing.Settlement{
				RequestID: billing.NewID(billing.RequestIDPrefix, time.Now()), OrganizationID: "org",
				KeyID: "key_1", At: time.Now(), Cost: 5,
			}
			post := func(ctx context.Context) error {
				_, err := s.Post(ctx, "node_1", []billing.Settlement{settlement})
				return err
			}
			organization := func(ctx context.Context) error {
				return s.EnsureOrganization(ctx, billing.Organization{ID: "org", CreatedAt: time.Now()})
			}
			verify := func(ctx context.Context) error {
				_, err := s.Verify(ctx, billing.VerifyOptions{})
				return err
			}
			calls := map[string]func(context.Context) error{
				"ping": s.Ping, "post": post, "create organization": organization, "verify": verify,
			}
			for call, f := range calls {
				if err := f(t.Context()); err != nil {
					t.Fatalf("%s: %v", call, err)
				}
			}
			if err := spoil(path); err != nil {
				t.Fatal(err)
			}
			want := "database file " + path + " was deleted or replaced; restore it and restart"
			for call, f := range calls {
				if err := f(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("%s: %v, want %q", call, err, want)
				}
			}
		})
	}
}

func TestFileIsCheckedBeforeAndAfterEachTransaction(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "gateway.db")
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	remove := func(context.Context, *sql.Tx) error { return os.Remove(path) }
	if err := s.write(t.Context(), remove); err == nil {
		t.Error("a commit into a file that was deleted meanwhile succeeded")
	}
	began := false
	err = s.write(t.Context(), func(context.Context, *sql.Tx) error { began = true; return nil })
	if err == nil || began {
		t.Errorf("a transaction on a deleted file: began %t, error %v", began, err)
	}
}
