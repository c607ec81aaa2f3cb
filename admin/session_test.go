package admin

import (
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddy-llm-gateway/gateway/admin/oidc/oidctest"
	"github.com/caddy-llm-gateway/gateway/billing"
)

// at makes the client's API believe that it is later.
func (c client) at(later time.Duration) {
	c.api.(*api).now = func() time.Time { return time.Now().Add(later) }
}

func TestSessionEnds(t *testing.T) {
	t.Parallel()
	g, _ := signOn(t)
	for name, test := range map[string]struct {
		requests []time.Duration // after the login
		want     int
	}{
		"used all the time":        {[]time.Duration{50 * time.Minute, 100 * time.Minute, 150 * time.Minute}, http.StatusOK},
		"not used for an hour":     {[]time.Duration{time.Hour + time.Second}, http.StatusUnauthorized},
		"not used for an hour now": {[]time.Duration{50 * time.Minute, 111 * time.Minute}, http.StatusUnauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := loggedIn(t, g)
			var a answer
			for _, later := range test.requests {
				b.at(later)
				a = b.do(http.MethodGet, "/v1/account", "")
			}
			a.want(t, test.want)
		})
	}
	b := loggedIn(t, g)
	for later := 30 * time.Minute; later < billing.SessionLifetime; later += 30 * time.Minute {
		b.at(later)
		b.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK)
	}
	b.at(billing.SessionLifetime)
	b.do(http.MethodGet, "/v1/account", "").want(t, http.StatusUnauthorized, "your session has ended")
}

func TestSessionCookieIsRotated(t *testing.T) {
	t.Parallel()
	g, _ := signOn(t)
	b := loggedIn(t, g)
	first := b.cookies[sessionCookie].Value
	b.at(sessionRotation - time.Second)
	b.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK)
	if b.cookies[sessionCookie].Value != first {
		t.Error("rotated too early")
	}
	slow := *b // a request that was under way
	slow.cookies = maps.Clone(b.cookies)
	b.at(sessionRotation)
	b.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK)
	second := b.cookies[sessionCookie].Value
	if second == first {
		t.Fatal("not rotated")
	}
	slow.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK)
	if slow.cookies[sessionCookie].Value != first {
		t.Error("rotated by the value before")
	}
	// The token of a page that was loaded before goes on working.
	b.do(http.MethodPost, "/v1/keys", `{"name":"ci"}`).want(t, http.StatusCreated)
	b.at(sessionRotation + sessionGrace)
	slow.do(http.MethodGet, "/v1/account", "").want(t, http.StatusUnauthorized)
	b.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK)
}

func TestChangesOfASessionNeedItsToken(t *testing.T) {
	t.Parallel()
	g, _ := signOn(t)
	b, other := loggedIn(t, g), loggedIn(t, g)
	const body = `{"name":"ci"}`
	for name, test := range map[string]struct {
		token  string
		header [2]string
		want   int
	}{
		"right":               {b.csrf, [2]string{}, http.StatusCreated},
		"right, own page":     {b.csrf, [2]string{"Sec-Fetch-Site", "same-origin"}, http.StatusCreated},
		"right, own origin":   {b.csrf, [2]string{"Origin", "http://example.com"}, http.StatusCreated},
		"missing":             {"", [2]string{}, http.StatusForbidden},
		"another session's":   {other.csrf, [2]string{}, http.StatusForbidden},
		"wrong":               {b.csrf[1:], [2]string{}, http.StatusForbidden},
		"other site":          {b.csrf, [2]string{"Sec-Fetch-Site", "cross-site"}, http.StatusForbidden},
		"other host of ours":  {b.csrf, [2]string{"Sec-Fetch-Site", "same-site"}, http.StatusForbidden},
		"other origin":        {b.csrf, [2]string{"Origin", "https://evil.example"}, http.StatusForbidden},
		"origin that is null": {b.csrf, [2]string{"Origin", "null"}, http.StatusForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := *b
			c.cookies = maps.Clone(b.cookies)
			c.csrf = test.token
			if test.header[0] != "" {
				c.client = c.with(test.header[0], test.header[1])
			}
			c.do(http.MethodPost, "/v1/keys", body).want(t, test.want)
		})
	}
	b.csrf = ""
	for _, method := range []string{http.MethodPatch, http.MethodDelete} {
		b.do(method, "/v1/keys/key_1", `{}`).want(t, http.StatusForbidden, csrfHeader)
	}
	b.do(http.MethodPut, "/v1/budget", `{}`).want(t, http.StatusForbidden, csrfHeader)
	b.do(http.MethodPost, logoutPath, "").want(t, http.StatusForbidden, csrfHeader)
	b.do(http.MethodGet, "/v1/keys", "").want(t, http.StatusOK)
}

