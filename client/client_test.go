package client

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// testClient is a client that runs.
type testClient struct {
	*Client
	t     *testing.T
	log   *syncBuffer
	ready chan Ready
	stop  func() error // once
	done  chan struct{}
}

func startClient(t *testing.T, r *testRelay, change func(*Config)) *testClient {
	t.Helper()
	tc := &testClient{t: t, log: &syncBuffer{}, ready: make(chan Ready, 1), done: make(chan struct{})}
	cfg := Config{
		Relay: r.addr, TokenFile: tokenFile(t, r.token), Carriers: []string{"tls"}, ConnectTimeout: 20 * time.Second,
		Environment: func(string) string { return "" }, Software: "test/1",
		Ready:  func(ready Ready) { tc.ready <- ready },
		Logger: slog.New(slog.NewTextHandler(tc.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if change != nil {
		change(&cfg)
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	tc.Client = c
	ctx, cancel := context.WithCancel(context.Background())
	var result error
	go func() {
		defer close(tc.done)
		result = c.Run(ctx)
	}()
	tc.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case <-tc.done:
			return result
		case <-time.After(20 * time.Second):
			return errors.New("the client does not end")
		}
	})
	t.Cleanup(func() {
		tc.stop()
		secret := r.token.Encode()
		if text := tc.log.String(); strings.Contains(text, secret) || strings.Contains(text, secret[10:40]) {
			t.Error("the token is in the log")
		}
	})
	return tc
}

// ended waits until Run returns by itself and gives its error.
func (tc *testClient) ended() error {
	tc.t.Helper()
	select {
	case <-tc.done:
	case <-time.After(20 * time.Second):
		tc.t.Fatal("the client goes on")
	}
	return tc.stop()
}

// forward runs a Forwarder of the client until the test ends.
func (tc *testClient) forward() string {
	tc.t.Helper()
	ln, err := Listen(tc.t.Context(), "127.0.0.1:0")
	if err != nil {
		tc.t.Fatal(err)
	}
	f := &Forwarder{Client: tc.Client, Target: testTarget, DialTimeout: 15 * time.Second, Logger: tc.Client.log}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.Run(ctx, ln)
	}()
	tc.t.Cleanup(func() {
		cancel()
		<-done
	})
	return ln.Addr().String()
}

