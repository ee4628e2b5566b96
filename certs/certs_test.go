package certs

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	nodeN1 = Identity{TrustDomain: "abc", Role: RoleNode, Tenant: "default", Gateway: "corp", Name: "n1"}
	relayR = Identity{TrustDomain: "abc", Role: RoleRelay, Name: "r"}
	jobJ   = Identity{TrustDomain: "abc", Role: RoleJob, Tenant: "default", Name: "j"}
)

func authority(t testing.TB, domain string) *Authority {
	t.Helper()
	a, err := NewAuthority(domain, 1, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// holder issues a certificate for id and holds it.
func holder(t testing.TB, a *Authority, id Identity) (*Holder, *Saved) {
	t.Helper()
	key, err := GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	der, err := a.Issue(id, key.Public(), time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	saved := &Saved{Key: key, Chain: [][]byte{der, a.Certificate().Raw}, Roots: [][]byte{a.Certificate().Raw}, Counter: 3}
	c, err := saved.Certificate()
	if err != nil {
		t.Fatal(err)
	}
	h := new(Holder)
	h.Set(c)
	return h, saved
}

func trustOf(a *Authority) func() *Trust {
	t := &Trust{TrustDomain: a.TrustDomain(), Roots: []*x509.Certificate{a.Certificate()}}
	return func() *Trust { return t }
}

func TestIdentityRoundTrip(t *testing.T) {
	for _, id := range []Identity{nodeN1, relayR, jobJ} {
		got, err := ParseIdentity(id.String())
		if err != nil || got != id {
			t.Errorf("%s became %+v, %v", id, got, err)
		}
	}
}

func TestIdentityIsStrict(t *testing.T) {
	for _, s := range []string{
		"", "spiffe://", "spiffe://abc", "http://abc/relay/r", "spiffe://abc/relay/", "spiffe://abc/relay/r/", "spiffe://abc/relay/R",
		"spiffe://abc/relay/a/b", "spiffe:///relay/r", "spiffe://abc/tenant/t/job/", "spiffe://abc/tenant//job/j",
		"spiffe://abc/tenant/t/gateway/g/node/n/x", "spiffe://abc/tenant/t/gateway/../node/n", "spiffe://abc/tenant/t/node/n",
		"spiffe://abc/relay/r?x=y", "spiffe://abc/relay/r#f", "spiffe://a%62c/relay/r", "spiffe://abc/relay/" + strings.Repeat("a", 64),
		"spiffe://user@abc/relay/r", "spiffe://abc:1/relay/r", "SPIFFE://abc/relay/r", " spiffe://abc/relay/r",
	} {
		if id, err := ParseIdentity(s); err == nil {
			t.Errorf("%q was read as %+v", s, id)
		}
	}
}

func TestRequestGivesNothingButItsKey(t *testing.T) {
	key, _ := GenerateKey()
	der, err := NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := CheckCSR(der)
	if err != nil || !key.Public().(ed25519.PublicKey).Equal(pub) {
		t.Fatalf("%v %v", pub, err)
	}
	der[len(der)-1] ^= 1
	if _, err := CheckCSR(der); err == nil {
		t.Error("a request with a wrong signature was accepted")
	}
	if _, err := CheckCSR(make([]byte, maxCSR+1)); err == nil {
		t.Error("a huge request was accepted")
	}
}

func TestProofIsBoundToConnectionAndKey(t *testing.T) {
	key, _ := GenerateKey()
	other, _ := GenerateKey()
	proof, err := Prove(key, []byte("exporter"))
	if err != nil {
		t.Fatal(err)
	}
	if err := CheckProof(key.Public(), []byte("exporter"), proof); err != nil {
		t.Error(err)
	}
	if CheckProof(key.Public(), []byte("another"), proof) == nil {
		t.Error("accepted on another connection")
	}
	if CheckProof(other.Public(), []byte("exporter"), proof) == nil {
		t.Error("accepted for another key")
	}
	if CheckProof(key.Public(), nil, proof) == nil {
		t.Error("accepted without a connection")
	}
}

func TestVerifyTellsForeignFromWrong(t *testing.T) {
	ours, theirs := authority(t, "abc"), authority(t, "evil")
	now := time.Now()
	leaf := func(a *Authority, id Identity, ttl time.Duration) []*x509.Certificate {
		key, _ := GenerateKey()
		der, err := a.Issue(id, key.Public(), now.Add(ttl-time.Hour), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		c, _ := x509.ParseCertificate(der)
		return []*x509.Certificate{c, a.Certificate()}
	}
	evil := nodeN1
	evil.TrustDomain = "evil"
	tests := []struct {
		name    string
		chain   []*x509.Certificate
		ok      bool
		foreign bool
	}{
		{"ours", leaf(ours, nodeN1, time.Hour), true, false},
		{"expired", leaf(ours, nodeN1, -time.Hour), false, false},
		{"another CA", leaf(theirs, evil, time.Hour), false, true},
		{"none", nil, false, false},
		{"too long", append(leaf(ours, nodeN1, time.Hour), ours.Certificate(), ours.Certificate(), ours.Certificate()), false, false},
		{"the CA itself", []*x509.Certificate{ours.Certificate()}, false, false},
	}
	for _, test := range tests {
		id, err := trustOf(ours)().Verify(test.chain, now)
		var v *VerifyError
		switch {
		case test.ok && (err != nil || id != nodeN1):
			t.Errorf("%s: %v %v", test.name, id, err)
		case !test.ok && !errors.As(err, &v):
			t.Errorf("%s: %v", test.name, err)
		case !test.ok && v.Foreign != test.foreign:
			t.Errorf("%s: foreign %v", test.name, v.Foreign)
		}
	}
}

func TestIssueRefusesForeignIdentities(t *testing.T) {
	a := authority(t, "abc")
	key, _ := GenerateKey()
	bad := []Identity{{}, {TrustDomain: "other", Role: RoleRelay, Name: "r"}, {TrustDomain: "abc", Role: RoleNode, Name: "n"}, {TrustDomain: "abc", Role: RoleJob, Tenant: "t", Name: "a/b"}}
	for _, id := range bad {
		if _, err := a.Issue(id, key.Public(), time.Now(), time.Hour); err == nil {
			t.Errorf("issued %+v", id)
		}
	}
}

// name is one entry of a subject alternative name (RFC 5280 §4.2.1.6).
type name struct {
	tag  int // 2 DNS, 6 URI, 8 registered ID
	text string
}

func uriOf(s string) name { return name{6, s} }

// leafWith signs a certificate with exactly these names, as no Authority would.
func leafWith(t testing.TB, a *Authority, change func(*x509.Certificate), names ...name) *x509.Certificate {
	t.Helper()
	key, _ := GenerateKey()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	if len(names) > 0 {
		var list []asn1.RawValue
		for _, n := range names {
			list = append(list, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: n.tag, Bytes: []byte(n.text)})
		}
		value, err := asn1.Marshal(list)
		if err != nil {
			t.Fatal(err)
		}
		template.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value}}
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// What the CA itself signed is refused all the same where it is not exactly one
// identity of this trust.
func TestVerifyRefusesOddCertificatesOfTheCA(t *testing.T) {
	ca := authority(t, "abc")
	one := uriOf(relayR.String())
	tests := []struct {
		name   string
		change func(*x509.Certificate)
		names  []name
		ok     bool
	}{
		{name: "one URI", names: []name{one}, ok: true},
		{name: "none"},
		{name: "two URIs", names: []name{one, uriOf(nodeN1.String())}},
		{name: "the same twice", names: []name{one, one}},
		{name: "a URI and a host", names: []name{one, {2, "relay.example.com"}}},
		{name: "a URI and a kind that crypto/x509 ignores", names: []name{one, {8, "\x2a\x03"}}},
		{name: "foreign trust domain", names: []name{uriOf("spiffe://evil/relay/r")}},
		{name: "scheme in capitals", names: []name{uriOf("SPIFFE://abc/relay/r")}},
		{name: "empty fragment", names: []name{uriOf("spiffe://abc/relay/r#")}},
		{name: "empty query", names: []name{uriOf("spiffe://abc/relay/r?")}},
		{name: "percent", names: []name{uriOf("spiffe://abc/relay/%72")}},
		{name: "the CA's own", names: []name{uriOf("spiffe://abc")}},
		{name: "only a host", names: []name{{2, "relay.example.com"}}},
		{name: "a CA below the CA", names: []name{one}, change: func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign }},
		{name: "server only", names: []name{one}, change: func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] }},
		{name: "not yet", names: []name{one}, change: func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }},
		{name: "expired", names: []name{one}, change: func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }},
	}
	for _, test := range tests {
		leaf := leafWith(t, ca, test.change, test.names...)
		id, err := trustOf(ca)().Verify([]*x509.Certificate{leaf, ca.Certificate()}, time.Now())
		v, typed := errors.AsType[*VerifyError](err)
		switch {
		case test.ok && (err != nil || id != relayR):
			t.Errorf("%s: %v %v", test.name, id, err)
		case !test.ok && err == nil:
			t.Errorf("%s: accepted as %s", test.name, id)
		case !test.ok && !typed:
			t.Errorf("%s: %#v", test.name, err)
		case !test.ok && v.Foreign && test.name != "foreign trust domain":
			t.Errorf("%s: called foreign: %v", test.name, err)
		}
	}
}

