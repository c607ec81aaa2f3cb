package admin

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/danielgtaylor/huma/v2"
)

const (
	ifMatchHeader     = "If-Match"
	ifNoneMatchHeader = "If-None-Match"
)

// tagged is an answer about something that people edit. Its entity tag changes
// when one of them changes it, and not with what is spent of it.
type tagged[T any] struct {
	ETag string `header:"ETag" doc:"The version of what can be edited: send it as If-Match to change no other, or as If-None-Match to read another."`
	Body T
}

// tagOf is the entity tag of something of a kind that is as v: equal values
// have equal tags, and no others have.
func tagOf(kind string, v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic("tag a " + kind + ": " + err.Error()) // texts, numbers and times always encode
	}
	const size = 18 // no collision is to be expected among 144 bits
	sum := sha256.Sum256(text)
	return `"` + kind + "-" + base64.RawURLEncoding.EncodeToString(sum[:size]) + `"`
}

// keyTag covers the hash of the secret, too: a rotation is another version.
func keyTag(k billing.Key) string {
	k.AllowedProviders, k.AllowedModels, k.AllowedIPs = orEmpty(k.AllowedProviders), orEmpty(k.AllowedModels), orEmpty(k.AllowedIPs)
	k.LastUsedAt, k.SecretExpiresAt = time.Time{}, time.Time{}
	return tagOf("key", k)
}

// budgetTag does not cover the organization's name, which is no part of its
// budget.
func budgetTag(o billing.Organization) string {
	o.Name = ""
	return tagOf("budget", o)
}

// projectTag is "", which nothing matches, for a project without settings.
func projectTag(p billing.Project) string {
	if p.CreatedAt.IsZero() {
		return ""
	}
	return tagOf("project", p)
}

// conditions are the entity tags that a request is made for.
type conditions struct {
	// Nil if the header was not sent.
	ifMatch, ifNoneMatch []string
}

type conditionsKey struct{}

// withConditions returns a context with the conditions of a request.
func withConditions(ctx context.Context, h http.Header) context.Context {
	return context.WithValue(ctx, conditionsKey{}, conditions{
		ifMatch: tagsIn(h.Values(ifMatchHeader)), ifNoneMatch: tagsIn(h.Values(ifNoneMatchHeader)),
	})
}

const anyTag = "*"

// nextTag is an entity tag at the start of a list.
var nextTag = regexp.MustCompile(`^[ \t,]*((?:W/)?"[^"]*")[ \t]*(?:,|$)`)

// tagsIn reads a header that may have been sent several times. What is no tag
// ends a list; a list without any is not nil, and matches nothing.
func tagsIn(values []string) []string {
	if len(values) == 0 {
		return nil
	}
	tags := []string{}
	for _, v := range values {
		if strings.TrimSpace(v) == anyTag {
			tags = append(tags, anyTag)
		}
		for m := nextTag.FindStringSubmatch(v); m != nil; m = nextTag.FindStringSubmatch(v) {
			tags, v = append(tags, m[1]), v[len(m[0]):]
		}
	}
	return tags
}

// checkMatch refuses to change something of another tag than the request is
// for. It belongs into the transaction that makes the change. tag is "" for what
// is not there. Weak tags match nothing.
func checkMatch(ctx context.Context, tag string) error {
	c, _ := ctx.Value(conditionsKey{}).(conditions)
	if c.ifMatch == nil || tag != "" && (slices.Contains(c.ifMatch, tag) || slices.Contains(c.ifMatch, anyTag)) {
		return nil
	}
	return errChanged
}

// isKnown tells whether the caller has said to have the version of this tag,
// weak or not.
func isKnown(ctx context.Context, tag string) bool {
	c, _ := ctx.Value(conditionsKey{}).(conditions)
	return slices.ContainsFunc(c.ifNoneMatch, func(known string) bool {
		return known == anyTag || strings.TrimPrefix(known, "W/") == tag
	})
}

// ifMatch documents that an operation checks If-Match.
func ifMatch(op huma.Operation) huma.Operation {
	op.Parameters = append(op.Parameters, &huma.Param{
		Name: ifMatchHeader, In: "header", Schema: &huma.Schema{Type: huma.TypeString},
		Description: "The ETag of what you have read, or several: if somebody has changed it since, the answer is 412, and nothing is changed.",
	})
	return op
}

// registerTagged adds an operation that answers with an entity tag. One that
// reads answers 304 if the caller has that version already.
func registerTagged[I, T any](a *api, op huma.Operation, handle func(context.Context, *I) (*tagged[T], error)) {
	if op.Method != http.MethodGet {
		register(a, op, handle)
		return
	}
	op.Parameters = append(op.Parameters, &huma.Param{
		Name: ifNoneMatchHeader, In: "header", Schema: &huma.Schema{Type: huma.TypeString},
		Description: "The ETag of what you have read: if nobody has changed it since, the answer is 304, without a body. What is spent of it, and when it was used, may have changed.",
	})
	op.Responses = map[string]*huma.Response{"304": {Description: "Nobody has changed it"}}
	register(a, op, func(ctx context.Context, in *I) (*tagged[T], error) {
		out, err := handle(ctx, in)
		if err == nil && isKnown(ctx, out.ETag) {
			return nil, notModified(out.ETag)
		}
		return out, err
	})
}