func dialTCP(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

// roundTrip sends bytes to an echoing store and back, ends included.
func roundTrip(t *testing.T, addr string, size int) {
	t.Helper()
	c := dialTCP(t, addr)
	var writer sync.WaitGroup
	writer.Go(func() {
		c.Write(make([]byte, size))
		c.CloseWrite()
	})
	n, err := io.Copy(io.Discard, c)
	writer.Wait()
	if n != int64(size) || err != nil {
		t.Errorf("%d bytes of %d came back, %v", n, size, err)
	}
}

func TestForwardThroughARelay(t *testing.T) {
	for _, carrier := range []string{"tls", "quic", "auto"} {
		t.Run(carrier, func(t *testing.T) {
			r := startRelay(t, echoStore(t))
			tc := startClient(t, r, func(c *Config) {
				c.Carriers, c.Run = []string{carrier}, "nightly"
			})
			addr := tc.forward()
			for range 3 {
				roundTrip(t, addr, 1<<20)
			}
			ready := <-tc.ready
			if ready.Job != "spiffe://"+testDomain+"/tenant/default/job/copy" || ready.Relay != r.addr || ready.Run != "nightly" || carrier != "auto" && ready.Carrier != carrier {
				t.Errorf("ready %+v", ready)
			}
			until(t, "both lanes", func() bool {
				r.mu.Lock()
				defer r.mu.Unlock()
				return len(r.lanes) == 2
			})
			if err := tc.stop(); err != nil {
				t.Errorf("stopped: %v", err)
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			slices.Sort(r.lanes)
			want := []string{"bulk express=false", "client express=true"}
			if ready.Carrier == "quic" {
				want[0] = "client express=false"
			}
			if !slices.Equal(r.lanes, want) {
				t.Errorf("lanes %q, want %q", r.lanes, want)
			}
			if len(r.grants) != 1 || r.grants[0].Run != "nightly" || r.grants[0].Gateway != "corp" || r.grants[0].Store != "erp-sql" {
				t.Errorf("grants %+v", r.grants)
			}
		})
	}
}

func TestClientStopsByItself(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*testRelay, *Config)
		code   string
		hop    string
	}{
		{"wrong token", func(r *testRelay, c *Config) {
			wrong := r.token
			wrong.Secret = certs.NewSecret()
			c.TokenFile = tokenFile(r.t, wrong)
		}, "token-invalid", "registration"},
		{"token of another relay", func(r *testRelay, c *Config) {
			wrong := r.token
			wrong.Pin[0] ^= 1
			c.TokenFile = tokenFile(r.t, wrong)
		}, "relay-unknown", "relay"},
		{"revoked before", func(r *testRelay, _ *Config) { r.change(func() { r.revoked = true }) }, "token-invalid", "registration"},
		{"nobody there", func(r *testRelay, c *Config) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				r.t.Fatal(err)
			}
			c.Relay, c.ConnectTimeout = ln.Addr().String(), time.Second
			ln.Close()
		}, "connection-refused", "tcp"},
		{"silence", func(r *testRelay, c *Config) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				r.t.Fatal(err)
			}
			r.t.Cleanup(func() { ln.Close() })
			c.Relay, c.ConnectTimeout = ln.Addr().String(), time.Second
		}, "handshake-timeout", "relay"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := startRelay(t, echoStore(t))
			start := time.Now()
			c := startClient(t, r, func(cfg *Config) { tc.change(r, cfg) })
			// Who waits for a stream learns it, too.
			_, openErr := c.Open(t.Context(), testTarget)
			err := c.ended()
			if d := time.Since(start); d > 10*time.Second {
				t.Errorf("it went on for %v", d)
			}
			var named interface {
				Code() string
				Hop() string
				Advice() string
			}
			if !errors.As(err, &named) || named.Code() != tc.code || named.Hop() != tc.hop || named.Advice() == "" {
				t.Errorf("got %v (%#v)", err, named)
			}
			if codeOf(openErr) != tc.code {
				t.Errorf("Open: %v", openErr)
			}
		})
	}
}

func TestClientRenewsItsCertificate(t *testing.T) {
	r := startRelay(t, echoStore(t))
	r.life = 3 * time.Second
	tc := startClient(t, r, nil)
	addr := tc.forward()
	c := dialTCP(t, addr)
	c.Write([]byte("before "))
	first := tc.awaitCertificate(nil)
	second := tc.awaitCertificate(first)
	if now := time.Now(); now.After(first.NotAfter) {
		t.Errorf("renewed %v after the certificate's end", now.Sub(first.NotAfter))
	}
	tc.awaitCertificate(second)
	c.Write([]byte("and after"))
	c.CloseWrite()
	if got, err := io.ReadAll(c); string(got) != "before and after" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	// What is opened now shows a certificate that is valid.
	r.drop(tunnel.RoleClient)
	r.drop(tunnel.RoleBulk)
	until(t, "a new session works", func() bool {
		s, err := tc.Open(t.Context(), testTarget)
		if err != nil {
			return false
		}
		s.Reset(bundle.CodeJobReset)
		return true
	})
}

// awaitCertificate waits for another certificate than old.
func (tc *testClient) awaitCertificate(old *x509.Certificate) (leaf *x509.Certificate) {
	tc.t.Helper()
	until(tc.t, "another certificate", func() bool {
		c := tc.holder.Certificate()
		if c == nil || c.Leaf == old {
			return false
		}
		leaf = c.Leaf
		return true
	})
	return leaf
}

