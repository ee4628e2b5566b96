package loopback

import (
	"bufio"
	"context"
	"encoding/base64"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/rig"
)

// proxyAt serves each connection with a function until the test ends, and returns its address.
func proxyAt(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var open sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		_ = ln.Close()
		open.Wait()
	})
	open.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			open.Go(func() {
				defer func() { _ = conn.Close() }()
				defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
				serve(conn)
			})
		}
	})
	return ln.Addr().String()
}

// answer returns a proxy that gives every request the same answer, and then either keeps the connection or closes it.
func answer(text string, keep bool) func(net.Conn) {
	return func(conn net.Conn) {
		r := bufio.NewReader(conn)
		for {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			if _, err := io.WriteString(conn, strings.ReplaceAll(text, "\n", "\r\n")); err != nil {
				return
			}
			if !keep {
				return
			}
			if strings.Contains(text, " 200 ") {
				_, _ = io.Copy(io.Discard, r)
				return
			}
		}
	}
}

// TestBrokenProxies registers through proxies that misbehave. Each failure names the hop and what was seen.
func TestBrokenProxies(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 4*time.Minute)
	relay := startRelay(ctx, t)
	keys, err := relay.CreateGateway(ctx, corp)
	if err != nil {
		t.Fatal(err)
	}
	const page = "<html><body>Welcome to the guest network. Please log in.</body></html>"
	at := func(serve func(net.Conn)) string { return "http://" + proxyAt(t, serve) }
	challenge := func(scheme string) string {
		return "HTTP/1.1 407 Proxy Authentication Required\nProxy-Authenticate: " + scheme + "\nContent-Length: 0\n\n"
	}
	for _, test := range []struct {
		name, url, user string
		code, hop       string
	}{
		{"200 and nothing", at(answer("HTTP/1.1 200 OK\n\n", true)), "", "proxy-tunnel-silent", "proxy"},
		{"200 and the end", at(answer("HTTP/1.1 200 OK\n\n", false)), "", "proxy-tunnel-closed", "proxy"},
		{"200 and garbage", at(answer("HTTP/1.1 200 OK\n\nSSH-2.0-nonsense\n", true)), "", "proxy-tunnel-garbage", "proxy"},
		{"a portal's page", at(answer("HTTP/1.1 200 OK\nContent-Type: text/html\n\n"+page, true)), "", "proxy-page", "proxy"},
		{"a redirection to a portal", at(answer("HTTP/1.1 302 Found\nLocation: http://login.example/\nContent-Length: 0\n\n", true)), "", "proxy-page", "proxy"},
		{"HTML without HTTP", at(answer(page, false)), "", "proxy-not-http", "proxy"},
		{"another protocol", at(func(c net.Conn) { greet(c, "220 mail.example ESMTP\r\n") }), "", "proxy-not-http", "proxy"},
		{"502", at(answer("HTTP/1.1 502 Bad Gateway\nContent-Type: text/html\nContent-Length: 5\n\noops\n", true)), "", "proxy-bad-gateway", "proxy"},
		{"503", at(answer("HTTP/1.1 503 Service Unavailable\nContent-Length: 0\n\n", true)), "", "proxy-unavailable", "proxy"},
		{"403", at(answer("HTTP/1.1 403 Forbidden\nContent-Length: 0\n\n", true)), "", "proxy-forbidden", "proxy"},
		{"closes without an answer", at(func(net.Conn) {}), "", "proxy-closed", "proxy"},
		{"silence", at(func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }), "", "proxy-timeout", "proxy"},
		{"endless header", at(func(c net.Conn) { forever(c, "HTTP/1.1 200 OK\r\nX-Filler: "+strings.Repeat("x", 8000)) }), "", "proxy-header-too-large", "proxy"},
		{"407 and no account", at(answer(challenge(`Basic realm="corp"`), true)), "", "proxy-auth-required", "proxy-auth"},
		{"407 with a scheme that we lack", at(answer(challenge("Kerberos"), true)), "user", "proxy-auth-unsupported", "proxy-auth"},
		{"407 without a scheme", at(answer("HTTP/1.1 407 Proxy Authentication Required\nContent-Length: 0\n\n", true)), "user", "proxy-auth-unsupported", "proxy-auth"},
		{"407 whatever comes", at(answer(challenge(`Basic realm="corp"`), true)), "user", "proxy-credential-refused", "proxy-auth"},
		{"a broken NTLM challenge", at(answer(challenge("NTLM TlRMTVNTUAACAAAA"), true)), "user", "proxy-ntlm-broken", "proxy-auth"},
		{"nobody there", "http://" + rig.FreePort(t), "", "proxy-connection-refused", "tcp"},
		{"no such name", "http://no-such-proxy.invalid:3128", "", "proxy-unresolved", "dns"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c, err := rig.Configure(rig.Program{Path: binary}, rig.ConnectorOptions{
				Dir: t.TempDir(), Relay: relay.Address, Key: keys.Key1, Name: node,
				Proxy: rig.Proxy{URL: test.url, Username: test.user, Password: "hunter2-hunter2"},
			})
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			err = c.Register(ctx)
			wantFailure(t, err, test.code, test.hop, strings.TrimPrefix(test.url, "http://"))
			if took := time.Since(began); took > time.Minute { // an attempt has 20 s
				t.Errorf("took %v", took)
			}
			if err != nil && (strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), keys.Key1)) {
				t.Errorf("a secret stands in %v", err)
			}
		})
	}
}

