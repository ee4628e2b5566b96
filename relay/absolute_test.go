package relay

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/ebbgate/ebbgate/tunnel"
)

// httpStore is a store that answers each connection as a function says.
type httpStore struct {
	address string
	conns   atomic.Int32
	ends    chan error // how each connection's input ended, where it was read to its end
}

func startHTTPStore(t testing.TB, serve func(conn *net.TCPConn, in *bufio.Reader) error) *httpStore {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s := &httpStore{address: l.Addr().String(), ends: make(chan error, 1000)}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.conns.Add(1)
			go func() {
				defer conn.Close()
				s.ends <- serve(conn.(*net.TCPConn), bufio.NewReader(conn))
			}()
		}
	}()
	return s
}

// requests answers every request on a connection with a text.
func requests(answer string) func(*net.TCPConn, *bufio.Reader) error {
	return func(conn *net.TCPConn, in *bufio.Reader) error {
		for {
			r, err := http.ReadRequest(in)
			if err != nil {
				return err
			}
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return err
			}
			if _, err := io.WriteString(conn, answer); err != nil {
				return err
			}
		}
	}
}

// serveAt makes a gateway, a node with a store at an address, and a job.
func (r *running) serveAt(store string) (token string) {
	r.t.Helper()
	if _, err := r.api.CreateGateway(r.t.Context(), "default", "corp"); err != nil {
		r.t.Fatal(err)
	}
	n, err := r.register(tunnel.TLS, "corp", "n1")
	if err != nil {
		r.t.Fatal(err)
	}
	r.online(n, tunnel.TLS, store)
	job, err := r.api.CreateJob(r.t.Context(), "default", "nightly", []string{"corp/echo"})
	if err != nil {
		r.t.Fatal(err)
	}
	return job.Token
}

// proxies are the ways to the HTTP proxy.
var proxies = []string{"http", "https"}

// proxy connects to the HTTP proxy.
func (r *running) proxy(scheme string) net.Conn {
	r.t.Helper()
	if scheme == "http" {
		conn, err := net.Dial("tcp", r.ready.Connect)
		if err != nil {
			r.t.Fatal(err)
		}
		r.t.Cleanup(func() { conn.Close() })
		return conn
	}
	raw, err := net.Dial("tcp", r.ready.TLS)
	if err != nil {
		r.t.Fatal(err)
	}
	conn := tls.Client(honestTCP{raw}, &tls.Config{InsecureSkipVerify: true})
	r.t.Cleanup(func() { raw.Close() })
	return conn
}

// honestTCP tells a bare FIN from an end, for tests of TLS.
type honestTCP struct{ net.Conn }

func (h honestTCP) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	if errors.Is(err, io.EOF) {
		err = errBareFIN
	}
	return n, err
}

var errBareFIN = errors.New("a FIN without close_notify")

// ask sends the head of a request in absolute form; a text without method gets GET.
func ask(conn net.Conn, token, line, rest string) {
	fmt.Fprintf(conn, "%s\r\nHost: ignored\r\nProxy-Authorization: Basic %s\r\n%s", line, base64.StdEncoding.EncodeToString([]byte("nightly:"+token)), rest)
}

const get = "GET http://echo.corp:0/x?y=1 HTTP/1.1"

