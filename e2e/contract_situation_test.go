package e2e

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// situation is what is special about a request, its key or its organization.
// The zero value is a good request of a key that may do everything, in an
// organization with credits.
type situation struct {
	// organization are fields of PUT /v1/budget.
	organization fields
	// penniless is an organization that never bought credits.
	penniless bool
	// project are fields of PUT /v1/projects/{name}, of the key's project.
	project fields
	// key are fields that the key is made with.
	key fields
	// before is what the key has been used for in this minute.
	before use
	// change are fields of the key that are changed after that.
	change           fields
	expired, revoked bool
	// request alters the request.
	request func(*proxyRequest)
	// noLedger is a ledger that takes nothing.
	noLedger bool
	// broken is a provider that has not answered for a while.
	broken bool
}

// fields are some of a JSON object.
type fields map[string]any

const (
	// anyKey stands in requests where the situation's key goes.
	anyKey = "sk-proxy-of-the-situation"
	// clientAddress is where requests come from, says a proxy that the gateway
	// trusts.
	clientAddress = "192.0.2.7"
	// refusedHeader marks requests that must not arrive at a provider.
	refusedHeader = "X-Must-Not-Arrive"
	// stayOpenHeader makes the provider begin its answer and not end it.
	stayOpenHeader = "X-Stay-Open"
	// projectName is the project of keys that have one.
	projectName = "contract"
)

// unknownKey has the form of a proxy key.
var unknownKey = "sk-proxy-" + strings.Repeat("f", 64)

// proxyRequest is a request to a proxy route in parts that can be altered, one
// by one.
type proxyRequest struct {
	method string
	// provider is the first part of the path, and path is the rest. In unified
	// mode path is all of it.
	provider, path string
	unified        bool
	// model is what the path or the body says.
	model  string
	header http.Header
	body   string
	// key is what anyKey in the headers stands for; "" takes them out.
	key string
}

// goodRequests are requests that are answered, one for each protocol. In
// Gemini's, provider, model and body are apart from each other, so that each of
// them can be wrong by itself.
var goodRequests = map[string]proxyRequest{
	"openai": {
		method: http.MethodPost, provider: "openai", path: "/v1/chat/completions", model: "gpt-4o-mini",
		header: http.Header{"Content-Type": {"application/json"}, "Authorization": {"Bearer " + anyKey}},
		body:   `{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}`,
	},
	"anthropic": {
		method: http.MethodPost, provider: "anthropic", path: "/v1/messages", model: "claude-haiku-4-5",
		header: http.Header{"Content-Type": {"application/json"}, "X-Api-Key": {anyKey}, "Anthropic-Version": {"2023-06-01"}},
		body:   `{"model": "claude-haiku-4-5", "max_tokens": 99, "messages": [{"role": "user", "content": "hello"}]}`,
	},
	"gemini": {
		method: http.MethodPost, provider: "gemini", path: "/v1beta/models/gemini-2.5-flash:generateContent", model: "gemini-2.5-flash",
		header: http.Header{"Content-Type": {"application/json"}, "X-Goog-Api-Key": {anyKey}},
		body:   `{"contents": [{"role": "user", "parts": [{"text": "hello"}]}]}`,
	},
}

// What a situation may alter about a request.

// toProvider sends the request to the provider of the same protocol whose name
// ends in this. In unified mode it is in the model.
func toProvider(kind string) func(*proxyRequest) {
	return func(r *proxyRequest) {
		protocol, _, _ := strings.Cut(r.provider, "-")
		name := protocol + "-" + kind
		r.body = strings.Replace(r.body, `"`+r.provider+"/", `"`+name+"/", 1)
		r.provider = name
	}
}

func withKey(key string) func(*proxyRequest) {
	return func(r *proxyRequest) { r.key = key }
}

func doubleSlash(r *proxyRequest) { r.path = "/" + r.path }

func cutBody(r *proxyRequest) { r.body = r.body[:len(r.body)/2] }

func padBody(r *proxyRequest) { r.body += strings.Repeat(" ", maxBody) }

func unheardOfModel(r *proxyRequest) {
	name := r.model + "-unheard-of"
	r.path = strings.Replace(r.path, r.model, name, 1)
	r.body = strings.Replace(r.body, r.model, name, 1)
	r.model = name
}

// unplacedModel asks in unified mode for a model that nobody knows.
func unplacedModel(r *proxyRequest) { unify(r, "nobody-knows-whose") }

