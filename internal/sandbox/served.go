package sandbox

import (
	"cmp"
	"sync"
	"time"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// keep is how many answers Served remembers, unless the provider is told
// otherwise.
const keep = 1 << 16

// Served is one request and what the sandbox answered.
//
// It is recorded before the last bytes of the answer are written, and
// corrected if they could not be, so that whoever has read an answer to its
// end finds it recorded. Complete therefore means that the connection took
// all bytes, not that someone read them.
type Served struct {
	// Seq counts up from 1 since the last reset.
	Seq uint64 `json:"seq"`
	// ID is the id in the answer, or of the exchange if the answer has none.
	ID string `json:"id"`
	// ScriptID is the id that the script chose.
	ScriptID string            `json:"script_id,omitempty"`
	Protocol metering.Protocol `json:"protocol"`
	// Endpoint is named as in package metering: "chat/completions".
	Endpoint string `json:"endpoint"`
	// Model is the model as requested, a script included.
	Model string `json:"model,omitempty"`
	// ReportedModel is the model that the answer names.
	ReportedModel string `json:"reported_model,omitempty"`
	Tier          string `json:"tier,omitempty"`
	Speed         string `json:"speed,omitempty"`
	Region        string `json:"region,omitempty"`
	Stream        bool   `json:"stream"`
	// Status is 0 if not even a status was sent.
	Status int `json:"status"`
	// Credential is the name of the header, or "key" for the query parameter,
	// that the credential came in. Its value is not kept.
	Credential string `json:"credential,omitempty"`
	// Usage is what the answer cost: of an unfinished stream, the whole prompt
	// and the output that was sent; a body that is not streamed was generated
	// in full before any of it was sent. Its JSON keys are its Go field names.
	Usage metering.Usage `json:"usage"`
	// UsageReported tells that the answer reports its final usage.
	UsageReported bool `json:"usage_reported"`
	// Complete tells that every byte of the answer was written. An answer
	// that is neither complete nor failed is partial.
	Complete bool `json:"complete"`
	// Failed tells that the model answered nothing: an error, or no answer.
	Failed   bool      `json:"failed"`
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`
}

// Totals counts all that was served since the last reset.
type Totals struct {
	// Requests = Complete + Partial + Failed.
	Requests int64 `json:"requests"`
	Complete int64 `json:"complete"`
	Partial  int64 `json:"partial"`
	Failed   int64 `json:"failed"`
	// Open counts the requests that are being served now.
	Open int64 `json:"open"`
	// LeakedProxyKeys counts requests that carried a gateway's own key.
	LeakedProxyKeys int64 `json:"leaked_proxy_keys"`
	// Usage is the sum over complete answers, PartialUsage over partial ones.
	Usage        metering.Usage `json:"usage"`
	PartialUsage metering.Usage `json:"partial_usage"`
}

// entry is a record in the ledger. Once added, it changes only under the
// ledger's lock.
type entry struct {
	Served
	generation int
}

// ledger remembers the last answers, and sums up all of them.
type ledger struct {
	keep       uint64 // 0 stands for the constant
	mu         sync.Mutex
	ring       []*entry
	seq        uint64
	totals     Totals
	attempts   map[string]int64
	generation int
}

// add records an answer.
func (l *ledger) add(e *entry) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	e.Seq, e.generation, e.Finished = l.seq, l.generation, time.Now()
	if most := cmp.Or(l.keep, keep); uint64(len(l.ring)) < most {
		l.ring = append(l.ring, e)
	} else {
		l.ring[(l.seq-1)%most] = e
	}
	l.totals.count(&e.Served, 1)
}

// revise corrects a record that was added.
func (l *ledger) revise(e *entry, correct func(*Served)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	counted := e.generation == l.generation
	if counted {
		l.totals.count(&e.Served, -1)
	}
	correct(&e.Served)
	e.Finished = time.Now()
	if counted {
		l.totals.count(&e.Served, 1)
	}
}

// leak counts a proxy key that reached the sandbox.
func (l *ledger) leak() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.totals.LeakedProxyKeys++
}

// attempt counts a request with this script id, and returns how many there
// have been. The counts live until the next reset.
func (l *ledger) attempt(id string) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.attempts == nil {
		l.attempts = make(map[string]int64)
	}
	l.attempts[id]++
	return l.attempts[id]
}

// after returns the remembered answers with a higher Seq, oldest first.
func (l *ledger) after(seq uint64) []Served {
	l.mu.Lock()
	defer l.mu.Unlock()
	oldest := l.seq - uint64(len(l.ring)) + 1
	first := max(seq+1, oldest)
	served := make([]Served, 0, max(l.seq+1, first)-first)
	for s := first; s <= l.seq; s++ {
		served = append(served, l.ring[(s-1)%uint64(len(l.ring))].Served)
	}
	return served
}

func (l *ledger) sum() Totals {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.totals
}

func (l *ledger) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ring, l.seq, l.totals, l.attempts = nil, 0, Totals{}, nil
	l.generation++
}

// count adds one answer to the totals, or takes it out if n is -1.
func (t *Totals) count(s *Served, n int64) {
	t.Requests += n
	switch {
	case s.Complete:
		t.Complete += n
		t.Usage = t.Usage.Add(times(s.Usage, n))
	case s.Failed:
		t.Failed += n
	default:
		t.Partial += n
		t.PartialUsage = t.PartialUsage.Add(times(s.Usage, n))
	}
}

// times returns the usage n times.
func times(u metering.Usage, n int64) metering.Usage {
	return metering.Usage{
		Input: n * u.Input, InputAudio: n * u.InputAudio, InputImage: n * u.InputImage,
		CacheRead: n * u.CacheRead, CacheReadAudio: n * u.CacheReadAudio,
		CacheWrite: n * u.CacheWrite, CacheWriteLong: n * u.CacheWriteLong,
		Output: n * u.Output, OutputAudio: n * u.OutputAudio, OutputImage: n * u.OutputImage,
		WebSearches: n * u.WebSearches, Reasoning: n * u.Reasoning,
	}
}
