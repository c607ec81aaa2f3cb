package e2e

import "net/http"

// check is a row of the table of errors: what the gateway answers, and how a
// request comes to deserve it.
type check struct {
	status int
	error  string
	when   string
	situation
	// explained tells that the answer has a message beside the error.
	explained bool
}

// checks is the contract's table of checks and errors, in the order in which
// requests are checked: a request that deserves several of the errors gets the
// one that stands first. docs/troubleshooting.md has the same table, with what
// to do about each.
//
// An organization has credits and no limits, a key may do everything, and a
// request is a good one, but for what a row says. Providers without a credential
// do not answer, either.
var checks = []check{
	{
		status: http.StatusBadRequest, error: "unknown provider",
		when:      "the path is under no provider's name",
		situation: situation{request: toProvider("unknown")},
	},
	{
		status: http.StatusUnauthorized, error: "missing proxy key",
		when:      "no sk-proxy- value in any of the accepted places",
		situation: situation{request: withKey("")},
	},
	{
		status: http.StatusUnauthorized, error: "invalid proxy key",
		when:      "no key has this secret",
		situation: situation{request: withKey(unknownKey)},
	},
	{
		status: http.StatusForbidden, error: "key_revoked",
		when:      "the key was revoked",
		situation: situation{revoked: true},
	},
	{
		status: http.StatusForbidden, error: "key_expired",
		when:      "the key's time is over",
		situation: situation{expired: true},
	},
	{
		status: http.StatusForbidden, error: "ip_blocked",
		when:      "the client's address is not among the key's",
		situation: situation{change: fields{"allowed_ips": []string{"203.0.113.0/24"}}},
	},
	{
		status: http.StatusBadRequest, error: "provider not configured",
		when:      "the server has no credential for the provider",
		situation: situation{request: toProvider("keyless")},
	},
	{
		status: http.StatusForbidden, error: "provider_not_allowed",
		when:      "the provider is not among the key's",
		situation: situation{change: fields{"allowed_providers": []string{"another"}}},
	},
	{
		status: http.StatusBadRequest, error: "invalid request path",
		when:      "a provider might take the path for another one",
		situation: situation{request: doubleSlash},
	},
	{
		status: http.StatusForbidden, error: "model_not_allowed",
		when:      "the model is not among the key's",
		situation: situation{change: fields{"allowed_models": []string{"another-*"}}},
	},
	{
		status: http.StatusRequestEntityTooLarge, error: "request body too large",
		when:      "the body is larger than max_body",
		situation: situation{request: padBody},
	},
	{
		status: http.StatusBadRequest, error: "invalid request body",
		when:      "the body is not JSON that can be understood",
		situation: situation{request: cutBody},
	},
	{
		status: http.StatusBadRequest, error: "model must use provider/model format",
		when:      "the route is that of unified mode, and nobody knows whose the model is",
		situation: situation{request: unplacedModel},
	},
	{
		status: http.StatusBadRequest, error: "provider not supported in unified mode",
		when:      "the route is that of unified mode, and the model's provider speaks another protocol",
		situation: situation{request: otherProtocol},
	},
	{
		status: http.StatusBadRequest, error: "model not priced", explained: true,
		when:      "nobody knows what the request costs",
		situation: situation{request: unheardOfModel},
	},
	{
		status: http.StatusTooManyRequests, error: "rate_limited",
		when:      "the key's requests of this minute are used up",
		situation: situation{key: fields{"rate_limit_rpm": 1}, before: oneRequest},
	},
	{
		status: http.StatusTooManyRequests, error: "organization_rate_limited",
		when:      "the organization's requests of this minute are used up",
		situation: situation{organization: fields{"rate_limit_rpm": 1}, before: oneRequest},
	},
	{
		status: http.StatusTooManyRequests, error: "token_rate_limited", explained: true,
		when:      "the request has more tokens than the key has left in this minute",
		situation: situation{key: fields{"rate_limit_tpm": 50}, request: askForMore},
	},
	{
		status: http.StatusTooManyRequests, error: "concurrency_limited",
		when:      "the key has as many open requests as it may",
		situation: situation{key: fields{"max_concurrent": 1}, before: oneOpenRequest},
	},
	{
		status: http.StatusForbidden, error: "spend_exceeded",
		when:      "the key's limit is used up",
		situation: situation{key: fields{"usage_limit_dollars": "0"}},
	},
	{
		status: http.StatusForbidden, error: "insufficient_credits",
		when:      "the organization's credits are used up",
		situation: situation{penniless: true},
	},
	{
		status: http.StatusForbidden, error: "budget_exceeded", explained: true,
		when:      "the organization's budget is used up",
		situation: situation{organization: fields{"max_dollars": "0"}},
	},
	{
		status: http.StatusServiceUnavailable, error: "ledger unavailable",
		when:      "the ledger does not take what the request will cost",
		situation: situation{noLedger: true},
	},
	{
		status: http.StatusBadGateway, error: "upstream request failed",
		when:      "the provider does not answer",
		situation: situation{request: toProvider("away")},
	},
	{
		status: http.StatusServiceUnavailable, error: "provider temporarily unavailable",
		when:      "the provider has not answered for a while, and is not asked",
		situation: situation{request: toProvider("broken"), broken: true},
	},
}

