package connector

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/tunnel"
)

// shortDir is a directory with a path that a socket's name fits behind.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "conn")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "state")
}

func write(t testing.TB, path, content string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// options registers at r, over one carrier where that is given.
func (r *fakeRelay) options(t testing.TB, carriers ...config.Carrier) Options {
	t.Helper()
	ports := r.ports()
	dir := shortDir(t)
	return Options{
		File:    &config.Connector{StateDir: dir, Carriers: carriers, Proxy: config.Proxy{Mode: config.ProxyNone}},
		Relay:   &config.Endpoint{Host: "127.0.0.1", TLS: ports.TLS, QUIC: ports.QUIC},
		KeyFile: write(t, filepath.Dir(dir)+"/key", r.key()+"\n"),
		Name:    "n1", Software: "ebbgate/test",
	}
}

// wantSpoken checks an error that a person sees.
func wantSpoken(t *testing.T, err error, code, hop string, words ...string) {
	t.Helper()
	var s spoken
	if !errors.As(err, &s) {
		t.Fatalf("error %v names no hop, want %s", err, code)
	}
	if s.Code() != code || s.Hop() != hop {
		t.Errorf("%s at %s (%v), want %s at %s", s.Code(), s.Hop(), err, code, hop)
	}
	if s.Advice() == "" {
		t.Errorf("no advice for %v", err)
	}
	for _, w := range words {
		if !strings.Contains(err.Error()+" "+s.Advice(), w) {
			t.Errorf("%v (%s) does not say %q", err, s.Advice(), w)
		}
	}
}

func TestRegister(t *testing.T) {
	for _, carrier := range []config.Carrier{config.CarrierTLS, config.CarrierQUIC} {
		t.Run(string(carrier), func(t *testing.T) {
			r := startRelay(t, relayOptions{})
			opt := r.options(t, carrier)
			got, err := Register(t.Context(), opt)
			if err != nil {
				t.Fatal(err)
			}
			if got.Identity != r.node("n1").String() || got.Gateway != "corp" || got.Carrier != string(carrier) {
				t.Errorf("registered as %+v", got)
			}
			if life := time.Until(got.CertificateExpires); life < 23*time.Hour || life > 25*time.Hour {
				t.Errorf("the certificate lives %v", life)
			}
			// The directory is for its owner alone.
			if info, err := os.Stat(opt.File.StateDir); err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("state directory: %v, %v", info.Mode(), err)
			}
			for _, name := range []string{fileRegistration, certs.IdentityFile} {
				if info, err := os.Stat(filepath.Join(opt.File.StateDir, name)); err != nil || info.Mode().Perm() != 0o600 {
					t.Errorf("%s: %v, %v", name, info.Mode(), err)
				}
			}
			raw, err := os.ReadFile(filepath.Join(opt.File.StateDir, fileRegistration))
			if err != nil {
				t.Fatal(err)
			}
			var reg registration
			if err := json.Unmarshal(raw, &reg); err != nil {
				t.Fatal(err)
			}
			if reg.Relay != "127.0.0.1" || reg.TLS != r.ports().TLS || reg.QUIC != r.ports().QUIC {
				t.Errorf("registration %+v, ports %+v", reg, r.ports())
			}

			_, err = Register(t.Context(), opt)
			wantSpoken(t, err, "already-registered", "registration", r.node("n1").String(), "remove", "connector run")
			r.mu.Lock()
			defer r.mu.Unlock()
			if len(r.keys) != 1 {
				t.Errorf("the relay signed %d keys", len(r.keys))
			}
		})
	}
}

func TestRegisterFromStdin(t *testing.T) {
	r := startRelay(t, relayOptions{noQUIC: true})
	opt := r.options(t)
	opt.KeyFile, opt.Stdin, opt.Name = "-", strings.NewReader("  "+r.key()+"\r\n"), ""
	got, err := Register(t.Context(), opt)
	if err != nil {
		t.Fatal(err)
	}
	if host, _ := os.Hostname(); got.Node != validName(host) {
		t.Errorf("registered as %s on %s", got.Node, host)
	}
}

