package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// retryAbove is how many handshakes may be under way before clients have to
// prove their address first (RFC 9000 §8.1.2).
const retryAbove = 256

// maxHandshakes bounds the QUIC handshakes that are under way.
const maxHandshakes = 4096

func quicConfig() *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:           handshakeTimeout / 2,
		MaxIdleTimeout:                 6 * time.Second,
		KeepAlivePeriod:                2 * time.Second,
		InitialStreamReceiveWindow:     1 << 20,
		MaxStreamReceiveWindow:         streamWindow,
		InitialConnectionReceiveWindow: 2 << 20,
		MaxConnectionReceiveWindow:     2 * streamWindow,
		MaxIncomingStreams:             1024,
		MaxIncomingUniStreams:          -1,
	}
}

// openedKey is for what a connection's context calls once it is accepted.
type openedKey struct{}

// QUICListener accepts links on a UDP socket.
type QUICListener struct {
	transport *quic.Transport
	listener  *quic.Listener
	opening   atomic.Int64
}

// ListenQUIC serves QUIC on conn, which belongs to the listener from then on.
// config gives the certificate and decides about clients.
func ListenQUIC(conn net.PacketConn, config *tls.Config) (*QUICListener, error) {
	l := &QUICListener{}
	l.transport = &quic.Transport{
		Conn:                conn,
		VerifySourceAddress: func(net.Addr) bool { return l.opening.Load() > retryAbove },
		ConnContext: func(ctx context.Context, _ *quic.ClientInfo) (context.Context, error) {
			if l.opening.Add(1) > maxHandshakes {
				l.opening.Add(-1)
				return nil, errors.New("too many handshakes")
			}
			opened := sync.OnceFunc(func() { l.opening.Add(-1) })
			context.AfterFunc(ctx, opened) // where it never completes
			return context.WithValue(ctx, openedKey{}, opened), nil
		},
	}
	listener, err := l.transport.Listen(config, quicConfig())
	if err != nil {
		return nil, fmt.Errorf("tunnel: quic: %w", err)
	}
	l.listener = listener
	return l, nil
}

// Accept waits for the next link whose handshake is complete.
func (l *QUICListener) Accept(ctx context.Context) (Link, error) {
	conn, err := l.listener.Accept(ctx)
	if err != nil {
		return nil, fmt.Errorf("tunnel: quic: %w", err)
	}
	if opened, ok := conn.Context().Value(openedKey{}).(func()); ok {
		opened()
	}
	return newQUICLink(conn, nil), nil
}

// Close closes the listener, its links and its socket.
func (l *QUICListener) Close() error {
	return errors.Join(l.listener.Close(), l.transport.Close(), l.transport.Conn.Close())
}

// DialQUIC makes a link to a relay's UDP address, from a socket of its own.
func DialQUIC(ctx context.Context, address string, config *tls.Config) (Link, error) {
	remote, err := net.ResolveUDPAddr("udp", address)
	if err != nil {
		return nil, err
	}
	socket, err := net.ListenUDP("udp", nil)
	if err != nil {
		return nil, err
	}
	transport := &quic.Transport{Conn: socket}
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	conn, err := transport.Dial(ctx, remote, config, quicConfig())
	if err != nil {
		_ = transport.Close()
		_ = socket.Close()
		return nil, err
	}
	return newQUICLink(conn, func() {
		_ = transport.Close()
		_ = socket.Close()
	}), nil
}

type quicLink struct {
	*wear // QUIC renews its keys by itself

	conn  *quic.Conn
	over  func() // closes the socket, once
	ended chan struct{}
}

func newQUICLink(conn *quic.Conn, over func()) *quicLink {
	l := &quicLink{wear: newWear(), conn: conn, over: over, ended: make(chan struct{})}
	context.AfterFunc(conn.Context(), l.release)
	return l
}

// release frees the socket once the connection is over.
func (l *quicLink) release() {
	if l.over != nil {
		l.over()
	}
	close(l.ended)
}

func (l *quicLink) Carrier() Carrier                     { return QUIC }
func (l *quicLink) ConnectionState() tls.ConnectionState { return l.conn.ConnectionState().TLS }
func (l *quicLink) LocalAddr() net.Addr                  { return l.conn.LocalAddr() }
func (l *quicLink) RemoteAddr() net.Addr                 { return l.conn.RemoteAddr() }
func (l *quicLink) Done() <-chan struct{}                { return l.conn.Context().Done() }

func (l *quicLink) Err() error {
	if l.conn.Context().Err() == nil {
		return nil
	}
	cause := context.Cause(l.conn.Context())
	var app *quic.ApplicationError
	if errors.As(cause, &app) {
		return &LinkError{Reason: app.ErrorMessage, Local: !app.Remote}
	}
	return &LinkError{Reason: cause.Error()}
}

func (l *quicLink) Close(reason string) error {
	if len(reason) > 200 {
		reason = reason[:200]
	}
	err := l.conn.CloseWithError(0, reason)
	<-l.ended
	return err
}

func (l *quicLink) OpenStream(ctx context.Context) (Stream, error) {
	s, err := l.conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, l.wrap(err)
	}
	return &quicStream{Stream: s, link: l}, nil
}

func (l *quicLink) AcceptStream(ctx context.Context) (Stream, error) {
	s, err := l.conn.AcceptStream(ctx)
	if err != nil {
		return nil, l.wrap(err)
	}
	return &quicStream{Stream: s, link: l}, nil
}

func (l *quicLink) wrap(err error) error {
	if over := l.Err(); over != nil {
		return over
	}
	return fmt.Errorf("tunnel: stream: %w", err)
}

// quicStream is a QUIC stream as a net.Conn.
type quicStream struct {
	*quic.Stream
	link    *quicLink
	writing sync.Mutex // held while Write runs
}

func (s *quicStream) StreamID() uint64     { return uint64(s.Stream.StreamID()) }
func (s *quicStream) LocalAddr() net.Addr  { return s.link.LocalAddr() }
func (s *quicStream) RemoteAddr() net.Addr { return s.link.RemoteAddr() }

func (s *quicStream) Write(p []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.Stream.Write(p)
}

// Close ends both directions. What was written before still leaves; a Write
// that is under way is cut off.
func (s *quicStream) Close() error {
	s.CancelRead(0)
	if !s.writing.TryLock() {
		s.CancelWrite(0)
		return nil
	}
	defer s.writing.Unlock()
	return s.Stream.Close()
}
