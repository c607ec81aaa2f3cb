package metering

import "math/bits"

// Protocol is a provider's wire format.
type Protocol string

// The wire formats that have meters.
const (
	OpenAI    Protocol = "openai"
	Anthropic Protocol = "anthropic"
	Gemini    Protocol = "gemini"
)

// Billing says how an endpoint is charged.
type Billing int

const (
	// Unpriced endpoints may cost money that no meter here can read. The
	// operator's policy for unpriced models applies to them.
	Unpriced Billing = iota
	// Free endpoints never cost anything per request.
	Free
	// Metered endpoints report their usage in a form that a meter reads.
	Metered
)

// Framing is how a response body is cut into the pieces that a meter reads.
type Framing int

const (
	// Whole bodies are one JSON value.
	Whole Framing = iota
	// EventStream bodies are server-sent events.
	EventStream
	// ArrayStream bodies are one JSON array, delivered element by element.
	ArrayStream
)

// Endpoint is a route of a provider's API.
type Endpoint struct {
	// Name in the provider's own words, without version and parameters:
	// "chat/completions", "messages", "generateContent"; "other" if the route
	// is not known, so that names are few whatever clients send.
	Name    string
	Billing Billing
	// Model is set where the path names the model (Gemini).
	Model string
	// Streams is set where the path or the query alone decides that the
	// response is a stream (Gemini), and how it is framed.
	Streams bool
	Framing Framing
	meter   func(choices int) Meter
	read    bodyReader
}

// Request is what a request body says about what it may cost.
type Request struct {
	Model  string
	Stream bool
	// Background tells that the provider answers at once and works, and
	// charges, later (OpenAI responses): the response has no usage. Treat the
	// request as Unpriced.
	Background bool
	// MaxTokens is the cap that the client set on generated tokens, over all
	// choices; 0 if it set none.
	MaxTokens int64
	// Choices is how many answers the client asked for, at least 1: what a
	// default for MaxTokens has to be multiplied with.
	Choices int64
	// PromptTokens is an estimate of the input, from the body's size.
	PromptTokens int64
	// HidesUsage tells that the stream would not report its usage unless
	// asked, and that the client did not ask: see AskUsage.
	HidesUsage bool
}

// Meter reads the usage out of one response, piece by piece. The pieces are
// the data of server-sent events, their bare lines, the elements of an array,
// or one whole body. A meter keeps no reference to a piece. What is not JSON
// it ignores.
type Meter interface {
	// Read takes the next piece.
	Read(piece []byte)
	// Reading returns what is known so far. Providers correct themselves: use
	// the last reading, also after the first that was Final.
	Reading() Reading
}

// NewMeter returns a meter for one response of the endpoint to the request,
// which tells how many answers to wait for. That of an endpoint which is not
// Metered reads nothing: it finds a usage of zero if the endpoint is Free, and
// none if it is Unpriced.
func (e Endpoint) NewMeter(r Request) Meter {
	if e.Billing == Metered {
		return e.meter(int(min(max(r.Choices, 1), maxChoices+1)))
	}
	free := e.Billing == Free
	return constantMeter{Found: free, Final: free}
}

// answers are those of one response that a usage came with, by index: which
// were seen, and which of them have finished.
type answers struct {
	asked          int
	seen, finished uint64
}

// maxChoices is how many answers are told apart. Of more than that the count
// never says that they are complete.
const maxChoices = 64

func (a *answers) see(index float64) (bit uint64) {
	bit = 1 << (uint64(index) % maxChoices)
	a.seen |= bit
	return bit
}

// over tells whether all answers that were seen have finished.
func (a *answers) over() bool { return a.seen == a.finished }

// complete tells whether as many have finished as were asked for: a provider
// may begin the next one when the last one has ended.
func (a *answers) complete() bool {
	return a.over() && bits.OnesCount64(a.finished) >= a.asked
}

type constantMeter Reading

func (constantMeter) Read([]byte) {}

func (m constantMeter) Reading() Reading { return Reading(m) }
