package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/danielgtaylor/huma/v2"
)

// key is a proxy key in answers.
type key struct {
	ID                      string        `json:"id"`
	Name                    string        `json:"name"`
	Prefix                  string        `json:"prefix" doc:"The start of the secret, for display."`
	Status                  string        `json:"status" enum:"active,expired,revoked"`
	AllowedProviders        []string      `json:"allowed_providers" nullable:"false" doc:"Provider names; empty allows all."`
	AllowedModels           []string      `json:"allowed_models" nullable:"false" doc:"Globs; empty allows all."`
	AllowedIPs              []string      `json:"allowed_ips" nullable:"false" doc:"Addresses and CIDR ranges; empty allows all."`
	Project                 *string       `json:"project" doc:"The keys of a project share its budget; null is none."`
	OwnerID                 *string       `json:"owner_id" doc:"The member whose key it is, who may have left; null is the organization's."`
	RateLimitRPM            *int64        `json:"rate_limit_rpm" doc:"Requests per calendar minute; null is no limit."`
	RateLimitTPM            *int64        `json:"rate_limit_tpm" doc:"Tokens per calendar minute, input and output; null is no limit."`
	MaxConcurrent           *int64        `json:"max_concurrent" doc:"Requests that may be open at a time; null is no limit."`
	UsageLimitDollars       *dollars      `json:"usage_limit_dollars" doc:"What may be spent in each period, in USD; null is no limit."`
	UsageSoftLimitDollars   *dollars      `json:"usage_soft_limit_dollars" doc:"From this spend on, requests are served with a warning; null is none."`
	UsageLimitReset         string        `json:"usage_limit_reset" enum:"daily,weekly,monthly,never"`
	ExpiresAt               *time.Time    `json:"expires_at"`
	PreviousSecretExpiresAt *time.Time    `json:"previous_secret_expires_at" doc:"When the last of the secrets from before a rotation stops working; null if none works any more."`
	CreatedAt               time.Time     `json:"created_at"`
	LastUsedAt              *time.Time    `json:"last_used_at" doc:"When the last request arrived whose record is in the store."`
	SpendNanos              billing.Money `json:"spend_nanos" doc:"Spent in the current period of the limit; of all time without a limit."`
}

func newKey(k billing.Key, spend billing.Money, now time.Time) key {
	previous := k.PreviousSecretExpiresAt
	if !previous.After(now) || k.Status(now) != billing.KeyActive {
		previous = time.Time{} // it opens nothing any more
	}
	return key{
		ID:                      k.ID,
		Name:                    k.Name,
		Prefix:                  k.Prefix,
		Status:                  string(k.Status(now)),
		AllowedProviders:        orEmpty(k.AllowedProviders),
		AllowedModels:           orEmpty(k.AllowedModels),
		AllowedIPs:              orEmpty(k.AllowedIPs),
		Project:                 orNil(k.Project),
		OwnerID:                 orNil(k.Owner),
		RateLimitRPM:            orNil(k.RateLimitRPM),
		RateLimitTPM:            orNil(k.RateLimitTPM),
		MaxConcurrent:           orNil(k.MaxConcurrent),
		UsageLimitDollars:       (*dollars)(k.UsageLimit),
		UsageSoftLimitDollars:   (*dollars)(k.UsageSoftLimit),
		UsageLimitReset:         string(cmp.Or(k.UsageLimitReset, billing.Never)),
		ExpiresAt:               timeOrNil(k.ExpiresAt),
		PreviousSecretExpiresAt: timeOrNil(previous),
		CreatedAt:               k.CreatedAt.UTC(),
		LastUsedAt:              timeOrNil(k.LastUsedAt),
		SpendNanos:              spend,
	}
}

type listKeysInput struct {
	Paging
	Status  string `query:"status" enum:"active,expired,revoked" doc:"Keys that are so now."`
	Project string `query:"project" maxLength:"64" doc:"Keys of this project."`
	OwnerID string `query:"owner_id" maxLength:"100" doc:"Keys of this member."`
	Q       string `query:"q" maxLength:"200" doc:"Keys whose name contains this text, its ASCII letters in whatever case."`
}