func TestLogout(t *testing.T) {
	t.Parallel()
	g, issuer := signOn(t)
	g.oidc.LogoutRedirectURL = "https://gateway.example/"
	b := loggedIn(t, g)
	copied := *b
	copied.cookies = maps.Clone(b.cookies)
	b.do(http.MethodPost, logoutPath, "").want(t, http.StatusOK,
		`"logout_url":"`+issuer.URL+`/logout?client_id=gateway&post_logout_redirect_uri=https%3A%2F%2Fgateway.example%2F"`)
	if b.cookies[sessionCookie] != nil {
		t.Error("the cookie stays")
	}
	copied.do(http.MethodGet, "/v1/account", "").want(t, http.StatusUnauthorized)

	b = loggedIn(t, g)
	issuer.SetAway(true)
	b.api = New(g) // which knows nothing of the provider yet
	b.do(http.MethodPost, logoutPath, "").want(t, http.StatusOK)
	b.do(http.MethodGet, "/v1/account", "").want(t, http.StatusUnauthorized)

	newClient(t, g).do(http.MethodPost, logoutPath, "").want(t, http.StatusBadRequest, "no session")
}

func TestAnotherLoginEndsTheSessionBefore(t *testing.T) {
	t.Parallel()
	g, _ := signOn(t)
	b := loggedIn(t, g)
	before := *b
	before.cookies = maps.Clone(b.cookies)
	b.login("/").want(t, http.StatusFound)
	if b.cookies[sessionCookie].Value == before.cookies[sessionCookie].Value {
		t.Error("the cookie stays the same")
	}
	before.do(http.MethodGet, "/v1/account", "").want(t, http.StatusUnauthorized)
	b.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK)
}

func TestSessionOfAFormerMember(t *testing.T) {
	t.Parallel()
	g, _ := signOn(t)
	// An organization needs an owner.
	other := invite(t, g, otherOrg, "owner@example.com", billing.RoleOwner)
	accept(t, g, other, "owner")
	b := loggedIn(t, g)
	setRole := func(role billing.Role) billing.Member {
		var ada billing.Member
		all, err := g.store.ListMembers(t.Context(), otherOrg, billing.MemberFilter{}, billing.Page{})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range all {
			if m.Email == "ada@example.com" {
				if ada, err = g.store.UpdateMember(t.Context(), otherOrg, m.ID, func(m *billing.Member) error { m.Role = role; return nil }); err != nil {
					t.Fatal(err)
				}
			}
		}
		return ada
	}
	b.do(http.MethodPut, "/v1/budget", `{}`).want(t, http.StatusOK)
	ada := setRole(billing.RoleViewer)
	b.do(http.MethodPut, "/v1/budget", `{}`).want(t, http.StatusForbidden, "your role, viewer")
	if err := g.store.DeleteMember(t.Context(), otherOrg, ada.ID, func(billing.Member) error { return nil }); err != nil {
		t.Fatal(err)
	}
	b.do(http.MethodGet, "/v1/account", "").want(t, http.StatusForbidden, "not a member of any organization")
	b.do(http.MethodGet, "/v1/account", "").want(t, http.StatusUnauthorized)
}

func TestSessionsOfAnotherProvider(t *testing.T) {
	t.Parallel()
	g, _ := signOn(t)
	b := loggedIn(t, g)
	g.oidc.Issuer = "https://other.example"
	b.do(http.MethodGet, "/v1/account", "").want(t, http.StatusUnauthorized)
	g.oidc = nil
	b.client = client{t: t, api: New(g), context: t.Context(), header: b.header}
	b.do(http.MethodGet, "/v1/account", "").want(t, http.StatusUnauthorized)
}

