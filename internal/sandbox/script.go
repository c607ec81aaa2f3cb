package sandbox

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-llm-gateway/gateway/metering"
)

// Failure is a way to fail; the package comment describes each.
type Failure string

// The failures that a script can ask for.
const (
	Reset           Failure = "reset"
	Stall           Failure = "stall"
	Truncate        Failure = "truncate"
	Error           Failure = "error"
	BrokenSSE       Failure = "broken_sse"
	BigLine         Failure = "big_line"
	NoUsage         Failure = "no_usage"
	UsageOnFinish   Failure = "usage_on_finish"
	UsageEveryChunk Failure = "usage_every_chunk"
	SlowHeaders     Failure = "slow_headers"
	Empty           Failure = "empty"
	HTML            Failure = "html"
)

var failures = []Failure{
	Reset, Stall, Truncate, Error, BrokenSSE, BigLine, NoUsage,
	UsageOnFinish, UsageEveryChunk, SlowHeaders, Empty, HTML,
}

// Script is what one request asks of the sandbox; the package comment
// describes the keys. A nil pointer or a zero value is a key that is not set.
type Script struct {
	Prompt, Completion              *int64
	Cached, CacheWrite              int64
	CacheWriteLong, Audio           int64
	ToolPrompt, Reasoning, Searches int64
	Tier, Speed, Geo                string
	Content                         *string
	TextBytes, TotalBytes           *int64
	Chunks                          *int64
	Tool, Gzip                      bool
	FirstDelay, Delay               time.Duration
	ID                              string
	Status, RetryAfter, FailTimes   int64
	Fail                            Failure
	FailAfter                       *int64
}

const (
	headerPrefix = "X-Sandbox-"
	maxTokens    = 1_000_000_000
	maxBytes     = 256 << 20
	bigLineBytes = 1 << 20
	slowHeaders  = 10 * time.Second
)

// setters holds, for each key, how its value gets into a script.
var setters = map[string]func(*Script, string) error{
	"prompt":           optional(func(s *Script) **int64 { return &s.Prompt }, 0, maxTokens),
	"completion":       optional(func(s *Script) **int64 { return &s.Completion }, 0, maxTokens),
	"cached":           number(func(s *Script) *int64 { return &s.Cached }, 0, maxTokens),
	"cache_write":      number(func(s *Script) *int64 { return &s.CacheWrite }, 0, maxTokens),
	"cache_write_long": number(func(s *Script) *int64 { return &s.CacheWriteLong }, 0, maxTokens),
	"audio":            number(func(s *Script) *int64 { return &s.Audio }, 0, maxTokens),
	"tool_prompt":      number(func(s *Script) *int64 { return &s.ToolPrompt }, 0, maxTokens),
	"reasoning":        number(func(s *Script) *int64 { return &s.Reasoning }, 0, maxTokens),
	"searches":         number(func(s *Script) *int64 { return &s.Searches }, 0, 1000),
	"tier":             word(func(s *Script) *string { return &s.Tier }),
	"speed":            word(func(s *Script) *string { return &s.Speed }),
	"geo":              word(func(s *Script) *string { return &s.Geo }),
	"id":               word(func(s *Script) *string { return &s.ID }),
	"content":          setContent,
	"text_bytes":       optional(func(s *Script) **int64 { return &s.TextBytes }, 0, maxBytes),
	"total_bytes":      optional(func(s *Script) **int64 { return &s.TotalBytes }, 1, maxBytes),
	"chunks":           optional(func(s *Script) **int64 { return &s.Chunks }, 1, 1_000_000),
	"tool":             flag(func(s *Script) *bool { return &s.Tool }),
	"gzip":             flag(func(s *Script) *bool { return &s.Gzip }),
	"first_delay":      duration(func(s *Script) *time.Duration { return &s.FirstDelay }),
	"delay":            duration(func(s *Script) *time.Duration { return &s.Delay }),
	"status":           number(func(s *Script) *int64 { return &s.Status }, 400, 599),
	"retry_after":      number(func(s *Script) *int64 { return &s.RetryAfter }, 0, 86_400),
	"fail":             setFail,
	"fail_after":       optional(func(s *Script) **int64 { return &s.FailAfter }, 0, 1_000_000),
	"fail_times":       number(func(s *Script) *int64 { return &s.FailTimes }, 1, 1_000_000),
}

// ParseScript reads the script out of a request's headers and its model's
// name, and returns it with the name that is left.
func ParseScript(h http.Header, model string) (Script, string, error) {
	var s Script
	for name, values := range h {
		suffix, ours := strings.CutPrefix(name, headerPrefix)
		if !ours || len(values) == 0 {
			continue
		}
		key := strings.ReplaceAll(strings.ToLower(suffix), "-", "_")
		if err := s.set(key, values[0]); err != nil {
			return Script{}, "", err
		}
	}
	name, suffix, scripted := strings.Cut(model, "+")
	if scripted {
		if err := s.setAll(suffix); err != nil {
			return Script{}, "", err
		}
	}
	return s, name, s.check()
}

// setAll applies the key=value pairs of a model's suffix.
func (s *Script) setAll(pairs string) error {
	for pair := range strings.SplitSeq(pairs, ",") {
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return fmt.Errorf("script %q: not of the form key=value", pair)
		}
		if key != "content" { // decodes its value itself
			var err error
			if value, err = url.PathUnescape(value); err != nil {
				return fmt.Errorf("script key %q: %w", key, err)
			}
		}
		if err := s.set(key, value); err != nil {
			return err
		}
	}
	return nil
}

