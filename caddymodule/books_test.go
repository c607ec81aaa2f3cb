package caddymodule

import (
	"bytes"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/caddy-llm-gateway/gateway/billing/journal"
	"github.com/caddy-llm-gateway/gateway/billing/sqlite"
)

// bookless returns the engine of a directory, not opened yet, and what it logs.
func bookless(t *testing.T, database, journalDir string) (*engine, *observer.ObservedLogs) {
	t.Helper()
	config := engineConfig{
		storage: Storage{Driver: "sqlite", DSN: database}, journalDir: journalDir, journalSync: journal.SyncInterval,
	}
	e, err := loadEngine(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := engines.Delete(config); err != nil {
			t.Error(err)
		}
	})
	core, logs := observer.New(zapcore.InfoLevel)
	e.log = zap.New(core)
	return e, logs
}

// leave writes a journal as a process that was killed leaves it.
func leave(t *testing.T, database, journalDir string, settlements ...billing.Settlement) {
	t.Helper()
	store, err := sqlite.Open(t.Context(), database)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	id, err := store.Identity(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	j, _, err := journal.Open(journalDir, journal.Options{Database: id})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	for i := range settlements {
		if _, err := j.Append(billing.RecordSettle, &settlements[i]); err != nil {
			t.Fatal(err)
		}
	}
}

func owed(cost billing.Money) billing.Settlement {
	now := time.Now()
	return billing.Settlement{
		RequestID: billing.NewID(billing.RequestIDPrefix, now), OrganizationID: billing.DefaultOrganization,
		At: now, Provider: "openai", Model: "gpt-4o", Cost: cost,
	}
}

// occupy keeps others from writing to the database until release is called.
func occupy(t *testing.T, database string) (release func()) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+database+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(t.Context(), "BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	return func() {
		if _, err := db.ExecContext(t.Context(), "ROLLBACK"); err != nil {
			t.Error(err)
		}
	}
}

// gathered reads a metric without labels as a scrape does.
func gathered(t *testing.T, name string) float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	if err := registerMetrics(registry); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func TestEngineDoesNotPostOneDatabasesJournalToAnother(t *testing.T) {
	dir := t.TempDir()
	first, second := filepath.Join(dir, "first.db"), filepath.Join(dir, "second.db")
	journalDir := filepath.Join(dir, "journal")
	s := owed(5)
	leave(t, first, journalDir, s)

	t.Run("another database", func(t *testing.T) {
		e, _ := bookless(t, second, journalDir)
		if err := e.open(t.Context()); !errors.Is(err, journal.ErrOtherDatabase) {
			t.Errorf("error is %v, want %v", err, journal.ErrOtherDatabase)
		}
	})
	t.Run("its own", func(t *testing.T) {
		e, _ := bookless(t, first, journalDir)
		if err := e.open(t.Context()); err != nil {
			t.Fatal(err)
		}
		if row, err := e.store.Request(t.Context(), s.OrganizationID, s.RequestID); err != nil || row.Cost != 5 {
			t.Errorf("posted %+v (%v)", row, err)
		}
	})
	t.Run("another database, when all is posted", func(t *testing.T) {
		e, _ := bookless(t, second, journalDir)
		if err := e.open(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := e.store.Request(t.Context(), s.OrganizationID, s.RequestID); !errors.Is(err, billing.ErrNotFound) {
			t.Errorf("the first database's request is in the second (%v)", err)
		}
	})
}

func TestEngineStartsWithWhatCannotBeBooked(t *testing.T) {
	dir := t.TempDir()
	database, journalDir := filepath.Join(dir, "gateway.db"), filepath.Join(dir, "journal")
	good, bad := owed(5), owed(-5)
	leave(t, database, journalDir, bad, good)
	rejected, conflicts := "caddy_llm_gateway_settlements_rejected_total", "caddy_llm_gateway_settlement_conflicts_total"
	rejectedBefore, conflictsBefore := gathered(t, rejected), gathered(t, conflicts)

	e, logs := bookless(t, database, journalDir)
	if err := e.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if row, err := e.store.Request(t.Context(), good.OrganizationID, good.RequestID); err != nil || row.Cost != 5 {
		t.Errorf("posted %+v (%v)", row, err)
	}
	if n := gathered(t, rejected) - rejectedBefore; n != 1 {
		t.Errorf("%v settlements were counted as rejected", n)
	}
	file := filepath.Join(journalDir, "rejected.jsonl")
	if b, err := os.ReadFile(file); err != nil || !bytes.Contains(b, []byte(bad.RequestID)) || bytes.Contains(b, []byte(good.RequestID)) {
		t.Errorf("set aside (%v):\n%s", err, b)
	}
	lines := logs.FilterMessage("the store cannot book a settlement; it is set aside and not charged").All()
	if len(lines) != 1 || lines[0].Level != zapcore.ErrorLevel ||
		lines[0].ContextMap()["request_id"] != bad.RequestID || lines[0].ContextMap()["file"] != file {
		t.Errorf("logged %v", lines)
	}

	release := occupy(t, database)
	changed := good
	changed.Cost++
	e.poster.Post(changed)
	if settlements := gathered(t, "caddy_llm_gateway_unposted_settlements"); settlements != 1 {
		t.Errorf("%v settlements are unposted", settlements)
	}
	if oldest := gathered(t, "caddy_llm_gateway_unposted_oldest_seconds"); oldest <= 0 || oldest > 60 {
		t.Errorf("the oldest has waited for %v s", oldest)
	}
	release()
	if err := e.poster.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := gathered(t, conflicts) - conflictsBefore; n != 1 {
		t.Errorf("%v conflicts were counted", n)
	}
	if settlements := gathered(t, "caddy_llm_gateway_unposted_settlements"); settlements != 0 {
		t.Errorf("%v settlements are unposted after a flush", settlements)
	}
}
