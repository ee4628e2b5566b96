package demo

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/Azure/go-ntlmssp"
)

func listenTCP(t *testing.T) *net.TCPListener {
	t.Helper()
	ln, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// serveInTest runs serve until the test ends and reports what it returned.
func serveInTest(t *testing.T, serve func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serve(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("serve: %v", err)
			}
		case <-time.After(10 * time.Second):
			t.Error("serve does not end")
		}
	})
	t.Cleanup(stop)
	return stop
}

func startProxy(t *testing.T, allow string) (p *Proxy, addr string, stop func()) {
	t.Helper()
	ln := listenTCP(t)
	p = NewProxy(ProxyConfig{Allow: allow, Domain: "CORP", DNSDomain: "corp.example", User: "svc-ebbgate", Password: "tide-out"})
	stop = serveInTest(t, func(ctx context.Context) error { return p.Serve(ctx, ln) })
	return p, ln.Addr().String(), stop
}

// proxyClient is a connection to the proxy that speaks one request at a time.
type proxyClient struct {
	t    *testing.T
	conn *net.TCPConn
	r    *bufio.Reader
}

func dialProxy(t *testing.T, addr string) *proxyClient {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	return &proxyClient{t: t, conn: conn.(*net.TCPConn), r: bufio.NewReader(conn)}
}

func (c *proxyClient) connect(target, authorization, more string) *http.Response {
	c.t.Helper()
	request := "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n"
	if authorization != "" {
		request += "Proxy-Authorization: " + authorization + "\r\n"
	}
	if _, err := io.WriteString(c.conn, request+"\r\n"+more); err != nil {
		c.t.Fatal(err)
	}
	resp, err := http.ReadResponse(c.r, &http.Request{Method: http.MethodConnect})
	if err != nil {
		c.t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		// For CONNECT, net/http leaves the body of a refusal to us.
		if _, err := io.CopyN(io.Discard, c.r, resp.ContentLength); err != nil {
			c.t.Fatal(err)
		}
	}
	return resp
}

// legs authenticates with a public NTLM client, on this one connection.
func (c *proxyClient) legs(target, user, password, more string) *http.Response {
	c.t.Helper()
	hello, err := ntlmssp.NewNegotiateMessage("", "")
	if err != nil {
		c.t.Fatal(err)
	}
	resp := c.connect(target, "NTLM "+base64.StdEncoding.EncodeToString(hello), "")
	value, ok := strings.CutPrefix(resp.Header.Get("Proxy-Authenticate"), "NTLM ")
	if resp.StatusCode != http.StatusProxyAuthRequired || !ok {
		c.t.Fatalf("no challenge: %s %v", resp.Status, resp.Header)
	}
	challenge, err := base64.StdEncoding.DecodeString(value)
	if err != nil {
		c.t.Fatal(err)
	}
	answer, err := ntlmssp.NewAuthenticateMessage(challenge, user, password, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	return c.connect(target, "NTLM "+base64.StdEncoding.EncodeToString(answer), more)
}

// echo accepts connections and sends back what it gets, ends included.
func echo(t *testing.T) string {
	t.Helper()
	ln := listenTCP(t)
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				if _, err := io.Copy(c, c); err == nil {
					c.CloseWrite()
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); conns.Wait() })
	return ln.Addr().String()
}