// Streams outlive the session: they go on over the next one.
func TestClientComesBackToItsStreams(t *testing.T) {
	r := startRelay(t, echoStore(t))
	tc := startClient(t, r, nil)
	addr := tc.forward()
	c := dialTCP(t, addr)
	for i := range 5 {
		sent := bytes.Repeat([]byte{byte(i)}, 100_000)
		c.Write(sent)
		if i > 0 {
			r.drop(tunnel.RoleBulk)
			r.drop(tunnel.RoleClient)
		}
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("round %d: %v; the same bytes: %v", i, err, bytes.Equal(got, sent))
		}
	}
	roundTrip(t, addr, 100_000)
	r.change(func() {
		if r.resumed == 0 {
			t.Error("no lane was asked for again")
		}
	})
}

// Without a grace they end with it.
func TestClientComesBackWithoutStreams(t *testing.T) {
	r := startRelay(t, echoStore(t))
	tc := startClient(t, r, func(cfg *Config) { cfg.ResumeGrace = -1 })
	addr := tc.forward()
	c := dialTCP(t, addr)
	c.Write([]byte("x"))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	r.drop(tunnel.RoleBulk)
	r.drop(tunnel.RoleClient)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("with its session lost, the job read %v", err)
	}
	roundTrip(t, addr, 100_000)
	if !strings.Contains(tc.log.String(), "reason=lanes-lost") {
		t.Error("the reason is not in the log")
	}
}