func TestLeavesCannotIssue(t *testing.T) {
	ca := authority(t, "abc")
	_, saved := holder(t, ca, nodeN1)
	middle, _ := x509.ParseCertificate(saved.Chain[0])
	key, _ := GenerateKey()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		URIs: []*url.URL{relayR.uri()}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, middle, key.Public(), saved.Key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, _ := x509.ParseCertificate(der)
	if id, err := trustOf(ca)().Verify([]*x509.Certificate{leaf, middle, ca.Certificate()}, time.Now()); err == nil {
		t.Errorf("accepted as %s", id)
	}
}

// What an inspecting proxy shows is foreign, whatever else is wrong with it, so
// that a person hears of the proxy and not of clocks.
func TestForeignIsForeign(t *testing.T) {
	ca, proxy := authority(t, "abc"), authority(t, "abc")
	for name, change := range map[string]func(*x509.Certificate){
		"valid":       nil,
		"expired":     func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) },
		"not yet":     func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) },
		"server only": func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] },
	} {
		leaf := leafWith(t, proxy, change, uriOf(relayR.String()))
		_, err := trustOf(ca)().Verify([]*x509.Certificate{leaf, ca.Certificate()}, time.Now())
		if v, ok := errors.AsType[*VerifyError](err); !ok || !v.Foreign || v.Issuer == "" {
			t.Errorf("%s: %#v", name, err)
		}
	}
}

