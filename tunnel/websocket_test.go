package tunnel

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// handshakeHeaders are of a WebSocket's request, but for the first line and Host.
const handshakeHeaders = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"

func TestWhatIsNoUpgradeIsAnswered(t *testing.T) {
	h := newHost(t, newPKI(t))
	for _, test := range []struct {
		name, request string
		status        int
	}{
		{"no Upgrade", "GET /tunnel HTTP/1.1\r\nHost: x\r\n\r\n", 426},
		{"a proxy took Connection away", "GET /tunnel HTTP/1.1\r\nHost: x\r\n" + strings.Replace(handshakeHeaders, "Connection: Upgrade\r\n", "", 1) + "\r\n", 426},
		{"another protocol", "GET /tunnel HTTP/1.1\r\nHost: x\r\n" + strings.Replace(handshakeHeaders, "websocket", "h2c", 1) + "\r\n", 426},
		{"HTTP/1.0", "GET /tunnel HTTP/1.0\r\nHost: x\r\n" + handshakeHeaders + "\r\n", 426},
		{"POST", "POST /tunnel HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n" + handshakeHeaders + "\r\n", 405},
		{"another version", "GET /tunnel HTTP/1.1\r\nHost: x\r\n" + strings.Replace(handshakeHeaders, "13", "8", 1) + "\r\n", 400},
		{"no key", "GET /tunnel HTTP/1.1\r\nHost: x\r\n" + handshakeHeaders[:strings.Index(handshakeHeaders, "Sec-WebSocket-Key")] + "\r\n", 400},
		{"a short key", "GET /tunnel HTTP/1.1\r\nHost: x\r\n" + strings.Replace(handshakeHeaders, "AAAA", "", 1) + "\r\n", 400},
		{"a page that wants one", "GET /tunnel HTTP/1.1\r\nHost: x\r\nOrigin: https://evil.example\r\n" + handshakeHeaders + "\r\n", 403},
		{"elsewhere", "GET /tunnels HTTP/1.1\r\nHost: x\r\n" + handshakeHeaders + "\r\n", 404},
		{"good", "GET /tunnel HTTP/1.1\r\nHost: x\r\n" + handshakeHeaders + "\r\n", 101},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn := dialPort(t, h.endpoint.HTTPPort)
			_, _ = io.WriteString(conn, test.request)
			answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil || answer.StatusCode != test.status {
				t.Errorf("%v, %v; want %d", answer, err, test.status)
			}
		})
	}
}

func dialPort(t *testing.T, port int) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	return conn
}

// webFrame is a WebSocket frame as a client sends it, with a mask of zeros.
func webFrame(first byte, length uint64, body string) []byte {
	b := []byte{first}
	switch {
	case length > 1<<16-1:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), length)
	case length > 125:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(length))
	default:
		b = append(b, 0x80|byte(length))
	}
	return append(append(b, 0, 0, 0, 0), body...)
}

// Parts of a frame's first byte (RFC 6455 §5.2).
const (
	fin      = 0x80
	opText   = 1
	opBinary = 2
	opClose  = 8
	opPing   = 9
)

// hostileFrames are frames that no honest peer sends before the inner TLS.
func hostileFrames() map[string][]byte {
	tooLong := strings.Repeat("\x16", maxWebMessage+1)
	return map[string][]byte{
		"text":                          webFrame(fin|opText, 5, "hello"),
		"not masked":                    {fin | opBinary, 3, 'a', 'b', 'c'},
		"reserved bits":                 webFrame(fin|0x40|opBinary, 3, "abc"),
		"an unknown opcode":             webFrame(fin|3, 3, "abc"),
		"an unknown control opcode":     webFrame(fin|0xb, 0, ""),
		"a continuation first":          webFrame(fin, 3, "abc"),
		"a message in a message":        append(webFrame(opBinary, 3, "\x16\x03\x01"), webFrame(opBinary, 3, "abc")...),
		"a long ping":                   webFrame(fin|opPing, 126, strings.Repeat("a", 126)),
		"a ping in pieces":              webFrame(opPing, 3, "abc"),
		"a length of 2^63":              webFrame(fin|opBinary, 1<<63, ""),
		"a close without a code":        webFrame(fin|opClose, 1, "a"),
		"a close with an odd code":      webFrame(fin|opClose, 2, "\x03\xee"),
		"a close":                       webFrame(fin|opClose, 2, "\x03\xe8"),
		"no TLS":                        webFrame(fin|opBinary, 16, "GET / HTTP/1.1\r\n"),
		"no frames":                     []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"an endless message":            append(webFrame(fin|opBinary, maxWebMessage+1, ""), tooLong...),
		"a record that is far too long": webFrame(fin|opBinary, 5, "\x16\x03\x01\xff\xff"),
	}
}

