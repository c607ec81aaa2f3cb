package admin

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/danielgtaylor/huma/v2"
)

const idempotencyHeader = "Idempotency-Key"

// defaultOverlap is a day for every client to get the new secret.
const defaultOverlap = 24 * time.Hour

type rotateKeyInput struct {
	ID             string `path:"id" doc:"The key's id."`
	IdempotencyKey string `header:"Idempotency-Key" minLength:"16" maxLength:"255" pattern:"^[!-~]+$" patternDescription:"of visible ASCII characters" doc:"Your own random name for this rotation: repeating it within an hour answers the same secret instead of making another one."`
	Body           *rotateKey
}

// rotateKey is the body that rotates a key.
type rotateKey struct {
	OverlapSeconds optional[wholeNumber] `json:"overlap_seconds,omitzero" maximum:"2592000" doc:"How long the secret that is replaced goes on working, at most 30 days; 86400 by default. 0 ends all earlier secrets at once."`
}

// Resolve refuses what looks like an idempotency key and would not be one.
func (in *rotateKeyInput) Resolve(ctx huma.Context) []error {
	return checkIdempotencyHeader(ctx, "expected one value of 16 to 255 visible ASCII characters")
}

// checkIdempotencyHeader refuses a header that is there more than once, or is
// empty.
func checkIdempotencyHeader(ctx huma.Context, expected string) []error {
	var values []string
	ctx.EachHeader(func(name, value string) {
		if strings.EqualFold(name, idempotencyHeader) {
			values = append(values, value)
		}
	})
	if len(values) > 1 || len(values) == 1 && values[0] == "" {
		return []error{&huma.ErrorDetail{Location: "header." + idempotencyHeader, Message: expected}}
	}
	return nil
}

func (in *rotateKeyInput) overlap() time.Duration {
	if in.Body == nil || !in.Body.OverlapSeconds.Set || in.Body.OverlapSeconds.Null {
		return defaultOverlap
	}
	return time.Duration(in.Body.OverlapSeconds.Value) * time.Second
}

// rotatedKey is a createdKey in JSON.
type rotatedKey struct {
	ContentType string `header:"Content-Type" hidden:"true"`
	ETag        string `header:"ETag" doc:"The key's new version."`
	Body        []byte
}

func (a *api) registerRotation(tags []string) {
	register(a, ifMatch(huma.Operation{
		OperationID: "rotate-key", Method: http.MethodPost, Path: "/v1/keys/{id}/rotate", Tags: tags,
		Summary: "Give a proxy key another secret",
		Description: "The key stays the same but for its secret and prefix. The secret that is replaced goes on working for " +
			"overlap_seconds, then it is an invalid proxy key. With an Idempotency-Key, the answer is kept for an hour, " +
			"or until the next rotation, encrypted under that key together with your credential and the gateway's configuration.",
		Responses: map[string]*huma.Response{"200": response[createdKey](a, "OK")},
	}), a.rotateKey)
}

// errIdempotencyKeyInUse does not tell whether the caller or another one has
// used it.
var errIdempotencyKeyInUse = &problem{
	status:  http.StatusConflict,
	Message: "idempotency_key_in_use",
	Details: []problemDetail{{
		Location: "header." + idempotencyHeader,
		Message:  "was used for another rotation of this key: use a new one",
	}},
}

