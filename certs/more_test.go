package certs

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestTamperedLeaf(t *testing.T) {
	ca := authority(t, "abc")
	_, saved := holder(t, ca, nodeN1)
	for i := range saved.Chain[0] {
		der := slices.Clone(saved.Chain[0])
		der[i] ^= 1
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			continue
		}
		if id, err := trustOf(ca)().Verify([]*x509.Certificate{leaf, ca.Certificate()}, time.Now()); err == nil {
			t.Fatalf("byte %d: accepted as %s", i, id)
		}
	}
}

// A trust that changes counts from the next handshake on.
func TestTrustIsAskedEachTime(t *testing.T) {
	ca := authority(t, "abc")
	relay, _ := holder(t, ca, relayR)
	node, _ := holder(t, ca, nodeN1)
	trust := trustOf(ca)()
	server := ServerConfig(relay, func() *Trust { return trust }, ServerOptions{ALPN: []string{"a/1"}, RequireClient: true})
	client := ClientConfig(node, trustOf(ca), nil, []string{"a/1"})
	if _, _, err := handshake(t, client, server); err != nil {
		t.Fatal(err)
	}
	trust = &Trust{TrustDomain: "abc"}
	if _, _, err := handshake(t, client, server); err == nil {
		t.Error("a CA that is no longer believed was believed")
	}
}

// A request that asks for names, or to be a CA, gets none of it.
func TestRequestsAskInVain(t *testing.T) {
	ca := authority(t, "abc")
	key, _ := GenerateKey()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "root"}, DNSNames: []string{"relay"}, URIs: []*url.URL{relayR.uri()},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	pub, err := CheckCSR(der)
	if err != nil {
		t.Fatal(err)
	}
	issued, err := ca.Issue(nodeN1, pub, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	c, _ := x509.ParseCertificate(issued)
	if id, err := CertificateIdentity(c); err != nil || id != nodeN1 || c.IsCA || c.Subject.CommonName != "" || len(c.DNSNames) != 0 {
		t.Errorf("%v %v %+v", id, err, c.Subject)
	}
}

func TestOtherKindsOfKeys(t *testing.T) {
	for curve, ok := range map[elliptic.Curve]bool{elliptic.P256(): true, elliptic.P384(): false} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := CheckCSR(der); (err == nil) != ok {
			t.Errorf("%s: %v", curve.Params().Name, err)
		}
		if _, err := CheckCSR(append(der, 0)); err == nil {
			t.Error("bytes after the request were accepted")
		}
		if !ok {
			continue
		}
		exporter := make([]byte, 32)
		proof, err := Prove(key, exporter)
		if err != nil || CheckProof(key.Public(), exporter, proof) != nil {
			t.Fatal(err)
		}
		for i := range proof {
			bad := slices.Clone(proof)
			bad[i] ^= 1
			if CheckProof(key.Public(), exporter, bad) == nil {
				t.Errorf("byte %d of the proof does not count", i)
			}
		}
	}
	var none crypto.PublicKey
	if CheckProof(none, []byte("x"), nil) == nil || CheckProof("key", []byte("x"), nil) == nil {
		t.Error("a proof without a key was accepted")
	}
}

// Certificates begin 15 minutes early, so that a clock that is 10 minutes off
// does no harm.
func TestIssueLives(t *testing.T) {
	ca := authority(t, "abc")
	key, _ := GenerateKey()
	now := time.Now()
	der, err := ca.Issue(nodeN1, key.Public(), now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	c, _ := x509.ParseCertificate(der)
	for at, ok := range map[time.Duration]bool{-16 * time.Minute: false, -10 * time.Minute: true, 59 * time.Minute: true, 61 * time.Minute: false} {
		if _, err := trustOf(ca)().Verify([]*x509.Certificate{c}, now.Add(at)); (err == nil) != ok {
			t.Errorf("%v: %v", at, err)
		}
	}
}

// A reader sees the old identity or the new one, never a mixture.
func TestSavedIdentityIsReplacedWhole(t *testing.T) {
	dir := t.TempDir()
	ca := authority(t, "abc")
	var versions []*Saved
	for counter := range 3 {
		_, s := holder(t, ca, nodeN1)
		s.Counter = counter
		versions = append(versions, s)
	}
	if err := SaveIdentity(dir, versions[0]); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		var err error
		for i := range 30 {
			err = errors.Join(err, SaveIdentity(dir, versions[i%len(versions)]))
		}
		done <- err
	}()
	for running := true; running; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			running = false
		default:
		}
		s, err := LoadIdentity(dir)
		if err != nil {
			t.Fatal(err)
		}
		if !versions[s.Counter].Key.Equal(s.Key) {
			t.Fatalf("counter %d with another's key", s.Counter)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("left %v", left)
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	key := Key{GatewayID: strings.Repeat("0f", 16), Secret: NewSecret(), Pin: Pin{1}}
	token := Token{JobID: key.GatewayID, Secret: key.Secret, Pin: key.Pin}
	raw := key.Secret.Reveal()
	for _, value := range []any{key, &key, token, &token, key.Secret, &key.Secret, []Key{key}, map[string]Token{"a": token}, struct{ K Key }{key}} {
		text := ""
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
			text += fmt.Sprintf(verb, value)
		}
		j, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		text += string(j)
		for _, leak := range []string{fmt.Sprintf("%x", raw[:8]), fmt.Sprintf("%X", raw[:8]), strings.Trim(fmt.Sprint(raw[:8]), "[]"), key.Encode()[31:43]} {
			if strings.Contains(text, leak) {
				t.Errorf("%T prints %s", value, text)
			}
		}
	}
}

// TestSecretInAnUnexportedField prints a secret where fmt may not call its
// methods.
func TestSecretInAnUnexportedField(t *testing.T) {
	secret := NewSecret()
	held := struct{ secret Secret }{secret}
	for _, verb := range []string{"%v", "%+v", "%#v", "%x", "%d"} {
		shown := fmt.Sprintf(verb, held)
		for _, encoded := range []string{fmt.Sprintf("%x", secret.Reveal()), strings.Trim(fmt.Sprint(secret.Reveal()), "[]")} {
			if strings.Contains(shown, encoded) {
				t.Errorf("%s shows the secret", verb)
			}
		}
	}
}
