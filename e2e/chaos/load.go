package chaos

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// key is a proxy key.
type key struct{ secret, organization string }

// attempt is one request as its client saw it.
type attempt struct {
	ask
	answer
	organization string
	marker       string
	node         int
	sent         time.Time
	ended        time.Time
	requestID    string
	status       int // 0 if the connection failed before an answer
	// refusal is the gateway's own error, if that was the answer.
	refusal string
	// err is how the connection failed, before or during the answer.
	err error
}

// broken tells that an answer began and did not end, though the client stayed.
func (a *attempt) broken() bool {
	return a.status == http.StatusOK && !a.complete && !a.left
}

// failed tells that the client got an error of the server's.
func (a *attempt) failed() bool { return a.status >= http.StatusInternalServerError }

// load sends requests from many clients at once.
type load struct {
	nodes []*node
	// keys are what clients use, in turns.
	keys    []key
	clients int
	// think is how long a client pauses between two requests.
	think time.Duration
	// choose makes a client's next request.
	choose func(*rand.Rand) ask
	seed   uint64
	prefix string
	// each is called with every request that has ended.
	each func(*attempt)
	// untilRefused ends a client at the first 403.
	untilRefused bool

	count  atomic.Int64
	wait   sync.WaitGroup
	stop   context.CancelFunc
	mu     sync.Mutex
	result []*attempt
}

// requestTimeout ends what hangs: nothing here takes as long.
const requestTimeout = 60 * time.Second

// start lets the clients begin. They end with ctx, each after its open request.
func (l *load) start(ctx context.Context) {
	ctx, l.stop = context.WithCancel(ctx)
	transport := &http.Transport{MaxIdleConnsPerHost: l.clients, MaxConnsPerHost: 0}
	client := &http.Client{Transport: transport}
	for i := range l.clients {
		l.wait.Go(func() { l.run(ctx, client, i) })
	}
}

// finish stops the clients and returns all they have seen.
func (l *load) finish() []*attempt {
	l.stop()
	return l.join()
}

// join returns when the clients have ended by themselves.
func (l *load) join() []*attempt {
	l.wait.Wait()
	l.stop()
	return l.result
}

// run is one client: it sends one request after the other, and as the SDKs do
// it goes to another node when a connection fails.
func (l *load) run(ctx context.Context, client *http.Client, number int) {
	random := rand.New(rand.NewPCG(l.seed, uint64(number)))
	node := number
	k := l.keys[number%len(l.keys)]
	var seen []*attempt
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.result = append(l.result, seen...)
	}()
	for i := 0; ctx.Err() == nil; i++ {
		a := &attempt{ask: l.choose(random), node: node % len(l.nodes), organization: k.organization, marker: fmt.Sprintf("%s-%d-%d", l.prefix, number, i)}
		l.send(client, a, k.secret)
		seen = append(seen, a)
		l.count.Add(1)
		if l.each != nil {
			l.each(a)
		}
		if l.untilRefused && a.status == http.StatusForbidden {
			return
		}
		pause := l.think
		if a.status == 0 {
			node++
			pause += 10 * time.Millisecond
		} else if a.failed() {
			pause += 200 * time.Millisecond // a small part of what Retry-After says
		}
		select {
		case <-time.After(pause/2 + rand.N(pause+1)): // pauses need not be repeatable
		case <-ctx.Done():
		}
	}
}

// send sends one request and reads its answer.
func (l *load) send(client *http.Client, a *attempt, key string) {
	// Not the load's context: a request that is open when the load ends goes
	// on to its end.
	ctx, cancel := context.WithTimeout(context.Background(), requestTimeout)
	defer cancel()
	a.sent = time.Now()
	defer func() { a.ended = time.Now() }()
	req, err := a.request("http://"+l.nodes[a.node].address, key, a.marker)
	if err != nil {
		a.err = err
		return
	}
	res, err := client.Do(req.WithContext(ctx))
	if err != nil {
		a.err = err
		return
	}
	defer res.Body.Close()
	a.status = res.StatusCode
	a.requestID = res.Header.Get("X-Request-Id")
	a.refusal = res.Header.Get("X-Gateway-Error")
	switch {
	case a.status != http.StatusOK:
		_, a.err = io.Copy(io.Discard, res.Body)
	case a.stream:
		a.err = a.readStream(res.Body, &a.ask)
	default:
		a.err = a.readWhole(res.Body)
	}
	if errors.Is(a.err, errLeft) {
		a.err = nil
	}
}

// mixed is everyday traffic: all protocols, streams of some tenths of a second
// and single answers, and a client in twenty that leaves.
func mixed(random *rand.Rand) ask {
	a := protocols[random.IntN(len(protocols))]
	a.prompt, a.output = 60+random.IntN(200), 8+random.IntN(60)
	a.maxTokens = a.output + 200 // also covers a prompt that is longer than it looks
	a.delay = time.Duration(1+random.IntN(20)) * time.Millisecond
	if a.stream = random.IntN(2) == 0; a.stream {
		a.pieces = 4 + random.IntN(12)
		a.hideUsage = random.IntN(2) == 0
		if random.IntN(10) == 0 {
			a.leaveAfter = 1 + random.IntN(3)
		}
	}
	return a
}

// patient is everyday traffic, but for a third of streams that last seconds.
func patient(random *rand.Rand) ask {
	a := mixed(random)
	if random.IntN(3) > 0 {
		return a
	}
	a.stream, a.leaveAfter = true, 0
	a.output, a.maxTokens, a.pieces = 40, 240, 40
	a.delay = time.Duration(30+random.IntN(90)) * time.Millisecond
	return a
}

// protocols are one of each, with the model that it is priced by.
var protocols = []ask{
	{protocol: metering.OpenAI, model: "chaos-openai"},
	{protocol: metering.Anthropic, model: "chaos-anthropic"},
	{protocol: metering.Gemini, model: "chaos-gemini"},
}
