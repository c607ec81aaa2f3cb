package books

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// changePrefix starts the ids of recorded changes.
const changePrefix = "chg"

// maxUserAgent is in bytes.
const maxUserAgent = 512

// Fields are what people know of a subject, each in JSON: by the names and in
// the units of the management API, without secrets and their hashes. What
// changes later in the value that they were made of does not change them.
type Fields map[string]json.RawMessage

// NewChange returns the record of a change by ActorOf ctx, or nil if none of
// the fields differ. What was created has no fields before, what was deleted
// none after.
func NewChange(ctx context.Context, action string, subject billing.ChangeSubject, before, after Fields) *billing.ChangeRecord {
	if before != nil && after != nil {
		before, after = before.unlike(after), after.unlike(before)
		if len(before)+len(after) == 0 {
			return nil
		}
	}
	now := Time(time.Now())
	actor := billing.ActorOf(ctx)
	for _, text := range []*string{
		&actor.ID, &actor.Name, &actor.ClientIP, &actor.UserAgent, &subject.OrganizationID, &subject.ID,
	} {
		*text = Text(*text)
	}
	if len(actor.UserAgent) > maxUserAgent {
		actor.UserAgent = strings.ToValidUTF8(actor.UserAgent[:maxUserAgent], "") // half a character
	}
	return &billing.ChangeRecord{
		ID: billing.NewID(changePrefix, now), At: now, Actor: actor, Action: action, Subject: subject,
		Before: before.object(), After: after.object(),
	}
}

// unlike returns the fields that the other does not have, or not with the same
// value.
func (f Fields) unlike(other Fields) Fields {
	differ := Fields{}
	for name, value := range f {
		if theirs, has := other[name]; !has || !bytes.Equal(value, theirs) {
			differ[name] = value
		}
	}
	return differ
}

// object returns the fields as a JSON object, nil if there are none.
func (f Fields) object() json.RawMessage {
	if len(f) == 0 {
		return nil
	}
	return encode(f)
}

func newFields(values map[string]any) Fields {
	f := make(Fields, len(values))
	for name, value := range values {
		f[name] = encode(value)
	}
	return f
}

func encode(v any) json.RawMessage {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic("encode a change: " + err.Error()) // texts, numbers and times always encode
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// orNull returns nil, which is null in JSON, for a zero value.
func orNull[T comparable](v T) any {
	var zero T
	if v == zero {
		return nil
	}
	return v
}

// timeOrNull returns the time as it is stored, nil for none.
func timeOrNull(t time.Time) any {
	if t.IsZero() {
		return nil
	}
	return Time(t)
}

func listOrEmpty(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}
