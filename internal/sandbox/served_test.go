package sandbox

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddy-llm-gateway/gateway/metering"
)

func TestLedgerRing(t *testing.T) {
	t.Parallel()
	var l ledger
	const extra = 10
	for range keep + extra {
		l.add(&entry{Served: Served{Complete: true, Usage: metering.Usage{Input: 1}}})
	}
	served := l.after(0)
	if len(served) != keep || served[0].Seq != extra+1 || served[keep-1].Seq != keep+extra {
		t.Errorf("%d remembered, from %d to %d", len(served), served[0].Seq, served[len(served)-1].Seq)
	}
	if got := l.after(keep + extra - 1); len(got) != 1 {
		t.Errorf("%d after the last but one", len(got))
	}
	if got := l.after(keep + extra + 5); len(got) != 0 {
		t.Errorf("%d after the last", len(got))
	}
	if got := l.sum(); got.Complete != keep+extra || got.Usage.Input != keep+extra {
		t.Errorf("totals %+v", got)
	}
}

// TestRevise checks that a correction moves an answer from one sum to the
// other, and that one from before a reset moves nothing.
func TestRevise(t *testing.T) {
	t.Parallel()
	var l ledger
	usage := metering.Usage{Input: 1, InputAudio: 2, CacheRead: 3, CacheWrite: 4, CacheWriteLong: 5, Output: 6, WebSearches: 7, Reasoning: 8}
	e := &entry{Served: Served{Complete: true, Usage: usage}}
	l.add(e)
	l.revise(e, func(s *Served) { s.Complete = false })
	if want := (Totals{Requests: 1, Partial: 1, PartialUsage: usage}); l.sum() != want {
		t.Errorf("totals %+v", l.sum())
	}
	l.reset()
	l.revise(e, func(s *Served) { s.Failed = true })
	if l.sum() != (Totals{}) {
		t.Errorf("totals %+v after a reset", l.sum())
	}
}

// TestUnwritable checks that an answer whose last bytes cannot be written is
// not complete.
func TestUnwritable(t *testing.T) {
	t.Parallel()
	for _, body := range []string{chatBody, streaming(chatBody)} {
		p := New()
		r := httptest.NewRequest(http.MethodPost, chatPath, strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer test")
		p.ServeHTTP(&brokenWriter{ResponseRecorder: httptest.NewRecorder()}, r)
		if totals := p.Totals(); totals.Partial != 1 || totals.Complete != 0 {
			t.Errorf("totals %+v", totals)
		}
	}
}

// brokenWriter takes whatever is not the end of an answer.
type brokenWriter struct{ *httptest.ResponseRecorder }

func (w *brokenWriter) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("[DONE]")) || b[0] == '{' {
		return 0, io.ErrClosedPipe
	}
	return w.ResponseRecorder.Write(b)
}