// otherProtocol asks in unified mode for a model whose provider speaks another
// protocol than OpenAI's.
func otherProtocol(r *proxyRequest) {
	if r.provider == "openai" {
		r.provider, r.model = "gemini", goodRequests["gemini"].model
	}
	unify(r, r.provider+"/"+r.model)
}

// unify makes it a request in unified mode, for up to 99 tokens.
func unify(r *proxyRequest, model string) {
	r.unified, r.path = true, "/v1/chat/completions"
	r.body = fmt.Sprintf(`{"model": %q, "max_tokens": 99, "messages": [{"role": "user", "content": "hello"}]}`, model)
}

// askForMore asks for up to 99 tokens, as Anthropic's request does anyway.
func askForMore(r *proxyRequest) {
	switch protocol, _, _ := strings.Cut(r.provider, "-"); protocol {
	case "openai":
		r.body = strings.Replace(r.body, "{", `{"max_tokens": 99, `, 1)
	case "gemini":
		r.body = strings.Replace(r.body, "{", `{"generationConfig": {"maxOutputTokens": 99}, `, 1)
	}
}

// askForList turns Gemini's request into one for a list, which costs nothing.
func askForList(r *proxyRequest) { r.method, r.path, r.body = http.MethodGet, "/v1beta/models", "" }

// scripted makes the provider answer as the sandbox's script says.
func scripted(name, value string) func(*proxyRequest) {
	return func(r *proxyRequest) { r.header.Set("X-Sandbox-"+name, value) }
}

// together makes several alterations.
func together(alterations ...func(*proxyRequest)) func(*proxyRequest) {
	return func(r *proxyRequest) {
		for _, alter := range alterations {
			alter(r)
		}
	}
}

// answer is a response, read to its end.
type answer struct {
	status int
	header http.Header
	body   []byte
	// organization is whose request it answers.
	organization string
	// asked and answered are when the request was sent and the answer was read,
	// in the same minute.
	asked, answered time.Time
}

// send sends the request and reads the answer.
func (r *proxyRequest) send(ctx context.Context, gateway string) (answer, error) {
	res, err := r.open(ctx, gateway)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return answer{}, fmt.Errorf("read answer: %w", err)
	}
	return answer{status: res.StatusCode, header: res.Header, body: body}, nil
}

// open sends the request and returns when the answer begins.
func (r *proxyRequest) open(ctx context.Context, gateway string) (*http.Response, error) {
	url := gateway + "/" + r.provider + r.path
	if r.unified {
		url = gateway + r.path
	}
	req, err := http.NewRequestWithContext(ctx, r.method, url, strings.NewReader(r.body))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	req.Header = r.header.Clone()
	for name, values := range req.Header {
		for i, value := range values {
			if strings.Contains(value, anyKey) && r.key == "" {
				req.Header.Del(name)
				break
			}
			values[i] = strings.ReplaceAll(value, anyKey, r.key)
		}
	}
	req.Header.Set("X-Forwarded-For", clientAddress)
	return client.Do(req)
}

// ask sends a request in situations that come together, the weightiest first.
func (c *contract) ask(ctx context.Context, good proxyRequest, situations ...situation) (answer, error) {
	for {
		minute := time.Now().Truncate(time.Minute)
		a, err := c.askOnce(ctx, good, situations)
		if err != nil || time.Now().Truncate(time.Minute).Equal(minute) {
			return a, err
		}
		// A new minute has begun, in which nothing is used up.
	}
}

// askOnce brings the situations about, for an organization of their own.
func (c *contract) askOnce(ctx context.Context, good proxyRequest, situations []situation) (answer, error) {
	on := c.healthy
	if slices.ContainsFunc(situations, func(s situation) bool { return s.noLedger }) {
		on = c.stuck
		c.ledger.Lock()
		defer c.ledger.Unlock()
	}
	org, err := on.newOrganization(ctx)
	if err != nil {
		return answer{}, err
	}
	g := on.as(org)
	key, err := createSituation(ctx, g, situations)
	if err != nil {
		return answer{}, err
	}
	request := good
	request.header, request.key = good.header.Clone(), key.Key
	for _, s := range slices.Backward(situations) {
		if s.broken {
			if err := on.breakProvider(ctx, good); err != nil {
				return answer{}, err
			}
		}
		if s.before != nil {
			end, err := s.before(ctx, g, key.Key)
			if err != nil {
				return answer{}, err
			}
			defer end()
		}
		if s.request != nil {
			s.request(&request)
		}
	}
	if err := changeKey(ctx, g, key.ID, situations); err != nil {
		return answer{}, err
	}
	if on == c.stuck {
		release, err := on.seizeLedger(ctx, org)
		if err != nil {
			return answer{}, err
		}
		defer release()
	}
	asked := time.Now()
	a, err := request.send(ctx, g.url)
	a.organization, a.asked, a.answered = org, asked, time.Now()
	return a, err
}

