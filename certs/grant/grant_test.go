package grant

import (
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/certs"
)

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
	s, err := NewSigner(key, [][]byte{der, ca.Certificate().Raw})
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
		{name: "store that is no name", change: func(g *Grant) { g.Store = "../erp" }, code: "grant-invalid"},
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
			token, err := signerOf(t, test.ca, test.signer).Sign(g)
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
	token, _ := signerOf(t, ca, relay).Sign(good())
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
	if _, err := signerOf(t, ca, relay).Sign(g); err == nil {
		t.Error("signed for an hour")
	}
}

func FuzzVerify(f *testing.F) {
	ca, v := setup(f)
	token, _ := signerOf(f, ca, relay).Sign(good())
	f.Add(token)
	f.Add("a.b.c")
	now := time.Now()
	f.Fuzz(func(t *testing.T, s string) {
		if _, err := v.Verify(s, relay, now); err == nil && s != token {
			t.Errorf("accepted %q", s)
		}
	})
}

func BenchmarkSign(b *testing.B) {
	ca, _ := setup(b)
	s, g := signerOf(b, ca, relay), good()
	for b.Loop() {
		_, _ = s.Sign(g)
	}
}

func BenchmarkVerify(b *testing.B) {
	ca, v := setup(b)
	token, _ := signerOf(b, ca, relay).Sign(good())
	for b.Loop() {
		clear(v.cached)
		if _, err := v.Verify(token, relay, time.Now()); err != nil {
			b.Fatal(err)
		}
	}
}