// filter reads the parameters that select keys.
func (in *listKeysInput) filter(now time.Time) (billing.KeyFilter, error) {
	var f faults
	f.checkTexts("project", in.Project)
	f.checkTexts("owner_id", in.OwnerID)
	f.checkTexts("q", in.Q)
	return billing.KeyFilter{
		Owner: in.OwnerID, Project: in.Project, Name: in.Q, Status: billing.KeyStatus(in.Status), At: now,
	}, f.err()
}

type keyInput struct {
	ID string `path:"id" doc:"The key's id."`
}

type createKeyInput struct {
	Body createKey
}

type updateKeyInput struct {
	ID   string `path:"id" doc:"The key's id."`
	Body updateKey
}

// createdKey is the answer to a creation or a rotation: none other ever holds a
// secret.
type createdKey struct {
	Key      string `json:"key" doc:"The secret. It is shown this once, and only its hash is stored."`
	ID       string `json:"id"`
	ProxyKey key    `json:"proxy_key"`
}

func (a *api) registerKeys() {
	tags := []string{"Keys"}
	register(a, huma.Operation{
		OperationID: "list-keys", Method: http.MethodGet, Path: "/v1/keys", Tags: tags,
		Summary: "Proxy keys, newest first",
	}, a.listKeys)
	registerTagged(a, huma.Operation{
		OperationID: "create-key", Method: http.MethodPost, Path: "/v1/keys", Tags: tags,
		Summary: "Create a proxy key", DefaultStatus: http.StatusCreated,
	}, a.createKey)
	registerTagged(a, huma.Operation{
		OperationID: "get-key", Method: http.MethodGet, Path: "/v1/keys/{id}", Tags: tags,
		Summary: "One proxy key",
	}, a.getKey)
	registerTagged(a, ifMatch(huma.Operation{
		OperationID: "update-key", Method: http.MethodPatch, Path: "/v1/keys/{id}", Tags: tags,
		Summary: "Change a proxy key",
		Description: "A field that is absent stays as it is, null clears it. A revoked key cannot be changed. " +
			"The next request on this node sees the change, other nodes see it within one second. " +
			"A developer may make a key's limits tighter, not looser: that is a 403 that names the fields.",
	}), a.updateKey)
	register(a, ifMatch(huma.Operation{
		OperationID: "delete-key", Method: http.MethodDelete, Path: "/v1/keys/{id}", Tags: tags,
		Summary:     "Revoke a proxy key",
		Description: "The key itself stays, for the history of what was spent with it.",
	}), a.deleteKey)
	registerTagged(a, ifMatch(huma.Operation{
		OperationID: "revoke-key", Method: http.MethodPost, Path: "/v1/keys/{id}/revoke", Tags: tags,
		Summary:     "Revoke a proxy key",
		Description: "This cannot be undone, and ends all of the key's secrets. Revoking a revoked key changes nothing.",
	}), a.revokeKey)
	a.registerRotation(tags)
}

func (a *api) listKeys(ctx context.Context, in *listKeysInput) (*body[list[key]], error) {
	page, err := in.page()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	filter, err := in.filter(now)
	if err != nil {
		return nil, err
	}
	if err := ownFilter(ctx, &filter.Owner); err != nil {
		return nil, err
	}
	found, err := a.gateway.Store().ListKeys(ctx, organizationOf(ctx), filter, page)
	if err != nil {
		return nil, listError("keys", err)
	}
	keys, next := cut(in.Paging, found, func(k billing.Key) string { return k.ID })
	spend, err := a.keySpend(ctx, keys, now)
	if err != nil {
		return nil, err
	}
	return &body[list[key]]{list[key]{
		Data:       mapped(keys, func(k billing.Key) key { return newKey(k, spend[k.ID], now) }),
		NextCursor: next,
	}}, nil
}