// TestGarbageInAWebSocket sends what no honest peer sends. The connection is
// closed, and others do not notice.
func TestGarbageInAWebSocket(t *testing.T) {
	p := newPKI(t)
	h := newHost(t, p)
	for name, sent := range hostileFrames() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := dialPort(t, h.endpoint.HTTPPort)
			_, _ = io.WriteString(conn, "GET /tunnel HTTP/1.1\r\nHost: x\r\n"+handshakeHeaders+"\r\n")
			in := bufio.NewReader(conn)
			if answer, err := http.ReadResponse(in, nil); err != nil || answer.StatusCode != http.StatusSwitchingProtocols {
				t.Fatal(answer, err)
			}
			go func() { _, _ = conn.Write(sent) }()
			if _, err := io.Copy(io.Discard, in); isTimeout(err) {
				t.Error("the connection stays open")
			}
			if c := dial(t, &Dialer{Endpoint: h.endpoint, Carriers: []Carrier{WS}, TLS: p.client}); c != WS {
				t.Errorf("afterwards on %s", c)
			}
		})
	}
}

// FuzzWebSocket reads what a peer may send in a WebSocket: no panic, no end that
// is none, and nothing but the bytes of binary messages.
func FuzzWebSocket(f *testing.F) {
	for _, sent := range hostileFrames() {
		f.Add(sent)
	}
	f.Add(append(webFrame(fin|opBinary, 3, "abc"), webFrame(fin|opPing, 2, "hi")...))
	f.Fuzz(func(t *testing.T, sent []byte) {
		request, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET /tunnel HTTP/1.1\r\nHost: x\r\n" + handshakeHeaders + "\r\n")))
		if err != nil {
			t.Fatal(err)
		}
		conn, err := AcceptWebSocket(&scripted{in: bytes.NewReader(sent)}, request)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(conn)
		if len(got) > len(sent) {
			t.Errorf("read %d bytes out of %d", len(got), len(sent))
		}
		if err == nil && !bytes.ContainsRune(sent, fin|opClose) && !bytes.Contains(sent, []byte{fin | opClose}) {
			t.Error("a clean end that nobody sent")
		}
		_ = conn.Close()
	})
}

// scripted is a hijacked connection whose peer has sent everything already, and a
// ResponseWriter for it.
type scripted struct {
	net.Conn
	in   *bytes.Reader
	over atomic.Bool
}

func (s *scripted) Header() http.Header         { return http.Header{} }
func (s *scripted) WriteHeader(int)             {}
func (s *scripted) Write(p []byte) (int, error) { return len(p), nil }
func (s *scripted) Close() error                { s.over.Store(true); return nil }
func (s *scripted) Read(p []byte) (int, error) {
	if s.over.Load() {
		return 0, net.ErrClosed
	}
	return s.in.Read(p)
}

func (s *scripted) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return s, bufio.NewReadWriter(bufio.NewReader(s), bufio.NewWriter(s)), nil
}