// createSituation makes the key, and what is around it.
func createSituation(ctx context.Context, g *gateway, situations []situation) (createdKey, error) {
	key, budget, project := fields{"name": "contract"}, fields{}, fields{}
	penniless := false
	for _, s := range situations {
		maps.Copy(key, s.key)
		maps.Copy(budget, s.organization)
		maps.Copy(project, s.project)
		penniless = penniless || s.penniless
	}
	var created createdKey
	if !penniless {
		if err := g.call(ctx, http.MethodPost, "/v1/billing/purchase", fields{"package_id": "large"}, nil); err != nil {
			return created, err
		}
	}
	if len(budget) > 0 {
		if err := g.call(ctx, http.MethodPut, "/v1/budget", budget, nil); err != nil {
			return created, err
		}
	}
	if len(project) > 0 {
		if err := g.call(ctx, http.MethodPut, "/v1/projects/"+projectName, project, nil); err != nil {
			return created, err
		}
		key["project"] = projectName
	}
	return created, g.call(ctx, http.MethodPost, "/v1/keys", key, &created)
}

// changeKey is what happens to the key after its first use.
func changeKey(ctx context.Context, g *gateway, id string, situations []situation) error {
	change, expired, revoked := fields{}, false, false
	for _, s := range situations {
		maps.Copy(change, s.change)
		expired, revoked = expired || s.expired, revoked || s.revoked
	}
	if len(change) > 0 {
		if err := g.call(ctx, http.MethodPatch, "/v1/keys/"+id, change, nil); err != nil {
			return err
		}
	}
	if expired {
		if err := expireKey(ctx, g, id); err != nil {
			return err
		}
	}
	if revoked {
		return g.call(ctx, http.MethodPost, "/v1/keys/"+id+"/revoke", nil, nil)
	}
	return nil
}

// expireKey gives a key a short time to live, and waits until that is over. A
// time that is over when the gateway hears of it is refused, which may take
// longer than expected: then it gets more.
func expireKey(ctx context.Context, g *gateway, id string) error {
	var err error
	for life := 50 * time.Millisecond; life < 10*time.Second; life *= 2 {
		end := time.Now().Add(life)
		if err = g.call(ctx, http.MethodPatch, "/v1/keys/"+id, fields{"expires_at": end.UTC()}, nil); err == nil {
			time.Sleep(time.Until(end))
			return nil
		}
	}
	return err
}

// use is what a key does before the request that counts. What is still under
// way is ended by end.
type use func(ctx context.Context, g *gateway, key string) (end func(), err error)

// oneRequest asks for a list.
func oneRequest(ctx context.Context, g *gateway, key string) (func(), error) {
	r := goodRequests["gemini"]
	r.key = key
	askForList(&r)
	_, err := r.send(ctx, g.url)
	return func() {}, err
}

func oneCompletion(ctx context.Context, g *gateway, key string) (func(), error) {
	r := goodRequests["gemini"]
	r.key = key
	_, err := r.send(ctx, g.url)
	return func() {}, err
}

// oneOpenRequest is one that costs nothing, of whose answer the first byte has
// come, and whose last does not.
func oneOpenRequest(ctx context.Context, g *gateway, key string) (func(), error) {
	ctx, cancel := context.WithCancel(ctx)
	r := goodRequests["gemini"]
	r.key = key
	askForList(&r)
	r.header = r.header.Clone()
	r.header.Set(stayOpenHeader, "1")
	res, err := r.open(ctx, g.url)
	if err != nil {
		cancel()
		return nil, err
	}
	return func() { cancel(); res.Body.Close() }, nil
}

// streaming is Gemini's request with the answer as a stream.
func streaming(r proxyRequest) proxyRequest {
	r.header = r.header.Clone()
	r.path = strings.Replace(r.path, ":generateContent", ":streamGenerateContent", 1) + "?alt=sse"
	return r
}
