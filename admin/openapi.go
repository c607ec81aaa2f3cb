package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"sync"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/danielgtaylor/huma/v2"
)

// maxBody is the size of the largest request body that is read, in bytes.
const maxBody = 1 << 20

// bodyTimeout is how long a request body may take. It must leave time for the
// operation too: net/http cancels a request whose read deadline passes, even
// after its body was read.
const bodyTimeout = 30 * time.Second

// The ways to show who one is.
const (
	tokenScheme         = "operatorToken"
	bearerScheme        = "bearer"
	sessionScheme       = "session"
	plainSessionScheme  = "sessionWithoutTLS"
	sessionCookieAdvice = " Every POST, PUT, PATCH and DELETE needs the header " + csrfHeader + " with the csrf_token of GET " + sessionPath + "."
)

// body is the output of an operation whose answer is a T.
type body[T any] struct {
	Body T
}

// config describes the API. Neither the document nor this API serves pages
// that would load from other hosts.
func (a *api) config() huma.Config {
	return huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title:       "LLM gateway management API",
				Version:     "1",
				Description: "Times are RFC 3339 in UTC. Money is an integer in nano-USD in fields that end in _nanos.",
			},
			Components: &huma.Components{
				Schemas: huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer),
				SecuritySchemes: map[string]*huma.SecurityScheme{
					tokenScheme: {
						Type: "http", Scheme: "bearer",
						Description: "The admin_token of llm_gateway, or one of /v1/operator-tokens. It acts on any organization.",
					},
					bearerScheme: {
						Type: "http", Scheme: "bearer", BearerFormat: "JWT",
						Description: "A token of the identity provider of oidc in llm_gateway, for the gateway's audience.",
					},
					sessionScheme: {
						Type: "apiKey", In: "cookie", Name: hostPrefix + sessionCookie,
						Description: "The cookie of a browser that has logged in at " + loginPath + "." + sessionCookieAdvice,
					},
					plainSessionScheme: {
						Type: "apiKey", In: "cookie", Name: sessionCookie,
						Description: "The same where the gateway is not on https." + sessionCookieAdvice,
					},
				},
			},
		},
		Formats:       map[string]huma.Format{"application/json": jsonFormat, "json": jsonFormat},
		DefaultFormat: "application/json",
		Transformers:  []huma.Transformer{a.present},
	}
}

// register adds an operation in an organization, for those who may: see access.
func register[I, O any](a *api, op huma.Operation, handle func(context.Context, *I) (*O, error)) {
	describeRoles(&op)
	op.Parameters = append(op.Parameters, &huma.Param{
		Name:        organizationHeader,
		In:          "header",
		Description: "The organization to act on. If absent: for an operator, `default`; for others, the one that they are a member of.",
		Schema:      &huma.Schema{Type: huma.TypeString},
	})
	registerGuarded(a, op, func(c caller) error { return allow(c, op.OperationID) }, func(ctx context.Context, in *I) (*O, error) {
		ctx, err := a.confirm(ctx, op.OperationID)
		if err != nil {
			return nil, err
		}
		return handle(ctx, in)
	})
}

// registerIdentified adds an operation of a caller who is known, in whatever
// organizations.
func registerIdentified[I, O any](a *api, op huma.Operation, handle func(context.Context, *I) (*O, error)) {
	op.Security = securityOf(everybody)
	registerOpen(a, op, handle)
}

// registerOpen adds an operation that needs no role.
func registerOpen[I, O any](a *api, op huma.Operation, handle func(context.Context, *I) (*O, error)) {
	registerGuarded(a, op, func(caller) error { return nil }, handle)
}

// guard tells whether the caller may do an operation. It is asked before
// anything of the request is read.
type guard func(caller) error

// securityOf are the ways for those with one of the roles to show who they are.
func securityOf(roles []billing.Role) []map[string][]string {
	ways := []map[string][]string{{tokenScheme: {}}}
	if len(roles) > 1 {
		ways = append(ways, map[string][]string{bearerScheme: {}}, map[string][]string{sessionScheme: {}},
			map[string][]string{plainSessionScheme: {}})
	}
	return ways
}

func registerGuarded[I, O any](a *api, op huma.Operation, g guard, handle func(context.Context, *I) (*O, error)) {
	a.guards[op.Method+" "+op.Path] = g
	op.BodyReadTimeout = bodyTimeout
	op.MaxBodyBytes = maxBody + 1 // huma refuses a body of just this size
	// What a provider sends back with a login is its own affair: OAuth has
	// clients ignore what they do not know.
	op.RejectUnknownQueryParameters = op.Path != callbackPath
	if op.Responses == nil {
		op.Responses = map[string]*huma.Response{}
	}
	op.Responses["default"] = response[problem](a, "Error")
	if op.Path != openAPIPath && op.Path != webhookPath {
		op.Responses["429"] = a.tooManyResponse()
	}
	op.Middlewares = append(op.Middlewares, a.refuseRepeated)
	huma.Register(a.huma, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := handle(ctx, in)
		if err != nil {
			return nil, a.explain(ctx, op.OperationID, err)
		}
		return out, nil
	})
}

// enumOf is the schema of a text that is one of the values.
func enumOf[T ~string](values ...T) *huma.Schema {
	s := &huma.Schema{Type: huma.TypeString}
	for _, v := range values {
		s.Enum = append(s.Enum, string(v))
	}
	return s
}

// response documents an answer that is a T.
func response[T any](a *api, description string) *huma.Response {
	schemas := a.huma.OpenAPI().Components.Schemas
	return &huma.Response{
		Description: description,
		Content: map[string]*huma.MediaType{
			"application/json": {Schema: schemas.Schema(reflect.TypeFor[T](), true, "")},
		},
	}
}

// tooManyResponse documents the answer to too many wrong credentials, logins or
// exports.
func (a *api) tooManyResponse() *huma.Response {
	r := response[problem](a, "Too many requests")
	r.Headers = map[string]*huma.Param{"Retry-After": {
		Description: "In how many seconds to try again.", Required: true, Schema: &huma.Schema{Type: huma.TypeInteger, Minimum: new(1.0)},
	}}
	return r
}

type documentOutput struct {
	ContentType string `header:"Content-Type" hidden:"true"`
	Body        []byte
}

func (a *api) registerOpenAPI() {
	document := sync.OnceValues(func() ([]byte, error) {
		oapi := a.huma.OpenAPI()
		// huma registers its own error model, which no answer uses.
		delete(oapi.Components.Schemas.Map(), "ErrorModel")
		delete(oapi.Components.Schemas.Map(), "ErrorDetail")
		return json.Marshal(oapi)
	})
	registerOpen(a, huma.Operation{
		OperationID: "get-openapi",
		Method:      http.MethodGet,
		Path:        openAPIPath,
		Summary:     "This document",
		Tags:        []string{"OpenAPI"},
		Responses: map[string]*huma.Response{"200": {
			Description: "OpenAPI 3.1",
			Content:     map[string]*huma.MediaType{"application/json": {Schema: &huma.Schema{Type: huma.TypeObject}}},
		}},
	}, func(context.Context, *struct{}) (*documentOutput, error) {
		b, err := document()
		if err != nil {
			return nil, fmt.Errorf("writing the OpenAPI document: %w", err)
		}
		return &documentOutput{ContentType: "application/json", Body: b}, nil
	})
}
