package tunnel

import (
	"context"
	"crypto/tls"
	"net"
)

// Carrier is what a link travels on.
type Carrier string

// The carriers that there are, best first.
const (
	QUIC Carrier = "quic" // QUIC v1 on UDP
	TLS  Carrier = "tls"  // TLS 1.3 on TCP, yamux inside
	WSS  Carrier = "wss"  // the same inside a WebSocket over HTTPS
	WS   Carrier = "ws"   // the same inside a WebSocket over HTTP
)

// Carriers are all of them in the order in which auto prefers them.
var Carriers = []Carrier{QUIC, TLS, WSS, WS}

// rank is a carrier's place among Carriers; lower is better.
func (c Carrier) rank() int {
	for i, k := range Carriers {
		if k == c {
			return i
		}
	}
	return len(Carriers)
}

// ALPN is the protocol of sessions (RFC 7301).
const ALPN = "ebbgate/1"

// ALPNLane is the protocol of the TLS between a client's ingress and a node.
const ALPNLane = "ebbgate-lane/1"

// Link is an established connection that carries streams. Its methods may be
// called from any goroutine.
type Link interface {
	// OpenStream opens a stream; the peer sees it when something is written.
	OpenStream(ctx context.Context) (Stream, error)
	// AcceptStream waits for a stream that the peer opened.
	AcceptStream(ctx context.Context) (Stream, error)
	Carrier() Carrier
	// ConnectionState is of the TLS that authenticates the link.
	ConnectionState() tls.ConnectionState
	LocalAddr() net.Addr
	RemoteAddr() net.Addr
	// Close closes the link and all its streams. reason reaches the peer
	// where the carrier can say it.
	Close(reason string) error
	// Worn is closed when another link has to take the place of this one: its keys
	// have protected as much as they may, or somebody called Wear.
	Worn() <-chan struct{}
	// Wear says that another link has to take the place of this one, and why.
	Wear(why string)
	// Done is closed when the link is over.
	Done() <-chan struct{}
	// Err says why it is over; nil before.
	Err() error
}

// Stream is one stream of a link. Close ends both directions and unblocks Read
// and Write.
type Stream interface {
	net.Conn
	// StreamID is the same number at both ends.
	StreamID() uint64
}

// prioritized is a stream that can go before others of its link.
type prioritized interface {
	SetPriority(urgency int8, incremental bool)
}

// Urgencies of streams where the carrier knows them (RFC 9218: lower is more
// urgent).
const (
	urgencyControl = 0
	urgencyExpress = 1
	urgencyBulk    = 5
)

func prioritize(s Stream, urgency int8) {
	if p, ok := s.(prioritized); ok {
		p.SetPriority(urgency, true)
	}
}

// Endpoint is where a relay is. Ports of 0 are not served.
type Endpoint struct {
	Host     string
	TLSPort  int // tls and wss
	QUICPort int
	HTTPPort int // ws
}

// port is a carrier's.
func (e Endpoint) port(c Carrier) int {
	switch c {
	case QUIC:
		return e.QUICPort
	case TLS, WSS:
		return e.TLSPort
	case WS:
		return e.HTTPPort
	}
	return 0
}