func TestVerifyWithoutTrust(t *testing.T) {
	chain := []*x509.Certificate{leafWith(t, authority(t, "abc"), nil, uriOf(relayR.String()))}
	for _, trust := range []*Trust{{TrustDomain: "abc"}, nil} {
		if _, err := trust.Verify(chain, time.Now()); err == nil {
			t.Errorf("%v trusts", trust)
		}
	}
}

// The pin covers the CA's key alone. What else its certificate says counts only
// if that key signed it.
func TestPinnedCertificateMustBeTheCAsOwnWords(t *testing.T) {
	ca, stranger := authority(t, "abc"), authority(t, "evil")
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: ca.certificate.Subject, SubjectKeyId: ca.certificate.SubjectKeyId,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, URIs: stranger.certificate.URIs,
	}, stranger.certificate, ca.key.Public(), stranger.key)
	if err != nil {
		t.Fatal(err)
	}
	forged, _ := x509.ParseCertificate(der)
	if PinOf(forged) != ca.Pin() {
		t.Fatal("the forged certificate has another key")
	}
	if trust, err := pinned(ca.Pin(), []*x509.Certificate{leafWith(t, ca, nil, uriOf(relayR.String())), forged}); err == nil {
		t.Errorf("trust domain %q, which the CA did not sign, was believed", trust.TrustDomain)
	}
}

