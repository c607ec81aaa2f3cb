package cli

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// hostile are texts that a terminal obeys, or shows in another order.
var hostile = []string{
	"a\x7fb", "\u009b31mred\u0085", "abc\u202egnp.exe\u202c", "\u2066x\u2069", "\u200fx\u061c", "tag \U000e0041", "caf\u00e9 \u6f22 \U0001f600",
}

func TestJSONOnATerminal(t *testing.T) {
	t.Parallel()
	text := `{"names":["` + strings.Join(hostile, `","`) + "\"]}\n"
	for size := 1; size <= len(text); size++ { // a part may end within a character
		var out bytes.Buffer
		w := (&session{out: &out, terminal: true}).onScreen(false)
		for rest := text; rest != ""; {
			n := min(size, len(rest))
			if written, err := io.WriteString(w, rest[:n]); written != n || err != nil {
				t.Fatal(written, err)
			}
			rest = rest[n:]
		}
		for _, c := range out.String() {
			if !isShown(c) {
				t.Fatalf("%U is shown", c)
			}
		}
		var got struct{ Names []string }
		if err := json.Unmarshal(out.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(hostile, got.Names); diff != "" {
			t.Fatalf("in parts of %d bytes it is other JSON (-want +got):\n%s", size, diff)
		}
		if !strings.HasSuffix(out.String(), `"café 漢 😀"]}`+"\n") {
			t.Errorf("what can be shown is not: %s", out.String())
		}
	}
}

func TestExportToATerminal(t *testing.T) {
	t.Parallel()
	bytesOf := map[string]string{
		"csv":   "id,name\r\nr1,\"a\u009b2J\x1b[2J\n\u202eb\"\r\nr2,\x9b\r\n",
		"jsonl": "{\"id\":\"a\u009b2J\u202eb\"}\n{\"id\":\"\x9b\"}\n",
	}
	flags := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, bytesOf[r.URL.Query().Get("format")])
	})
	for format, want := range map[string]string{
		"csv":   "id,name\r\nr1,\"a\ufffd2J\ufffd[2J\n\ufffdb\"\r\nr2,\ufffd\r\n",
		"jsonl": `{"id":"a\u009b2J\u202eb"}` + "\n" + `{"id":"\ufffd"}` + "\n",
	} {
		for terminal, want := range map[bool]string{true: want, false: bytesOf[format]} {
			var out bytes.Buffer
			s := &session{client: newClient(flags[1], testToken, ""), out: &out, notes: io.Discard, terminal: terminal}
			e := &export{path: "/v1/audit/export", query: func() (url.Values, error) { return url.Values{}, nil }, format: format, output: toStdout}
			if err := e.run(t.Context(), s); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, out.String()); diff != "" {
				t.Errorf("%s, terminal %t (-want +got):\n%s", format, terminal, diff)
			}
		}
	}
}

func TestAnswersToATerminal(t *testing.T) {
	t.Parallel()
	const body = "{\"name\":\"\u202ex\"}"
	flags := serve(t, func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, body) })
	for terminal, want := range map[bool]string{true: `{"name":"\u202ex"}` + "\n", false: body + "\n"} {
		var out bytes.Buffer
		s := &session{client: newClient(flags[1], testToken, ""), out: &out, notes: io.Discard, terminal: terminal, json: true}
		err := answer(t.Context(), s, get("/v1/account", nil), func(io.Writer, struct{}) error { return nil })
		if err != nil || out.String() != want {
			t.Errorf("terminal %t: %q, %v", terminal, out.String(), err)
		}
	}
}
