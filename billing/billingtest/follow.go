package billingtest

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/caddy-llm-gateway/gateway/billing"
)

const (
	followedWriters = 6
	followedWrites  = 12
)

// write makes changes in many transactions at once, and says when all are made.
func write(t *testing.T, change func(writer, n int) error) (done <-chan struct{}) {
	t.Helper()
	var writers sync.WaitGroup
	for writer := range followedWriters {
		writers.Go(func() {
			for n := range followedWrites {
				if err := change(writer, n); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all := make(chan struct{})
	go func() {
		defer close(all)
		writers.Wait()
	}()
	t.Cleanup(writers.Wait)
	return all
}

// follow reads again and again until done, and once more.
func follow(done <-chan struct{}, read func()) {
	for {
		select {
		case <-done:
			read()
			return
		default:
			read()
		}
	}
}

// followsRecords: whoever reads the newest changes, up to the one that was the
// newest before, while others make more.
func followsRecords(t *testing.T, s billing.Store) {
	var seen []billing.ChangeRecord // oldest first
	done := write(t, func(writer, n int) error {
		return s.CreateKey(t.Context(), newKey(fmt.Sprintf("key_%d_%d", writer, n), org, nil, ""))
	})
	follow(done, func() {
		news := records(t, s, org, billing.ChangeFilter{})
		if len(seen) > 0 {
			last := slices.IndexFunc(news, func(c billing.ChangeRecord) bool { return c.ID == seen[len(seen)-1].ID })
			if last < 0 {
				t.Fatal("a change has disappeared")
			}
			news = news[:last]
		}
		slices.Reverse(news)
		seen = append(seen, news...)
	})
	all := records(t, s, org, billing.ChangeFilter{})
	slices.Reverse(all)
	equal(t, "changes that were followed", ids(seen), ids(all))
	if len(all) < followedWriters*followedWrites {
		t.Errorf("only %d changes", len(all))
	}
}

func ids(changes []billing.ChangeRecord) []string {
	list := make([]string, len(changes))
	for i, c := range changes {
		list[i] = c.ID
	}
	return list
}

// followsEntries: whoever reads the ledger oldest first, from the last entry on,
// while others append and post.
func followsEntries(t *testing.T, s billing.Store) {
	var seen []billing.Entry
	done := write(t, func(writer, n int) error {
		serial := writer*followedWrites + n
		if writer%2 == 0 {
			_, err := s.Post(t.Context(), node, []billing.Settlement{settlement(serial, usd)})
			return err
		}
		_, err := s.Append(t.Context(), purchase(usd, fmt.Sprint(serial)))
		return err
	})
	page := billing.Page{OldestFirst: true, Limit: 1000}
	follow(done, func() {
		news, err := s.Transactions(t.Context(), org, billing.EntryFilter{}, page)
		check(t, err)
		seen = append(seen, news...)
		if len(seen) > 0 {
			page.After = seen[len(seen)-1].ID
		}
	})
	all, err := s.Transactions(t.Context(), org, billing.EntryFilter{}, billing.Page{OldestFirst: true, Limit: 1000})
	check(t, err)
	equal(t, "entries that were followed", seen, all)
	equal(t, "entries", len(all), followedWriters*followedWrites)
}
