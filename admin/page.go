package admin

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"time"
	_ "time/tzdata" // for machines without the database of time zones

	"github.com/danielgtaylor/huma/v2"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// list is a page of a list, newest first.
type list[T any] struct {
	Data       []T     `json:"data" nullable:"false"`
	NextCursor *string `json:"next_cursor" doc:"The cursor of the next page; null on the last one."`
}

// Paging are the parameters of a list.
type Paging struct {
	Limit  int    `query:"limit" minimum:"1" maximum:"500" default:"50" doc:"The most elements to answer."`
	Cursor string `query:"cursor" maxLength:"300" doc:"The next_cursor of the page before, with the same other parameters but limit."`
	// list is a mark of the list that is read, which is in its cursors.
	list [markSize]byte
	// given tells that there is a cursor, be it empty.
	given bool
}

const markSize = 8

// Resolve implements huma.Resolver: a list is of an operation, an organization
// and what selects and orders it.
func (p *Paging) Resolve(ctx huma.Context) []error {
	u := ctx.URL()
	p.list = listMark(organizationOf(ctx.Context()), u.Path, u.Query())
	p.given = u.Query().Has("cursor")
	return nil
}

func listMark(org, path string, query url.Values) (mark [markSize]byte) {
	query.Del("cursor")
	query.Del("limit")
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q %q", org, path, query.Encode()))
	copy(mark[:], sum[:])
	return mark
}

// page reads the parameters. It asks for one element more than the limit, to
// learn whether there is a next page.
func (p Paging) page() (billing.Page, error) {
	page := billing.Page{Limit: p.Limit + 1}
	if !p.given {
		return page, nil
	}
	cursor, err := base64.RawURLEncoding.DecodeString(p.Cursor)
	if err != nil || len(cursor) <= markSize {
		return billing.Page{}, strayCursor()
	}
	page.After = string(cursor[markSize:])
	if p.cursor(page.After) != p.Cursor {
		return billing.Page{}, strayCursor()
	}
	return page, nil
}

// cursor returns the cursor that goes on after an element. Its mark is of the
// list and the element, so that part of a cursor is none.
func (p Paging) cursor(id string) string {
	mark := sha256.Sum256(append(p.list[:], id...))
	return base64.RawURLEncoding.EncodeToString(append(mark[:markSize], id...))
}

// listError explains an error of a list, which has no other id to not find
// than the cursor's.
func listError(noun string, err error) error {
	if errors.Is(err, billing.ErrNotFound) {
		return strayCursor()
	}
	return fmt.Errorf("listing %s: %w", noun, err)
}

func strayCursor() error {
	var f faults
	f.add("query.cursor", "expected a next_cursor of this list, with the same filters and order")
	return f.err()
}

// cut returns the page's own elements and the cursor that continues after
// them, nil if there are no more.
func cut[T any](p Paging, found []T, id func(T) string) ([]T, *string) {
	if len(found) <= p.Limit {
		return found, nil
	}
	found = found[:p.Limit]
	cursor := p.cursor(id(found[p.Limit-1]))
	return found, &cursor
}

// mapped returns f of each element, and never nil.
func mapped[T, U any](in []T, f func(T) U) []U {
	out := make([]U, 0, len(in))
	for _, v := range in {
		out = append(out, f(v))
	}
	return out
}

// Interval are the parameters of a span of time.
type Interval struct {
	From     string `query:"from" maxLength:"40" doc:"Start, inclusive: an RFC 3339 time, or a date." example:"2026-11-01"`
	To       string `query:"to" maxLength:"40" doc:"End, exclusive: an RFC 3339 time; a date includes that whole day." example:"2026-11-30T12:00:00Z"`
	Timezone string `query:"timezone" maxLength:"64" doc:"Where dates begin: a name of the IANA time zone database; UTC if absent." example:"Europe/Berlin"`
}

// Sorting is the parameter of lists that can be turned round.
type Sorting struct {
	Order string `query:"order" enum:"desc,asc" default:"desc" doc:"desc: newest first; asc: oldest first."`
}