func (a *api) createKey(ctx context.Context, in *createKeyInput) (*tagged[createdKey], error) {
	now := time.Now().UTC().Truncate(timeUnit)
	secret := billing.NewSecret()
	k := billing.Key{
		ID:              billing.NewID("key", now),
		OrganizationID:  organizationOf(ctx),
		Hash:            billing.HashSecret(secret),
		Prefix:          billing.DisplayPrefix(secret),
		UsageLimitReset: billing.Never,
		CreatedAt:       now,
	}
	k.Owner, _ = ownOnly(ctx)
	if err := in.Body.apply(&k, now); err != nil {
		return nil, err
	}
	if err := a.checkOwner(ctx, in.Body.OwnerID); err != nil {
		return nil, err
	}
	if err := a.gateway.Store().CreateKey(ctx, k); err != nil {
		return nil, fmt.Errorf("creating a key: %w", err)
	}
	a.gateway.KeyChanged(k)
	return &tagged[createdKey]{keyTag(k), createdKey{Key: secret, ID: k.ID, ProxyKey: newKey(k, 0, now)}}, nil
}

func (a *api) getKey(ctx context.Context, in *keyInput) (*tagged[key], error) {
	k, err := a.findKey(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return a.answerKey(ctx, k)
}

func (a *api) updateKey(ctx context.Context, in *updateKeyInput) (*tagged[key], error) {
	unknownOwner := a.checkOwner(ctx, in.Body.OwnerID)
	k, err := a.changeKey(ctx, in.ID, func(k *billing.Key) error {
		// A client may send back what it has read, of one who has left too.
		if unknownOwner != nil && k.Owner != in.Body.OwnerID.Value {
			return unknownOwner
		}
		if !k.RevokedAt.IsZero() {
			return billing.ErrRevoked
		}
		before := *k
		if err := in.Body.apply(k, time.Now()); err != nil {
			return err
		}
		return checkTightened(ctx, before, *k)
	})
	if err != nil {
		return nil, err
	}
	return a.answerKey(ctx, k)
}

func (a *api) deleteKey(ctx context.Context, in *keyInput) (*struct{}, error) {
	if _, err := a.changeKey(ctx, in.ID, revoke); err != nil {
		return nil, err
	}
	return nil, nil
}

func (a *api) revokeKey(ctx context.Context, in *keyInput) (*tagged[key], error) {
	k, err := a.changeKey(ctx, in.ID, revoke)
	if err != nil {
		return nil, err
	}
	return a.answerKey(ctx, k)
}

// revoke keeps the time of an earlier revocation.
func revoke(k *billing.Key) error {
	if k.RevokedAt.IsZero() {
		k.RevokedAt = time.Now().UTC()
	}
	return nil
}

func (a *api) findKey(ctx context.Context, id string) (billing.Key, error) {
	if !billing.IsPlainText(id) {
		return billing.Key{}, notFound("key")
	}
	k, err := a.gateway.Store().Key(ctx, organizationOf(ctx), id)
	if errors.Is(err, billing.ErrNotFound) {
		return billing.Key{}, notFound("key")
	}
	if err != nil {
		return billing.Key{}, fmt.Errorf("reading a key: %w", err)
	}
	return k, checkOwn(ctx, k)
}

// changeKey changes the key in the store and for the next request, if it is the
// version that the caller has read.
func (a *api) changeKey(ctx context.Context, id string, change func(*billing.Key) error) (billing.Key, error) {
	if !billing.IsPlainText(id) {
		return billing.Key{}, notFound("key")
	}
	k, err := a.gateway.Store().UpdateKey(ctx, organizationOf(ctx), id, func(k *billing.Key) error {
		if err := checkOwn(ctx, *k); err != nil {
			return err
		}
		if err := checkMatch(ctx, keyTag(*k)); err != nil {
			return err
		}
		if err := change(k); err != nil {
			return err
		}
		return checkOwn(ctx, *k) // nor give it to another
	})
	if errors.Is(err, billing.ErrNotFound) {
		return billing.Key{}, notFound("key")
	}
	if err != nil {
		return billing.Key{}, fmt.Errorf("changing a key: %w", err)
	}
	a.gateway.KeyChanged(k)
	return k, nil
}

func (a *api) answerKey(ctx context.Context, k billing.Key) (*tagged[key], error) {
	now := time.Now()
	spend, err := a.keySpend(ctx, []billing.Key{k}, now)
	if err != nil {
		return nil, err
	}
	return &tagged[key]{keyTag(k), newKey(k, spend[k.ID], now)}, nil
}
