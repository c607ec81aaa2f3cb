package metering

// Protocol is a provider's wire format.
type Protocol string

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
	// "chat/completions", "messages", "generateContent".
	Name    string
	Billing Billing
	// Model is set where the path names the model (Gemini).
	Model string
	// Streams is set where the path or the query alone decides that the
	// response is a stream (Gemini), and how it is framed.
	Streams bool
	Framing Framing
	meter   func() Meter
	read    func(body []byte, r *Request)
}

// Request is what a request body says about what it may cost.
type Request struct {
	Model  string
	Stream bool
	// MaxTokens is the cap that the client set on generated tokens, over all
	// choices; 0 if it set none.
	MaxTokens int64
	// PromptTokens is an estimate of the input, from the body's size.
	PromptTokens int64
	// HidesUsage tells that the stream would not report its usage unless
	// asked, and that the client did not ask: see AskUsage.
	HidesUsage bool
}

// Meter reads the usage out of one response, piece by piece. The pieces are
// the data of server-sent events, the elements of an array, or one whole
// body. A meter keeps no reference to a piece.
type Meter interface {
	// Read takes the next piece.
	Read(piece []byte)
	// Reading returns what is known so far.
	Reading() Reading
}

// NewMeter returns a meter for one response of the endpoint.
func (e Endpoint) NewMeter() Meter { return e.meter() }
