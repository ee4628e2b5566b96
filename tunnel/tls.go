package tunnel

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

const (
	// handshakeTimeout bounds a handshake, from its first byte to its last.
	handshakeTimeout = 10 * time.Second
	// streamWindow is how far a yamux stream's sender may run ahead. Lanes
	// have windows of their own; this one only has to be larger.
	streamWindow = 16 << 20
	// acceptBacklog bounds streams that were opened and not yet accepted.
	acceptBacklog = 256
	// strangerRead and strangerWindow are what a peer gets that showed no
	// certificate, and so has a control stream and nothing else, in bytes.
	strangerRead   = 4 << 10
	strangerWindow = 256 << 10 // yamux has no smaller one
	// writeTimeout is how long one frame may take to leave on a slow network.
	writeTimeout = 60 * time.Second
)

// DialTLS makes a link of an established connection, as its client: TLS with
// config, then yamux. Where conn is a WebSocket's, the link's carrier is wss or
// ws, else tls. conn belongs to the link, and is closed if it fails.
func DialTLS(ctx context.Context, conn net.Conn, config *tls.Config) (Link, error) {
	records := newRecordConn(conn)
	return newTLSLink(ctx, tls.Client(records, config), records, yamux.Client)
}

// ServeTLS makes a link of an accepted connection, as DialTLS does, as its
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
	bundle.SettleCongestion(records)
	carrier, ahead := TLS, readAhead
	config := yamuxConfig()
	if len(state.PeerCertificates) == 0 {
		ahead = strangerRead
		config.AcceptBacklog, config.MaxStreamWindowSize = 1, strangerWindow
	}
	if web := webOf(records.Conn); web != nil {
		carrier = web.carrier
		web.wire.gather(ahead)
		web.wire.wearWith(records)
		ahead = min(ahead, webRead)
	}
	records.gather(ahead)
	session, err := mux(&frameConn{Conn: conn, records: records}, config)
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("tunnel: %w", err)
	}
	return &tlsLink{carrier: carrier, session: session, state: state, conn: conn, wear: records.wear}, nil
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

// tlsLink is a yamux session.
type tlsLink struct {
	*wear
	carrier Carrier
	session *yamux.Session
	conn    *tls.Conn
	state   tls.ConnectionState

	mu     sync.Mutex
	reason error
}

func (l *tlsLink) Carrier() Carrier                     { return l.carrier }
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
