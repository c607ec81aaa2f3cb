package cli

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// cleared is what a flag says to set a field to its default.
const cleared = "none"

// input collects the fields of a body from the flags that are given.
type input struct {
	cmd  *cobra.Command
	read []func(body map[string]any) error
}

func newInput(cmd *cobra.Command) *input { return &input{cmd: cmd} }

// add makes a flag a field of the body. Both have the same name, but that
// flags have dashes for the low lines.
func (in *input) add(name string, value func() (any, error)) {
	in.read = append(in.read, func(body map[string]any) error {
		if !in.cmd.Flags().Changed(name) {
			return nil
		}
		v, err := value()
		body[strings.ReplaceAll(name, "-", "_")] = v
		return err
	})
}

// text is a field that cannot be cleared.
func (in *input) text(name, usage string) {
	v := in.cmd.Flags().String(name, "", usage)
	in.add(name, func() (any, error) { return *v, nil })
}

// clearable is a text that none clears. Amounts of dollars are such: the API
// reads their texts exactly.
func (in *input) clearable(name, usage string) {
	v := in.cmd.Flags().String(name, "", usage+`; "none" clears it`)
	in.add(name, func() (any, error) {
		if *v == cleared {
			return nil, nil
		}
		return *v, nil
	})
}

func (in *input) list(name, usage string) {
	v := in.cmd.Flags().StringSlice(name, nil, usage+`; repeat it or separate with commas, "" allows all`)
	in.add(name, func() (any, error) {
		if len(*v) == 1 && (*v)[0] == "" {
			return []string{}, nil
		}
		return append([]string{}, *v...), nil
	})
}

func (in *input) number(name, usage string) {
	v := in.cmd.Flags().String(name, "", usage+`; "none" is no limit`)
	in.add(name, func() (any, error) {
		if *v == cleared {
			return nil, nil
		}
		if _, err := strconv.ParseInt(*v, 10, 64); err != nil {
			return nil, misusef("--%s %q: expected a whole number or none", name, *v)
		}
		return json.Number(*v), nil
	})
}

func (in *input) time(name, usage string) {
	v := in.cmd.Flags().String(name, "", usage+`: an RFC 3339 time, or a date for its first moment in UTC; "none" is never`)
	in.add(name, func() (any, error) {
		if *v == cleared {
			return nil, nil
		}
		for _, layout := range []string{time.RFC3339, time.DateOnly} {
			if at, err := time.Parse(layout, *v); err == nil {
				return at.Format(time.RFC3339Nano), nil
			}
		}
		return nil, misusef("--%s %q: expected a time such as 2027-06-30T12:00:00Z, a date or none", name, *v)
	})
}

// choice is a text of which the shell completes the choices.
func (in *input) choice(name, usage string, choices ...string) {
	in.text(name, usage+": "+strings.Join(choices, ", "))
	complete(in.cmd, name, choices...)
}

// filterFlag is a flag that selects elements of a list by a parameter of the
// API.
type filterFlag struct{ flag, parameter, usage string }

// filterFlags are what such flags are set to, by parameter.
type filterFlags map[string]func() []string

func (f filterFlags) addTo(cmd *cobra.Command, flags ...filterFlag) {
	for _, flag := range flags {
		value := cmd.Flags().String(flag.flag, "", flag.usage)
		f[flag.parameter] = func() []string { return []string{*value} }
	}
}

// addRepeatedTo adds flags that may be repeated: then each of the values will do.
func (f filterFlags) addRepeatedTo(cmd *cobra.Command, flags ...filterFlag) {
	for _, flag := range flags {
		values := cmd.Flags().StringArray(flag.flag, nil, flag.usage+"; may be repeated")
		f[flag.parameter] = func() []string { return *values }
	}
}

func (f filterFlags) values() url.Values {
	q := url.Values{}
	for name, values := range f {
		for _, value := range values() {
			addIf(q, name, value)
		}
	}
	return q
}

// query is values for those who may fail.
func (f filterFlags) query() (url.Values, error) { return f.values(), nil }

// addIf adds a parameter that is given.
func addIf(q url.Values, name, value string) {
	if value != "" {
		q.Add(name, value)
	}
}

// complete tells the shell what a flag may be. The API alone refuses others.
func complete(cmd *cobra.Command, name string, choices ...string) {
	if err := cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(choices, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag does not exist
	}
}

// body returns the fields that are given.
func (in *input) body() (map[string]any, error) {
	body := map[string]any{}
	for _, read := range in.read {
		if err := read(body); err != nil {
			return nil, err
		}
	}
	return body, nil
}

// changes returns the fields that are given, of which there must be some.
func (in *input) changes() (map[string]any, error) {
	body, err := in.body()
	if err == nil && len(body) == 0 {
		return nil, misusef("nothing to change: see %s --help", in.cmd.CommandPath())
	}
	return body, err
}

// addCreate makes the command create something, of which a name is needed, of
// the fields that are given.
func addCreate[T any](in *input, s *settings, path string, show func(io.Writer, T) error) {
	in.cmd.RunE = s.run(func(ctx context.Context, s *session, _ []string) error {
		if err := need(in.cmd, "name"); err != nil {
			return err
		}
		body, err := in.body()
		if err != nil {
			return err
		}
		return answer(ctx, s, call{method: http.MethodPost, path: path, body: body}, show)
	})
}

// addEdit makes the command change the fields that are given of what is at the
// path of its arguments.
func addEdit[T any](in *input, s *settings, method string, path func(args []string) string, show func(io.Writer, T) error) {
	var c condition
	c.addTo(in.cmd)
	in.cmd.RunE = s.run(func(ctx context.Context, s *session, args []string) error {
		body, err := in.changes()
		if err != nil {
			return err
		}
		return answer(ctx, s, call{method: method, path: path(args), body: body, ifMatch: c.tag()}, show)
	})
}

func keyFields(in *input) {
	in.text("name", "name, for people; need not be unique")
	in.list("allowed-providers", "providers that may be used")
	in.list("allowed-models", "globs of models that may be used, such as 'gpt-4o*' or 'openai/*'")
	in.list("allowed-ips", "addresses and CIDR ranges of clients")
	in.clearable("project", "project whose budget the key shares")
	in.clearable("owner-id", "id of the member whose key it is")
	in.number("rate-limit-rpm", "requests per calendar minute")
	in.number("rate-limit-tpm", "tokens per calendar minute, input and output")
	in.number("max-concurrent", "requests that may be open at a time")
	in.clearable("usage-limit-dollars", "what may be spent in each period, in USD; 0 allows nothing")
	in.clearable("usage-soft-limit-dollars", "spend from which on requests are served with a warning, in USD")
	in.choice("usage-limit-reset", "when the spend starts anew", "daily", "weekly", "monthly", "never")
	in.time("expires-at", "from when on the key is refused")
}