func TestRegisterRefuses(t *testing.T) {
	r := startRelay(t, relayOptions{})
	stranger := startRelay(t, relayOptions{noQUIC: true})
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = nobody.Close()
	for _, tc := range []struct {
		name      string
		change    func(t *testing.T, o *Options)
		code, hop string
		words     []string
	}{
		{"no key", func(_ *testing.T, o *Options) { o.KeyFile = "" }, "key-missing", "config", []string{"--key-file"}},
		{"no such file", func(_ *testing.T, o *Options) { o.KeyFile += ".nope" }, "key-unreadable", "config", []string{".nope", "no such file"}},
		{"key file is a directory", func(_ *testing.T, o *Options) { o.KeyFile = filepath.Dir(o.KeyFile) }, "key-unreadable", "config", nil},
		{"key file is huge", func(t *testing.T, o *Options) { write(t, o.KeyFile, strings.Repeat("x", 1<<20)) }, "key-unreadable", "config", nil},
		{"no standard input", func(_ *testing.T, o *Options) { o.KeyFile = "-" }, "key-unreadable", "config", []string{"standard input"}},
		{"empty key", func(t *testing.T, o *Options) { write(t, o.KeyFile, "\n") }, "key-malformed", "registration", nil},
		{"malformed key", func(t *testing.T, o *Options) { write(t, o.KeyFile, "hunter2") }, "key-malformed", "registration", nil},
		{"truncated key", func(t *testing.T, o *Options) { write(t, o.KeyFile, r.key()[:40]) }, "key-malformed", "registration", nil},
		{"mistyped key", func(t *testing.T, o *Options) {
			k := []byte(r.key())
			k[20] ^= 1
			write(t, o.KeyFile, string(k))
		}, "key-malformed", "registration", nil},
		{"wrong key", func(t *testing.T, o *Options) {
			k := certs.Key{GatewayID: "00112233445566778899aabbccddeeff", Secret: certs.NewSecret(), Pin: r.ca.Pin()}
			write(t, o.KeyFile, k.Encode())
		}, "key-refused", "registration", nil},
		{"key of another relay", func(t *testing.T, o *Options) { write(t, o.KeyFile, stranger.key()) }, "relay-unknown", "relay", []string{"another relay"}},
		{"bad name", func(_ *testing.T, o *Options) { o.Name = "Node_1" }, "name-invalid", "config", []string{"--name node-1"}},
		{"no relay", func(_ *testing.T, o *Options) { o.Relay = nil }, "relay-missing", "config", []string{"--relay"}},
		{"no such name", func(_ *testing.T, o *Options) { o.Relay.Host = "relay.invalid" }, "name-unresolved", "dns", []string{"relay.invalid"}},
		{"nobody there", func(_ *testing.T, o *Options) {
			o.Relay.TLS = nobody.Addr().(*net.TCPAddr).Port
			o.File.Carriers = []config.Carrier{config.CarrierTLS}
		}, "connection-refused", "tcp", nil},
		{"state directory is a file", func(t *testing.T, o *Options) { write(t, o.File.StateDir, "") }, "state-dir-unusable", "config", nil},
		{"no state directory", func(_ *testing.T, o *Options) { o.File.StateDir = "" }, "state-dir-unusable", "config", nil},
		{"bad proxy", func(_ *testing.T, o *Options) {
			o.File.Proxy = config.Proxy{Mode: config.ProxyCustom, URL: "socks://x"}
		}, "proxy-config", "config", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			opt := r.options(t)
			tc.change(t, &opt)
			_, err := Register(t.Context(), opt)
			wantSpoken(t, err, tc.code, tc.hop, tc.words...)
			if strings.Contains(err.Error(), r.key()[10:30]) {
				t.Errorf("the error quotes the key: %v", err)
			}
			for _, name := range []string{fileRegistration, certs.IdentityFile} {
				if _, err := os.Lstat(filepath.Join(opt.File.StateDir, name)); err == nil {
					t.Errorf("%s was written", name)
				}
			}
		})
	}
}

// A registration that cannot be written is not half written, says so, and can be
// made again with the key that the relay knows by now.
func TestRegisterAgain(t *testing.T) {
	r := startRelay(t, relayOptions{noQUIC: true})
	opt := r.options(t)
	away := opt.File.StateDir + ".away"
	r.enrol = func(tunnel.Enrol) error { return os.Rename(opt.File.StateDir, away) }
	_, err := Register(t.Context(), opt)
	wantSpoken(t, err, "state-unavailable", "node", "again as n1")
	if err := os.Rename(away, opt.File.StateDir); err != nil {
		t.Fatal(err)
	}
	r.set(func(r *fakeRelay) { r.enrol = nil })
	if _, err := Register(t.Context(), opt); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(opt.File.StateDir, fileEnrolment)); err == nil {
		t.Error("the key of the registration is still there")
	}
	if len(r.keys) != 2 || publicKey(t, r.keys[0]) != publicKey(t, r.keys[1]) {
		t.Errorf("%d requests, or not of one key", len(r.keys))
	}

	// A key that is damaged is replaced: there is nothing that it could prove.
	other := r.options(t)
	if err := os.Mkdir(other.File.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(other.File.StateDir, fileEnrolment), "-----BEGIN")
	if _, err := Register(t.Context(), other); err != nil {
		t.Error(err)
	}
}