func (s *Script) set(key, value string) error {
	set, known := setters[key]
	if !known {
		return fmt.Errorf("unknown script key %q", key)
	}
	if err := set(s, value); err != nil {
		return fmt.Errorf("script key %q: %w", key, err)
	}
	return nil
}

// check refuses what no endpoint could do.
func (s *Script) check() error {
	switch {
	case s.FailTimes > 0 && s.ID == "":
		return errors.New("script key \"fail_times\": needs an id to count by")
	case s.FailTimes > 0 && s.Fail == "" && s.Status == 0:
		return errors.New("script key \"fail_times\": needs fail or status")
	case s.FailAfter != nil && s.Fail == "":
		return errors.New("script key \"fail_after\": needs fail")
	case s.RetryAfter > 0 && s.Status == 0:
		return errors.New("script key \"retry_after\": needs status")
	case s.Content != nil && s.TextBytes != nil:
		return errors.New("script keys \"content\" and \"text_bytes\": one or the other")
	}
	return nil
}

// fillIn sets what the failure implies.
func (s *Script) fillIn() {
	switch s.Fail {
	case SlowHeaders:
		if s.FirstDelay == 0 {
			s.FirstDelay = slowHeaders
		}
	case BigLine:
		if s.Content == nil && s.TextBytes == nil && s.TotalBytes == nil {
			s.TextBytes = new(int64(bigLineBytes))
		}
		s.Chunks = new(int64(1))
	}
}

// fits refuses what the endpoint's wire format has no place for, since the
// sandbox would otherwise count what it could not report.
func (s *Script) fits(p metering.Protocol, endpoint string, stream bool) error {
	chat := endpoint == endpointChat || endpoint == endpointCompletions
	keys := []struct {
		name      string
		set, fits bool
	}{
		{"cache_write", s.CacheWrite > 0, p != metering.Gemini},
		{"cache_write_long", s.CacheWriteLong > 0, p == metering.Anthropic || endpoint == endpointResponses},
		{"audio", s.Audio > 0, p == metering.Gemini || chat},
		{"tool_prompt", s.ToolPrompt > 0, p == metering.Gemini},
		{"searches", s.Searches > 0, p != metering.OpenAI || endpoint == endpointResponses},
		{"speed", s.Speed != "", p == metering.Anthropic},
		{"geo", s.Geo != "", p == metering.Anthropic},
		{"fail=broken_sse", s.Fail == BrokenSSE, stream},
		{"fail=usage_on_finish", s.Fail == UsageOnFinish, stream && (chat || p == metering.Gemini)},
		{"fail=usage_every_chunk", s.Fail == UsageEveryChunk, stream && (chat || p == metering.Gemini)},
	}
	for _, k := range keys {
		if k.set && !k.fits {
			return fmt.Errorf("script key %q: %s %s (stream: %t) has no place for it", k.name, p, endpoint, stream)
		}
	}
	return nil
}

// strikesBeforeHeaders tells that the request fails before anything is sent.
func (s *Script) strikesBeforeHeaders() bool {
	return s.FailAfter == nil && (s.Fail == Reset || s.Fail == Stall)
}

// strikesAfter returns how many chunks are sent before the answer fails, or
// -1 if it does not fail on the way.
func (s *Script) strikesAfter() int {
	switch s.Fail {
	case Reset, Stall, Truncate, Error, BrokenSSE:
	default:
		return -1
	}
	if s.FailAfter == nil {
		return 1
	}
	return int(*s.FailAfter)
}

func number(field func(*Script) *int64, least, most int64) func(*Script, string) error {
	return func(s *Script, value string) error {
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || n < least || n > most {
			return fmt.Errorf("%q is not a number from %d to %d", value, least, most)
		}
		*field(s) = n
		return nil
	}
}

func optional(field func(*Script) **int64, least, most int64) func(*Script, string) error {
	return func(s *Script, value string) error {
		n := new(int64)
		*field(s) = n
		return number(func(*Script) *int64 { return n }, least, most)(s, value)
	}
}

func word(field func(*Script) *string) func(*Script, string) error {
	return func(s *Script, value string) error {
		if value == "" {
			return errors.New("empty")
		}
		*field(s) = value
		return nil
	}
}

func flag(field func(*Script) *bool) func(*Script, string) error {
	return func(s *Script, value string) error {
		on, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("%q is neither 1 nor 0", value)
		}
		*field(s) = on
		return nil
	}
}

func duration(field func(*Script) *time.Duration) func(*Script, string) error {
	return func(s *Script, value string) error {
		d, err := time.ParseDuration(value)
		if err != nil || d < 0 {
			return fmt.Errorf("%q is not a duration such as 10ms", value)
		}
		*field(s) = d
		return nil
	}
}

func setContent(s *Script, value string) error {
	content, err := url.PathUnescape(value)
	if err != nil {
		return err
	}
	s.Content = &content
	return nil
}

func setFail(s *Script, value string) error {
	if !slices.Contains(failures, Failure(value)) {
		return fmt.Errorf("%q is not one of %v", value, failures)
	}
	s.Fail = Failure(value)
	return nil
}