func TestAbsoluteForm(t *testing.T) {
	got := make(chan *http.Request, 10)
	store := startHTTPStore(t, func(conn *net.TCPConn, in *bufio.Reader) error {
		for {
			r, err := http.ReadRequest(in)
			if err != nil {
				return err
			}
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return err
			}
			got <- r
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nKeep-Alive: timeout=5\r\nEbbgate-Error: forged\r\nProxy-Authenticate: Basic\r\nX-Store: yes\r\n\r\n%s", len(body)+5, "body:"+string(body))
		}
	})
	r := startRelay(t, 0)
	token := r.serveAt(store.address)
	for _, scheme := range proxies {
		t.Run(scheme, func(t *testing.T) {
			before := store.conns.Load()
			conn := r.proxy(scheme)
			in := bufio.NewReader(conn)
			const times = 10
			for i := range times {
				ask(conn, token, "POST http://echo.corp:0/x?y=1 HTTP/1.1", "Proxy-Connection: keep-alive\r\nX-Forwarded-For: me\r\nConnection: X-Hop\r\nX-Hop: 1\r\nContent-Length: 4\r\n\r\ndata")
				answer, err := http.ReadResponse(in, nil)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(answer.Body)
				if err != nil || string(body) != "body:data" || answer.StatusCode != 200 {
					t.Errorf("%d: %s %q %v", i, answer.Status, body, err)
				}
				if h := answer.Header; h.Get("X-Store") != "yes" || h.Get("Ebbgate-Error") != "" || h.Get("Proxy-Authenticate") != "" || h.Get("Keep-Alive") != "" {
					t.Errorf("the answer's header is %v", h)
				}
				req := <-got
				if req.RequestURI != "/x?y=1" || req.Host != "echo.corp" {
					t.Errorf("the store got %s for %s", req.RequestURI, req.Host)
				}
				want := http.Header{"X-Forwarded-For": {"me"}, "Content-Length": {"4"}}
				if fmt.Sprint(req.Header) != fmt.Sprint(want) {
					t.Errorf("the store got %v, want %v", req.Header, want)
				}
			}
			// net/http gives a connection up that seems busy for 50 ms
			n := store.conns.Load() - before
			if n == times {
				t.Error("no connection to the store was used again")
			}
			// once this is answered, nothing is under way any more
			ask(conn, token, "GET http://echo.lab:0/ HTTP/1.1", "\r\n")
			if answer, err := http.ReadResponse(in, nil); err != nil || answer.StatusCode != 403 {
				t.Error(answer, err)
			}
			_ = conn.Close()
			for range n {
				if err := <-store.ends; !errors.Is(err, io.EOF) {
					t.Errorf("an idle connection ended with %v, want an end", err)
				}
			}
		})
	}
}

// Each job and run has its own connections to stores, even over one connection
// to the proxy.
func TestAbsoluteFormKeepsRunsApart(t *testing.T) {
	store := startHTTPStore(t, requests("HTTP/1.1 204 No Content\r\n\r\n"))
	r := startRelay(t, 0)
	token := r.serveAt(store.address)
	conn := r.proxy("http")
	in := bufio.NewReader(conn)
	for i, user := range []string{"nightly/a", "nightly/a", "nightly/b", "nightly/a"} {
		fmt.Fprintf(conn, "%s\r\nHost: x\r\nProxy-Authorization: Basic %s\r\n\r\n", get, base64.StdEncoding.EncodeToString([]byte(user+":"+token)))
		answer, err := http.ReadResponse(in, nil)
		if err != nil || answer.StatusCode != 204 {
			t.Fatal(i, answer, err)
		}
	}
	if n := store.conns.Load(); n < 3 {
		t.Errorf("%d connections to the store, want one for each change", n)
	}
}

func TestAbsoluteFormRefusals(t *testing.T) {
	store := startHTTPStore(t, func(conn *net.TCPConn, _ *bufio.Reader) error {
		_, err := io.WriteString(conn, "SSH-2.0-OpenSSH_9.2\r\n")
		return err
	})
	r := startRelay(t, 0)
	token := r.serveAt(store.address)
	for _, test := range []struct {
		line, token string
		status      int
		code        string
	}{
		{get, "x", 407, "token-malformed"},
		{"GET http://echo.lab:0/ HTTP/1.1", token, 403, "job-not-allowed"},
		{"GET http://echo.corp/ HTTP/1.1", token, 404, "port-mismatch"}, // port 80
		{"GET http://echo.corp:0/ HTTP/1.1", token, 502, "store-no-answer"},
		{"GET https://echo.corp:0/ HTTP/1.1", token, 400, "scheme-unsupported"},
		{"GET http://@:0/ HTTP/1.1", token, 400, "target-malformed"},
	} {
		for _, scheme := range proxies {
			conn := r.proxy(scheme)
			ask(conn, test.token, test.line, "\r\n")
			answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Errorf("%s over %s: %v", test.line, scheme, err)
				continue
			}
			body, err := io.ReadAll(answer.Body)
			if answer.StatusCode != test.status || answer.Header.Get("Ebbgate-Error") != test.code || err != nil {
				t.Errorf("%s over %s: %s %s, want %d %s: %s %v", test.line, scheme, answer.Status, answer.Header.Get("Ebbgate-Error"), test.status, test.code, body, err)
			}
		}
	}
}