// publicKey is what a request asks a certificate for.
func publicKey(t *testing.T, csr []byte) string {
	t.Helper()
	pub, err := certs.CheckCSR(csr)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return string(der)
}

// A directory that takes nothing is found out before the relay has a node.
func TestRegisterProbesTheDisk(t *testing.T) {
	dir := &stateDir{path: filepath.Join(t.TempDir(), "gone")}
	wantSpoken(t, dir.probe(10), "state-unavailable", "node", dir.path)
	dir.path = t.TempDir()
	if err := dir.probe(identityRoom); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir.path); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// What an answer of a relay that misbehaves says is not believed.
func TestRegisterChecksTheAnswer(t *testing.T) {
	r := startRelay(t, relayOptions{noQUIC: true, noTLS: true})
	other := startRelay(t, relayOptions{noQUIC: true, noTLS: true})
	for _, tc := range []struct {
		name   string
		change func(s *certs.Saved, answer *tunnel.Enrolled)
	}{
		{"ok", func(*certs.Saved, *tunnel.Enrolled) {}},
		{"another name", func(s *certs.Saved, answer *tunnel.Enrolled) {
			answer.Identity = r.node("n2").String()
			_, s.Chain = r.issue(r.node("n2"), s.Key.Public(), time.Hour)
		}},
		{"another identity than the certificate's", func(_ *certs.Saved, answer *tunnel.Enrolled) { answer.Identity = r.node("n2").String() }},
		{"a job", func(s *certs.Saved, answer *tunnel.Enrolled) {
			answer.Identity = r.job("n1").String()
			_, s.Chain = r.issue(r.job("n1"), s.Key.Public(), time.Hour)
		}},
		{"another key", func(s *certs.Saved, _ *tunnel.Enrolled) { _, s.Chain = r.issue(r.node("n1"), nil, time.Hour) }},
		{"no chain", func(s *certs.Saved, _ *tunnel.Enrolled) { s.Chain = nil }},
		{"no roots", func(s *certs.Saved, _ *tunnel.Enrolled) { s.Roots = nil }},
		{"foreign roots", func(s *certs.Saved, _ *tunnel.Enrolled) { s.Roots = [][]byte{other.ca.Certificate().Raw} }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			priv, err := certs.GenerateKey()
			if err != nil {
				t.Fatal(err)
			}
			_, chain := r.issue(r.node("n1"), priv.Public(), time.Hour)
			s := &certs.Saved{Key: priv, Chain: chain, Roots: [][]byte{r.ca.Certificate().Raw}}
			answer := &tunnel.Enrolled{Identity: r.node("n1").String()}
			tc.change(s, answer)
			if err := checkEnrolled(s, answer, r.id, "n1", r.ca.Pin()); (err == nil) != (tc.name == "ok") {
				t.Errorf("checkEnrolled: %v", err)
			}
		})
	}
}

func TestRegisterCancelled(t *testing.T) {
	// A relay that accepts and is silent.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	r := startRelay(t, relayOptions{noQUIC: true, noTLS: true})
	opt := r.options(t, config.CarrierTLS)
	opt.Relay = &config.Endpoint{Host: "127.0.0.1", TLS: portOf(ln.Addr())}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		conn, err := ln.Accept()
		if err == nil {
			defer conn.Close()
			_, _ = conn.Read(make([]byte, 1))
		}
		cancel()
	}()
	if _, err := Register(ctx, opt); err == nil {
		t.Error("registered")
	}
}

func TestValidName(t *testing.T) {
	for in, want := range map[string]string{
		"SQL-GW01":               "sql-gw01",
		"gw01.corp.example":      "gw01",
		"my_host":                "my-host",
		"-x-":                    "x",
		"...":                    "node",
		"":                       "node",
		"Büro":                   "b-ro",
		strings.Repeat("a", 100): strings.Repeat("a", 63),
	} {
		if got := validName(in); got != want || !certs.ValidName(got) {
			t.Errorf("validName(%q) = %q, want %q", in, got, want)
		}
	}
}
