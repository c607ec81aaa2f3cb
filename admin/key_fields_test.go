package admin

import (
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/caddy-llm-gateway/gateway/billing"
)

// covers is what a list's entry means, bit by bit: IPv4 addresses are the
// same mapped into IPv6, which no wider range of IPv6 reaches.
func covers(p netip.Prefix, client netip.Addr) bool {
	const mapped = 96
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += mapped
	}
	client = client.WithZone("")
	if client.Unmap().Is4() && bits < mapped {
		return false
	}
	range16, client16 := p.Addr().As16(), client.As16()
	for i := range bits {
		if mask := byte(0x80 >> (i % 8)); range16[i/8]&mask != client16[i/8]&mask {
			return false
		}
	}
	return true
}

func FuzzCheckAddresses(f *testing.F) {
	for _, text := range []string{
		"192.0.2.1", "192.0.2.77/24", "::1", "2001:DB8::/32", "::ffff:10.0.0.9/104", "::ffff:10.0.0.9", "::ffff:0:0/90",
		"0.0.0.0/0", "::/0", "fe80::1%eth0", "10.0.0.0/33", "", "/", "1.2.3.4/", "010.0.0.1", "\x00",
	} {
		for _, client := range []string{"10.0.0.1", "::ffff:10.0.0.1", "2001:db8::9", "192.0.2.255"} {
			f.Add(text, client)
		}
	}
	f.Fuzz(func(t *testing.T, text, client string) {
		canonical, err := checkAddresses(text)
		if err != nil {
			return
		}
		if again, err := checkAddresses(canonical); err != nil || again != canonical {
			t.Errorf("%q is kept as %q, which would be kept as %q, %v", text, canonical, again, err)
		}
		stored, err := billing.ParseAddresses(canonical)
		if err != nil {
			t.Fatalf("%q is kept as %q, which nobody can read: %v", text, canonical, err)
		}
		written, err := netip.ParsePrefix(text)
		if err != nil {
			addr := netip.MustParseAddr(text)
			written = netip.PrefixFrom(addr, addr.BitLen())
		}
		addr, err := netip.ParseAddr(client)
		if err != nil {
			return
		}
		if got, want := stored.Contains(addr.Unmap().WithZone("")), covers(written, addr); got != want {
			t.Errorf("%q, kept as %q, matches %s: %t, want %t", text, canonical, client, got, want)
		}
	})
}

// FuzzKeyPatch sends any body: the client is told what is wrong with it, or it
// is taken, and the key can be read afterwards.
func FuzzKeyPatch(f *testing.F) {
	for _, body := range []string{
		`{}`, `null`, `[]`, `{"name":"b"}`, `{"name":null}`, `{"allowed_models":["gpt-*"],"allowed_ips":["::1"]}`,
		`{"usage_limit_dollars":1e-9,"usage_soft_limit_dollars":"0.5"}`, `{"usage_limit_dollars":1e400}`, `{"rate_limit_rpm":-0}`,
		`{"expires_at":"9999-12-31T23:59:59Z"}`, `{"expires_at":"2999-01-01T00:00:00+23:59"}`, `{"project":"a","max_concurrent":1e9}`,
		`{"name":"\ud800"}`, "{\"name\":\"\xff\"}", `{"name":"\u0000"}`, `{"a":{"a":[{}]}}`, `{"usage_limit_reset":"Daily"}`, ``, ` `,
		`{"overlap_seconds":86400}`, `{"overlap_seconds":1e3}`, `{"overlap_seconds":null}`,
	} {
		f.Add(body)
	}
	g := newGateway(f)
	f.Fuzz(func(t *testing.T, body string) {
		c := newClient(t, g)
		id := c.createKey(`{"name":"a"}`).ID
		for _, x := range [][2]string{
			{http.MethodPatch, "/v1/keys/" + id}, {http.MethodPost, "/v1/keys"}, {http.MethodPost, "/v1/keys/" + id + "/rotate"},
		} {
			a := c.do(x[0], x[1], body)
			if a.status < 200 || a.status >= 300 && a.status < 400 || a.status >= 500 {
				t.Errorf("%s %s: status %d: %s", x[0], x[1], a.status, a.body)
			}
		}
		c.do(http.MethodGet, "/v1/keys/"+id, "").want(t, http.StatusOK)
	})
}

// A list that is too long is refused for that, and its entries are not looked
// at: so no list may be longer.
func TestNoListInABodyIsLongerThanIsLookedAt(t *testing.T) {
	t.Parallel()
	c := newClient(t, newGateway(t))
	for _, field := range []string{"allowed_providers", "allowed_models", "allowed_ips"} {
		entry := map[string]string{"allowed_ips": `"::1"`}[field]
		if entry == "" {
			entry = `"m"`
		}
		most := strings.Repeat(entry+",", maxEntries-1) + entry
		c.do(http.MethodPost, "/v1/keys", `{"name":"a","`+field+`":[`+most+`]}`).want(t, http.StatusCreated)
		a := c.do(http.MethodPost, "/v1/keys", `{"name":"a","`+field+`":[1,`+strings.Repeat("1,", 400_000)+`1]}`).
			want(t, http.StatusUnprocessableEntity, `"location":"body.`+field+`"`)
		if n := len(decode[problem](t, a).Details); n > maxDetails {
			t.Errorf("%d details", n)
		}
	}
}