func (a *api) rotateKey(ctx context.Context, in *rotateKeyInput) (*rotatedKey, error) {
	k, err := a.findKey(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC().Truncate(timeUnit)
	spend, err := a.keySpend(ctx, []billing.Key{k}, now)
	if err != nil {
		return nil, err
	}
	secret := billing.NewSecret()
	r := billing.Rotation{
		Hash: billing.HashSecret(secret), Prefix: billing.DisplayPrefix(secret), At: now, Overlap: in.overlap(),
		Check: func(k billing.Key) error {
			if err := checkOwn(ctx, k); err != nil {
				return err // it has got another owner just now
			}
			return checkMatch(ctx, keyTag(k))
		},
	}
	answer := func(k billing.Key) ([]byte, error) {
		var b bytes.Buffer
		err := jsonFormat.Marshal(&b, createdKey{Key: secret, ID: k.ID, ProxyKey: newKey(k, spend[k.ID], now)})
		return b.Bytes(), err
	}
	if in.IdempotencyKey == "" {
		if k, _, err = a.changeSecret(ctx, k, r); err != nil {
			return nil, err
		}
		text, err := answer(k)
		return answerRotation(k, text, err)
	}
	seal, err := newReplySeal(a.sealSecret(in.IdempotencyKey, callerOf(ctx).credential), k)
	if err != nil {
		return nil, err
	}
	r.Retry = &billing.Retry{
		ID:      sha256.Sum256([]byte(in.IdempotencyKey)),
		Request: sha256.Sum256([]byte("overlap " + r.Overlap.String())),
		Reply:   seal.sealing(answer),
	}
	k, sealed, err := a.changeSecret(ctx, k, r)
	if err != nil {
		return nil, err
	}
	text, err := seal.open(sealed)
	return answerRotation(k, text, err)
}

// changeSecret rotates the key in the store and for the next request.
func (a *api) changeSecret(ctx context.Context, k billing.Key, r billing.Rotation) (billing.Key, []byte, error) {
	rotated, reply, err := a.gateway.Store().RotateKey(ctx, k.OrganizationID, k.ID, r)
	if errors.Is(err, billing.ErrConflict) {
		return billing.Key{}, nil, errIdempotencyKeyInUse
	}
	if err != nil {
		return billing.Key{}, nil, fmt.Errorf("rotating a key: %w", err)
	}
	a.gateway.KeyChanged(rotated)
	return rotated, reply, nil
}

func answerRotation(k billing.Key, text []byte, err error) (*rotatedKey, error) {
	if err != nil {
		return nil, fmt.Errorf("answering a rotation: %w", err)
	}
	return &rotatedKey{ContentType: "application/json", ETag: keyTag(k), Body: text}, nil
}

// replySeal encrypts the reply to a rotation, which holds a secret, under what
// the store does not have: the idempotency key, of which it has a hash; the
// credential of the caller, who alone can ask for the reply again; and the
// secrets of the gateway's configuration. The last count where the others are
// known: an idempotency key may be in somebody's log, and the credential of who
// signs in is what their provider calls them, which the store has.
type replySeal struct{ aead cipher.AEAD }

// sealSecret is what the reply to a rotation is sealed under.
func (a *api) sealSecret(idempotencyKey, credential string) string {
	clientSecret := ""
	if settings := a.gateway.OIDC(); settings != nil {
		clientSecret = settings.ClientSecret
	}
	return fmt.Sprintf("%q", []string{idempotencyKey, credential, a.gateway.AdminToken(), clientSecret})
}

func newReplySeal(secret string, k billing.Key) (replySeal, error) {
	purpose := "reply to a rotation\x00" + k.OrganizationID + "\x00" + k.ID
	key, err := hkdf.Key(sha256.New, []byte(secret), nil, purpose, 32)
	if err != nil {
		return replySeal{}, fmt.Errorf("deriving the key of a reply: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return replySeal{}, fmt.Errorf("sealing a reply: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return replySeal{}, fmt.Errorf("sealing a reply: %w", err)
	}
	return replySeal{aead}, nil
}

// sealing returns a function that seals what answer returns.
func (s replySeal) sealing(answer func(billing.Key) ([]byte, error)) func(billing.Key) ([]byte, error) {
	return func(k billing.Key) ([]byte, error) {
		text, err := answer(k)
		if err != nil {
			return nil, err
		}
		return s.aead.Seal(nil, nil, text, nil), nil
	}
}

// open returns what was sealed, unless that was by another caller.
func (s replySeal) open(sealed []byte) ([]byte, error) {
	text, err := s.aead.Open(nil, nil, sealed, nil)
	if err != nil {
		return nil, errIdempotencyKeyInUse
	}
	return text, nil
}