// Bodies of each framing (RFC 9112 §6.3) that the store ends well, or not.
func TestAbsoluteFormEnds(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), 5_000)
	half := content[:len(content)/2]
	fin := func(conn *net.TCPConn) { _ = conn.CloseWrite() }
	reset := func(conn *net.TCPConn) { _ = conn.SetLinger(0); _ = conn.Close() }
	type end struct {
		name, head string
		body       []byte
		end        func(*net.TCPConn)
		whole      bool
	}
	tests := []end{
		{"length", fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(content)), content, nil, true},
		{"length, short", fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(content)), half, fin, false},
		{"length, reset", fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(content)), half, reset, false},
		{"chunked", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunked(content, true), nil, true},
		{"chunked, short", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunked(content, false), fin, false},
		{"chunked, reset", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", chunked(content, false), reset, false},
		{"until the end", "HTTP/1.1 200 OK\r\n\r\n", content, fin, true},
		{"until the end, reset", "HTTP/1.1 200 OK\r\n\r\n", content, reset, false},
		{"1.0", "HTTP/1.0 200 OK\r\n\r\n", content, fin, true},
		{"1.0, reset", "HTTP/1.0 200 OK\r\n\r\n", content, reset, false},
	}
	store := startHTTPStore(t, func(conn *net.TCPConn, in *bufio.Reader) error {
		r, err := http.ReadRequest(in)
		if err != nil {
			return err
		}
		i, err := strconv.Atoi(r.URL.Query().Get("y"))
		if err != nil {
			return err
		}
		test := tests[i]
		_, _ = io.WriteString(conn, test.head)
		_, _ = conn.Write(test.body)
		if test.end != nil {
			test.end(conn)
		}
		_, err = io.Copy(io.Discard, in)
		return err
	})
	r := startRelay(t, 0)
	token := r.serveAt(store.address)
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			for _, scheme := range proxies {
				for _, version := range []string{"1.1", "1.0"} {
					for range 5 {
						conn := r.proxy(scheme)
						ask(conn, token, fmt.Sprintf("GET http://echo.corp:0/x?y=%d HTTP/%s", i, version), "\r\n")
						body, err := readAnswer(conn, version == "1.1")
						if test.whole && (err != nil || !bytes.Equal(body, content)) {
							t.Errorf("HTTP/%s over %s: %d bytes of %d, %v", version, scheme, len(body), len(content), err)
						}
						if !test.whole && err == nil {
							t.Errorf("HTTP/%s over %s: a clean end after %d bytes of %d", version, scheme, len(body), len(content))
						}
						_ = conn.Close()
					}
				}
			}
		})
	}
}

func readAnswer(conn net.Conn, keepAlive bool) ([]byte, error) {
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		return nil, errors.New(answer.Status) // the reset overtook the head
	}
	body, err := io.ReadAll(answer.Body)
	if err == nil && !keepAlive && answer.ContentLength < 0 {
		// net/http took the end for a good one: it must be one
		_, err = conn.Read(make([]byte, 1))
		if errors.Is(err, io.EOF) {
			err = nil
		}
	}
	return body, err
}

