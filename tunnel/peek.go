package tunnel

import (
	"net"
	"time"
)

// Kind is what the first bytes of a connection ask for.
type Kind int

// The kinds.
const (
	KindUnknown    Kind = iota
	KindSession         // a ClientHello with ALPN "ebbgate/1"
	KindLane            // a ClientHello with ALPN "ebbgate-lane/1" and a lane token
	KindClientLane      // "EBBLANE <token>\n", removed from the connection
	KindTLS             // any other ClientHello
	KindHTTP            // the beginning of a plain HTTP request
)

// Bounds of Peek.
const (
	MaxPeek     = 16 << 10         // bytes that are looked at
	PeekTimeout = 10 * time.Second // that the relay gives them
)

// First is what the first bytes said. Its texts are the peer's.
type First struct {
	Kind       Kind
	ServerName string   // of the ClientHello's SNI
	Protocols  []string // of its ALPN list
	Token      string   // of a lane, 1 to 64 of A-Z, a-z, 0-9, - and _
}

// Peek reads as many of a connection's first bytes as tell what it is, at most
// MaxPeek and until deadline, and returns a connection that begins with them
// again. The returned connection replaces conn and has no deadline. On an error,
// a *PeekError, the caller closes conn.
func Peek(conn net.Conn, deadline time.Time) (First, net.Conn, error) { panic("todo") }
