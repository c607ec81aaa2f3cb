package admin

import (
	"slices"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// refuseRepeated refuses parameters that are given more than once and take one
// value, of which the first alone would be looked at; and those that take several
// but have an empty one among them, which would stand for none at all.
func (a *api) refuseRepeated(hc huma.Context, next func(huma.Context)) {
	u := hc.URL()
	query := u.Query()
	var f faults
	for _, p := range hc.Operation().Parameters {
		values := query[p.Name]
		if p.In != "query" || len(values) < 2 {
			continue
		}
		if p.Explode == nil || !*p.Explode {
			f.add("query."+p.Name, "expected it once")
		} else if slices.Contains(values, "") {
			f.add("query."+p.Name, "expected no empty one of several values")
		}
	}
	if err := f.err(); err != nil {
		r, w := humago.Unwrap(hc)
		a.fail(w, r, err)
		return
	}
	next(hc)
}
