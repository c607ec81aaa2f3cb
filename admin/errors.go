package admin

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/caddy-llm-gateway/gateway/admin/oidc"
	"github.com/caddy-llm-gateway/gateway/billing"
	"github.com/danielgtaylor/huma/v2"
)

// Bounds on what an error says about a hostile request.
const (
	maxDetails     = 20
	maxDetailRunes = 200
)

// problem is the body of every error.
type problem struct {
	status  int
	Message string          `json:"error" doc:"What is wrong, and what to do about it."`
	Details []problemDetail `json:"details,omitempty" nullable:"false" doc:"Each fault in the input."`
	// retryAfter is in how many seconds it may be better; 0 for who knows.
	retryAfter int64
	// tag is the version that the caller has already; "" but for notModified.
	tag string
}

type problemDetail struct {
	Location string `json:"location" doc:"Where the fault is." example:"body.usage_limit_dollars"`
	Message  string `json:"message" doc:"What is wrong with it."`
}

func (p *problem) Error() string  { return p.Message }
func (p *problem) GetStatus() int { return p.status }

// GetHeaders returns the headers that belong to the error.
func (p *problem) GetHeaders() http.Header {
	switch {
	case p.tag != "":
		return http.Header{"Etag": {p.tag}}
	case p.retryAfter > 0:
		return http.Header{"Retry-After": {strconv.FormatInt(p.retryAfter, 10)}}
	}
	return nil
}

var (
	errNoRoute  = &problem{status: http.StatusNotFound, Message: "no such route: see " + openAPIPath}
	errInternal = &problem{status: http.StatusInternalServerError, Message: "internal error: the server's log says more"}
)

func unauthorized(message string) error {
	return &problem{status: http.StatusUnauthorized, Message: message}
}

// notFound is the answer for an id that the organization does not have,
// whether or not another one has it.
func notFound(noun string) error {
	return &problem{status: http.StatusNotFound, Message: "no such " + noun + ": check the id"}
}

// notModified is the answer for a caller who has the version of this tag. It is
// no error and has no body.
func notModified(tag string) error {
	return &problem{status: http.StatusNotModified, tag: tag}
}

var errChanged = &problem{
	status: http.StatusPreconditionFailed,
	Message: "somebody has changed it since you read it, and nothing was changed now: " +
		"read it again, and repeat your change with the new ETag as If-Match",
}

var errOthersKeys = &problem{
	status: http.StatusForbidden, Message: "developers have keys of their own alone: leave owner_id out",
}

var errNotOperator = &problem{
	status:  http.StatusForbidden,
	Message: "only operators see changes of the gateway itself: leave out scope",
}

// taken is the answer for a name that is to be unique and is another's.
func taken(location, message string) error {
	var f faults
	f.add(location, message)
	return f.problem(http.StatusConflict)
}

var errNoProject = &problem{
	status:  http.StatusNotFound,
	Message: "no settings for a project of this name: PUT makes them, and GET /v1/projects lists all",
}

// errNotKept is the answer for an id that is older than the requests that are
// kept, whether or not there was such a request.
var errNotKept = &problem{
	status:  http.StatusNotFound,
	Message: "no such request: it would be older than the requests that this gateway keeps",
}

// faults collects what is wrong with a request's input.
type faults []problemDetail

func (f *faults) add(location, message string) {
	*f = append(*f, problemDetail{Location: clip(location), Message: clip(message)})
}

// maxText is how long a text can be that is looked for, in bytes.
const maxText = 1024

// checkTexts finds values of a query parameter that no store can compare.
func (f *faults) checkTexts(parameter string, values ...string) {
	for _, v := range values {
		if !billing.IsPlainText(v) || len(v) > maxText {
			f.add("query."+parameter, fmt.Sprintf("expected text without control characters, of at most %d bytes", maxText))
		}
	}
}

// err returns the faults as one error, nil if there are none.
func (f faults) err() error {
	if len(f) == 0 {
		return nil
	}
	return f.problem(http.StatusUnprocessableEntity)
}

func (f faults) problem(status int) *problem {
	message := f[0].Location + ": " + f[0].Message
	if more := len(f) - 1; more > 0 {
		message += fmt.Sprintf(" (and %d more)", more)
	}
	return &problem{status: status, Message: message, Details: f[:min(len(f), maxDetails)]}
}

