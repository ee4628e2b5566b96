package tunnel

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
)

// ServerOptions are what links of the accepting side need.
type ServerOptions struct {
	// MaxHandshakes bounds the QUIC handshakes that are under way; 0: 1024.
	MaxHandshakes int
	// MaxHandshakesPerIP bounds those of one address, with room for a company
	// behind one NAT; 0: 256.
	MaxHandshakesPerIP int
	// RetryAbove is how many handshakes may be under way before clients must
	// prove their address (RFC 9000 §8.1.2); 0: 64.
	RetryAbove int
	// Logger receives what goes wrong before there is a link; nil discards.
	Logger *slog.Logger
	// Metrics counts; nil does not.
	Metrics *Metrics
}

// ServeTLS does the server's side of a session's TLS handshake on conn, which
// Peek gave, and makes a link of it. It owns conn: on an error it is closed. The
// caller bounds the time with ctx and how many run at once.
func ServeTLS(ctx context.Context, conn net.Conn, cfg *tls.Config, opt ServerOptions) (Link, error) {
	panic("todo")
}

// QUICListener accepts links over QUIC.
type QUICListener struct{}

// ListenQUIC serves QUIC on pc, which it owns. Handshakes take at most 10 s and
// do not wait for Accept.
func ListenQUIC(pc net.PacketConn, cfg *tls.Config, opt ServerOptions) (*QUICListener, error) {
	panic("todo")
}

// Accept waits for a link whose handshake is complete. Its error satisfies
// net.ErrClosed once the listener is closed.
func (l *QUICListener) Accept(ctx context.Context) (Link, error) { panic("todo") }

// Addr is where the listener listens.
func (l *QUICListener) Addr() net.Addr { panic("todo") }

// Close ends the listener, all links that it accepted, and the socket.
func (l *QUICListener) Close() error { panic("todo") }

// CloseListening takes no more links; those that were accepted live on.
func (l *QUICListener) CloseListening() error { panic("todo") }
