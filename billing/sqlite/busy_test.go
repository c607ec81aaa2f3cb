package sqlite_test

import (
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// Another process, such as one that a restart replaces, writes for longer than
// SQLite itself waits.
func TestWritesWaitForOtherProcesses(t *testing.T) {
	t.Parallel()
	s := open(t)
	defer s.Close()
	other, err := raw(t).Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(6*time.Second, func() {
		if _, err := other.ExecContext(t.Context(), "COMMIT"); err != nil {
			t.Error(err)
		}
	})
	defer timer.Stop()
	draw := billing.Draw{
		Quota: billing.Quota{Kind: billing.KeyRPM, OrganizationID: "org", Subject: "key", Start: time.Now()},
		Limit: 2, Want: 1, Serial: 1,
	}
	drawn, err := s.Draw(t.Context(), "node.1", []billing.Draw{draw})
	if err != nil || drawn[0].Granted != 1 {
		t.Errorf("drawn %+v, error %v", drawn, err)
	}
}
