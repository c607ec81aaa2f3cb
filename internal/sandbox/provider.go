package sandbox

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// Provider is a scripted model provider, safe for concurrent use. Its memory
// is bounded: it remembers the last 65,536 answers and 256 MiB of uploaded
// files, besides a counter for each script id that uses fail_times.
type Provider struct {
	ledger  ledger
	files   files
	open    atomic.Int64
	lastID  atomic.Uint64
	idStart string
}

// New returns a provider that has served nothing yet.
func New() *Provider {
	var start [5]byte
	_, _ = rand.Read(start[:]) // never fails
	return &Provider{idStart: hex.EncodeToString(start[:])}
}

// Remember sets how many answers Served remembers, before the first one. Each
// takes some 500 bytes.
func (p *Provider) Remember(answers int) { p.ledger.keep = uint64(answers) }

// Served returns the last answers, oldest first: at most 65,536 of them, or as
// many as Remember says.
func (p *Provider) Served() []Served { return p.ledger.after(0) }

// Totals returns the exact counts since the last reset.
func (p *Provider) Totals() Totals {
	t := p.ledger.sum()
	t.Open = p.open.Load()
	return t
}

// Reset forgets everything that was served, and all files. Requests that are
// being served now are recorded when they end.
func (p *Provider) Reset() {
	p.ledger.reset()
	p.files.reset()
}

// ServeHTTP answers as the provider whose route was asked for.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if name, ours := strings.CutPrefix(r.URL.Path, "/sandbox/"); ours {
		p.serveControl(w, r, name)
		return
	}
	p.open.Add(1)
	defer p.open.Add(-1)
	x := p.newExchange(w, r)
	defer x.release()
	rt := match(r)
	x.entry.Protocol, x.entry.Endpoint = rt.protocol, rt.endpoint
	if err := x.serve(rt); err != nil {
		x.fail(err)
	}
}

// serve checks the credential and lets the route's handler answer.
func (x *exchange) serve(rt route) error {
	if x.leaksProxyKey() {
		x.p.ledger.leak()
		return &refusal{status: http.StatusUnauthorized, message: "proxy key leaked to the provider"}
	}
	if rt.endpoint != endpointEcho {
		if err := x.authenticate(); err != nil {
			return err
		}
	}
	return rt.handle(x, rt.model)
}

// newID returns an id that no other answer of any provider has.
func (p *Provider) newID() string {
	return p.idStart + strconv.FormatUint(p.lastID.Add(1), 36)
}

// serveControl lets other processes read the counts.
func (p *Provider) serveControl(w http.ResponseWriter, r *http.Request, name string) {
	switch r.Method + " " + name {
	case "GET served":
		after, err := strconv.ParseUint(first(r.URL.Query().Get("after"), "0"), 10, 64)
		if err != nil {
			http.Error(w, "after is not a number", http.StatusBadRequest)
			return
		}
		writeJSON(w, p.ledger.after(after))
	case "GET totals":
		writeJSON(w, p.Totals())
	case "POST reset":
		p.Reset()
		w.WriteHeader(http.StatusNoContent)
	default:
		http.NotFound(w, r)
	}
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // fails only if the reader has left
}

// credentialHeaders are where each protocol looks for a credential.
var credentialHeaders = map[metering.Protocol][]string{
	metering.OpenAI:    {"Authorization"},
	metering.Anthropic: {"X-Api-Key", "Authorization"},
	metering.Gemini:    {"X-Goog-Api-Key", "Authorization"},
}

// credential returns the name and the value of the first credential that the
// protocol accepts.
func credential(r *http.Request, p metering.Protocol) (name, value string) {
	for _, name := range credentialHeaders[p] {
		value := r.Header.Get(name)
		if name == "Authorization" {
			value, _ = strings.CutPrefix(value, "Bearer ")
		}
		if value != "" {
			return name, value
		}
	}
	if p == metering.Gemini {
		if key := r.URL.Query().Get("key"); key != "" {
			return "key", key
		}
	}
	return "", ""
}

// authenticate refuses a missing or bad credential as the provider does.
func (x *exchange) authenticate() error {
	name, value := credential(x.r, x.entry.Protocol)
	x.entry.Credential = name
	if name != "" && value != "bad-key" {
		return nil
	}
	switch x.entry.Protocol {
	case metering.Anthropic:
		return &refusal{status: http.StatusUnauthorized, message: "invalid x-api-key"}
	case metering.Gemini:
		return &refusal{
			status: http.StatusBadRequest, code: "API_KEY_INVALID",
			message: "API key not valid. Please pass a valid API key.",
		}
	default:
		return &refusal{status: http.StatusUnauthorized, message: "Incorrect API key provided."}
	}
}

// leaksProxyKey tells that a gateway passed its own client's key on.
func (x *exchange) leaksProxyKey() bool {
	const proxyKey = "sk-proxy-"
	if strings.Contains(x.r.URL.RawQuery, proxyKey) {
		return true
	}
	for _, values := range x.r.Header {
		for _, v := range values {
			if strings.Contains(v, proxyKey) {
				return true
			}
		}
	}
	return false
}