func TestClientRevoked(t *testing.T) {
	r := startRelay(t, echoStore(t))
	tc := startClient(t, r, nil)
	addr := tc.forward()
	c := dialTCP(t, addr)
	c.Write([]byte("x"))
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	r.change(func() { r.revoked = true })
	r.drop(tunnel.RoleBulk)
	r.drop(tunnel.RoleClient)
	if err := tc.ended(); codeOf(err) != "revoked" {
		t.Errorf("got %v", err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the job read %v", err)
	}
}

func TestClientChecksWhoAnswersALane(t *testing.T) {
	for _, answering := range []string{"two", "forged"} {
		r := startRelay(t, echoStore(t))
		r.answering = answering
		tc := startClient(t, r, nil)
		_, err := tc.Open(t.Context(), testTarget)
		var e *Error
		if !errors.As(err, &e) || e.Code() != "node-unverified" || e.Hop() != "node" {
			t.Errorf("%s: %v", answering, err)
		}
		if n := r.node.opened(); len(n) != 0 {
			t.Errorf("%s: streams were opened: %q", answering, n)
		}
	}
}

func TestClientChecksWhereAGrantLeads(t *testing.T) {
	r := startRelay(t, echoStore(t))
	tc := startClient(t, r, nil)
	for _, node := range []string{
		"", "one", "spiffe://" + testDomain + "/relay/relay",
		"spiffe://" + testDomain + "/tenant/default/gateway/other/node/one",
		"spiffe://" + testDomain + "/tenant/other/gateway/corp/node/one",
		"spiffe://other.example/tenant/default/gateway/corp/node/one",
	} {
		r.change(func() { r.grantNode = node })
		if _, err := tc.Open(t.Context(), testTarget); codeOf(err) != "grant-malformed" {
			t.Errorf("%q: %v", node, err)
		}
	}
}

// A grant ends by the relay's clock, which may differ from ours.
func TestClientUsesTheRelaysClock(t *testing.T) {
	r := startRelay(t, echoStore(t))
	tc := startClient(t, r, nil)
	if _, err := tc.sessions.awaitControl(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	s, clock := tc.sessions.of(0)
	if ahead := time.Until(clock.Now()); ahead.Abs() > 30*time.Second {
		t.Errorf("a relay on the same machine is %v ahead", ahead)
	}
	for skew, want := range map[time.Duration]time.Duration{
		0: time.Minute, 30 * time.Second: 30 * time.Second, 10 * time.Minute: -9 * time.Minute, -10 * time.Minute: maxGrantLife,
	} {
		clock := new(tunnel.Clock)
		clock.Set(time.Now().Add(skew), time.Now())
		tc.sessions.up(0, tunnel.RoleClient, s, clock)
		g, err := tc.grant(t.Context(), testTarget, "", 0)
		if err != nil {
			t.Fatal(err)
		}
		if left := time.Until(g.expires); (left - want).Abs() > 5*time.Second {
			t.Errorf("with a relay %v ahead a grant of a minute lasts %v, want %v", skew, left, want)
		}
	}
}

func TestSessionsThatGo(t *testing.T) {
	s := newSessions()
	first, second := tunnel.NewSession(nil, tunnel.SessionConfig{}), tunnel.NewSession(nil, tunnel.SessionConfig{})
	control := func() *tunnel.Session {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		got, _ := s.awaitControl(ctx, 0)
		return got
	}
	if control() != nil {
		t.Error("a session from nowhere")
	}
	s.up(0, tunnel.RoleClient, first, nil)
	s.up(0, tunnel.RoleBulk, second, nil)
	if control() != first {
		t.Error("the session that is up is not given")
	}
	s.up(0, tunnel.RoleClient, second, nil) // a better one; then the old one ends
	s.down(0, first)
	if control() != second {
		t.Error("the better session is not given")
	}
	s.down(0, second)
	if control() != nil {
		t.Error("a session that is over is given")
	}
	s.end(net.ErrClosed)
	if _, err := s.awaitControl(t.Context(), 0); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	token := tokenFile(t, certs.Token{JobID: strings.Repeat("0", 32), Secret: certs.NewSecret()})
	for _, tc := range []struct {
		name string
		cfg  Config
		env  map[string]string
		code string // "": none
	}{
		{"all from the environment", Config{}, map[string]string{"EBBGATE_RELAY": "relay.example.com", "EBBGATE_JOB_TOKEN_FILE": token}, ""},
		{"token from standard input", Config{Relay: "relay.example.com:8443", TokenFile: "-", Stdin: strings.NewReader(readFile(t, token))}, nil, ""},
		{"IPv6", Config{Relay: "[::1]:8443", TokenFile: token}, nil, ""},
		{"IPv6 without a port", Config{Relay: "::1", TokenFile: token}, nil, ""},
		{"no relay", Config{TokenFile: token}, nil, "relay-missing"},
		{"port 0", Config{Relay: "relay.example.com:0", TokenFile: token}, nil, "relay-malformed"},
		{"port name", Config{Relay: "relay.example.com:https", TokenFile: token}, nil, "relay-malformed"},
		{"URL", Config{Relay: "https://relay.example.com/", TokenFile: token}, nil, "relay-malformed"},
		{"list", Config{Relay: "a.example.com, b.example.com:8443", TokenFile: token}, nil, ""},
		{"list with a gap", Config{Relay: "a.example.com,,b.example.com", TokenFile: token}, nil, "relay-missing"},
		{"no token", Config{Relay: "relay.example.com"}, nil, "token-missing"},
		{"token file missing", Config{Relay: "relay.example.com", TokenFile: token + "x"}, nil, "token-unreadable"},
		{"token too long", Config{Relay: "relay.example.com", TokenFile: "-", Stdin: strings.NewReader(strings.Repeat("x", 5000))}, nil, "token-unreadable"},
		{"a gateway's key", Config{Relay: "relay.example.com", TokenFile: "-", Stdin: strings.NewReader("ebbkey_AAAA")}, nil, "token-malformed"},
		{"token cut off", Config{Relay: "relay.example.com", TokenFile: "-", Stdin: strings.NewReader(readFile(t, token)[:50])}, nil, "token-malformed"},
		{"carrier", Config{Relay: "relay.example.com", TokenFile: token, Carriers: []string{"pigeon"}}, nil, "carrier-unknown"},
		{"carrier twice", Config{Relay: "relay.example.com", TokenFile: token, Carriers: []string{"tls", "tls"}}, nil, "carrier-unknown"},
		{"run", Config{Relay: "relay.example.com", TokenFile: token, Run: strings.Repeat("x", 129)}, nil, "run-invalid"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.cfg.Environment = func(name string) string { return tc.env[name] }
			c, err := New(tc.cfg)
			if codeOf(err) != tc.code || (err == nil) != (c != nil) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	tok, err := readToken(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return tok.Encode()
}
