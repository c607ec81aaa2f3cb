package books

import (
	"math"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// RequestIDs returns the range of ids, the first inclusive and the second
// exclusive, in which the requests of a page are. Not all in it are the
// filter's.
func RequestIDs(f billing.Filter, page billing.Page) (from, before string) {
	from, before = SpanOf(f).RequestIDs()
	if id := f.Detail.RequestID; id != "" {
		from, before = max(from, id), min(before, next(id))
	}
	switch {
	case page.After == "":
	case page.OldestFirst:
		from = max(from, next(page.After))
	default:
		before = min(before, page.After)
	}
	return from, before
}

// next returns what sorts right after an id: NUL, which would come first, is in
// no database text, and so is no other control character in an id.
func next(id string) string { return id + "\x01" }

// Bounds returns the ranges of a filter, each as its least and greatest value
// and nil where there is none: of the cost, the market cost, latency, time to
// the first byte, the tokens of prompt and completion, those read from a cache,
// those of prompt and completion together, and the attempts.
func Bounds(d *billing.Detail) []any {
	list := make([]any, 0, 18)
	list = appendRange(list, d.Cost)
	list = appendRange(list, d.MarketCost)
	list = appendRange(list, d.Latency)
	list = appendRange(list, d.TTFB)
	for _, r := range []billing.Range[int64]{d.PromptTokens, d.CompletionTokens, d.CachedTokens, d.Tokens, d.Attempts} {
		list = appendRange(list, r)
	}
	return list
}

func appendRange[T ~int64](list []any, r billing.Range[T]) []any {
	for _, bound := range []*T{r.Min, r.Max} {
		var n *int64
		if bound != nil {
			n = new(int64(*bound))
		}
		list = append(list, n)
	}
	return list
}

// EntrySeqs returns the range of numbers, both ends exclusive, in which the
// entries of a page are. Not all in it are the filter's.
func EntrySeqs(f billing.EntryFilter, page billing.Page) (after, before int64, err error) {
	after, before = 0, math.MaxInt64
	if f.ID != "" {
		seq, err := EntrySeq(f.ID)
		if err != nil {
			return 0, 0, err
		}
		after, before = seq-1, seq+1
	}
	if page.After == "" {
		return after, before, nil
	}
	seq, err := EntrySeq(page.After)
	if page.OldestFirst {
		return max(after, seq), before, err
	}
	return after, min(before, seq), err
}

// Names returns a list's values as texts.
func Names[T ~string](values []T) []string {
	var names []string
	for _, v := range values {
		names = append(names, string(v))
	}
	return names
}

// Address returns the address of a network that has no other, and else the
// network: one of the two is nil, or both for all networks.
func Address(d *billing.Detail) (address, network *string) {
	switch p := d.ClientIP; {
	case !p.IsValid():
		return nil, nil
	case p.IsSingleIP():
		return new(p.Addr().String()), nil
	default:
		return nil, new(p.Masked().String())
	}
}
