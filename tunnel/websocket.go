package tunnel

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"sync"

	"github.com/coder/websocket"
)

const (
	// TunnelPath is where a relay's WebSockets are.
	TunnelPath = "/tunnel"

	// maxWebMessage bounds one WebSocket message, in bytes. What is longer is sent
	// in several.
	maxWebMessage = 1 << 20
	// webRead is how much of a message is waited for at once, in bytes: the
	// library gives no part of what it was asked for.
	webRead = 64 << 10
	// webPiece is the largest piece that the library writes as a client, in bytes.
	webPiece = 4 << 10
	// maxUpgradeHeader bounds the header of the answer to an upgrade, in bytes.
	maxUpgradeHeader = 16 << 10
)

// WebTLS is the server's side of the TLS around HTTP. WebSockets are fast on it,
// which they are not on any other.
func WebTLS(conn net.Conn, config *tls.Config) *tls.Conn {
	return tls.Server(newRecordConn(conn), config)
}

// webWire lies under a WebSocket, whose library writes a message in small pieces:
// it writes them together when flushed.
type webWire struct {
	net.Conn             // TCP, or TLS on it
	in       io.Reader   // of Conn
	records  *recordConn // under the TLS; nil: there is none

	mu sync.Mutex
	// guarded by mu
	gathering bool
	out       []byte
}

// overTLS is a *tls.Conn, or what a server wrapped around one.
type overTLS interface {
	NetConn() net.Conn
	ConnectionState() tls.ConnectionState
}

// newWebWire makes the wire of a connection after its upgrade; in gives what was
// read ahead, then the rest.
func newWebWire(conn net.Conn, in io.Reader) *webWire {
	w := &webWire{Conn: conn, in: in}
	if secured, ok := conn.(overTLS); ok {
		w.records, _ = secured.NetConn().(*recordConn)
	}
	return w
}

// gather is called once, when the peer is known, with how much to read at once
// under the TLS.
func (w *webWire) gather(ahead int) {
	if w.records != nil {
		w.records.gather(ahead)
	}
}

// wearWith has the TLS under it wear out together with the one above.
func (w *webWire) wearWith(above *recordConn) {
	if w.records != nil {
		w.records.mu.Lock()
		defer w.records.mu.Unlock()
		w.records.wear = above.wear
	}
}

// worn tells whether the TLS under it has to be replaced.
func (w *webWire) worn() bool { return w.records != nil && w.records.wear.worn() }

func (w *webWire) Read(p []byte) (int, error) { return w.in.Read(p) }

// Write takes a piece of a message, or a control frame: those are written at
// once, unless they come in the middle of a message.
func (w *webWire) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.gathering && (w.records == nil || len(p) <= webPiece) {
		w.out = append(w.out, p...)
		return len(p), nil
	}
	if len(w.out) > 0 { // the header of what is now written without a copy
		if _, err := w.Conn.Write(w.out); err != nil {
			return 0, err
		}
		w.out = w.out[:0]
	}
	n, err := w.Conn.Write(p)
	if w.gathering {
		return n, err
	}
	if err == nil && w.records != nil {
		err = w.records.flush()
	}
	return n, err
}

// begin gathers from here to the next flush.
func (w *webWire) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gathering = true
}

func (w *webWire) flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gathering = false
	var err error
	if len(w.out) > 0 {
		_, err = w.Conn.Write(w.out)
	}
	w.out = w.out[:0]
	if cap(w.out) > keptOut {
		w.out = nil
	}
	if err == nil && w.records != nil {
		err = w.records.flush()
	}
	return err
}

// Close closes the TCP connection. There is nobody to take leave of: whoever is
// the far end of this TLS, the link's own TLS says when it is over.
func (w *webWire) Close() error {
	if secured, ok := w.Conn.(overTLS); ok {
		return secured.NetConn().Close()
	}
	return w.Conn.Close()
}

// webConn is a WebSocket as a byte stream, in binary messages whose boundaries
// mean nothing. Like any connection it has one reader and one writer at a time.
type webConn struct {
	net.Conn // the wire's, for addresses and deadlines; Read, Write and Close are below
	carrier  Carrier
	socket   *websocket.Conn
	wire     *webWire
	message  io.Reader // that is being read; nil: the next one
}

// webOf is the WebSocket that a connection is, also one whose first bytes were
// looked at; nil: it is none.
func webOf(conn net.Conn) *webConn {
	if peeked, ok := conn.(*Peeked); ok {
		conn = peeked.Conn
	}
	web, _ := conn.(*webConn)
	return web
}

func newWebConn(socket *websocket.Conn, wire *webWire) *webConn {
	c := &webConn{Conn: wire.Conn, carrier: WS, socket: socket, wire: wire}
	if _, secured := wire.Conn.(overTLS); secured {
		c.carrier = WSS
	}
	socket.SetReadLimit(maxWebMessage)
	return c
}

func (c *webConn) Read(p []byte) (int, error) {
	p = p[:min(len(p), webRead)]
	for {
		if c.message == nil {
			typ, message, err := c.socket.Reader(context.Background())
			if err != nil {
				return 0, webError(err)
			}
			if typ != websocket.MessageBinary {
				return 0, errors.New("tunnel: websocket: a text message")
			}
			c.message = message
		}
		n, err := c.message.Read(p)
		if errors.Is(err, io.EOF) {
			c.message, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, webError(err)
		}
	}
}

