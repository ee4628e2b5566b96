package proxycfg

import (
	"bufio"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const target = "relay.example.com:443"

// fakeProxy is a proxy on loopback. After its 200 it echoes.
type fakeProxy struct {
	t    *testing.T
	ln   net.Listener
	wait sync.WaitGroup

	// Set before the first connection.
	offers       []string // Proxy-Authenticate lines; none: it asks for nothing
	account      ntlmAccount
	keepAliveOff bool                      // closes after the first 407
	silentClose  bool                      // and does not say so
	chunked      bool                      // bodies of 407
	bodySize     int                       // of 407
	status       string                    // after authentication; empty: 200
	early        string                    // sent together with the 200
	onAttempt    func(n int) (hangUp bool) // before an attempt is answered
	onHandshake  func(begin bool)          // NTLM's first message came, third came

	mu       sync.Mutex
	conns    map[net.Conn]bool
	accepted int
	requests int
	attempts int
	flags    []byte // first byte of the flags of each first message
}

func newFakeProxy(t *testing.T, offers ...string) *fakeProxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeProxy{
		t: t, ln: ln, offers: offers, conns: map[net.Conn]bool{},
		account:  ntlmAccount{"CORP", "svc", "pa:ss w%rd"},
		bodySize: 700,
	}
	f.wait.Add(1)
	go f.accept()
	t.Cleanup(func() {
		_ = ln.Close()
		f.mu.Lock()
		for c := range f.conns {
			_ = c.Close()
		}
		f.mu.Unlock()
		f.wait.Wait()
	})
	return f
}

func (f *fakeProxy) url() string  { return "http://" + f.ln.Addr().String() }
func (f *fakeProxy) addr() string { return f.ln.Addr().String() }

type counts struct{ Conns, Requests, Attempts int }

func (f *fakeProxy) counts() counts {
	f.mu.Lock()
	defer f.mu.Unlock()
	return counts{f.accepted, f.requests, f.attempts}
}

func (f *fakeProxy) accept() {
	defer f.wait.Done()
	for {
		c, err := f.ln.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		f.accepted++
		f.conns[c] = true
		f.mu.Unlock()
		f.wait.Add(1)
		go f.serve(c)
	}
}

func (f *fakeProxy) serve(c net.Conn) {
	defer f.wait.Done()
	handshake := false
	end := func() {
		if handshake && f.onHandshake != nil {
			f.onHandshake(false)
		}
		handshake = false
	}
	defer func() {
		end()
		f.mu.Lock()
		delete(f.conns, c)
		f.mu.Unlock()
		_ = c.Close()
	}()
	br := bufio.NewReader(c)
	for {
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		f.mu.Lock()
		f.requests++
		f.mu.Unlock()
		upgrade := req.Method == http.MethodGet && req.RequestURI == "http://relay.example.com/tunnel" && req.Host == "relay.example.com" && req.Header.Get("Upgrade") == "websocket"
		if !upgrade && (req.Method != http.MethodConnect || req.RequestURI != req.Host) {
			f.t.Errorf("proxy got %s %s with Host %s", req.Method, req.RequestURI, req.Host)
			return
		}
		scheme, token, _ := strings.Cut(req.Header.Get("Proxy-Authorization"), " ")
		switch scheme {
		case "":
			if len(f.offers) == 0 {
				f.tunnel(c, br, req.Method)
				return
			}
			if !f.deny(c, f.offers, f.keepAliveOff) {
				return
			}
		case "Basic":
			pair, _ := base64.StdEncoding.DecodeString(token)
			user, password, _ := strings.Cut(string(pair), ":")
			if f.attempt() {
				return
			}
			if f.offering("basic") && strings.HasSuffix(user, f.account.user) && password == f.account.password {
				f.tunnel(c, br, req.Method)
				return
			}
			if !f.deny(c, f.offers, f.keepAliveOff) {
				return
			}
		case "NTLM":
			kind, m := ntlmType(token)
			switch {
			case kind == 1 && f.offering("ntlm"):
				handshake = true
				if f.onHandshake != nil {
					f.onHandshake(true)
				}
				f.mu.Lock()
				f.flags = append(f.flags, m[12])
				f.mu.Unlock()
				if !f.deny(c, []string{"NTLM " + base64.StdEncoding.EncodeToString(ntlmChallengeMessage())}, false) {
					return
				}
			case kind == 3 && handshake:
				end()
				if f.attempt() {
					return
				}
				if err := f.account.check(m); err == nil {
					f.tunnel(c, br, req.Method)
					return
				}
				if !f.deny(c, f.offers, f.keepAliveOff) {
					return
				}
			default:
				if !f.deny(c, f.offers, false) {
					return
				}
			}
		default:
			f.t.Errorf("proxy got the scheme %q", scheme)
			return
		}
	}
}

