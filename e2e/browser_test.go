package e2e

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
)

// browser is what a browser is to servers: it follows redirects and keeps
// cookies. At the identity provider's login page it says who its user is.
type browser struct {
	http    *http.Client
	account string
	// address is the browser's, as the proxy in front of the gateway tells.
	address string
	// stopAt is where no redirect leads it.
	stopAt string
	// seen are the answers so far, those of redirects included.
	seen []page
}

// page is an answer, and where it is from.
type page struct {
	url    *url.URL
	status int
	header http.Header
	body   string
}

func (p page) String() string { return fmt.Sprintf("%s: status %d: %.500s", p.url, p.status, p.body) }

// want fails the test unless the answer has the status and says something.
func (p page) want(t *testing.T, status int, says string) {
	t.Helper()
	if p.status != status || !strings.Contains(p.body, says) {
		t.Errorf("want status %d and %q: %s", status, says, p)
	}
}

// decode reads the answer as JSON.
func (p page) decode(t *testing.T, out any) {
	t.Helper()
	if err := json.Unmarshal([]byte(p.body), out); err != nil {
		t.Fatalf("%v: %s", err, p)
	}
}

// cookie is a cookie that the answer sets, or nil.
func (p page) cookie(name string) *http.Cookie {
	for _, c := range (&http.Response{Header: p.header}).Cookies() {
		if c.Name == name {
			return c
		}
	}
	return nil
}

func newBrowser(t *testing.T, account string) *browser {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &browser{account: account, address: newAddress(), stopAt: appRedirect}
	b.http = &http.Client{Jar: jar, Transport: b, CheckRedirect: func(req *http.Request, _ []*http.Request) error {
		if strings.HasPrefix(req.URL.String(), b.stopAt) {
			return http.ErrUseLastResponse
		}
		return nil
	}}
	return b
}

// newAddress is an address of the documentation's IPv6 range that no other
// client of this suite has.
func newAddress() string {
	var random [4]byte
	rand.Read(random[:])
	return fmt.Sprintf("2001:db8:%x:%x::1", random[:2], random[2:])
}

func (b *browser) RoundTrip(req *http.Request) (*http.Response, error) {
	req = req.Clone(req.Context())
	req.Header.Set("X-Forwarded-For", b.address)
	res, err := management.RoundTrip(req)
	if err == nil {
		b.seen = append(b.seen, page{url: req.URL, status: res.StatusCode, header: res.Header})
	}
	return res, err
}

// visit goes to an address, through the login page if it comes to that.
func (b *browser) visit(t *testing.T, address string) page {
	t.Helper()
	p := b.send(t, http.MethodGet, address, "", nil)
	if p.status == http.StatusOK && strings.HasPrefix(p.url.Path, "/login/") {
		form := url.Values{"login": {b.account}}.Encode()
		p = b.send(t, http.MethodPost, p.url.String(), form, map[string]string{"Content-Type": "application/x-www-form-urlencoded"})
	}
	return p
}

// send sends a request with the browser's cookies and follows redirects. Where
// it stops before appRedirect, that is the answer's address.
func (b *browser) send(t *testing.T, method, address, body string, header map[string]string) page {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	if body != "" && req.Header.Get("Content-Type") == "" {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := b.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	p := page{url: res.Request.URL, status: res.StatusCode, header: res.Header, body: string(text)}
	if target, err := res.Location(); err == nil {
		p.url = target // the client has stopped before it
	}
	return p
}

// at is the first answer so far from a path.
func (b *browser) at(t *testing.T, path string) page {
	t.Helper()
	for _, p := range b.seen {
		if p.url.Path == path {
			return p
		}
	}
	t.Fatalf("the browser was not at %s", path)
	return page{}
}