// impossible are the pairs of errors that no request can deserve at once. All
// others are tried.
var impossible = []struct {
	error  string
	others []string
	why    string
}{
	{
		"unknown provider", []string{"missing proxy key"},
		"a path of nobody's is the gateway's business only if a proxy key comes with it; else the next handler answers",
	},
	{
		"unknown provider", unified,
		"a path is that of unified mode, or it is under a provider's name or nobody's",
	},
	{
		"invalid request path", unified,
		"the path of unified mode is good, and any other is not its path",
	},
	{
		"provider not configured", []string{"model must use provider/model format"},
		"a model that is nobody's has no provider",
	},
	{
		"provider_not_allowed", []string{"model must use provider/model format"},
		"a model that is nobody's has no provider",
	},
	{
		"model must use provider/model format", []string{
			"provider not supported in unified mode", "model not priced", "upstream request failed", "provider temporarily unavailable",
		},
		"a model that is nobody's has no provider, no price, and nobody who is asked",
	},
	{
		"unknown provider", []string{"provider not configured", "upstream request failed", "provider temporarily unavailable"},
		"what is not known of a provider cannot be wrong with it",
	},
	{
		"provider not configured", []string{"provider temporarily unavailable"},
		"a provider that cannot be asked has not failed to answer",
	},
	{
		"missing proxy key", []string{"invalid proxy key"},
		"a key is there or not",
	},
	{
		"missing proxy key", ofKeys,
		"without a key there are neither its conditions nor its organization's",
	},
	{
		"invalid proxy key", ofKeys,
		"a key that nobody has has no conditions, and no organization",
	},
	{
		"spend_exceeded", []string{"ledger unavailable"},
		"what is spent is in the ledger: without it, nobody knows",
	},
	{
		"insufficient_credits", []string{"ledger unavailable"},
		"what is left is in the ledger: without it, nobody knows",
	},
	{
		"budget_exceeded", []string{"ledger unavailable"},
		"what is spent is in the ledger: without it, nobody knows",
	},
	{
		"upstream request failed", []string{"provider temporarily unavailable"},
		"a provider is asked or not",
	},
}

// ofKeys are the errors that a key or its organization is the reason of.
var ofKeys = []string{
	"key_revoked", "key_expired", "ip_blocked", "provider_not_allowed", "model_not_allowed",
	"rate_limited", "organization_rate_limited", "token_rate_limited", "concurrency_limited",
	"spend_exceeded", "insufficient_credits", "budget_exceeded",
}

// unified are the errors of unified mode.
var unified = []string{"model must use provider/model format", "provider not supported in unified mode"}

// whyImpossible says why no request can deserve both errors; "" if one can.
func whyImpossible(upper, lower check) string {
	for _, pair := range impossible {
		if pair.error != upper.error {
			continue
		}
		for _, other := range pair.others {
			if other == lower.error {
				return pair.why
			}
		}
	}
	return ""
}