func TestParseAuthorityRefusesDamage(t *testing.T) {
	ca := authority(t, "abc")
	key, _ := ca.MarshalKey()
	whole := ca.certificate.Raw
	if _, err := ParseAuthority(whole, key); err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		der := slices.Clone(whole)
		der[i] ^= 1
		if a, err := ParseAuthority(der, key); err == nil {
			t.Fatalf("byte %d does not count: %q %d", i, a.TrustDomain(), a.Generation())
		}
	}
	other, _ := authority(t, "abc").MarshalKey()
	if _, err := ParseAuthority(whole, other); err == nil {
		t.Error("the key of another CA was accepted")
	}
}

func TestPublicCertificateHosts(t *testing.T) {
	ca := authority(t, "abc")
	c, err := ca.IssuePublic([]string{"relay.example.com.", "10.0.0.1", "::1", "fe80::1%eth0"}, time.Now(), time.Hour)
	if err != nil || !slices.Equal(c.Leaf.DNSNames, []string{"relay.example.com"}) || len(c.Leaf.IPAddresses) != 3 {
		t.Fatal(err)
	}
	if id, err := trustOf(ca)().Verify([]*x509.Certificate{c.Leaf}, time.Now()); err == nil {
		t.Errorf("the public certificate passed for %s", id)
	}
	for _, host := range []string{"a,DNS:evil.example", "a b", "a\x00.example", "https://a"} {
		if _, err := ca.IssuePublic([]string{host}, time.Now(), time.Hour); err == nil {
			t.Errorf("%q was certified", host)
		}
	}
}

// handshake runs TLS between two configurations and gives both results.
func handshake(t *testing.T, client, server *tls.Config) (serverState tls.ConnectionState, clientErr, serverErr error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	_ = a.SetDeadline(time.Now().Add(10 * time.Second))
	_ = b.SetDeadline(time.Now().Add(10 * time.Second))
	c, s := tls.Client(a, client), tls.Server(b, server)
	done := make(chan struct{})
	go func() {
		defer close(done)
		serverErr = s.Handshake()
		serverState = s.ConnectionState()
		if serverErr == nil {
			_, _ = s.Write([]byte("x"))
		}
		b.Close()
	}()
	if clientErr = c.Handshake(); clientErr == nil {
		_, clientErr = c.Read(make([]byte, 1))
	}
	a.Close()
	<-done
	return serverState, clientErr, serverErr
}