// greet speaks first, as no proxy does.
func greet(c net.Conn, text string) {
	_, _ = io.WriteString(c, text)
	_, _ = io.Copy(io.Discard, c)
}

// forever writes a text again and again until the other end hangs up.
func forever(c net.Conn, text string) {
	for {
		if _, err := io.WriteString(c, text); err != nil {
			return
		}
	}
}

// basicProxy is a proxy with Basic authentication that counts attempts.
type basicProxy struct {
	password atomic.Pointer[string]
	good     atomic.Int32 // CONNECT requests with the right password
	bad      atomic.Int32 // with a wrong one
}

const proxyUser = "svc"

func (p *basicProxy) serve(conn net.Conn) {
	r := bufio.NewReader(conn)
	for {
		request, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		proof := base64.StdEncoding.EncodeToString([]byte(proxyUser + ":" + *p.password.Load()))
		switch request.Header.Get("Proxy-Authorization") {
		case "Basic " + proof:
			p.good.Add(1)
			p.splice(conn, r, request.Host)
			return
		case "":
		default:
			p.bad.Add(1)
		}
		if _, err := io.WriteString(conn, "HTTP/1.1 407 Proxy Authentication Required\r\n"+
			"Proxy-Authenticate: Basic realm=\"corp\"\r\nContent-Length: 0\r\n\r\n"); err != nil {
			return
		}
	}
}

func (p *basicProxy) splice(conn net.Conn, r io.Reader, target string) {
	out, err := net.Dial("tcp", target)
	if err != nil {
		_, _ = io.WriteString(conn, "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
		return
	}
	defer func() { _ = out.Close() }()
	if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(conn, out)
		_ = conn.Close()
	})
	_, _ = io.Copy(out, r)
	_ = out.Close()
	back.Wait()
}

// TestWrongProxyPassword counts what a wrong password costs: one attempt, however often the connector is started,
// until the password file changes.
func TestWrongProxyPassword(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 4*time.Minute)
	relay := startRelay(ctx, t)
	keys, err := relay.CreateGateway(ctx, corp)
	if err != nil {
		t.Fatal(err)
	}
	right, renewed := "right", "renewed"
	proxy := &basicProxy{}
	proxy.password.Store(&right)
	c, err := rig.Configure(rig.Program{Path: binary}, rig.ConnectorOptions{
		Dir: t.TempDir(), Relay: relay.Address, Key: keys.Key1, Name: node,
		Proxy: rig.Proxy{URL: "http://" + proxyAt(t, proxy.serve), Username: proxyUser, Password: right},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Register(ctx); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := relay.Await(ctx, corp, node, rig.Online); err != nil {
		t.Fatal(err)
	}
	if proxy.bad.Load() != 0 || proxy.good.Load() == 0 {
		t.Fatalf("%d good and %d bad attempts", proxy.good.Load(), proxy.bad.Load())
	}
	c.Kill()

	proxy.password.Store(&renewed) // the company changes it
	good := proxy.good.Load()
	for start := range 4 {
		if err := c.Launch(); err != nil {
			t.Fatal(err)
		}
		if err := c.AwaitRefused(ctx); err != nil {
			t.Errorf("start %d: %v", start, err)
		}
		c.Kill()
		if n := proxy.bad.Load(); n != 1 {
			t.Fatalf("start %d: %d attempts with the wrong password, want 1", start, n)
		}
	}
	if err := os.WriteFile(filepath.Join(c.Options.Dir, "proxy-password"), []byte(renewed+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(ctx); err != nil {
		t.Fatal(err)
	}
	defer c.Kill()
	if _, err := relay.Await(ctx, corp, node, rig.Online); err != nil {
		t.Fatal(err)
	}
	if proxy.bad.Load() != 1 || proxy.good.Load() == good {
		t.Errorf("after the repair: %d good and %d bad attempts", proxy.good.Load()-good, proxy.bad.Load())
	}
}
