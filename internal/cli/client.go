package cli

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// callTimeout is how long an answer may take, but for exports.
const callTimeout = time.Minute

// maxAnswer bounds what is read of an answer, but for exports, in bytes. A page
// of 500 rows has about 1 MiB.
const maxAnswer = 64 << 20

// client asks the management API of one gateway.
type client struct {
	base, token, organization string
	http                      *http.Client
}

func newClient(base, token, organization string) *client {
	return &client{
		base: base, token: token, organization: organization,
		// A redirect would take the token elsewhere, and make a GET of a POST.
		http: &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
}

// call is one request to the API.
type call struct {
	method, path string
	query        url.Values
	// body becomes JSON; nil is none.
	body any
	// idempotencyKey makes a repeated call harmless, where the API takes one.
	idempotencyKey string
	// ifMatch is the version that the call is about, where the API has such.
	ifMatch string
}

func get(path string, query url.Values) call {
	return call{method: http.MethodGet, path: path, query: query}
}

// isEverywhere tells whether the call is about no one organization, or names it
// in its path: the one that --org names need not exist yet.
func (k call) isEverywhere() bool {
	for _, noun := range []string{"organizations", "operator-tokens", "invitations"} {
		if all := pathOf(noun); k.path == all || strings.HasPrefix(k.path, all+"/") {
			return true
		}
	}
	return false
}

// pathOf joins names, which users give, to a path.
func pathOf(parts ...string) string {
	var b strings.Builder
	b.WriteString("/v1")
	for _, part := range parts {
		b.WriteString("/" + url.PathEscape(part))
	}
	return b.String()
}

// idempotency is the flag of a command whose change must not be made twice.
type idempotency struct{ key string }

func (i *idempotency) addTo(cmd *cobra.Command) {
	cmd.Flags().StringVar(&i.key, "idempotency-key", "", "name of this change, best a random one (of a rotation 16 characters or more): repeating it with the same name makes it once; a new one by default")
}

// name returns a random name if none was given.
func (i *idempotency) name() string {
	if i.key != "" {
		return i.key
	}
	return "cli-" + strings.ToLower(rand.Text())
}

// condition is the flag of a command that changes what others may change too.
type condition struct{ version string }

func (c *condition) addTo(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.version, "if-match", "", "change nothing unless this is still its version, as it was shown")
}

// tag returns the version as an entity tag.
func (c *condition) tag() string {
	if c.version == "" || c.version == "*" || strings.HasPrefix(c.version, `"`) {
		return c.version
	}
	return `"` + c.version + `"`
}

// version is part of what the API has versions of: it is in a header of the
// answer.
type version struct{ tag string }

func (v *version) readFrom(h http.Header) { v.tag = h.Get("ETag") }

func (v *version) shown() string { return cmp.Or(printable(strings.Trim(v.tag, `"`)), none) }

// do returns the body of the answer.
func (c *client) do(ctx context.Context, k call) ([]byte, error) {
	body, _, err := c.exchange(ctx, k)
	return body, err
}

// exchange returns the body of the answer, and its header.
func (c *client) exchange(ctx context.Context, k call) ([]byte, http.Header, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, callTimeout, fmt.Errorf("no answer within %s", callTimeout))
	defer cancel()
	res, err := c.open(ctx, k)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, nil, c.explain(ctx, k, err)
	case len(body) > maxAnswer:
		return nil, nil, fmt.Errorf("%s answers more than %d MiB: ask for less, with --limit", c.base, maxAnswer>>20)
	case res.StatusCode != http.StatusNoContent && !json.Valid(body):
		return nil, nil, c.stranger(res.Status)
	}
	return body, res.Header, nil
}

// open returns the answer if it is a success. Its body is the caller's to
// close.
func (c *client) open(ctx context.Context, k call) (*http.Response, error) {
	req, err := c.request(ctx, k)
	if err != nil {
		return nil, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.explain(ctx, k, err)
	}
	if res.StatusCode >= http.StatusMultipleChoices {
		defer res.Body.Close()
		return nil, c.refusal(res)
	}
	return res, nil
}

