package caddymodule

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// A client may put its proxy key anywhere: into the wrong header, a path, a
// parameter that nobody asked for. Wherever it is, it is neither logged, nor
// stored, nor sent to a provider.

// redacted is what is shown in place of a credential.
const redacted = "REDACTED"

// maxEscapes is how many times over a key may be percent-encoded before it is
// no longer taken for one.
const maxEscapes = 3

// hasSecret tells whether there is a proxy key in a text, in the clear or
// percent-encoded.
func hasSecret(text string) bool {
	for range maxEscapes {
		if strings.Contains(text, billing.KeyPrefix) {
			return true
		}
		if strings.IndexByte(text, '%') < 0 {
			return false
		}
		text = unescape(text)
	}
	return strings.Contains(text, billing.KeyPrefix)
}

// findSecret returns the first proxy key in the accepted places. Values that
// do not look like one are somebody else's credentials.
func findSecret(r *http.Request, query url.Values) string {
	bearer := ""
	if scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		bearer = strings.TrimSpace(token)
	}
	for _, candidate := range []string{bearer, r.Header.Get("X-Api-Key"), r.Header.Get("X-Goog-Api-Key"), query.Get("key")} {
		if strings.HasPrefix(candidate, billing.KeyPrefix) {
			return candidate
		}
	}
	return ""
}

// removeParameter takes a parameter out of a raw query and leaves the rest as
// it is.
func removeParameter(query, name string) string {
	return removeParts(query, func(part string) bool {
		key, _, _ := strings.Cut(part, "=")
		decoded, err := url.QueryUnescape(key)
		return err == nil && decoded == name
	})
}

// removeSecrets takes the parameters out of a raw query that have a proxy key
// in them.
func removeSecrets(query string) string {
	if !hasSecret(query) {
		return query
	}
	return removeParts(query, hasSecret)
}

func removeParts(query string, drop func(part string) bool) string {
	return strings.Join(slices.DeleteFunc(strings.Split(query, "&"), drop), "&")
}

// secretName is how a proxy key starts in a header's name, in which net/http
// has changed the case.
const secretName = "Sk-Proxy-"

func headerHasSecret(name string, values []string) bool {
	return strings.Contains(name, secretName) || slices.ContainsFunc(values, hasSecret)
}

// unescape decodes percent-encoding where there is any, and leaves what is
// not well-formed: a key next to that is a key all the same.
func unescape(text string) string {
	var b strings.Builder
	b.Grow(len(text))
	for i := 0; i < len(text); i++ {
		if text[i] == '%' && i+2 < len(text) {
			high, ok := unhex(text[i+1])
			low, also := unhex(text[i+2])
			if ok && also {
				b.WriteByte(high<<4 | low)
				i += 2
				continue
			}
		}
		b.WriteByte(text[i])
	}
	return b.String()
}

func unhex(c byte) (digit byte, ok bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