func TestMutualTLS(t *testing.T) {
	ca := authority(t, "abc")
	relay, _ := holder(t, ca, relayR)
	node, _ := holder(t, ca, nodeN1)
	onlyRelay := func(id Identity) error {
		if id != relayR {
			return fmt.Errorf("%s is not the relay", id)
		}
		return nil
	}
	server := ServerConfig(relay, trustOf(ca), ServerOptions{ALPN: []string{"a/1"}})
	state, clientErr, serverErr := handshake(t, ClientConfig(node, trustOf(ca), onlyRelay, []string{"a/1"}), server)
	if clientErr != nil || serverErr != nil {
		t.Fatal(clientErr, serverErr)
	}
	if id, ok := PeerIdentity(state); !ok || id != nodeN1 {
		t.Errorf("the server saw %v %v", id, ok)
	}

	t.Run("without a certificate", func(t *testing.T) {
		state, c, s := handshake(t, ClientConfig(nil, trustOf(ca), onlyRelay, []string{"a/1"}), server)
		if _, ok := PeerIdentity(state); c != nil || s != nil || ok {
			t.Error(c, s, ok)
		}
		required := ServerConfig(relay, trustOf(ca), ServerOptions{ALPN: []string{"a/1"}, RequireClient: true})
		if _, _, s := handshake(t, ClientConfig(nil, trustOf(ca), onlyRelay, []string{"a/1"}), required); s == nil {
			t.Error("a client without a certificate was accepted")
		}
	})
	t.Run("a node is no relay", func(t *testing.T) {
		impostor := ServerConfig(node, trustOf(ca), ServerOptions{ALPN: []string{"a/1"}})
		if _, c, _ := handshake(t, ClientConfig(node, trustOf(ca), onlyRelay, []string{"a/1"}), impostor); c == nil {
			t.Error("a node passed for the relay")
		}
	})
	t.Run("another CA", func(t *testing.T) {
		other := authority(t, "abc")
		foreign, _ := holder(t, other, nodeN1)
		if _, _, s := handshake(t, ClientConfig(foreign, trustOf(ca), nil, []string{"a/1"}), server); s == nil {
			t.Error("a foreign node was accepted")
		}
		foreignRelay, _ := holder(t, other, relayR)
		_, c, _ := handshake(t, ClientConfig(node, trustOf(ca), nil, []string{"a/1"}), ServerConfig(foreignRelay, trustOf(ca), ServerOptions{ALPN: []string{"a/1"}}))
		var v *VerifyError
		if !errors.As(c, &v) || !v.Foreign {
			t.Errorf("a foreign relay: %v", c)
		}
	})
}

func TestPinnedConfig(t *testing.T) {
	ca, other := authority(t, "abc"), authority(t, "abc")
	relay, _ := holder(t, ca, relayR)
	node, _ := holder(t, ca, nodeN1)
	server := func(h *Holder) *tls.Config { return ServerConfig(h, trustOf(ca), ServerOptions{ALPN: []string{"a/1"}}) }
	var got Identity
	_, c, s := handshake(t, PinnedConfig(ca.Pin(), []string{"a/1"}, func(_ *Trust, id Identity) { got = id }), server(relay))
	if c != nil || s != nil || got != relayR {
		t.Fatal(c, s, got)
	}
	var pin *PinError
	if _, c, _ := handshake(t, PinnedConfig(other.Pin(), []string{"a/1"}, nil), server(relay)); !errors.As(c, &pin) {
		t.Errorf("another relay's pin: %v", c)
	}
	if _, c, _ := handshake(t, PinnedConfig(ca.Pin(), []string{"a/1"}, nil), server(node)); c == nil {
		t.Error("a node passed for a relay")
	}
}

// The leaf must be the pinned CA's own, even where the chain holds that CA.
func TestPinnedChainOfAnotherCA(t *testing.T) {
	ca, other := authority(t, "abc"), authority(t, "abc")
	h, saved := holder(t, other, relayR)
	c, _ := saved.Certificate()
	c.Certificate = [][]byte{saved.Chain[0], ca.certificate.Raw}
	h.Set(c)
	server := ServerConfig(h, trustOf(ca), ServerOptions{ALPN: []string{"a/1"}})
	_, err, _ := handshake(t, PinnedConfig(ca.Pin(), []string{"a/1"}, func(*Trust, Identity) { t.Error("verified") }), server)
	if v, ok := errors.AsType[*VerifyError](err); !ok || !v.Foreign {
		t.Errorf("%v", err)
	}
}

func TestOnlyTLS13AndNoResumption(t *testing.T) {
	ca := authority(t, "abc")
	relay, _ := holder(t, ca, relayR)
	node, _ := holder(t, ca, nodeN1)
	server := ServerConfig(relay, trustOf(ca), ServerOptions{ALPN: []string{"a/1"}, RequireClient: true})
	old := ClientConfig(node, trustOf(ca), nil, []string{"a/1"})
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, _, err := handshake(t, old, server); err == nil {
		t.Error("TLS 1.2 was accepted")
	}
	cached := ClientConfig(node, trustOf(ca), nil, []string{"a/1"})
	cached.SessionTicketsDisabled, cached.ClientSessionCache, cached.ServerName = false, tls.NewLRUClientSessionCache(4), "relay.invalid"
	for range 3 {
		if state, c, s := handshake(t, cached, server); c != nil || s != nil || state.DidResume {
			t.Fatal(c, s, state.DidResume)
		}
	}
}

