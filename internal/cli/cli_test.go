package cli

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

const testToken = "secret-of-the-operator"

// result is how a command has ended.
type result struct {
	out, notes string
	err        error
}

// run runs a command as the process would.
func run(t *testing.T, args ...string) result {
	t.Helper()
	root := &cobra.Command{Use: "llm-gateway", SilenceErrors: true, SilenceUsage: true}
	Group(root, Commands()...)
	var out, notes bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&notes)
	root.SetArgs(args)
	err := root.ExecuteContext(t.Context())
	return result{out.String(), notes.String(), err}
}

// serve is a gateway that answers as told. Its address and token are flags.
func serve(t *testing.T, answer http.HandlerFunc) (flags []string) {
	t.Helper()
	s := httptest.NewServer(answer)
	t.Cleanup(s.Close)
	return []string{"--url", s.URL, "--token", testToken}
}

func writeJSON(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

func TestJSONIsTheAPIsOwn(t *testing.T) {
	t.Parallel()
	const odd = `{"data":[{"id":"a","new_field":1.10}],  "next_cursor":null}`
	flags := serve(t, func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, 200, odd) })
	if got := run(t, append([]string{"keys", "list", "--json"}, flags...)...); got.err != nil || got.out != odd+"\n" {
		t.Errorf("%v: %s", got.err, got.out)
	}
}

func TestAllPagesAreOneList(t *testing.T) {
	t.Parallel()
	flags := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Query().Get("cursor") {
		case "":
			writeJSON(w, 200, `{"data":[{"id":"a"}],"next_cursor":"2"}`)
		case "2":
			writeJSON(w, 200, `{"data":[{"id":"b"}],"next_cursor":null}`)
		default:
			t.Errorf("asked for %s", r.URL)
		}
	})
	got := run(t, append([]string{"keys", "list", "--all", "--json"}, flags...)...)
	if want := `{"data":[{"id":"a"},{"id":"b"}],"next_cursor":null}` + "\n"; got.err != nil || got.out != want {
		t.Errorf("%v: %s, want %s", got.err, got.out, want)
	}
}

func TestWrongUse(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"keys", "nothing"}, {"keys", "list", "stray"}, {"keys", "show"}, {"keys", "show", ""}, {"keys", "show", ".."},
		{"keys", "create"}, {"keys", "edit", "key_1"}, {"keys", "list", "--limit", "0"}, {"keys", "list", "--limit", "501"},
		{"keys", "create", "--name", "a", "--rate-limit-rpm", "many"}, {"keys", "create", "--name", "a", "--expires-at", "tomorrow"},
		{"keys", "rotate", "key_1", "--overlap", "-1s"}, {"keys", "rotate", "key_1", "--overlap", "1ms"},
		{"members", "invite", "ada@acme.example"}, {"orgs", "create"}, {"orgs", "budget", "set"}, {"orgs", "budget", "nothing"},
		{"credits", "adjust", "5"}, {"credits", "adjust", "five", "--reason", "x"}, {"tokens", "create"},
		{"audit", "export", "--format", "xml"}, {"audit", "export", "--resume"},
		{"audit", "export", "--resume", "-o", "x.json"}, {"audit", "export", "--json"}, {"audit", "export", "--resume", "--after", "a", "-o", "x.csv"},
		{"keys", "list", "--url", "ftp://gateway"}, {"keys", "list", "--url", "http://a:b@gateway"}, {"keys", "list", "--url", "http://gateway/?a=b"},
		{"keys", "list", "--token-file", "x"}, {"keys", "list", "--org", "a\nb"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			t.Parallel()
			flags := serve(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("asked for %s", r.URL) })
			if !slices.Contains(args, "--url") {
				args = append(args, flags[:2]...)
			}
			got := run(t, append(args, flags[2:]...)...)
			if got.err == nil || ExitCode(got.err) != 2 {
				t.Errorf("error is %v", got.err)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		status int
		kind   string
		body   string
		want   string
	}{
		"fields": {
			422, "application/json", `{"error":"body.name: is missing (and 1 more)","details":[{"location":"body.name","message":"is missing"},{"location":"body.x","message":"unknown\u001b"}]}`,
			"body.name: is missing (and 1 more) (422)\n  body.name: is missing\n  body.x: unknown\ufffd",
		},
		"one field":          {422, "application/json", `{"error":"body.name: is missing","details":[{"location":"body.name","message":"is missing"}]}`, "body.name: is missing (422)"},
		"not of the message": {409, "application/json", `{"error":"in_use","details":[{"location":"header.X","message":"used"}]}`, "in_use (409)\n  header.X: used"},
		"no organization":    {404, "application/json", `{"error":"no such organization: check the X-Organization header"}`, "check --org or $GATEWAY_ORG"},
		"no package":         {422, "application/json", `{"error":"x","details":[{"location":"body.package_id","message":"see /v1/billing/packages"}]}`, "see caddy llm-gateway credits packages"},
		"changed since":      {412, "application/json", `{"error":"read it again, and repeat your change with the new ETag as If-Match"}`, "the Version that is shown as --if-match"},
		"a stranger":         {404, "text/html", `<html>`, "but not as a gateway's management API does"},
		"another API":        {400, "application/json", `{"message":"no"}`, "but not as a gateway's management API does"},
		"a success of none":  {200, "text/html", `<html>`, "but not as a gateway's management API does"},
		"no list":            {200, "application/json", `{}`, "but not as a gateway's management API does"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			flags := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", tt.kind)
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
			})
			got := run(t, append([]string{"keys", "list"}, flags...)...)
			if got.err == nil || !strings.Contains(got.err.Error(), tt.want) || ExitCode(got.err) != 1 {
				t.Errorf("error is %v, want %s", got.err, tt.want)
			}
		})
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	other := serve(t, func(_ http.ResponseWriter, r *http.Request) { t.Errorf("asked for %s with %v", r.URL, r.Header) })
	flags := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, other[1], http.StatusMovedPermanently)
	})
	got := run(t, append([]string{"keys", "list"}, flags...)...)
	if got.err == nil || !strings.Contains(got.err.Error(), other[1]) {
		t.Errorf("error is %v", got.err)
	}
}

