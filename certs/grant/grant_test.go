package grant

import (
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"

	"github.com/ebbgate/ebbgate/certs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	node  = certs.Identity{TrustDomain: "abc", Role: certs.RoleNode, Tenant: "default", Gateway: "corp", Name: "n1"}
	relay = certs.Identity{TrustDomain: "abc", Role: certs.RoleRelay, Name: "r"}
	job   = certs.Identity{TrustDomain: "abc", Role: certs.RoleJob, Tenant: "default", Name: "j"}
)

func signerOf(t testing.TB, ca *certs.Authority, id certs.Identity) *Signer {
	t.Helper()
	key, err := certs.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := ca.Issue(id, key.Public(), time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	chain := [][]byte{der, ca.Certificate().Raw}
	if id.Role != certs.RoleRelay { // NewSigner refuses it
		s := &Signer{key: key, issuer: id.String()}
		for _, c := range chain {
			s.x5c = append(s.x5c, base64.StdEncoding.EncodeToString(c))
		}
		return s
	}
	s, err := NewSigner(key, chain)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func setup(t testing.TB) (*certs.Authority, *Verifier) {
	t.Helper()
	ca, err := certs.NewAuthority("abc", 1, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	trust := &certs.Trust{TrustDomain: "abc", Roots: []*x509.Certificate{ca.Certificate()}}
	return ca, NewVerifier(node, func() *certs.Trust { return trust })
}

func good() Grant {
	return Grant{ID: "1", Tenant: "default", Gateway: "corp", Node: node.String(), Store: "erp", Job: "j", Run: "run", Ingress: relay.String(), Expires: time.Now().Add(MaxLife).Truncate(time.Second)}
}

func TestVerify(t *testing.T) {
	ca, v := setup(t)
	foreign, err := certs.NewAuthority("abc", 1, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		ca     *certs.Authority
		signer certs.Identity
		peer   certs.Identity
		at     time.Duration
		change func(*Grant)
		code   string
	}{
		{name: "good"},
		{name: "good for a client", peer: job, change: func(g *Grant) { g.Ingress = job.String() }},
		{name: "signed by another relay of the trust", signer: certs.Identity{TrustDomain: "abc", Role: certs.RoleRelay, Name: "r2"}},
		{name: "another CA", ca: foreign, code: "grant-invalid"},
		{name: "signed by a node", signer: node, code: "grant-invalid"},
		{name: "signed by a job", signer: job, code: "grant-invalid"},
		{name: "for another node", change: func(g *Grant) { g.Node = strings.Replace(g.Node, "n1", "n2", 1) }, code: "grant-invalid"},
		{name: "for another gateway", change: func(g *Grant) { g.Gateway = "lab" }, code: "grant-invalid"},
		{name: "for another tenant", change: func(g *Grant) { g.Tenant = "evil" }, code: "grant-invalid"},
		{name: "shown by another ingress", peer: job, code: "grant-invalid"},
		{name: "of another job", peer: job, change: func(g *Grant) { g.Ingress, g.Job = job.String(), "k" }, code: "grant-invalid"},
		{name: "expired", at: 3 * time.Minute, code: "grant-expired"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if test.ca == nil {
				test.ca = ca
			}
			if test.signer == (certs.Identity{}) {
				test.signer = relay
			}
			if test.peer == (certs.Identity{}) {
				test.peer = relay
			}
			g := good()
			if test.change != nil {
				test.change(&g)
			}
			token, err := signerOf(t, test.ca, test.signer).Sign(g, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // fresh and cached
				got, err := v.Verify(token, test.peer, time.Now().Add(test.at))
				if test.code == "" {
					if err != nil || got != g && !got.Expires.Equal(g.Expires) {
						t.Fatalf("%+v %v", got, err)
					}
					continue
				}
				var e *Error
				if !errors.As(err, &e) || e.Code() != test.code {
					t.Fatalf("%v, want %s", err, test.code)
				}
			}
		})
	}
}

func TestCachedGrantExpires(t *testing.T) {
	ca, v := setup(t)
	token, _ := signerOf(t, ca, relay).Sign(good(), time.Now())
	if _, err := v.Verify(token, relay, time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(token, relay, time.Now().Add(time.Hour)); err == nil {
		t.Error("a cached grant outlived its time")
	}
	if _, err := v.Verify(token, job, time.Now()); err == nil {
		t.Error("a cached grant served another ingress")
	}
}

func TestSignerRefusesLongLives(t *testing.T) {
	ca, _ := setup(t)
	g := good()
	g.Expires = time.Now().Add(time.Hour)
	if _, err := signerOf(t, ca, relay).Sign(g, time.Now()); err == nil {
		t.Error("signed for an hour")
	}
}

// forge signs what no Signer would.
func forge(t testing.TB, s *Signer, change func(*jwt.Token, *claims)) string {
	t.Helper()
	g, now := good(), time.Now()
	c := &claims{
		RegisteredClaims: jwt.RegisteredClaims{
			ID: g.ID, Issuer: s.issuer, Audience: jwt.ClaimStrings{g.Node},
			ExpiresAt: jwt.NewNumericDate(g.Expires), IssuedAt: jwt.NewNumericDate(now),
		},
		Tenant: g.Tenant, Gateway: g.Gateway, Store: g.Store, Job: g.Job, Run: g.Run, Ingress: g.Ingress,
	}
	token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, c)
	token.Header["typ"], token.Header["x5c"] = typ, s.x5c
	change(token, c)
	text, err := token.SignedString(s.key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestForgedGrants(t *testing.T) {
	ca, v := setup(t)
	s, other := signerOf(t, ca, relay), signerOf(t, ca, relay)
	hour := jwt.NewNumericDate(time.Now().Add(time.Hour))
	tests := []struct {
		name   string
		change func(*jwt.Token, *claims)
		ok     bool
	}{
		{name: "unchanged", change: func(*jwt.Token, *claims) {}, ok: true},
		{name: "typ JWT", change: func(k *jwt.Token, _ *claims) { k.Header["typ"] = "JWT" }},
		{name: "no typ", change: func(k *jwt.Token, _ *claims) { delete(k.Header, "typ") }},
		{name: "a critical header", change: func(k *jwt.Token, _ *claims) { k.Header["crit"] = []string{"b64"} }},
		{name: "no chain", change: func(k *jwt.Token, _ *claims) { delete(k.Header, "x5c") }},
		{name: "empty chain", change: func(k *jwt.Token, _ *claims) { k.Header["x5c"] = []string{} }},
		{name: "chain of numbers", change: func(k *jwt.Token, _ *claims) { k.Header["x5c"] = []int{1} }},
		{name: "chain of another", change: func(k *jwt.Token, _ *claims) { k.Header["x5c"] = other.x5c }},
		{name: "two audiences", change: func(_ *jwt.Token, c *claims) { c.Audience = append(c.Audience, "spiffe://abc/relay/r") }},
		{name: "no audience", change: func(_ *jwt.Token, c *claims) { c.Audience = nil }},
		{name: "another issuer", change: func(_ *jwt.Token, c *claims) { c.Issuer = "spiffe://abc/relay/q" }},
		{name: "no end", change: func(_ *jwt.Token, c *claims) { c.ExpiresAt = nil }},
		{name: "no beginning", change: func(_ *jwt.Token, c *claims) { c.IssuedAt = nil }},
		{name: "an hour", change: func(_ *jwt.Token, c *claims) { c.ExpiresAt = hour }},
		{name: "from the future", change: func(_ *jwt.Token, c *claims) {
			c.IssuedAt, c.ExpiresAt = hour, jwt.NewNumericDate(hour.Add(MaxLife))
		}},
		{name: "not before an hour", change: func(_ *jwt.Token, c *claims) { c.NotBefore = hour }},
		{name: "run with a line break", change: func(_ *jwt.Token, c *claims) { c.Run = "a\nb" }},
		{name: "run without end", change: func(_ *jwt.Token, c *claims) { c.Run = strings.Repeat("a", 1000) }},
		{name: "store that is no name", change: func(_ *jwt.Token, c *claims) { c.Store = "../erp" }},
		{name: "ingress that is no identity", change: func(_ *jwt.Token, c *claims) { c.Ingress = "" }},
	}
	for _, test := range tests {
		_, err := v.Verify(forge(t, s, test.change), relay, time.Now())
		if _, typed := errors.AsType[*Error](err); test.ok != (err == nil) || err != nil && !typed {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func TestAlgorithms(t *testing.T) {
	ca, v := setup(t)
	text, err := signerOf(t, ca, relay).Sign(good(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(text, ".")
	header, _ := base64.RawURLEncoding.DecodeString(parts[0])
	for _, alg := range []string{"none", "HS256", "ES256", "eddsa", strings.Repeat("x", 3000)} {
		changed := base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(header), `"EdDSA"`, `"`+alg+`"`, 1)))
		for _, token := range []string{changed + "." + parts[1] + "." + parts[2], changed + "." + parts[1] + "."} {
			_, err := v.Verify(token, relay, time.Now())
			if e, ok := errors.AsType[*Error](err); !ok || e.Code() != "grant-invalid" || len(e.Error()) > 300 {
				t.Errorf("%.10s: %.400v", alg, err)
			}
		}
	}
	for i := range text {
		if _, err := v.Verify(text[:i]+"\n"+text[i:], relay, time.Now()); err == nil {
			t.Fatalf("accepted with a line break at %d", i)
		}
		changed := []byte(text)
		if changed[i] = 'A'; text[i] == 'A' {
			changed[i] = 'B'
		}
		if _, err := v.Verify(string(changed), relay, time.Now()); err == nil {
			t.Fatalf("character %d does not count", i)
		}
	}
}

// A job's identity of another tenant or trust domain is another ingress.
func TestIngressIsComparedWhole(t *testing.T) {
	ca, v := setup(t)
	g := good()
	g.Ingress = job.String()
	token, _ := signerOf(t, ca, relay).Sign(g, time.Now())
	for _, change := range []func(*certs.Identity){
		func(i *certs.Identity) { i.Tenant = "evil" },
		func(i *certs.Identity) { i.TrustDomain = "evil" },
		func(i *certs.Identity) { i.Name = "jj" },
		func(i *certs.Identity) { *i = relay },
		func(i *certs.Identity) { *i = node },
		func(i *certs.Identity) { *i = certs.Identity{} },
	} {
		peer := job
		change(&peer)
		if _, err := v.Verify(token, peer, time.Now()); err == nil {
			t.Errorf("accepted for %s", peer)
		}
	}
	if _, err := v.Verify(token, job, time.Now()); err != nil {
		t.Error(err)
	}
}

// A node is no ingress, even of a grant that names it.
func TestNodesAreNoIngress(t *testing.T) {
	ca, v := setup(t)
	text := forge(t, signerOf(t, ca, relay), func(_ *jwt.Token, c *claims) { c.Ingress = node.String() })
	if _, err := v.Verify(text, node, time.Now()); err == nil {
		t.Error("accepted")
	}
}

func TestVerifiedOnceAndBounded(t *testing.T) {
	ca, checked := setup(t)
	asked := 0
	v := NewVerifier(node, func() *certs.Trust { asked++; return checked.trust() })
	s := signerOf(t, ca, relay)
	token, _ := s.Sign(good(), time.Now())
	for range 5 {
		if _, err := v.Verify(token, relay, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if asked != 1 {
		t.Errorf("verified %d times", asked)
	}
	for i := range maxCached {
		v.remember(fmt.Sprint(i), good(), time.Now())
	}
	if len(v.cached) > maxCached {
		t.Errorf("%d grants are remembered", len(v.cached))
	}
	g := good()
	g.ID = "fresh"
	token, _ = s.Sign(g, time.Now())
	asked = 0
	for range 3 {
		_, _ = v.Verify(token, relay, time.Now())
	}
	if asked != 1 {
		t.Errorf("with a full cache a new grant was verified %d times", asked)
	}
}

func TestSignerIsARelayWithItsKey(t *testing.T) {
	ca, _ := setup(t)
	key, _ := certs.GenerateKey()
	other, _ := certs.GenerateKey()
	for id, ok := range map[certs.Identity]bool{relay: true, node: false, job: false} {
		der, err := ca.Issue(id, key.Public(), time.Now(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := NewSigner(key, [][]byte{der}); (err == nil) != ok {
			t.Errorf("%s: %v", id, err)
		}
		if _, err := NewSigner(other, [][]byte{der}); err == nil {
			t.Errorf("%s: signs with another's key", id)
		}
	}
}

func TestSignNothingThatIsRefused(t *testing.T) {
	ca, v := setup(t)
	s := signerOf(t, ca, relay)
	for i, change := range []func(*Grant){
		func(g *Grant) { g.Expires = time.Now().Add(MaxLife + 900*time.Millisecond) },
		func(g *Grant) { g.Store = "../x" },
		func(g *Grant) { g.Run = strings.Repeat("a", 9000) },
	} {
		g := good()
		change(&g)
		token, err := s.Sign(g, time.Now())
		if err != nil {
			continue
		}
		if _, err := v.Verify(token, relay, time.Now()); err != nil {
			t.Errorf("%d: signed, but %.200v", i, err)
		}
	}
}

func FuzzVerify(f *testing.F) {
	ca, v := setup(f)
	token, _ := signerOf(f, ca, relay).Sign(good(), time.Now())
	f.Add(token)
	parts := strings.Split(token, ".")
	for _, seed := range []string{"", "..", "a.b.c", parts[0] + "..", parts[0] + "." + parts[1] + ".", "e30.e30.e30", "bnVsbA.bnVsbA.", token[:200]} {
		f.Add(seed)
	}
	now := time.Now()
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := v.Verify(s, relay, now); err == nil && s != token {
			t.Errorf("accepted %q", s)
		}
	})
}

// FuzzVerifyEdited changes a good grant: bytes of script are where and into what.
// No other text than the signer's is accepted, and none for another ingress.
func FuzzVerifyEdited(f *testing.F) {
	ca, v := setup(f)
	token, _ := signerOf(f, ca, relay).Sign(good(), time.Now())
	now := time.Now()
	f.Fuzz(func(t *testing.T, script []byte) {
		b := []byte(token)
		for ; len(script) >= 3; script = script[3:] {
			at := (int(script[0])<<8 | int(script[1])) % len(b)
			switch c := script[2]; {
			case c < 0x80:
				b[at] = c
			case c < 0xa0:
				b = append(b[:at], b[at+1:]...)
			case c < 0xc0:
				b = b[:at+1]
			default:
				b = append(b, b[at:]...)
			}
			if len(b) == 0 || len(b) > 1<<20 {
				return
			}
		}
		_, err := v.Verify(string(b), relay, now)
		if (err == nil) != (string(b) == token) {
			t.Errorf("%q: %v", b, err)
		}
		if _, err := v.Verify(string(b), node, now); err == nil {
			t.Errorf("%q: accepted from an ingress that it is not for", b)
		}
	})
}

func BenchmarkSign(b *testing.B) {
	ca, _ := setup(b)
	s, g := signerOf(b, ca, relay), good()
	for b.Loop() {
		_, _ = s.Sign(g, time.Now())
	}
}

// A warm dial: the grant was verified before.
func BenchmarkVerifyAgain(b *testing.B) {
	ca, v := setup(b)
	token, _ := signerOf(b, ca, relay).Sign(good(), time.Now())
	for b.Loop() {
		if _, err := v.Verify(token, relay, time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	ca, v := setup(b)
	token, _ := signerOf(b, ca, relay).Sign(good(), time.Now())
	for b.Loop() {
		clear(v.cached)
		if _, err := v.Verify(token, relay, time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}