func TestKeysAndTokens(t *testing.T) {
	secret := NewSecret()
	key := Key{GatewayID: strings.Repeat("0f", 16), Secret: secret, Pin: Pin{1, 2}}
	text := key.Encode()
	got, err := ParseKey(" \t" + text + "\n")
	if err != nil || got.Encode() != key.Encode() {
		t.Fatal(err)
	}
	token := Token{JobID: key.GatewayID, Secret: secret, Pin: key.Pin}.Encode()
	flipped := []byte(text)
	flipped[30] = map[bool]byte{true: 'A', false: 'B'}[flipped[30] != 'A']
	for name, test := range map[string]struct{ text, want string }{
		"empty":     {"", "empty"},
		"token":     {token, "job token"},
		"foreign":   {"frp-token", "begin with"},
		"truncated": {text[:len(text)-5], "cut off"},
		"doubled":   {text + text[7:], "too long"},
		"flipped":   {string(flipped), "checksum"},
		"odd":       {text[:20] + "!" + text[21:], "character"},
	} {
		var f *FormatError
		if _, err := ParseKey(test.text); !errors.As(err, &f) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		} else if test.text != "" && strings.Contains(err.Error(), test.text) {
			t.Errorf("%s: the error quotes the key", name)
		}
	}
	for _, shown := range []string{fmt.Sprint(key), fmt.Sprintf("%v %+v %#v %s %q %x", key, key, key, key, secret, secret), fmt.Sprint(Token{Secret: secret})} {
		if strings.Contains(shown, fmt.Sprintf("%x", secret.Reveal())) || !strings.Contains(shown, redacted) {
			t.Errorf("printed %s", shown)
		}
	}
}

func TestSavedIdentity(t *testing.T) {
	dir := t.TempDir()
	if _, err := LoadIdentity(dir); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	ca := authority(t, "abc")
	_, saved := holder(t, ca, nodeN1)
	if err := SaveIdentity(dir, saved); err != nil {
		t.Fatal(err)
	}
	got, err := LoadIdentity(dir)
	if err != nil || got.Counter != 3 || !got.Key.Equal(saved.Key) {
		t.Fatal(err)
	}
	path := filepath.Join(dir, IdentityFile)
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	whole, _ := os.ReadFile(path)
	refused := func(what string, content []byte) {
		t.Helper()
		_ = os.WriteFile(path, content, 0o600)
		s, err := LoadIdentity(dir)
		if c, ok := errors.AsType[*CorruptError](err); !ok || c.Path != path {
			t.Fatalf("%s: %+v %v", what, s, err)
		}
	}
	// Every byte counts, the counter's too: it tells a renewal from a clone's.
	for i := range whole {
		for _, flip := range []byte{0x01, 0x20} {
			damaged := slices.Clone(whole)
			damaged[i] ^= flip
			refused(fmt.Sprintf("byte %d flipped by %#x", i, flip), damaged)
		}
		if i%7 == 0 {
			refused(fmt.Sprintf("cut to %d bytes", i), whole[:i])
		}
	}
	refused("doubled", append(slices.Clone(whole), whole...))
	refused("huge", bytes.Repeat(whole, 200))
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left %v", left)
	}
}