// webError makes io.EOF of the two orderly ends of a WebSocket.
func webError(err error) error {
	switch websocket.CloseStatus(err) {
	case websocket.StatusNormalClosure, websocket.StatusGoingAway:
		return io.EOF
	}
	if err != nil {
		err = fmt.Errorf("tunnel: websocket: %w", err)
	}
	return err
}

// Write writes p as one message, if it fits into one.
func (c *webConn) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		part := p[:min(len(p), maxWebMessage)]
		c.wire.begin()
		if err = c.socket.Write(context.Background(), websocket.MessageBinary, part); err == nil {
			err = c.wire.flush()
		}
		if err != nil {
			return n, webError(err)
		}
		n, p = n+len(part), p[len(part):]
	}
	return n, nil
}

// Close ends the connection without a goodbye.
func (c *webConn) Close() error { return c.socket.CloseNow() }

// AcceptWebSocket makes a connection of a request to TunnelPath, for ServeTLS.
// Requests that are no upgrade it answers itself. The connection outlives the
// request; deadlines are those of the link.
func AcceptWebSocket(w http.ResponseWriter, req *http.Request) (net.Conn, error) {
	upgrade := &upgradeWriter{ResponseWriter: w}
	socket, err := websocket.Accept(upgrade, req, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return nil, fmt.Errorf("tunnel: %w", err)
	}
	return newWebConn(socket, upgrade.wire), nil
}

// upgradeWriter puts a wire under the WebSocket.
type upgradeWriter struct {
	http.ResponseWriter
	wire *webWire // once it is hijacked
}

// frameHeader is the room for a server's frame header (RFC 6455 §5.2), in bytes.
const frameHeader = 16

// Hijack is http.Hijacker's.
func (w *upgradeWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	w.wire = newWebWire(conn, conn)
	// Messages go past the buffer, without being copied into it.
	return w.wire, bufio.NewReadWriter(buffered.Reader, bufio.NewWriterSize(w.wire, frameHeader)), nil
}

// dialWebSocket upgrades conn (wss: TLS whose handshake is over) to host, the
// relay as in a Host header. conn belongs to the result, and is closed if it
// fails.
func dialWebSocket(ctx context.Context, conn net.Conn, host string) (net.Conn, error) {
	return upgradeWebSocket(ctx, host, func(req *http.Request) (*http.Response, net.Conn, io.Reader, error) {
		stop := context.AfterFunc(req.Context(), func() { _ = conn.Close() })
		defer stop()
		if err := req.Write(conn); err != nil {
			_ = conn.Close()
			return nil, nil, nil, err
		}
		header := &io.LimitedReader{R: conn, N: maxUpgradeHeader}
		in := bufio.NewReader(header)
		resp, err := http.ReadResponse(in, req)
		if err != nil {
			_ = conn.Close()
			return nil, nil, nil, err
		}
		if resp.StatusCode == http.StatusSwitchingProtocols {
			header.N = math.MaxInt64
		}
		return resp, conn, in, nil
	})
}

// exchange sends a request and gives its answer; if that is 101, also the
// connection and its reader.
type exchange func(*http.Request) (*http.Response, net.Conn, io.Reader, error)

// upgradeWebSocket makes a WebSocket by an exchange.
func upgradeWebSocket(ctx context.Context, host string, send exchange) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	trip := &upgradeTrip{send: send}
	socket, resp, err := websocket.Dial(ctx, "ws://"+host+TunnelPath, &websocket.DialOptions{ //nolint:bodyclose // the library's
		HTTPClient: &http.Client{
			Transport:     trip,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		HTTPHeader:      http.Header{"User-Agent": {"Ebbgate"}},
		CompressionMode: websocket.CompressionDisabled,
	})
	switch {
	case err == nil:
		return newWebConn(socket, trip.wire), nil
	case trip.err != nil:
		return nil, trip.err
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case resp != nil && resp.StatusCode != http.StatusSwitchingProtocols:
		return nil, &UpgradeError{Status: resp.Status}
	}
	return nil, err
}

// UpgradeError is another answer to an upgrade than a WebSocket.
type UpgradeError struct{ Status string }

func (e *UpgradeError) Error() string {
	return fmt.Sprintf("tunnel: the answer was %.100q and not a WebSocket", e.Status)
}

// upgradeTrip is the one exchange of a client, with the wire as the body.
type upgradeTrip struct {
	send exchange
	wire *webWire // of an upgraded connection
	err  error
}

// RoundTrip is http.RoundTripper's.
func (t *upgradeTrip) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, conn, in, err := t.send(req)
	if err != nil {
		t.err = err
		return nil, err
	}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		t.wire = newWebWire(conn, in)
		resp.Body = t.wire
	} else {
		resp.Body = &refusedBody{resp.Body, conn}
	}
	return resp, nil
}

// refusedBody is the body of an answer that is the last word on its connection.
type refusedBody struct {
	io.Reader
	conn net.Conn
}

// Close closes the connection.
func (b *refusedBody) Close() error { return b.conn.Close() }
