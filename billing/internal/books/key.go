package books

import (
	"errors"
	"fmt"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// NewKey returns a key in the form that it is stored in.
func NewKey(k billing.Key) (billing.Key, error) {
	switch {
	case k.ID == "":
		return billing.Key{}, errors.New("key has no id")
	case k.UsageLimit != nil && *k.UsageLimit < 0:
		return billing.Key{}, fmt.Errorf("negative usage limit %d", *k.UsageLimit)
	case k.UsageSoftLimit != nil && *k.UsageSoftLimit < 0:
		return billing.Key{}, fmt.Errorf("negative soft usage limit %d", *k.UsageSoftLimit)
	case min(k.RateLimitRPM, k.RateLimitTPM, k.MaxConcurrent) < 0:
		return billing.Key{}, fmt.Errorf("negative rate limit of key %q", k.ID)
	}
	if err := checkPeriod(k.UsageLimitReset); err != nil {
		return billing.Key{}, err
	}
	k.Name, k.Prefix, k.Project, k.Owner = Text(k.Name), Text(k.Prefix), Text(k.Project), Text(k.Owner)
	k.AllowedProviders = texts(k.AllowedProviders)
	k.AllowedModels = texts(k.AllowedModels)
	k.AllowedIPs = texts(k.AllowedIPs)
	for _, t := range []*time.Time{&k.ExpiresAt, &k.RevokedAt, &k.CreatedAt, &k.LastUsedAt, &k.PreviousSecretExpiresAt} {
		*t = Time(*t)
	}
	return k, nil
}

// checkPeriod accepts a period and none.
func checkPeriod(p billing.Period) error {
	if p == "" {
		return nil
	}
	_, err := billing.ParsePeriod(string(p))
	return err
}

// ChangeKey lets change alter a key, within what may change: a revoked key
// stays revoked, at the time it was.
func ChangeKey(k billing.Key, change func(*billing.Key) error) (billing.Key, error) {
	before := k
	if err := change(&k); err != nil {
		return billing.Key{}, err
	}
	k.ID, k.OrganizationID = before.ID, before.OrganizationID
	k.Hash, k.Prefix, k.PreviousSecretExpiresAt = before.Hash, before.Prefix, before.PreviousSecretExpiresAt
	k.CreatedAt, k.LastUsedAt = before.CreatedAt, before.LastUsedAt
	changed, err := NewKey(k)
	if err != nil {
		return billing.Key{}, err
	}
	if !before.RevokedAt.IsZero() && !changed.RevokedAt.Equal(before.RevokedAt) {
		return billing.Key{}, billing.ErrRevoked
	}
	return changed, nil
}
