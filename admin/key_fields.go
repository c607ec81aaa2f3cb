package admin

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/danielgtaylor/huma/v2"
)

// createKey is the body that creates a key.
type createKey struct {
	Name string `json:"name" minLength:"1" maxLength:"200" doc:"For people; need not be unique."`
	KeySettings
}

// updateKey is the merge patch that changes a key.
type updateKey struct {
	Name optional[string] `json:"name,omitzero" nullable:"false" minLength:"1" maxLength:"200"`
	KeySettings
}

// KeySettings are the fields of a key that have a default, which null stands
// for.
type KeySettings struct {
	AllowedProviders      optional[[]string]    `json:"allowed_providers,omitzero" maxItems:"200" doc:"Provider names; empty allows all."`
	AllowedModels         optional[[]string]    `json:"allowed_models,omitzero" maxItems:"200" maxLength:"200" doc:"Globs such as gpt-4o* or openai/*, in which * stands for any run of characters, also none and also slashes. They match whole names, in their case, bare or as provider/model. Empty allows all." example:"[\"gpt-4o*\"]"`
	AllowedIPs            optional[[]string]    `json:"allowed_ips,omitzero" maxItems:"200" maxLength:"200" doc:"Addresses and CIDR ranges, IPv4 and IPv6; empty allows all." example:"[\"192.0.2.0/24\"]"`
	Project               optional[string]      `json:"project,omitzero" minLength:"1" maxLength:"64" pattern:"^[A-Za-z0-9._-]+$" patternDescription:"of letters, digits, ., _ and -" doc:"The keys of a project share its budget; null is none."`
	OwnerID               optional[string]      `json:"owner_id,omitzero" minLength:"1" maxLength:"100" doc:"The member whose key it is; null is the organization's. A developer's key is always their own."`
	RateLimitRPM          optional[wholeNumber] `json:"rate_limit_rpm,omitzero" doc:"Requests per calendar minute; 0 or null is no limit."`
	RateLimitTPM          optional[wholeNumber] `json:"rate_limit_tpm,omitzero" doc:"Tokens per calendar minute, input and output together; 0 or null is no limit."`
	MaxConcurrent         optional[wholeNumber] `json:"max_concurrent,omitzero" doc:"Requests that may be open at a time; 0 or null is no limit."`
	UsageLimitDollars     optional[dollarText]  `json:"usage_limit_dollars,omitzero" doc:"What may be spent in each period, in USD, with at most 9 decimals, taken exactly; 0 allows nothing, null is no limit."`
	UsageSoftLimitDollars optional[dollarText]  `json:"usage_soft_limit_dollars,omitzero" doc:"From this spend in a period on, requests are served with a warning; at most usage_limit_dollars, null is none."`
	UsageLimitReset       optional[resetPeriod] `json:"usage_limit_reset,omitzero" doc:"When the spend starts anew, in UTC; never by default."`
	ExpiresAt             optional[time.Time]   `json:"expires_at,omitzero" doc:"From when on the key is refused, in the future; null is never."`
}

// resetPeriod is a billing.Period in requests.
type resetPeriod billing.Period

// Schema lists the periods.
func (resetPeriod) Schema(huma.Registry) *huma.Schema {
	return enumOf(billing.Periods...)
}

// wholeNumber is a limit in requests, however it is written: 60 or 6e1.
type wholeNumber int64

const maxWholeNumber = 1_000_000_000

// UnmarshalJSON reads what validation has found to be whole and in range, so
// a float64 holds it exactly.
func (n *wholeNumber) UnmarshalJSON(b []byte) error {
	var f float64
	if err := unmarshalJSON(b, &f); err != nil {
		return err
	}
	*n = wholeNumber(f)
	return nil
}

// Schema bounds the number.
func (wholeNumber) Schema(huma.Registry) *huma.Schema {
	low, high := 0.0, float64(maxWholeNumber)
	return &huma.Schema{Type: huma.TypeInteger, Minimum: &low, Maximum: &high}
}

// apply sets the fields of a new key.
func (c createKey) apply(k *billing.Key, now time.Time) error {
	var f faults
	k.Name = checkName(&f, c.Name)
	c.KeySettings.apply(&f, k, now)
	return f.err()
}

// apply changes the fields that are in the patch.
func (u updateKey) apply(k *billing.Key, now time.Time) error {
	var f faults
	if u.Name.Null {
		f.add("body.name", "expected string, a key cannot be without a name")
	} else if u.Name.Set {
		k.Name = checkName(&f, u.Name.Value)
	}
	u.KeySettings.apply(&f, k, now)
	return f.err()
}