func (s Sorting) oldestFirst() bool { return s.Order == "asc" }

// endOfFile is until when a file has rows that are selected until to: one that
// is written oldest first would run after those that arrive.
func (s Sorting) endOfFile(to time.Time) time.Time {
	if to.IsZero() && s.oldestFirst() {
		return time.Now()
	}
	return to
}

// Selection are the parameters that select requests, of usage and of the audit.
// Of a parameter that is repeated, each value will do.
type Selection struct {
	Provider []string `query:"provider,explode" maxItems:"50" doc:"Requests to this provider. It may be repeated."`
	Model    []string `query:"model,explode" maxItems:"50" doc:"Requests priced as this model. It may be repeated."`
	Project  []string `query:"project,explode" maxItems:"50" doc:"Requests with keys that belonged to this project at the time. It may be repeated."`
}

// KeySelection is the parameter that selects requests by their keys.
type KeySelection struct {
	KeyID []string `query:"key_id,explode" maxItems:"50" doc:"Requests with this key. It may be repeated."`
}

// read returns what is selected, of the keys of these ids.
func (s Selection) read(f *faults, keyIDs []string) billing.Filter {
	f.checkTexts("key_id", keyIDs...)
	f.checkTexts("provider", s.Provider...)
	f.checkTexts("model", s.Model...)
	f.checkTexts("project", s.Project...)
	return billing.Filter{KeyIDs: keyIDs, Providers: s.Provider, Models: s.Model, Projects: s.Project}
}

// read returns the times, the zero time for one that is not given.
func (in Interval) read(f *faults) (from, to time.Time) {
	const expected = "expected an RFC 3339 time or a date, such as 2026-11-01T08:00:00Z or 2026-11-01"
	zone, err := parseTimezone(in.Timezone)
	if err != nil {
		f.add("query.timezone", "expected a name of the IANA time zone database, such as Europe/Berlin")
		zone = time.UTC
	}
	from, _, fromErr := parseMoment(in.From, zone)
	if fromErr != nil {
		f.add("query.from", expected)
	}
	to, end, toErr := parseMoment(in.To, zone)
	if toErr != nil {
		f.add("query.to", expected)
	}
	if !from.IsZero() && !to.IsZero() && from.After(to) {
		f.add("query.from", "expected a time that is not after to")
	}
	return from, end
}

// parseTimezone reads the name of a time zone. Where the gateway runs is none.
func parseTimezone(name string) (*time.Location, error) {
	if name == "Local" {
		return nil, errors.New("not a name of the database")
	}
	return time.LoadLocation(name)
}

// parseMoment reads a time, or a date in a time zone: its start, and its end if
// it is a date.
func parseMoment(text string, zone *time.Location) (start, end time.Time, err error) {
	if text == "" {
		return time.Time{}, time.Time{}, nil
	}
	if start, err = time.Parse(time.DateOnly, text); err == nil {
		year, month, day := start.Date()
		start = billing.StartOfDay(year, month, day, zone).UTC()
		end = billing.StartOfDay(year, month, day+1, zone).UTC()
	} else if start, err = time.Parse(time.RFC3339, text); err == nil {
		start = start.UTC()
		end = start
	}
	if err != nil {
		return time.Time{}, time.Time{}, fmt.Errorf("reading a time: %w", err)
	}
	if !isRecordable(start) || !isRecordable(end) {
		return time.Time{}, time.Time{}, errors.New("out of range")
	}
	return start, end, nil
}

// timeUnit is how exactly stores keep a time.
const timeUnit = time.Microsecond

// isRecordable tells whether a time in UTC can be kept by every store and
// written in RFC 3339. It refuses the zero time, among others, which stands
// for none.
func isRecordable(t time.Time) bool { return t.Year() >= 1970 && t.Year() < 10_000 }

// orNil returns nil, which is null in JSON, for a zero value.
func orNil[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	set := v // on the heap, where v itself need not be for a zero value
	return &set
}

// timeOrNil returns the time in UTC, nil for the zero time.
func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	utc := t.UTC()
	return &utc
}