func TestNobodyAnswers(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.NotFoundHandler())
	s.Close()
	flags := []string{"--url", s.URL, "--token", testToken}
	got := run(t, append([]string{"keys", "list"}, flags...)...)
	if got.err == nil || !strings.Contains(got.err.Error(), s.URL) || !strings.Contains(got.err.Error(), "is it running?") {
		t.Errorf("error is %v", got.err)
	}
}

// cut answers nothing, and ends the connection.
func cut(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func TestChangesThatMayHaveBeenMade(t *testing.T) {
	t.Parallel()
	flags := serve(t, cut)
	got := run(t, append([]string{"keys", "create", "--name", "a"}, flags...)...)
	if got.err == nil || !strings.Contains(got.err.Error(), "look before you repeat it") {
		t.Errorf("error is %v", got.err)
	}
	got = run(t, append([]string{"credits", "buy", "starter", "--idempotency-key", "order-42-of-november"}, flags...)...)
	if got.err == nil || !strings.Contains(got.err.Error(), "--idempotency-key order-42-of-november") {
		t.Errorf("error is %v", got.err)
	}
}

func TestIdempotencyKeysAreOfOneRunEach(t *testing.T) {
	t.Parallel()
	var keys []string
	flags := serve(t, func(w http.ResponseWriter, r *http.Request) {
		keys = append(keys, r.Header.Get("Idempotency-Key"))
		writeJSON(w, 201, anEntry)
	})
	for range 2 {
		if got := run(t, append([]string{"credits", "adjust", "5", "--reason", "x"}, flags...)...); got.err != nil {
			t.Fatal(got.err)
		}
	}
	if len(keys) != 2 || keys[0] == keys[1] || len(keys[0]) < 16 {
		t.Errorf("keys are %q", keys)
	}
}

func TestTokensAreNotShown(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(testToken+"\n"+testToken), 0o600); err != nil {
		t.Fatal(err)
	}
	flags := serve(t, cut)
	for _, args := range [][]string{
		{"keys", "list", "--token", testToken}, {"keys", "list", "--token", testToken + "\n"}, {"keys", "list", "--token-file", file},
		{"keys", "list", "--token", testToken, "--url", "http://" + testToken + "@host"}, {"keys", "list", "--token", testToken, "--help"},
	} {
		got := run(t, append(flags[:2:2], args...)...)
		if got.err != nil {
			got.out += got.err.Error()
		}
		if got.out == "" || strings.Contains(got.out+got.notes, testToken) {
			t.Errorf("%q shows %s%s", args, got.out, got.notes)
		}
	}
}

// It is not parallel: the environment is the process's.
func TestSettingsOfTheEnvironment(t *testing.T) {
	var token, org string
	flags := serve(t, func(w http.ResponseWriter, r *http.Request) {
		token, org = r.Header.Get("Authorization"), r.Header.Get("X-Organization")
		writeJSON(w, 200, anEmptyList)
	})
	t.Setenv(tokenVariable, "")
	if got := run(t, "keys", "list", "--url", flags[1]); ExitCode(got.err) != 2 || !strings.Contains(got.err.Error(), "$GATEWAY_ADMIN_TOKEN") {
		t.Errorf("without a token the error is %v", got.err)
	}
	t.Setenv(urlVariable, strings.TrimPrefix(flags[1], "http://")+"/")
	t.Setenv(tokenVariable, "of-the-environment\n")
	t.Setenv(organizationVariable, "acme")
	if got := run(t, "keys", "list"); got.err != nil || token != "Bearer of-the-environment" || org != "acme" {
		t.Errorf("%v, token %q, organization %q", got.err, token, org)
	}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte("of-the-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := run(t, "keys", "list", "--token-file", file, "--org", "other"); got.err != nil || token != "Bearer of-the-file" || org != "other" {
		t.Errorf("%v, token %q, organization %q", got.err, token, org)
	}
	if got := run(t, "keys", "--help"); got.err != nil || strings.Contains(got.out, "of-the-environment") {
		t.Errorf("%v: help shows %s", got.err, got.out)
	}
}