// attempt counts one. True: the proxy hangs up in place of an answer.
func (f *fakeProxy) attempt() bool {
	f.mu.Lock()
	f.attempts++
	n := f.attempts
	f.mu.Unlock()
	return f.onAttempt != nil && f.onAttempt(n)
}

func (f *fakeProxy) offering(scheme string) bool {
	for _, line := range f.offers {
		for _, c := range parseChallenges([]string{line}) {
			if strings.EqualFold(c.scheme, scheme) {
				return true
			}
		}
	}
	return false
}

// deny answers 407. False: the connection ends.
func (f *fakeProxy) deny(c net.Conn, offers []string, hangUp bool) bool {
	var b strings.Builder
	b.WriteString("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Type: text/html\r\n")
	for _, o := range offers {
		fmt.Fprintf(&b, "Proxy-Authenticate: %s\r\n", o)
	}
	if hangUp && !f.silentClose {
		b.WriteString("Connection: close\r\n")
	}
	body := strings.Repeat("x", f.bodySize)
	if f.chunked {
		fmt.Fprintf(&b, "Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	} else {
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body), body)
	}
	_, err := io.WriteString(c, b.String())
	return err == nil && !hangUp
}

func (f *fakeProxy) tunnel(c net.Conn, br *bufio.Reader, method string) {
	if f.status != "" {
		_, _ = io.WriteString(c, "HTTP/1.1 "+f.status+"\r\nContent-Length: 0\r\n\r\n")
		return
	}
	answer := "200 Connection established\r\n"
	if method == http.MethodGet {
		answer = "101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Test: far end\r\n"
	}
	_, _ = io.WriteString(c, "HTTP/1.1 "+answer+"\r\n"+f.early)
	_, _ = io.Copy(c, br)
}

// script is a proxy that answers each request on each connection with the next
// of some texts, and says nothing more.
func script(t *testing.T, answers ...string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	serve := func(c net.Conn) {
		defer wg.Done()
		br := bufio.NewReader(c)
		for {
			if _, err := http.ReadRequest(br); err != nil {
				return
			}
			mu.Lock()
			if len(answers) == 0 {
				mu.Unlock()
				continue
			}
			text := answers[0]
			answers = answers[1:]
			mu.Unlock()
			text, hangUp := strings.CutSuffix(text, "<end>")
			_, _ = io.WriteString(c, text)
			if hangUp {
				_ = c.Close()
				return
			}
		}
	}
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Add(1)
			go serve(c)
		}
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return "http://" + ln.Addr().String()
}

// passwordFile writes one.
func passwordFile(t *testing.T, password string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(path, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func newProxy(t *testing.T, set Settings) *Proxy {
	t.Helper()
	p, err := New(set, slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// testLog is a log in a test's output.
type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func dial(t *testing.T, p *Proxy) (net.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return p.DialContext(ctx, "tcp", target)
}

// mustEcho dials and sees an echo.
func mustEcho(t *testing.T, p *Proxy) {
	t.Helper()
	conn, err := dial(t, p)
	if err != nil {
		t.Fatalf("dial: %v", err)
	}
	defer conn.Close()
	echo(t, conn)
}

func echo(t *testing.T, conn net.Conn) {
	t.Helper()
	if _, err := io.WriteString(conn, "ping"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4)
	if _, err := io.ReadFull(conn, buf); err != nil || string(buf) != "ping" {
		t.Fatalf("echo: %q, %v", buf, err)
	}
}

// wantCode checks an error's type and code.
func wantCode(t *testing.T, err error, code string) *Error {
	t.Helper()
	e, ok := err.(*Error) // DialContext promises exactly this type
	if !ok {
		t.Fatalf("error is %T %v, want *Error with code %s", err, err, code)
	}
	if e.Code() != code {
		t.Fatalf("code %s, want %s: %v", e.Code(), code, e)
	}
	if e.Advice() == "" && code != CodeCanceled {
		t.Errorf("no advice: %v", e)
	}
	return e
}
