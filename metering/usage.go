// Package metering knows what a request used and what that costs: the usage
// that each provider reports, the meters that read it from the wire, and the
// prices. It does no I/O and depends on gjson alone.
package metering

// Usage counts what one model did for one request, in disjoint buckets: each
// token is in exactly one of them, so a cost is the plain sum over buckets
// and nothing is counted twice.
type Usage struct {
	// Tokens read, neither from nor into a cache.
	Input      int64
	InputAudio int64
	InputImage int64
	// Tokens read from the provider's prompt cache.
	CacheRead      int64
	CacheReadAudio int64
	// Tokens written to the cache with its short lifetime (Anthropic 5 min,
	// OpenAI 30 min) and its long one (Anthropic 1 h, OpenAI 12 h).
	CacheWrite     int64
	CacheWriteLong int64
	// Tokens generated, reasoning included.
	Output      int64
	OutputAudio int64
	OutputImage int64
	// WebSearches are billable searches run by the provider.
	WebSearches int64

	// Reasoning is the part of Output that was spent on thinking. It is
	// information: it is already in Output.
	Reasoning int64
}

// Prompt is every billable input token, cached reads and writes included.
func (u Usage) Prompt() int64 {
	return u.Input + u.InputAudio + u.InputImage + u.Cached() + u.CacheWrite + u.CacheWriteLong
}

// Completion is every billable output token, reasoning included.
func (u Usage) Completion() int64 { return u.Output + u.OutputAudio + u.OutputImage }

// Cached is every token read from the provider's cache.
func (u Usage) Cached() int64 { return u.CacheRead + u.CacheReadAudio }

// Add returns the sum of two usages, bucket by bucket.
func (u Usage) Add(v Usage) Usage {
	u.Input += v.Input
	u.InputAudio += v.InputAudio
	u.InputImage += v.InputImage
	u.CacheRead += v.CacheRead
	u.CacheReadAudio += v.CacheReadAudio
	u.CacheWrite += v.CacheWrite
	u.CacheWriteLong += v.CacheWriteLong
	u.Output += v.Output
	u.OutputAudio += v.OutputAudio
	u.OutputImage += v.OutputImage
	u.WebSearches += v.WebSearches
	u.Reasoning += v.Reasoning
	return u
}

// Source says where a usage came from.
type Source string

// The sources of usage, from the surest to the least.
const (
	// SourceProvider: the provider's own final numbers.
	SourceProvider Source = "provider"
	// SourcePartial: the provider's numbers, but its last word never came.
	SourcePartial Source = "provider_partial"
	// SourceDrained: the provider's final numbers, read after the client left.
	SourceDrained Source = "drained"
	// SourceEstimated: the gateway's estimate; the provider said nothing.
	SourceEstimated Source = "estimated"
	// SourceNone: nothing billable was used.
	SourceNone Source = "none"
)

// Reading is what a meter knows so far about one response.
type Reading struct {
	// Usage of the model that answered.
	Usage Usage
	// Others are parts of the same request that ran on other models
	// (Anthropic iterations), each billed at its own model's price.
	Others []ModelUsage
	// Model, as the provider names it in the response; empty if it does not.
	Model string
	// ServiceTier, Speed and Region select price multipliers. They are the
	// response's values, since a provider may serve another tier than the
	// one asked for. Empty means standard.
	ServiceTier string
	Speed       string
	Region      string
	// Found tells that the provider reported a usage, be it zero.
	Found bool
	// Closing tells that the provider has given its totals, and that nothing
	// but the end of the response should follow. Text that does follow takes it
	// back.
	Closing bool
	// Final tells that the provider's last word on usage has been read.
	Final bool
	// Failed tells that the provider reported an error inside the response.
	Failed bool
	// Mismatch tells that the buckets do not add up to the provider's own
	// total, or that a count was negative or absurd.
	Mismatch bool
	// TextBytes is the amount of generated text seen, for estimates: of a body
	// that came whole and has a usage it may be 0.
	TextBytes int64
	// TextAfter is the part of it that came after the last report which counts
	// what was generated, and so is not in Usage.
	TextAfter int64
}

// ModelUsage is usage with the model it belongs to.
type ModelUsage struct {
	Model string
	Usage Usage
}

// Total is the usage of the answering model and all others together.
func (r Reading) Total() Usage {
	u := r.Usage
	for _, o := range r.Others {
		u = u.Add(o.Usage)
	}
	return u
}
