package oidc

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	jose "github.com/go-jose/go-jose/v4"
)

// algorithms are those whose signatures are accepted: none in which who checks a
// token could also have made it.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
	jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// keySet are the keys that the provider signs with.
type keySet []jose.JSONWebKey

func (p *Provider) fetchKeys(ctx context.Context) (keySet, error) {
	d, err := p.discovery.get(ctx, p.now())
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, d.KeysURL, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("fetch the identity provider's keys: %w", err)
	}
	res, err := p.client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("fetch the identity provider's keys: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("fetch the identity provider's keys: %s", res.Status)
	}
	var document struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.NewDecoder(res.Body).Decode(&document); err != nil {
		return nil, fmt.Errorf("read the identity provider's keys: %w", err)
	}
	var keys keySet
	for _, text := range document.Keys {
		// Keys of kinds that are not known are for others.
		var key jose.JSONWebKey
		if json.Unmarshal(text, &key) == nil && key.Valid() && key.IsPublic() && (key.Use == "" || key.Use == "sig") {
			keys = append(keys, key)
		}
	}
	return keys, nil
}

// signature checks the signature of one token. It keeps its error, of which the
// library that asks it keeps the text alone.
type signature struct {
	provider *Provider
	err      error
}

// VerifySignature returns what was signed.
func (s *signature) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	var payload []byte
	payload, s.err = s.provider.checkSignature(ctx, token)
	return payload, s.err
}

func (p *Provider) checkSignature(ctx context.Context, token string) ([]byte, error) {
	jws, err := jose.ParseSigned(token, algorithms)
	if err != nil || len(jws.Signatures) != 1 {
		return nil, refuse("the token is not a signed JWT")
	}
	keys, err := p.keys.get(ctx, p.now())
	if err != nil {
		return nil, err
	}
	found := keys.of(jws)
	if len(found) == 0 && p.unknownKeys.Allow() {
		// The provider may have begun to sign with another key.
		if keys, err = p.keys.renew(ctx, p.now()); err != nil {
			return nil, err
		}
		found = keys.of(jws)
	}
	for i := range found {
		if payload, err := jws.Verify(&found[i]); err == nil {
			return payload, nil
		}
	}
	if len(found) == 0 {
		return nil, refuse("the token is signed with a key that the issuer does not have, or no longer: sign in again")
	}
	return nil, refuse("the signature of the token is wrong")
}

// of returns the keys that the token may be signed with: the one that it names,
// or any if it names none.
func (s keySet) of(jws *jose.JSONWebSignature) keySet {
	header := jws.Signatures[0].Header
	var found keySet
	for _, key := range s {
		if (header.KeyID == "" || header.KeyID == key.KeyID) && (key.Algorithm == "" || key.Algorithm == header.Algorithm) {
			found = append(found, key)
		}
	}
	return found
}