func chunked(content []byte, whole bool) []byte {
	var b bytes.Buffer
	for len(content) > 0 {
		n := min(len(content), 10_000)
		fmt.Fprintf(&b, "%x\r\n%s\r\n", n, content[:n])
		content = content[n:]
	}
	if whole {
		b.WriteString("0\r\n\r\n")
	}
	return b.Bytes()
}

// A job that goes away in mid-request or mid-answer is a reset at the store.
func TestAbsoluteFormJobGone(t *testing.T) {
	t.Run("upload", func(t *testing.T) {
		store := startHTTPStore(t, func(_ *net.TCPConn, in *bufio.Reader) error {
			r, err := http.ReadRequest(in)
			if err != nil {
				return err
			}
			if _, err := io.CopyN(io.Discard, r.Body, 4); err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, in)
			return err
		})
		r := startRelay(t, 0)
		token := r.serveAt(store.address)
		for _, scheme := range proxies {
			for _, framing := range []string{"Content-Length: 1000\r\n\r\ndata", "Transfer-Encoding: chunked\r\n\r\n4\r\ndata\r\n"} {
				conn := r.proxy(scheme)
				ask(conn, token, "PUT http://echo.corp:0/ HTTP/1.1", framing)
				until(t, "the store is asked", func() bool { return store.conns.Load() > 0 })
				_ = conn.Close()
				if err := <-store.ends; !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("%q over %s: the store saw %v, want a reset", framing, scheme, err)
				}
			}
		}
	})
	t.Run("download", func(t *testing.T) {
		store := startHTTPStore(t, func(conn *net.TCPConn, in *bufio.Reader) error {
			if _, err := http.ReadRequest(in); err != nil {
				return err
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nsome")
			_, err := io.Copy(io.Discard, in)
			return err
		})
		r := startRelay(t, 0)
		token := r.serveAt(store.address)
		for _, scheme := range proxies {
			conn := r.proxy(scheme)
			ask(conn, token, get, "\r\n")
			answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.ReadFull(answer.Body, make([]byte, 4))
			_ = conn.Close()
			if err := <-store.ends; !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("over %s: the store saw %v, want a reset", scheme, err)
			}
		}
	})
}

// A connection that changes its protocol (RFC 9110 §7.8) is a stream like any
// other.
func TestUpgrade(t *testing.T) {
	const upgrade = "Connection: Upgrade\r\nUpgrade: echo\r\n\r\n"
	store := startHTTPStore(t, func(conn *net.TCPConn, in *bufio.Reader) error {
		r, err := http.ReadRequest(in)
		if err != nil {
			return err
		}
		if r.Header.Get("Upgrade") != "echo" || r.Header.Get("Proxy-Authorization") != "" {
			return fmt.Errorf("asked with %v", r.Header)
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		all, err := io.ReadAll(in) // until the job's half-close
		if err != nil {
			return err
		}
		if string(all) == "reset" {
			_ = conn.SetLinger(0)
			return nil
		}
		_, err = conn.Write(all)
		return err
	})
	r := startRelay(t, 0)
	token := r.serveAt(store.address)
	for _, scheme := range proxies {
		for _, text := range []string{"there and back", "reset"} {
			for range 4 {
				conn := r.proxy(scheme)
				ask(conn, token, get, upgrade)
				in := bufio.NewReader(conn)
				answer, err := http.ReadResponse(in, nil)
				if err != nil || answer.StatusCode != 101 {
					t.Fatal(answer, err)
				}
				_, _ = io.WriteString(conn, text)
				_ = conn.(interface{ CloseWrite() error }).CloseWrite()
				got, err := io.ReadAll(in)
				if text == "reset" && err == nil {
					t.Errorf("over %s: a clean end after a reset", scheme)
				}
				if text != "reset" && (err != nil || string(got) != text) {
					t.Errorf("over %s: %q %v", scheme, got, err)
				}
				if err := <-store.ends; err != nil {
					t.Errorf("over %s: the store saw %v", scheme, err)
				}
				_ = conn.Close()
			}
		}
	}
}