func TestHelpShowsExamples(t *testing.T) {
	t.Parallel()
	if got := run(t, "keys", "create", "--help"); got.err != nil || !strings.Contains(got.out, "caddy llm-gateway keys create --name laptop") {
		t.Errorf("%v: %s", got.err, got.out)
	}
}

func TestHelpOfACommand(t *testing.T) {
	t.Parallel()
	if got := run(t, "keys", "help", "create"); got.err != nil || !strings.Contains(got.out, "keys create --name NAME [flags]") {
		t.Errorf("%v: %s", got.err, got.out)
	}
}

func TestWarningsAreShown(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"members", "invite", "ann@example.com", "--role", "viewer"}, {"orgs", "create", "--name", "A", "--owner-email", "ann@example.com"},
	} {
		flags := serve(t, func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, 201, `{"id":"a","warning":"nobody can"}`) })
		if got := run(t, append(args, flags...)...); got.err != nil || !strings.Contains(got.out, "Warning     nobody can\n") && !strings.Contains(got.out, "Warning  nobody can\n") {
			t.Errorf("%q: %v: %s", args, got.err, got.out)
		}
	}
}

func TestRemovalsAnswerJSON(t *testing.T) {
	t.Parallel()
	flags := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	if got := run(t, append([]string{"members", "remove", "mem_1", "--json"}, flags...)...); got.err != nil || got.out != "{}\n" || got.notes != "" {
		t.Errorf("%v: %s%s", got.err, got.out, got.notes)
	}
}

// Two who edit the same must not undo what the other has done.
func TestVersions(t *testing.T) {
	t.Parallel()
	var match string
	flags := serve(t, func(w http.ResponseWriter, r *http.Request) {
		match = r.Header.Get("If-Match")
		w.Header().Set("ETag", `"key-1"`)
		writeJSON(w, 200, aKey)
	})
	if got := run(t, append([]string{"keys", "show", "key_1"}, flags...)...); got.err != nil || !strings.Contains(got.out, "Version               key-1\n") {
		t.Errorf("%v: %s", got.err, got.out)
	}
	created := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("ETag", `"key-1"`)
		writeJSON(w, 201, `{"key":"sk-proxy-abc","proxy_key":`+aKey+`}`)
	})
	if got := run(t, append([]string{"keys", "create", "--name", "a"}, created...)...); got.err != nil || !strings.Contains(got.out, "Version               key-1\n") {
		t.Errorf("%v: %s", got.err, got.out)
	}
	for _, edit := range [][]string{
		{"keys", "edit", "key_1", "--name", "a"}, {"orgs", "edit", "acme", "--name", "a"},
		{"members", "edit", "mem_1", "--name", "a"}, {"orgs", "budget", "set", "--max-dollars", "1"},
	} {
		got := run(t, append(append(edit, "--if-match", "key-1"), flags...)...)
		if got.err != nil || match != `"key-1"` || !strings.Contains(got.out, "key-1\n") {
			t.Errorf("%q: %v: asked for %s: %s", edit, got.err, match, got.out)
		}
	}
	for version, want := range map[string]string{"key-1": `"key-1"`, `"key-1"`: `"key-1"`, "*": "*", "": ""} {
		got := run(t, append([]string{"keys", "edit", "key_1", "--name", "a", "--if-match", version}, flags...)...)
		if got.err != nil || match != want {
			t.Errorf("%v: of version %s asked for %s, want %s", got.err, version, match, want)
		}
	}
}

// An organization is made in a shell that names it already.
func TestCommandsAboutNoOrganizationNameNone(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{
		{"orgs", "create", "--name", "Acme"}, {"orgs", "list"}, {"orgs", "show", "acme"}, {"orgs", "edit", "acme", "--name", "A"},
		{"tokens", "list"}, {"tokens", "create", "--name", "a"}, {"tokens", "revoke", "a"}, {"invitations", "list"},
		{"invitations", "accept", "a"}, {"invitations", "decline", "a"}, {"credits", "adjust", "5", "--reason", "x"},
	} {
		flags := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if org := r.Header.Get("X-Organization"); org != "" || args[0] == "credits" && r.URL.Path != "/v1/organizations/acme/adjustments" {
				t.Errorf("%q: asks for %s of %q", args, r.URL, org)
			}
			writeJSON(w, 200, anEmptyList)
		})
		if got := run(t, append(append(flags, "--org", "acme"), args...)...); got.err != nil {
			t.Errorf("%q: %v", args, got.err)
		}
	}
}
