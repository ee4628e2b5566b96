package certs

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
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

// handshake runs TLS between two configurations and gives both results.
func handshake(t *testing.T, client, server *tls.Config) (clientErr, serverErr error, serverState tls.ConnectionState) {
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
	return clientErr, serverErr, serverState
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
	clientErr, serverErr, state := handshake(t, ClientConfig(node, trustOf(ca), onlyRelay, []string{"a/1"}), server)
	if clientErr != nil || serverErr != nil {
		t.Fatal(clientErr, serverErr)
	}
	if id, ok := PeerIdentity(state); !ok || id != nodeN1 {
		t.Errorf("the server saw %v %v", id, ok)
	}

	t.Run("without a certificate", func(t *testing.T) {
		c, s, state := handshake(t, ClientConfig(nil, trustOf(ca), onlyRelay, []string{"a/1"}), server)
		if _, ok := PeerIdentity(state); c != nil || s != nil || ok {
			t.Error(c, s, ok)
		}
		required := ServerConfig(relay, trustOf(ca), ServerOptions{ALPN: []string{"a/1"}, RequireClient: true})
		if _, s, _ := handshake(t, ClientConfig(nil, trustOf(ca), onlyRelay, []string{"a/1"}), required); s == nil {
			t.Error("a client without a certificate was accepted")
		}
	})
	t.Run("a node is no relay", func(t *testing.T) {
		impostor := ServerConfig(node, trustOf(ca), ServerOptions{ALPN: []string{"a/1"}})
		if c, _, _ := handshake(t, ClientConfig(node, trustOf(ca), onlyRelay, []string{"a/1"}), impostor); c == nil {
			t.Error("a node passed for the relay")
		}
	})
	t.Run("another CA", func(t *testing.T) {
		other := authority(t, "abc")
		foreign, _ := holder(t, other, nodeN1)
		if _, s, _ := handshake(t, ClientConfig(foreign, trustOf(ca), nil, []string{"a/1"}), server); s == nil {
			t.Error("a foreign node was accepted")
		}
		foreignRelay, _ := holder(t, other, relayR)
		c, _, _ := handshake(t, ClientConfig(node, trustOf(ca), nil, []string{"a/1"}), ServerConfig(foreignRelay, trustOf(ca), ServerOptions{ALPN: []string{"a/1"}}))
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
	c, s, _ := handshake(t, PinnedConfig(ca.Pin(), []string{"a/1"}, func(_ *Trust, id Identity) { got = id }), server(relay))
	if c != nil || s != nil || got != relayR {
		t.Fatal(c, s, got)
	}
	var pin *PinError
	if c, _, _ := handshake(t, PinnedConfig(other.Pin(), []string{"a/1"}, nil), server(relay)); !errors.As(c, &pin) {
		t.Errorf("another relay's pin: %v", c)
	}
	if c, _, _ := handshake(t, PinnedConfig(ca.Pin(), []string{"a/1"}, nil), server(node)); c == nil {
		t.Error("a node passed for a relay")
	}
}

func TestKeysAndTokens(t *testing.T) {
	secret := NewSecret()
	key := Key{GatewayID: strings.Repeat("0f", 16), Secret: secret, Pin: Pin{1, 2}}
	text := key.Encode()
	got, err := ParseKey(" \t" + text + "\n")
	if err != nil || got != key {
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
	for i := range whole {
		damaged := append([]byte(nil), whole...)
		damaged[i] ^= 0x15
		_ = os.WriteFile(path, damaged, 0o600)
		if s, err := LoadIdentity(dir); err == nil {
			// what still loads must be the same identity, not another
			if !s.Key.Equal(saved.Key) || string(s.Chain[0]) != string(saved.Chain[0]) {
				t.Fatalf("byte %d: another identity was loaded", i)
			}
		}
	}
	for n := range len(whole) {
		if n%7 != 0 {
			continue
		}
		_ = os.WriteFile(path, whole[:n], 0o600)
		var corrupt *CorruptError
		if _, err := LoadIdentity(dir); !errors.As(err, &corrupt) {
			t.Fatalf("cut to %d bytes: %v", n, err)
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

func FuzzParseIdentity(f *testing.F) {
	f.Add(nodeN1.String())
	f.Add(relayR.String())
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
	f.Fuzz(func(_ *testing.T, der []byte) { _, _ = CheckCSR(der) })
}