func TestOrganizationOfAMember(t *testing.T) {
	t.Parallel()
	g, issuer := signOn(t)
	loggedIn(t, g)
	c := newClient(t, g).with("Authorization", "Bearer "+issuer.Token(nil))
	c.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK, `"id":"acme"`)
	c.with(organizationHeader, otherOrg).do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK, `"id":"acme"`)
	for _, other := range []string{billing.DefaultOrganization, "nobody", "ACME", "\xff"} {
		c.with(organizationHeader, other).do(http.MethodGet, "/v1/account", "").
			want(t, http.StatusNotFound, "no such organization").lacks(t, billing.DefaultOrganization)
	}
	second := invite(t, g, billing.DefaultOrganization, "ada@example.com", billing.RoleViewer)
	c.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK, `"id":"acme"`)
	accept(t, g, second, "ada")
	c.do(http.MethodGet, "/v1/account", "").want(t, http.StatusBadRequest, "name one in the X-Organization header", "acme", "default")
	c.with(organizationHeader, billing.DefaultOrganization).do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK, `"role":"viewer"`)
	who := decode[session](t, c.do(http.MethodGet, sessionPath, "").want(t, http.StatusOK, `"kind":"bearer"`))
	if len(who.Organizations) != 2 || who.CSRFToken != nil {
		t.Errorf("session %+v", who)
	}
	newClient(t, g).do(http.MethodGet, sessionPath, "").want(t, http.StatusOK, `"kind":"operator"`, `"organizations":[]`)

	bob := oidctest.Claims{"sub": "bob", "email": "bob@example.com"}
	c.with("Authorization", "Bearer "+issuer.Token(bob)).do(http.MethodGet, "/v1/account", "").
		want(t, http.StatusForbidden, "ask for an invitation to bob@example.com")
}

func TestBearerTokensThatAreRefused(t *testing.T) {
	t.Parallel()
	g, issuer := signOn(t)
	c := newClient(t, g)
	for want, token := range map[string]string{
		"the token has expired":                   issuer.Token(oidctest.Claims{"exp": 1}),
		"the token is for another audience":       issuer.Token(oidctest.Claims{"aud": "other"}),
		"the token is not signed":                 strings.TrimRight(issuer.Token(nil), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"),
		"a proxy key does not open":               billing.NewSecret(),
		"wrong operator token: there is none":     billing.NewOperatorSecret(),
		"wrong operator token: send the admin_to": "x",
	} {
		a := c.with("Authorization", "Bearer "+token).do(http.MethodGet, "/v1/account", "").want(t, http.StatusUnauthorized, want)
		if a.header.Get("WWW-Authenticate") != "Bearer" {
			t.Error("no WWW-Authenticate header")
		}
	}
	issuer.SetAway(true)
	c.api = New(g)
	c.with("Authorization", "Bearer "+issuer.Token(nil)).do(http.MethodGet, "/v1/account", "").
		want(t, http.StatusServiceUnavailable, "identity provider does not answer")
	c.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK) // an operator needs no provider
}

func TestWrongCredentialsAreLimited(t *testing.T) {
	t.Parallel()
	g, issuer := signOn(t)
	b := loggedIn(t, g)
	c := client{t: t, api: b.api, context: t.Context(), header: http.Header{"Authorization": {"Bearer wrong"}}}
	now := time.Now()
	c.api.(*api).now = func() time.Time { return now }
	as := func(token string) client { return c.with("Authorization", "Bearer "+token) }
	stranger := oidctest.New(t)
	forged := as(stranger.Token(oidctest.Claims{"iss": issuer.URL}))
	right, ada, first := as(testToken), as(issuer.Token(nil)), as(issuer.Token(oidctest.Claims{"jti": "another"}))
	made := decode[createdOperatorToken](t, right.do(http.MethodPost, "/v1/operator-tokens", `{"name":"ci"}`).want(t, http.StatusCreated))
	revoked := as(made.Token)
	revoked.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK)
	for range 50 {
		for _, known := range []client{right, ada} {
			known.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK)
		}
		c.do(http.MethodGet, "/v1/account", "").want(t, http.StatusUnauthorized)
		forged.do(http.MethodGet, "/v1/account", "").want(t, http.StatusUnauthorized)
	}
	for _, c := range []client{c, forged, first} {
		a := c.do(http.MethodGet, "/v1/account", "").want(t, http.StatusTooManyRequests, "too many attempts")
		if a.header.Get("Retry-After") != "1" {
			t.Errorf("Retry-After is %q", a.header.Get("Retry-After"))
		}
	}
	// Those that were right before are not held up by the others' guesses.
	for _, known := range []client{right, ada} {
		known.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK)
	}
	b.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK)
	right.do(http.MethodPost, "/v1/operator-tokens/"+made.ID+"/revoke", "").want(t, http.StatusOK)
	revoked.do(http.MethodGet, "/v1/account", "").want(t, http.StatusUnauthorized, "revoked")
	revoked.do(http.MethodGet, "/v1/account", "").want(t, http.StatusTooManyRequests)
	now = now.Add(2 * time.Second)
	first.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK)
}