// apply changes the fields that are there. Those that are null come with
// their type's zero value, which is their default but for the period's.
func (s KeySettings) apply(f *faults, k *billing.Key, now time.Time) {
	if s.AllowedProviders.Set {
		k.AllowedProviders = checkEach(f, "body.allowed_providers", s.AllowedProviders.Value, checkProvider)
	}
	if s.AllowedModels.Set {
		k.AllowedModels = checkEach(f, "body.allowed_models", s.AllowedModels.Value, checkGlob)
	}
	if s.AllowedIPs.Set {
		k.AllowedIPs = checkEach(f, "body.allowed_ips", s.AllowedIPs.Value, checkAddresses)
	}
	if s.Project.Set {
		k.Project = checkProject(f, s.Project.Value)
	}
	if s.OwnerID.Set {
		k.Owner = s.OwnerID.Value
	}
	if s.RateLimitRPM.Set {
		k.RateLimitRPM = int64(s.RateLimitRPM.Value)
	}
	if s.RateLimitTPM.Set {
		k.RateLimitTPM = int64(s.RateLimitTPM.Value)
	}
	if s.MaxConcurrent.Set {
		k.MaxConcurrent = int64(s.MaxConcurrent.Value)
	}
	if s.UsageLimitReset.Set {
		k.UsageLimitReset = billing.Period(s.UsageLimitReset.Value)
		if s.UsageLimitReset.Null {
			k.UsageLimitReset = billing.Never
		}
	}
	applyLimits(f,
		limitInput{"usage_limit_dollars", s.UsageLimitDollars, &k.UsageLimit},
		limitInput{"usage_soft_limit_dollars", s.UsageSoftLimitDollars, &k.UsageSoftLimit})
	s.applyExpiry(f, k, now)
}

// applyExpiry accepts a past that the key has already: a client may send back
// what it has read.
func (s KeySettings) applyExpiry(f *faults, k *billing.Key, now time.Time) {
	if !s.ExpiresAt.Set {
		return
	}
	before := k.ExpiresAt
	k.ExpiresAt = s.ExpiresAt.Value.UTC().Truncate(timeUnit)
	switch {
	case s.ExpiresAt.Null:
	case !isRecordable(k.ExpiresAt):
		f.add("body.expires_at", "expected a time from 1970 to 9999")
	case !k.ExpiresAt.After(now) && !k.ExpiresAt.Equal(before):
		f.add("body.expires_at", "expected a time in the future; to end the key now, revoke it")
	}
}

func checkName(f *faults, name string) string {
	switch {
	case !billing.IsPlainText(name):
		f.add("body.name", "expected a name without control characters")
	case strings.TrimSpace(name) == "":
		f.add("body.name", "expected a name that is not only blanks")
	}
	return name
}

// checkEach returns the entries of a list as check returns them, each once.
func checkEach(f *faults, location string, entries []string, check func(string) (string, error)) []string {
	checked := make([]string, 0, len(entries))
	for i, text := range entries {
		entry, err := check(text)
		if err != nil {
			f.add(fmt.Sprintf("%s[%d]", location, i), err.Error())
		} else if !slices.Contains(checked, entry) {
			checked = append(checked, entry)
		}
	}
	return checked
}

// checkProject refuses what a path would take for a step.
func checkProject(f *faults, name string) string {
	if name == "." || name == ".." {
		f.add("body.project", "expected a name that is not only dots")
	}
	return name
}

var providerName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

func checkProvider(name string) (string, error) {
	if !providerName.MatchString(name) {
		return "", errors.New("expected the name of a provider: letters, digits, . _ -")
	}
	return name, nil
}

func checkGlob(glob string) (string, error) {
	if glob == "" || strings.ContainsFunc(glob, unicode.IsSpace) || !billing.IsPlainText(glob) {
		return "", errors.New("expected a model name or a glob without white space")
	}
	return glob, nil
}

// checkAddresses reads an address or a range and returns it in canonical form.
func checkAddresses(text string) (string, error) {
	addresses, err := billing.ParseAddresses(text)
	if err != nil {
		return "", err //nolint:wrapcheck // it is what the client is told
	}
	return billing.FormatAddresses(addresses), nil
}

// orEmpty returns a list that is [] in JSON if there is none.
func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