// SaveIdentity writes nothing that LoadIdentity refuses.
func TestSavedIdentityRefusesMixtures(t *testing.T) {
	ca := authority(t, "abc")
	_, a := holder(t, ca, nodeN1)
	_, b := holder(t, ca, nodeN1)
	_, foreign := holder(t, authority(t, "abc"), nodeN1)
	for name, s := range map[string]*Saved{
		"no certificate":      {Key: a.Key, Roots: a.Roots},
		"another's key":       {Key: b.Key, Chain: a.Chain, Roots: a.Roots},
		"no roots":            {Key: a.Key, Chain: a.Chain},
		"roots of another CA": {Key: a.Key, Chain: a.Chain, Roots: foreign.Roots},
		"garbage for a root":  {Key: a.Key, Chain: a.Chain, Roots: [][]byte{{1}}},
		"negative counter":    {Key: a.Key, Chain: a.Chain, Roots: a.Roots, Counter: -1},
	} {
		if err := SaveIdentity(t.TempDir(), s); err == nil {
			t.Errorf("%s: saved", name)
		}
	}
}

// Nothing that is not the very text is read, and nothing panics: the relay parses
// tokens of strangers.
func TestEveryCharacterCounts(t *testing.T) {
	text := Token{strings.Repeat("0f", 16), NewSecret(), Pin{9}}.Encode()
	for i := range text {
		for _, c := range "Az0-_ \r\n=" {
			changed := text[:i] + string(c) + text[i+1:]
			if changed == text {
				continue
			}
			_, err := ParseToken(changed)
			if _, ok := errors.AsType[*FormatError](err); !ok {
				t.Fatalf("character %d as %q: %v", i, c, err)
			}
		}
		if _, err := ParseToken(text[:i]); err == nil {
			t.Fatalf("cut to %d characters: accepted", i)
		}
	}
}

func FuzzParseKey(f *testing.F) {
	f.Add(Key{GatewayID: strings.Repeat("0f", 16)}.Encode())
	for _, seed := range []string{"", "ebbkey_", "ebbjob_", "\ufeffebbkey_", "ebbkey_" + strings.Repeat("A", 114), "ebbkey_" + strings.Repeat("_", 114), "ebbkey_" + strings.Repeat("A\r\n", 38)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := ParseKey(s); err == nil && k.Encode() != strings.TrimSpace(s) {
			t.Errorf("%q is read but not written back", s)
		}
	})
}

func FuzzParseToken(f *testing.F) {
	token := Token{JobID: strings.Repeat("0f", 16), Pin: Pin{7}}.Encode()
	for _, seed := range []string{token, token[:40], token + token, token[:30] + "\n" + token[31:], "ebbjob_", "ebbkey_", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := ParseToken(s); err == nil && k.Encode() != strings.TrimSpace(s) {
			t.Errorf("%q is read but not written back", s)
		}
	})
}

func FuzzDecodeIdentity(f *testing.F) {
	_, saved := holder(f, authority(f, "abc"), nodeN1)
	whole, err := saved.encode()
	if err != nil {
		f.Fatal(err)
	}
	for _, n := range []int{0, 1, 30, 200, len(whole) - 1, len(whole)} {
		f.Add(whole[:n])
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		s, err := decodeIdentity(raw)
		if err != nil {
			return
		}
		if again, err := s.encode(); err != nil || !bytes.Equal(again, raw) {
			t.Errorf("read but not written back: %v", err)
		}
	})
}

func FuzzParseIdentity(f *testing.F) {
	f.Add(nodeN1.String())
	f.Add(relayR.String())
	for _, seed := range []string{jobJ.String(), "spiffe://abc", "spiffe://abc/relay/%72", "SPIFFE://abc/relay/r", "spiffe://a/tenant/../job/j", "spiffe:///relay/r"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := ParseIdentity(s); err == nil && id.String() != s {
			t.Errorf("%q is read but not written back", s)
		}
	})
}

func FuzzCheckCSR(f *testing.F) {
	key, _ := GenerateKey()
	der, _ := NewCSR(key)
	f.Add(der)
	for _, n := range []int{0, 1, 2, 10, len(der) - 1} {
		f.Add(der[:n])
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		if pub, err := CheckCSR(der); err == nil && checkPublicKey(pub) != nil {
			t.Errorf("a request with a %T was accepted", pub)
		}
	})
}
