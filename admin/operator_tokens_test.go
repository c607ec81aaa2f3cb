package admin

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/caddy-llm-gateway/gateway/billing"
)

func TestOperatorTokens(t *testing.T) {
	t.Parallel()
	g := newGateway(t)
	c := newClient(t, g)
	made := decode[createdOperatorToken](t, c.do(http.MethodPost, "/v1/operator-tokens", `{"name":"deploy"}`).want(t, http.StatusCreated))
	if !billing.IsOperatorSecret(made.Token) || made.OperatorToken.Prefix != made.Token[:len("sk-operator-")+4]+"..." {
		t.Fatalf("made %+v", made)
	}
	deploy := c.with("Authorization", "Bearer "+made.Token)
	deploy.with(organizationHeader, otherOrg).do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK, `"role":"operator"`, `"id":"acme"`)

	second := decode[createdOperatorToken](t, deploy.do(http.MethodPost, "/v1/operator-tokens", `{"name":"by deploy"}`).want(t, http.StatusCreated))
	answer := c.do(http.MethodGet, "/v1/operator-tokens", "").want(t, http.StatusOK)
	answer.lacks(t, made.Token, second.Token)
	found := decode[list[operatorToken]](t, answer).Data
	if len(found) != 2 || found[1].LastUsedAt == nil {
		t.Fatalf("tokens %+v", found)
	}
	found[1].LastUsedAt = nil
	second.OperatorToken.CreatedBy = "deploy"
	if diff := cmp.Diff([]operatorToken{second.OperatorToken, made.OperatorToken}, found); diff != "" {
		t.Errorf("tokens (-want +got):\n%s", diff)
	}

	target := "/v1/operator-tokens/" + made.ID + "/revoke"
	first := decode[operatorToken](t, c.do(http.MethodPost, target, "").want(t, http.StatusOK, `"status":"revoked"`))
	again := decode[operatorToken](t, c.do(http.MethodPost, target, "").want(t, http.StatusOK))
	if !first.RevokedAt.Equal(*again.RevokedAt) {
		t.Error("revoked twice")
	}
	deploy.do(http.MethodGet, "/v1/account", "").want(t, http.StatusUnauthorized, "revoked")
	c.with("Authorization", "Bearer "+second.Token).do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK)
	c.do(http.MethodPost, "/v1/operator-tokens/token_x/revoke", "").want(t, http.StatusNotFound, "no such operator token")

	g.token = "" // without the one in the configuration, the others go on
	c.with("Authorization", "Bearer "+second.Token).do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK)
	c.do(http.MethodGet, "/v1/account", "").want(t, http.StatusUnauthorized)
}

func TestOperatorTokenExpires(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	end := time.Now().Add(time.Hour).UTC().Format(time.RFC3339Nano)
	made := decode[createdOperatorToken](t, c.do(http.MethodPost, "/v1/operator-tokens", `{"name":"x","expires_at":"`+end+`"}`).
		want(t, http.StatusCreated))
	c = c.with("Authorization", "Bearer "+made.Token)
	c.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK)
	c.at(time.Hour)
	c.do(http.MethodGet, "/v1/account", "").want(t, http.StatusUnauthorized, "expired")
}

func TestOperatorTokenInput(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	for body, want := range map[string]string{
		`{}`:                 "body: expected required property name",
		`{"name":""}`:        "body.name",
		`{"name":"a\u0000"}`: "body.name",
		`{"name":"` + strings.Repeat("x", 201) + `"}`:      "body.name",
		`{"name":"a","expires_at":"2020-01-01T00:00:00Z"}`: "body.expires_at",
		`{"name":"a","expires_at":"soon"}`:                 "body.expires_at",
		`{"name":"a","owner":"b"}`:                         "body.owner",
	} {
		c.do(http.MethodPost, "/v1/operator-tokens", body).want(t, http.StatusUnprocessableEntity, want)
	}
}

// The name of the configuration's token is nobody else's: the ledger and the
// record of changes say it.
func TestOperatorTokensAreNotNamedLikeTheConfigurations(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	for _, name := range []string{`admin_token`, `Admin_Token`, ` admin_token `, `admin_token\u200b`, `admin\u2060_token`, `\u00a0admin_token`} {
		c.do(http.MethodPost, "/v1/operator-tokens", `{"name":"`+name+`"}`).
			want(t, http.StatusUnprocessableEntity, `"location":"body.name"`, "expected another name than admin_token")
	}
	for _, name := range []string{`admin_token_2`, `my admin_token`, `admin token of ann`} {
		c.do(http.MethodPost, "/v1/operator-tokens", `{"name":"`+name+`"}`).want(t, http.StatusCreated)
	}
}
