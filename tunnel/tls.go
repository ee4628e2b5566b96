package tunnel

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

const (
	// handshakeTimeout bounds a handshake, from its first byte to its last.
	handshakeTimeout = 10 * time.Second
	// streamWindow is how far a yamux stream's sender may run ahead. Lanes
	// have windows of their own; this one only has to be larger.
	streamWindow = 16 << 20
	// acceptBacklog bounds streams that were opened and not yet accepted.
	acceptBacklog = 256
	// writeTimeout is how long one frame may take to leave on a slow network.
	writeTimeout = 60 * time.Second
)

// DialTLS makes a link of an established TCP connection, as its client: TLS with
// config, then yamux. conn belongs to the link, and is closed if it fails.
func DialTLS(ctx context.Context, conn net.Conn, config *tls.Config) (Link, error) {
	records := newRecordConn(conn)
	return newTLSLink(ctx, tls.Client(records, config), records, yamux.Client)
}

// ServeTLS makes a link of an accepted TCP connection, as DialTLS does, as its
// server.
func ServeTLS(ctx context.Context, conn net.Conn, config *tls.Config) (Link, error) {
	records := newRecordConn(conn)
	return newTLSLink(ctx, tls.Server(records, config), records, yamux.Server)
}

type muxer func(io.ReadWriteCloser, *yamux.Config) (*yamux.Session, error)

func newTLSLink(ctx context.Context, conn *tls.Conn, records *recordConn, mux muxer) (Link, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = conn.NetConn().Close()
		return nil, err
	}
	state := conn.ConnectionState()
	if state.NegotiatedProtocol != ALPN {
		_ = conn.Close()
		return nil, fmt.Errorf("tunnel: the peer chose the protocol %q, not %s", state.NegotiatedProtocol, ALPN)
	}
	records.gather = true
	session, err := mux(&frameConn{Conn: conn, records: records}, yamuxConfig())
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("tunnel: %w", err)
	}
	return &tlsLink{session: session, state: state, conn: conn}, nil
}

func yamuxConfig() *yamux.Config {
	c := yamux.DefaultConfig()
	c.AcceptBacklog = acceptBacklog
	c.EnableKeepAlive = false // the control stream pings
	c.MaxStreamWindowSize = streamWindow
	c.ConnectionWriteTimeout = writeTimeout
	c.StreamOpenTimeout = 0 // opening one never ends the others
	c.StreamCloseTimeout = 10 * time.Second
	c.LogOutput = io.Discard
	return c
}

// recordConn lies under crypto/tls, which reads and writes one record of 16 KiB
// at a time: it reads ahead, and writes records together when flushed.
type recordConn struct {
	net.Conn
	in     *bufio.Reader
	gather bool // set once the handshake is over

	mu  sync.Mutex // crypto/tls also writes when it reads: alerts, key updates
	out []byte
}

const readAhead = 256 << 10

func newRecordConn(conn net.Conn) *recordConn {
	return &recordConn{Conn: conn, in: bufio.NewReaderSize(conn, readAhead)}
}

func (c *recordConn) Read(p []byte) (int, error) { return c.in.Read(p) }

func (c *recordConn) Write(p []byte) (int, error) {
	if !c.gather {
		return c.Conn.Write(p)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = append(c.out, p...)
	return len(p), nil
}

func (c *recordConn) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.out) == 0 {
		return nil
	}
	_, err := c.Conn.Write(c.out)
	c.out = c.out[:0]
	if cap(c.out) > 1<<20 {
		c.out = nil
	}
	return err
}

// frameConn lies above crypto/tls and under yamux, which writes a frame's header
// and its body apart: it flushes after whole frames.
type frameConn struct {
	*tls.Conn
	records *recordConn

	mu   sync.Mutex
	body uint32 // bytes of the frame's body that are to come
}

const (
	yamuxHeader   = 12
	yamuxTypeData = 0
)

func (c *frameConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, err := c.Conn.Write(p)
	if err != nil {
		return n, err
	}
	switch {
	case c.body > 0:
		c.body -= min(c.body, uint32(len(p)))
	case len(p) == yamuxHeader && p[1] == yamuxTypeData:
		c.body = binary.BigEndian.Uint32(p[8:])
	}
	if c.body > 0 {
		return n, nil
	}
	return n, c.records.flush()
}

// Close says goodbye, for which a peer that takes nothing has a second, and
// closes.
func (c *frameConn) Close() error {
	_ = c.records.SetWriteDeadline(time.Now().Add(time.Second))
	err := c.Conn.CloseWrite()
	_ = c.records.flush()
	return errors.Join(err, c.records.Conn.Close())
}

// tlsLink is a yamux session.
type tlsLink struct {
	session *yamux.Session
	conn    *tls.Conn
	state   tls.ConnectionState

	mu     sync.Mutex
	reason error
}

func (l *tlsLink) Carrier() Carrier                     { return TLS }
func (l *tlsLink) ConnectionState() tls.ConnectionState { return l.state }
func (l *tlsLink) LocalAddr() net.Addr                  { return l.conn.LocalAddr() }
func (l *tlsLink) RemoteAddr() net.Addr                 { return l.conn.RemoteAddr() }
func (l *tlsLink) Done() <-chan struct{}                { return l.session.CloseChan() }

func (l *tlsLink) Err() error {
	select {
	case <-l.session.CloseChan():
	default:
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.reason == nil {
		l.reason = &LinkError{Reason: "the connection is gone"}
	}
	return l.reason
}

func (l *tlsLink) Close(reason string) error {
	l.mu.Lock()
	if l.reason == nil {
		l.reason = &LinkError{Reason: reason, Local: true}
	}
	l.mu.Unlock()
	return l.session.Close()
}

func (l *tlsLink) OpenStream(ctx context.Context) (Stream, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s, err := l.session.OpenStream()
	if err != nil {
		return nil, l.wrap(err)
	}
	return yamuxStream{s}, nil
}

func (l *tlsLink) AcceptStream(ctx context.Context) (Stream, error) {
	s, err := l.session.AcceptStreamWithContext(ctx)
	if err != nil {
		return nil, l.wrap(err)
	}
	return yamuxStream{s}, nil
}

func (l *tlsLink) wrap(err error) error {
	if over := l.Err(); over != nil {
		return over
	}
	return fmt.Errorf("tunnel: stream: %w", err)
}

// LinkError is the end of a link.
type LinkError struct {
	Reason string
	Local  bool // this side closed it
}

func (e *LinkError) Error() string { return "tunnel: link closed: " + e.Reason }

// Unwrap makes it net.ErrClosed.
func (e *LinkError) Unwrap() error { return net.ErrClosed }

// Code names the error.
func (e *LinkError) Code() string { return "link-closed" }

type yamuxStream struct{ *yamux.Stream }

func (s yamuxStream) StreamID() uint64 { return uint64(s.Stream.StreamID()) }

// Close ends both directions: yamux alone would leave a Read waiting for the
// far end.
func (s yamuxStream) Close() error {
	err := s.Stream.Close()
	_ = s.SetDeadline(time.Unix(1, 0))
	return err
}
