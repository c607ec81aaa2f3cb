package cli

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// exporter serves rows, and breaks off the first answer in the middle of one.
type exporter struct {
	header string
	rows   []string // of which the ids are row0, row1 ...
	cutAt  int      // bytes of the first answer; 0 does not break off
	asked  []string // values of after
}

func (e *exporter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	after := r.URL.Query().Get("after")
	e.asked = append(e.asked, after)
	first := 0
	if after != "" {
		_, _ = fmt.Sscanf(after, "row%d", &first)
		first++
	}
	text := e.header + strings.Join(e.rows[first:], "")
	if e.cutAt > 0 && len(e.asked) == 1 {
		_, _ = io.WriteString(w, text[:e.cutAt])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	_, _ = io.WriteString(w, text)
}

func newExporter(format string, rows int) *exporter {
	e := &exporter{}
	if format == "csv" {
		e.header = "name,request_id\r\n"
	}
	for i := range rows {
		if format == "csv" {
			e.rows = append(e.rows, fmt.Sprintf("\"a \"\"line\"\"\nof, %d\",row%[1]d\r\n", i))
		} else {
			e.rows = append(e.rows, fmt.Sprintf("{\"name\":\"\\\"\",\"request_id\":\"row%d\"}\n", i))
		}
	}
	return e
}

// Wherever an export is cut, it is gone on with to the same file.
func TestExportsGoOnWhereTheyWereCut(t *testing.T) {
	t.Parallel()
	for _, format := range []string{"csv", "jsonl"} {
		const rows = 3
		whole := newExporter(format, rows)
		want := whole.header + strings.Join(whole.rows, "")
		for at := range len(want) {
			t.Run(fmt.Sprintf("%s at %d", format, at), func(t *testing.T) {
				t.Parallel()
				e := newExporter(format, rows)
				e.cutAt = at
				flags := serve(t, e.ServeHTTP)
				file := filepath.Join(t.TempDir(), "export."+format)
				export := append([]string{"audit", "export", "--resume", "-o", file}, flags...)
				if at > 0 {
					if got := run(t, export...); ExitCode(got.err) != 1 || got.err == nil {
						t.Fatalf("cut off, the error is %v", got.err)
					}
					if _, err := os.Stat(file); !os.IsNotExist(err) {
						t.Errorf("a file that is not complete has its name: %v", err)
					}
				}
				got := run(t, export...)
				if got.err != nil {
					t.Fatal(got.err)
				}
				text, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, string(text)); diff != "" {
					t.Errorf("after %q (-want +got):\n%s", e.asked, diff)
				}
				if !strings.Contains(got.notes, fmt.Sprintf("Wrote 3 rows, %d B", len(want))) {
					t.Errorf("tells %s", got.notes)
				}
				if left, _ := filepath.Glob(file + "*"); len(left) != 1 {
					t.Errorf("leaves %q", left)
				}
			})
		}
	}
}

func TestExportsBeginAnewUnlessToldToGoOn(t *testing.T) {
	t.Parallel()
	e := newExporter("jsonl", 2)
	flags := serve(t, e.ServeHTTP)
	file := filepath.Join(t.TempDir(), "export.jsonl")
	if err := os.WriteFile(file+partSuffix, []byte(e.rows[0]), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := run(t, append([]string{"audit", "export", "-o", file}, flags...)...); got.err != nil {
		t.Fatal(got.err)
	}
	text, err := os.ReadFile(file)
	if want := strings.Join(e.rows, ""); err != nil || string(text) != want {
		t.Errorf("%v: %s, want %s", err, text, want)
	}
}

func TestExportsThatCannotGoOn(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ name, part, want string }{
		"other columns":       {"a.csv", "id,name\r\nrow0,a\r\n", "other columns"},
		"no id":               {"a.csv", "name\r\na\r\n", "no id"},
		"no id of an object":  {"a.jsonl", "{}\n", "no id"},
		"no object":           {"a.jsonl", "[]\n", "last row"},
		"fields of no header": {"a.csv", "id\r\na,b\r\n", "last row"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			flags := serve(t, newExporter("csv", 2).ServeHTTP)
			file := filepath.Join(t.TempDir(), tt.name)
			if err := os.WriteFile(file+partSuffix, []byte(tt.part), 0o600); err != nil {
				t.Fatal(err)
			}
			got := run(t, append([]string{"audit", "export", "--resume", "-o", file}, flags...)...)
			if got.err == nil || !strings.Contains(got.err.Error(), tt.want) {
				t.Errorf("error is %v, want %s", got.err, tt.want)
			}
			if text, err := os.ReadFile(file + partSuffix); err != nil || string(text) != tt.part {
				t.Errorf("%v: the part is %q now", err, text)
			}
		})
	}
}

// What is cut on its way to the standard output must not look complete.
func TestExportsToTheStandardOutput(t *testing.T) {
	t.Parallel()
	e := newExporter("csv", 2)
	e.cutAt = len(e.header) + 3
	flags := append([]string{"audit", "export"}, serve(t, e.ServeHTTP)...)
	if got := run(t, flags...); got.err == nil || !strings.Contains(got.err.Error(), "not complete") || ExitCode(got.err) != 1 {
		t.Errorf("error is %v", got.err)
	}
	if got := run(t, flags...); got.err != nil || got.out != e.header+strings.Join(e.rows, "") {
		t.Errorf("%v: %s", got.err, got.out)
	}
}

func TestRefusedExportsLeaveNoFile(t *testing.T) {
	t.Parallel()
	flags := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, 422, `{"error":"query.from: expected a time"}`)
	})
	file := filepath.Join(t.TempDir(), "a.csv")
	got := run(t, append([]string{"audit", "export", "--from", "x", "-o", file}, flags...)...)
	if got.err == nil || !strings.Contains(got.err.Error(), "query.from") {
		t.Errorf("error is %v", got.err)
	}
	if left, _ := filepath.Glob(file + "*"); len(left) != 0 {
		t.Errorf("leaves %q", left)
	}
}

// A proxy in between may end an answer as if it were whole.
func TestExportsAreAsLongAsTheGatewayTells(t *testing.T) {
	t.Parallel()
	for format, text := range map[string]string{
		"csv": "name,id\r\n\"a\nb\",row0\r\nc,row1\r\n", "jsonl": "{\"id\":\"row0\"}\n{\"id\":\"row1\"}\n",
		"json": "[\n{\"id\":\"row0\"},\n{\"id\":\"row1\"}\n]\n",
	} {
		for rows, complete := range map[string]bool{"2": true, "3": false, "": false} {
			t.Run(format+" of "+rows, func(t *testing.T) {
				t.Parallel()
				flags := serve(t, func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Trailer", completeTrailer)
					_, _ = io.WriteString(w, text)
					if rows != "" {
						w.Header().Set(completeTrailer, rows)
					}
				})
				file := filepath.Join(t.TempDir(), "export."+format)
				got := run(t, append([]string{"audit", "export", "-o", file}, flags...)...)
				if _, err := os.Stat(file); (got.err == nil) != complete || (err == nil) != complete {
					t.Errorf("%v, and %v; %s", got.err, err, got.notes)
				}
			})
		}
	}
}