func TestCookiesOfNoSessionAreLimited(t *testing.T) {
	t.Parallel()
	g, _ := signOn(t)
	b := loggedIn(t, g)
	stray := client{t: t, api: b.api, context: t.Context(), header: http.Header{}}
	guess := func() answer {
		return stray.with("Cookie", sessionCookie+"="+billing.NewNonce()).do(http.MethodGet, "/v1/account", "")
	}
	now := time.Now()
	b.api.(*api).now = func() time.Time { return now }
	for range 100 {
		guess().want(t, http.StatusUnauthorized)
	}
	guess().want(t, http.StatusTooManyRequests, "too many attempts")
	b.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK)
	stray.with("Authorization", "Bearer "+testToken).do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK)

	// Nor does another value of the cookie, or another login, have to wait.
	now = now.Add(sessionRotation)
	for range 101 {
		guess()
	}
	before := b.cookies[sessionCookie].Value
	b.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK)
	if b.cookies[sessionCookie].Value == before {
		t.Error("not rotated")
	}
	b.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK)
	b.login("/").want(t, http.StatusFound)
	b.do(http.MethodGet, "/v1/account", "").want(t, http.StatusOK)
	guess().want(t, http.StatusTooManyRequests)
}

func TestLimitsOfAddresses(t *testing.T) {
	t.Parallel()
	now := time.Now()
	l := &addressLimit{every: time.Minute, burst: 2, now: func() time.Time { return now }}
	for _, test := range []struct {
		client string
		left   []bool
	}{
		{"192.0.2.1", []bool{true, true, false, false}},
		{"::ffff:192.0.2.1", []bool{false}},
		{"192.0.2.2", []bool{true}},
		{"2001:db8::1", []bool{true}},
		{"2001:db8::ffff:1", []bool{true}},
		{"2001:db8::2", []bool{false}},
		{"2001:db8:0:1::1", []bool{true}},
		{"fe80::1%eth0", []bool{true, true}},
		{"fe80::1%eth1", []bool{false}},
		{"", []bool{true, true, false}},
		{"not an address", []bool{false}},
	} {
		var left []bool
		for range test.left {
			left = append(left, l.take(test.client) == nil)
		}
		if !slices.Equal(left, test.left) {
			t.Errorf("%s: %v, want %v", test.client, left, test.left)
		}
	}
	now = now.Add(time.Minute)
	if l.take("192.0.2.1") != nil || l.take("192.0.2.1") == nil {
		t.Error("not one more after a while")
	}
}

func TestLimitsOfAddressesHoldForThoseWhoComeAtOnce(t *testing.T) {
	t.Parallel()
	now := time.Now()
	l := &addressLimit{every: time.Minute, burst: 5, now: func() time.Time { return now }}
	var group sync.WaitGroup
	var passed atomic.Int64
	for range 100 {
		group.Go(func() {
			if l.take("192.0.2.1") == nil {
				passed.Add(1)
			}
		})
	}
	if group.Wait(); passed.Load() != 5 {
		t.Errorf("%d have passed, want 5", passed.Load())
	}
}

func TestLimitsOfAddressesTakeLittleMemory(t *testing.T) {
	t.Parallel()
	now := time.Now()
	l := &addressLimit{every: time.Minute, burst: 1, now: func() time.Time { return now }}
	for i := range 10 * maxRemembered {
		_ = l.take(ipv4(i))
		if len(l.clients.young)+len(l.clients.older) > 2*maxRemembered {
			t.Fatal("remembers too many")
		}
	}
	// Those who come again and again are not forgotten.
	busy := ipv4(1 << 24)
	for i := range 10 * maxRemembered {
		if err := l.take(busy); i > 0 && err == nil {
			t.Fatal("forgot one who comes all the time")
		}
		_ = l.take(ipv4(i))
	}
}

func TestAcceptedCredentialsTakeLittleMemory(t *testing.T) {
	t.Parallel()
	var a accepted
	operator := billing.KeyHash{1}
	a.add(operator, true)
	for i := range 10 * maxRemembered {
		a.add(billing.HashSecret(ipv4(i)), false)
		if len(a.others.young)+len(a.others.older) > 2*maxRemembered {
			t.Fatal("remembers too many")
		}
	}
	before := len(a.others.young)
	for range 2 * maxRemembered {
		a.add(billing.HashSecret(ipv4(10*maxRemembered-1)), false)
	}
	if len(a.others.young) != before {
		t.Error("one that comes all the time makes others forgotten")
	}
	if !a.has(operator) {
		t.Error("members make operators forgotten")
	}
	if a.has(billing.HashSecret(ipv4(0))) || !a.has(billing.HashSecret(ipv4(10*maxRemembered-1))) {
		t.Error("does not remember the last ones")
	}
	a.forget(operator)
	if a.has(operator) {
		t.Error("remembers what is wrong by now")
	}
}

func ipv4(i int) string {
	return netip.AddrFrom4([4]byte{byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}).String()
}
