package e2e

import (
	"crypto"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
)

// token is a JWT taken apart, to be put together as it should not be.
type token struct {
	header, claims map[string]any
	signature      string
}

func readToken(t *testing.T, text string) token {
	t.Helper()
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		t.Fatalf("%q is no signed JWT", text)
	}
	var read token
	for i, into := range []*map[string]any{&read.header, &read.claims} {
		b, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			t.Fatalf("read a JWT: %v", err)
		}
		if err := json.Unmarshal(b, into); err != nil {
			t.Fatalf("read a JWT: %v", err)
		}
	}
	read.signature = parts[2]
	return read
}

// signed is what the signature is of.
func (k token) signed(t *testing.T) string {
	t.Helper()
	var parts []string
	for _, part := range []map[string]any{k.header, k.claims} {
		b, err := json.Marshal(part)
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, base64.RawURLEncoding.EncodeToString(b))
	}
	return strings.Join(parts, ".")
}

func (k token) signedWith(t *testing.T, key *rsa.PrivateKey) string {
	t.Helper()
	text := k.signed(t)
	digest := sha256.Sum256([]byte(text))
	signature, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, digest[:])
	if err != nil {
		t.Fatalf("sign: %v", err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// forgeries are tokens made from a genuine one that must not open anything.
func forgeries(t *testing.T, genuine string, key publicKey) map[string]string {
	t.Helper()
	none, unsigned, tampered, symmetric := readToken(t, genuine), readToken(t, genuine), readToken(t, genuine), readToken(t, genuine)
	none.header["alg"] = "none"
	tampered.claims["email"], tampered.claims["sub"] = "olga@acme.test", "sub-olga"
	symmetric.header["alg"] = "HS256"
	mac := hmac.New(sha256.New, publicPEM(t, key))
	text := symmetric.signed(t)
	mac.Write([]byte(text))
	// Signed well, by a key of the forger's own: as if it were the provider's,
	// and brought along in the header.
	own, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatalf("make a key: %v", err)
	}
	another, brings := readToken(t, genuine), readToken(t, genuine)
	brings.header["kid"] = "own"
	brings.header["jwk"] = map[string]any{
		"kty": "RSA", "kid": "own", "e": "AQAB", "n": base64.RawURLEncoding.EncodeToString(own.N.Bytes()),
	}
	return map[string]string{
		"alg none":                  none.signed(t) + ".",
		"alg none, old signature":   none.signed(t) + "." + none.signature,
		"no signature":              unsigned.signed(t) + ".",
		"no third part":             unsigned.signed(t),
		"another's claims":          tampered.signed(t) + "." + tampered.signature,
		"HS256 with the public key": text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil)),
		"another key":               another.signedWith(t, own),
		"a key that it brings":      brings.signedWith(t, own),
	}
}

// publicPEM is the key in the form in which careless programs have it at hand
// to check an HMAC with.
func publicPEM(t *testing.T, key publicKey) []byte {
	t.Helper()
	number := func(text string) *big.Int {
		b, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil {
			t.Fatalf("read the key: %v", err)
		}
		return new(big.Int).SetBytes(b)
	}
	der, err := x509.MarshalPKIXPublicKey(&rsa.PublicKey{N: number(key.N), E: int(number(key.E).Int64())})
	if err != nil {
		t.Fatalf("encode the key: %v", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}
