package admin

import (
	"bytes"
	"encoding/json"
	"html/template"
	"io"
	"net/http"
	"strings"
)

// navigates tells whether a person waits for the answer in a browser's window:
// at a login, or at the session where a login ends by default.
func navigates(r *http.Request) bool {
	switch r.URL.Path {
	case loginPath, callbackPath, sessionPath:
		return r.Method == http.MethodGet && strings.HasPrefix(r.Header.Get("Accept"), "text/html")
	}
	return false
}

// pageWriter keeps an answer, to show it as a page.
type pageWriter struct {
	http.ResponseWriter
	status int
	answer bytes.Buffer
}

// WriteHeader implements http.ResponseWriter.
func (w *pageWriter) WriteHeader(status int) { w.status = status }

// Write implements http.ResponseWriter. It never fails.
func (w *pageWriter) Write(b []byte) (int, error) { return w.answer.Write(b) }

// send writes the page, or the answer as it is if it has no text: a redirect.
func (w *pageWriter) send() error {
	header := w.Header()
	header.Set("Vary", "Accept")
	if w.answer.Len() == 0 {
		w.ResponseWriter.WriteHeader(w.status)
		return nil
	}
	var content struct {
		Error         string       `json:"error"`
		Email         string       `json:"email"`
		Subject       string       `json:"subject"`
		Organizations []membership `json:"organizations"`
		LoginPath     string       `json:"-"`
	}
	if err := json.Unmarshal(w.answer.Bytes(), &content); err != nil {
		return err
	}
	content.LoginPath = loginPath
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	header.Set("Referrer-Policy", "no-referrer")
	header.Del("Content-Length")
	w.ResponseWriter.WriteHeader(w.status)
	var text bytes.Buffer
	if err := loginPage.Execute(&text, content); err != nil {
		return err
	}
	_, err := io.Copy(w.ResponseWriter, &text)
	return err
}

// loginPage escapes what it is given.
var loginPage = template.Must(template.New("page").Parse(`<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>LLM gateway</title>
{{if .Error -}}
<h1>Not signed in</h1>
<p>{{.Error}}
<p><a href="{{.LoginPath}}">Log in</a>
{{- else -}}
<h1>Signed in</h1>
<p>You are {{or .Email .Subject "an operator"}}.
{{range .Organizations}}<p>{{.Name}} ({{.ID}}): {{.Role}}
{{end}}
{{- end}}
</html>
`))