// TestSlowHandshakes holds each step of a WebSocket's handshake back, in virtual
// time: nothing lasts longer than the deadlines of its steps.
func TestSlowHandshakes(t *testing.T) {
	whole := "GET /tunnel HTTP/1.1\r\nHost: x\r\n" + handshakeHeaders + "\r\n"
	for name, sent := range map[string]string{
		"nothing":            "",
		"half a request":     whole[:40],
		"no frame":           whole,
		"half a frame":       whole + "\x82",
		"an empty frame":     whole + string(webFrame(fin|opBinary, 0, "")),
		"half a ClientHello": whole + string(webFrame(fin|opBinary, 100, "\x16\x03\x01\x00\x5f\x01")),
	} {
		t.Run(name, func(t *testing.T) {
			p := newPKI(t)
			synctest.Test(t, func(t *testing.T) {
				over := make(chan time.Duration, 1)
				began := time.Now()
				serveOne(t, p, func(conn net.Conn) {
					go func() { _, _ = io.WriteString(conn, sent) }()
					_, _ = io.Copy(io.Discard, conn)
					over <- time.Since(began)
				})
				if took := <-over; took < handshakeTimeout || took > 2*handshakeTimeout {
					t.Errorf("closed after %v", took)
				}
			})
		})
	}
}

// serveOne serves a site with WebSockets on a connection in memory, and runs the
// client's part.
func serveOne(t *testing.T, p *pki, client func(net.Conn)) {
	t.Helper()
	near, far := net.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	l := &handed{conns: make(chan net.Conn), done: ctx.Done()}
	var served sync.WaitGroup
	var upgraded handlers
	site := &http.Server{
		ReadHeaderTimeout: handshakeTimeout, ErrorLog: log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			conn, err := AcceptWebSocket(w, req)
			if err != nil {
				return
			}
			upgraded.run(conn, func(conn net.Conn) {
				if link, err := ServeTLS(ctx, conn, p.server); err == nil {
					<-link.Done()
				}
			})
		}),
	}
	served.Go(func() { _ = site.Serve(l) })
	l.hand(far)
	client(near)
	_ = near.Close()
	cancel()
	_ = site.Close()
	upgraded.end()
	served.Wait()
}