// clip shortens a text that may have come from the client.
func clip(s string) string {
	if utf8.RuneCountInString(s) <= maxDetailRunes {
		return s
	}
	return string([]rune(s)[:maxDetailRunes]) + "..."
}

// explain turns an error into what the client is told. What the client cannot
// help is logged, here and nowhere else.
func (a *api) explain(ctx context.Context, operation string, err error) *problem {
	if p, ok := errors.AsType[*problem](err); ok {
		return p
	}
	if refusal, ok := errors.AsType[*oidc.Refusal](err); ok {
		return &problem{status: http.StatusUnauthorized, Message: refusal.Reason}
	}
	switch {
	case errors.Is(err, billing.ErrRevoked):
		return &problem{status: http.StatusConflict, Message: "the key is revoked, which cannot be undone: create a new one"}
	case errors.Is(err, billing.ErrTooManySecrets):
		return &problem{status: http.StatusConflict, Message: fmt.Sprintf("%d earlier secrets of the key still work, which is the most: "+
			"wait until one has ended, or rotate with overlap_seconds 0, which ends them all", billing.MaxPreviousSecrets)}
	case errors.Is(err, billing.ErrConflict):
		return &problem{status: http.StatusConflict, Message: "the idempotency key was used for other content: use a new one"}
	}
	if ctx.Err() == nil { // else it failed because the client left
		a.gateway.Logger().Error("management API", "operation", operation, "error", err)
		if errors.Is(err, oidc.ErrAway) {
			return errProviderAway
		}
		if a.storeIsAway(ctx) {
			return errStoreAway
		}
	}
	return errInternal
}

// storeIsAway tells whether the store does not answer, so that something has
// failed for no reason of its own.
func (a *api) storeIsAway(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	return a.gateway.Store().Ping(ctx) != nil
}

const pingTimeout = 2 * time.Second

var errStoreAway = &problem{
	status:  http.StatusServiceUnavailable,
	Message: "the database does not answer: try again when it does. Proxy requests go on while leases last",
}

var errProviderAway = &problem{
	status:     http.StatusServiceUnavailable,
	Message:    "the identity provider does not answer as it should: try again later. Operator tokens work without it",
	retryAfter: 5,
}

// present rewrites the errors that huma makes, of validation mostly, into
// problems. It is a response transformer because huma's own hook for this is
// a global variable, which other modules in the process may use.
func (a *api) present(ctx huma.Context, _ string, body any) (any, error) {
	m, ok := body.(*huma.ErrorModel)
	if !ok {
		return body, nil
	}
	ctx.SetHeader("Content-Type", "application/json")
	var f faults
	for _, d := range m.Errors {
		if names, ok := d.Value.(faults); ok {
			f = append(f, names...)
			continue
		}
		f.add(d.Location, wording(d.Location, d.Message))
	}
	slices.SortFunc(f, func(x, y problemDetail) int { return cmp.Compare(x.Location, y.Location) })
	switch {
	case m.Status >= http.StatusInternalServerError:
		a.gateway.Logger().Error("management API", "operation", ctx.Operation().OperationID, "error", m.Detail, "details", f)
		return errInternal, nil
	case m.Status == http.StatusRequestEntityTooLarge:
		return &problem{Message: fmt.Sprintf("the request body is larger than %d MiB", maxBody>>20)}, nil
	case m.Status == http.StatusUnsupportedMediaType:
		return &problem{Message: "unknown content type: send the body as application/json"}, nil
	case len(f) == 0:
		return &problem{Message: m.Detail}, nil
	case m.Status == http.StatusBadRequest:
		return &problem{Message: "the request body is not JSON: " + f[0].Message, Details: f[:1]}, nil
	}
	return f.problem(m.Status), nil
}

// wording says what huma has found as this API does.
func wording(location, message string) string {
	switch number, ok := strings.CutPrefix(message, "expected number <= "); {
	case location == "query.group_by" && strings.HasPrefix(message, "expected array length <="):
		return "expected at most two; for a third, filter, such as with key_id"
	case ok && location == "body.overlap_seconds":
		return fmt.Sprintf("expected at most %d, which is 30 days", billing.MaxOverlap/time.Second)
	case ok:
		if n, err := strconv.ParseFloat(number, 64); err == nil {
			return "expected number <= " + strconv.FormatFloat(n, 'f', -1, 64)
		}
	}
	// Enumerations of fields that may be null have Go's word for it.
	return strings.ReplaceAll(message, "<nil>", "null")
}