func TestProxyTunnels(t *testing.T) {
	target := echo(t)
	p, addr, _ := startProxy(t, target)
	c := dialProxy(t, addr)
	if resp := c.connect(target, "", ""); resp.StatusCode != http.StatusProxyAuthRequired || resp.Header.Get("Proxy-Authenticate") != "NTLM" {
		t.Fatalf("without a credential: %s %v", resp.Status, resp.Header)
	}
	if resp := c.connect(target, "Basic "+base64.StdEncoding.EncodeToString([]byte(`CORP\svc-ebbgate:tide-out`)), ""); resp.StatusCode != http.StatusProxyAuthRequired {
		t.Fatalf("with Basic: %s", resp.Status)
	}
	// The first bytes of the tunnel travel with the request.
	if resp := c.legs(target, `CORP\svc-ebbgate`, "tide-out", "pipelined "); resp.StatusCode != http.StatusOK {
		t.Fatalf("with the credential: %s", resp.Status)
	}
	body := make([]byte, 1<<20)
	rand.Read(body)
	var writer sync.WaitGroup
	writer.Go(func() {
		c.conn.Write(body)
		c.conn.CloseWrite()
	})
	got, err := io.ReadAll(c.r)
	writer.Wait()
	if err != nil {
		t.Fatal(err)
	}
	if want := append([]byte("pipelined "), body...); !bytes.Equal(got, want) {
		t.Errorf("got %d bytes back, want %d", len(got), len(want))
	}
	s := p.Stats()
	if s.Connections != 1 || s.Tunnels != 1 || s.Refused != 0 || s.Sent != int64(len(got)) || s.Received != int64(len(got)) {
		t.Errorf("stats %+v", s)
	}
}

func TestProxyRefuses(t *testing.T) {
	target := echo(t)
	p, addr, _ := startProxy(t, target)

	c := dialProxy(t, addr)
	for _, user := range []string{`CORP\svc-ebbgate`, `CORP\other`} {
		resp := c.legs(target, user, "tide-in", "")
		if resp.StatusCode != http.StatusProxyAuthRequired || resp.Header.Get("Proxy-Authenticate") != "NTLM" {
			t.Errorf("wrong password of %s: %s %v", user, resp.Status, resp.Header)
		}
	}
	// The connection is still usable, by who has the password.
	if resp := c.legs("192.0.2.1:443", `CORP\svc-ebbgate`, "tide-out", ""); resp.StatusCode != http.StatusForbidden {
		t.Errorf("another destination: %s", resp.Status)
	}
	if got, want := p.Stats(), (ProxyStats{Connections: 1, Refused: 2, Denied: 1}); got != want {
		t.Errorf("stats %+v, want %+v", got, want)
	}

	// What one connection proved is worth nothing on the next.
	if resp := dialProxy(t, addr).connect(target, "", ""); resp.StatusCode != http.StatusProxyAuthRequired {
		t.Errorf("a second connection: %s", resp.Status)
	}
	c = dialProxy(t, addr)
	var last *http.Response
	for range proxyLegs + 1 {
		last = c.connect(target, "NTLM garbage", "")
	}
	if last.StatusCode != http.StatusForbidden || !last.Close {
		t.Errorf("after %d bad attempts: %s", proxyLegs+1, last.Status)
	}
}

func TestProxyDestinationDown(t *testing.T) {
	ln := listenTCP(t)
	target := ln.Addr().String()
	ln.Close()
	_, addr, _ := startProxy(t, target)
	if resp := dialProxy(t, addr).legs(target, `CORP\svc-ebbgate`, "tide-out", ""); resp.StatusCode != http.StatusBadGateway {
		t.Errorf("got %s", resp.Status)
	}
}

func TestProxyKeepsResets(t *testing.T) {
	ln := listenTCP(t)
	_, addr, _ := startProxy(t, ln.Addr().String())
	c := dialProxy(t, addr)
	if resp := c.legs(ln.Addr().String(), `CORP\svc-ebbgate`, "tide-out", ""); resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	far, err := ln.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	far.SetLinger(0)
	far.Close()
	if _, err := c.r.ReadByte(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after a reset the client read %v", err)
	}
}

func TestProxyStopsWithOpenTunnels(t *testing.T) {
	target := echo(t)
	_, addr, stop := startProxy(t, target)
	c := dialProxy(t, addr)
	if resp := c.legs(target, `CORP\svc-ebbgate`, "tide-out", ""); resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	idle := dialProxy(t, addr)
	idle.connect(target, "", "")
	stop()
	if _, err := c.r.ReadByte(); err == nil {
		t.Error("the tunnel is still open")
	}
	if _, err := idle.r.ReadByte(); err == nil {
		t.Error("the idle connection is still open")
	}
}