// TestWebSocketsWriteMessagesAtOnce counts what reaches TCP: the library's small
// pieces must not.
func TestWebSocketsWriteMessagesAtOnce(t *testing.T) {
	const chunk, chunks = 64 << 10, 64
	for _, c := range []Carrier{TLS, WSS, WS} {
		t.Run(string(c), func(t *testing.T) {
			p := newPKI(t)
			h := newHost(t, p)
			counted := new(countedConn)
			d := &Dialer{Endpoint: h.endpoint, Carriers: []Carrier{c}, TLS: p.client, DialTCP: func(ctx context.Context, network, addr string) (net.Conn, error) {
				var direct net.Dialer
				conn, err := direct.DialContext(ctx, network, addr)
				counted.Conn = conn
				return counted, err
			}}
			link, err := d.Dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer link.Close("test over")
			far := <-h.links
			read := make(chan int64, 1)
			go func() {
				in, err := far.AcceptStream(context.Background())
				if err != nil {
					read <- -1
					return
				}
				n, _ := io.CopyN(io.Discard, in, chunk*chunks)
				read <- n
			}()
			out, err := link.OpenStream(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			before := counted.writes.Load()
			for range chunks {
				if _, err := out.Write(make([]byte, chunk)); err != nil {
					t.Fatal(err)
				}
			}
			if n := <-read; n != chunk*chunks {
				t.Fatalf("read %d bytes", n)
			}
			// One a chunk, and a few for what yamux says beside.
			if n := counted.writes.Load() - before; n > chunks+chunks/2 {
				t.Errorf("%d writes for %d chunks", n, chunks)
			}
		})
	}
}

// TestWebSocketAnswersThatAreNone dials servers that do not make a WebSocket.
func TestWebSocketAnswersThatAreNone(t *testing.T) {
	for name, test := range map[string]struct{ answer, code string }{
		"forbidden":      {"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", "upgrade-refused"},
		"a page":         {"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>", "upgrade-refused"},
		"elsewhere":      {"HTTP/1.1 302 Found\r\nLocation: http://login.example/\r\nContent-Length: 0\r\n\r\n", "upgrade-refused"},
		"another key":    {"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n", "handshake-failed"},
		"no HTTP":        {"SSH-2.0-x\r\n\r\n", "handshake-failed"},
		"nothing":        {"", "handshake-failed"},
		"endless header": {"HTTP/1.1 101 Switching Protocols\r\nA: " + strings.Repeat("a", 1<<20), "handshake-failed"},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			over := make(chan struct{})
			go func() {
				defer close(over)
				conn, err := l.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				_, _ = http.ReadRequest(bufio.NewReader(conn))
				_, _ = io.WriteString(conn, test.answer)
			}()
			defer func() { _ = l.Close(); <-over }()
			d := &Dialer{
				Endpoint: Endpoint{Host: "127.0.0.1", HTTPPort: l.Addr().(*net.TCPAddr).Port}, Carriers: []Carrier{WS},
				TLS: func() *tls.Config { return &tls.Config{InsecureSkipVerify: true} },
			}
			_, err = d.Dial(t.Context())
			if e, ok := err.(*DialError); !ok || e.Code() != test.code || e.Hop() != "relay" {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestStrangersWebSocketsTakeLittleMemory holds WebSockets open that say nothing.
func TestStrangersWebSocketsTakeLittleMemory(t *testing.T) {
	const many, most = 200, 160 << 10 // bytes for both ends of one
	p := newPKI(t)
	h := newHost(t, p)
	for _, c := range []Carrier{WSS, WS} {
		t.Run(string(c), func(t *testing.T) {
			d := &Dialer{Endpoint: h.endpoint}
			heap := func() int64 {
				runtime.GC()
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				return int64(m.HeapAlloc)
			}
			before := heap()
			for range many {
				conn, err := d.webSocket(t.Context(), c, dialPort(t, h.endpoint.port(c)))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
			}
			if took := (heap() - before) / many; took > most {
				t.Errorf("each takes %d bytes", took)
			} else {
				t.Logf("each takes %d bytes", took)
			}
		})
	}
}

// TestCloseWhileTheNetworkTakesNothing closes a link in the middle of a write
// that will never end. Close waits for the writer, so it must end that.
func TestCloseWhileTheNetworkTakesNothing(t *testing.T) {
	for _, c := range []Carrier{TLS, WSS, WS} {
		t.Run(string(c), func(t *testing.T) {
			t.Parallel()
			p := newPKI(t)
			h := newHost(t, p)
			var stuck atomic.Bool
			var tasks sync.WaitGroup
			ctx, cancel := context.WithCancel(t.Context())
			defer tasks.Wait()
			defer cancel()
			d := &Dialer{Endpoint: h.endpoint, Carriers: []Carrier{c}, TLS: p.client, DialTCP: func(once context.Context, network, addr string) (net.Conn, error) {
				var direct net.Dialer
				far, err := direct.DialContext(once, network, addr)
				if err != nil {
					return nil, err
				}
				near, inside := net.Pipe()
				tasks.Go(func() {
					_, _ = io.Copy(inside, far)
					_ = inside.Close()
				})
				tasks.Go(func() {
					defer far.Close()
					buffer := make([]byte, 4<<10)
					for !stuck.Load() {
						n, err := inside.Read(buffer)
						if err != nil {
							return
						}
						_, _ = far.Write(buffer[:n])
					}
					<-ctx.Done() // takes nothing, and says nothing
				})
				return near, nil
			}}
			link, err := d.Dial(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			s, err := link.OpenStream(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			stuck.Store(true)
			writing := make(chan struct{})
			tasks.Go(func() {
				close(writing)
				for {
					if _, err := s.Write(make([]byte, 256<<10)); err != nil {
						return
					}
				}
			})
			<-writing
			_ = link.Close("test over")
			<-link.Done()
		})
	}
}