func (c *client) request(ctx context.Context, k call) (*http.Request, error) {
	target := c.base + k.path
	if len(k.query) > 0 {
		target += "?" + k.query.Encode()
	}
	var body io.Reader
	if k.body != nil {
		text, err := json.Marshal(k.body)
		if err != nil {
			return nil, fmt.Errorf("write the request: %w", err)
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, k.method, target, body)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("User-Agent", "caddy-llm-gateway-cli")
	organization := c.organization
	if k.isEverywhere() {
		organization = ""
	}
	for name, value := range map[string]string{
		"X-Organization": organization, "Idempotency-Key": k.idempotencyKey, "If-Match": k.ifMatch,
	} {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, nil
}

// explain says why there was no answer, and what to do. It tells of a change
// that may have been made all the same.
func (c *client) explain(ctx context.Context, k call, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if outer, ok := errors.AsType[*url.Error](err); ok {
		err = outer.Err // the address is said already
	}
	err = fmt.Errorf("ask the gateway at %s: %w", c.base, err)
	_, notFound := errors.AsType[*net.DNSError](err)
	_, untrusted := errors.AsType[*tls.CertificateVerificationError](err)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("%w: is it running? Start it with 'caddy run', or name another address with --url or $%s", err, urlVariable)
	case notFound:
		return fmt.Errorf("%w: check --url or $%s", err, urlVariable)
	case untrusted:
		return fmt.Errorf("%w: name it by a host name of its certificate, and trust the one who issued it", err)
	case k.method == http.MethodGet:
		return err
	case k.idempotencyKey != "":
		return fmt.Errorf("%w: it may be done all the same; repeat it with --idempotency-key %s, which does it at most once", err, k.idempotencyKey)
	default:
		return fmt.Errorf("%w: it may be done all the same; look before you repeat it", err)
	}
}

// refusal is the error of an answer that is none of success.
func (c *client) refusal(res *http.Response) error {
	const most = 64 << 10
	body, err := io.ReadAll(io.LimitReader(res.Body, most))
	if err != nil {
		return fmt.Errorf("%s answers %s: %w", c.base, res.Status, err)
	}
	if location := res.Header.Get("Location"); location != "" {
		return fmt.Errorf("%s answers %s to %s: use that address with --url", c.base, res.Status, printable(location))
	}
	p := &apiError{status: res.StatusCode}
	kind, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if kind != "application/json" || json.Unmarshal(body, p) != nil || p.Message == "" {
		return c.stranger(res.Status)
	}
	p.Message = ofCommands.Replace(p.Message)
	for i := range p.Details {
		p.Details[i].Message = ofCommands.Replace(p.Details[i].Message)
	}
	return p
}

// ofCommands says what the API advises its callers as it is for commands.
var ofCommands = strings.NewReplacer(
	"check the X-Organization header", "check --org or $"+organizationVariable,
	"name one in the X-Organization header", "name one with --org or $"+organizationVariable,
	"see /v1/billing/packages", "see caddy llm-gateway credits packages",
	"read it again, and repeat your change with the new ETag as If-Match",
	"show it again, and repeat your change with the Version that is shown as --if-match",
)

// stranger is the error of an answer that a gateway would not give.
func (c *client) stranger(status string) error {
	return fmt.Errorf("%s answers %s, but not as a gateway's management API does: check --url, and that the site has llm_gateway_admin", c.base, status)
}

// apiError is what the API answers when it refuses.
type apiError struct {
	status  int
	Message string `json:"error"`
	Details []struct {
		Location string `json:"location"`
		Message  string `json:"message"`
	} `json:"details"`
}

// Error has each fault on a line of its own if there are several, or if the
// message does not tell the only one.
func (e *apiError) Error() string {
	var b strings.Builder
	b.WriteString(printable(e.Message))
	fmt.Fprintf(&b, " (%d)", e.status)
	for _, d := range e.Details {
		line := cmp.Or(d.Location, "request") + ": " + d.Message
		if len(e.Details) > 1 || !strings.HasPrefix(e.Message, line) {
			b.WriteString("\n  " + printable(line))
		}
	}
	return b.String()
}
