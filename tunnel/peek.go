package tunnel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"time"
)

// Kind is what a TCP connection to the relay's port begins with.
type Kind string

// The kinds.
const (
	KindSession    Kind = "session"     // a ClientHello with ALPN ebbgate/1
	KindLane       Kind = "lane"        // a ClientHello with ALPN ebbgate-lane/1 and a token
	KindClientLane Kind = "client-lane" // EBBLANE <token>
	KindTLS        Kind = "tls"         // any other ClientHello
	KindHTTP       Kind = "http"        // plain text
)

// maxPeek bounds what is looked at.
const maxPeek = 16 << 10

// clientLanePrefix begins a client's lane.
const clientLanePrefix = "EBBLANE "

// PeekError is a connection whose first bytes are of no use.
type PeekError struct {
	Reason string // "silence", "garbage", "too-long", "closed"
	Err    error
}

func (e *PeekError) Error() string {
	return fmt.Sprintf("tunnel: first bytes: %s: %v", e.Reason, e.Err)
}

// Unwrap is what was seen.
func (e *PeekError) Unwrap() error { return e.Err }

// Code names the error.
func (e *PeekError) Code() string { return e.Reason }

// Peek waits at most timeout for a connection's first bytes, at most 16 KiB in
// as many pieces as they come, and tells what they are. The connection that it
// returns gives them again; conn itself must not be read any more. Nothing is
// closed.
func Peek(conn net.Conn, timeout time.Duration) (Kind, *Peeked, error) {
	if err := conn.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return "", nil, &PeekError{"closed", err}
	}
	in := &peeker{conn: conn}
	kind, token, err := peek(in)
	if err != nil {
		return "", nil, err
	}
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return "", nil, &PeekError{"closed", err}
	}
	return kind, &Peeked{Conn: conn, Token: token, again: in.seen}, nil
}

// Peeked gives the bytes again that were looked at.
type Peeked struct {
	net.Conn
	// Token is what a KindLane says that it is for. It may be anything.
	Token string

	again []byte
}

// tokenSize is the length of a lane's token: 128 bits in hex.
const tokenSize = 32

// ClientLane takes the line with which a KindClientLane begins, within timeout:
// its token, and whether it is for small frames. What follows the line is left.
func (c *Peeked) ClientLane(timeout time.Duration) (token string, express bool, err error) {
	if err := c.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return "", false, &PeekError{"closed", err}
	}
	line := make([]byte, len(clientLanePrefix)+tokenSize+2)
	if _, err := io.ReadFull(c, line); err != nil {
		return "", false, peekFailed(err)
	}
	class := string(line[len(line)-2:])
	if class != laneExpress && class != laneBulk {
		return "", false, &PeekError{"garbage", errors.New("no token of a lane")}
	}
	if err := c.SetReadDeadline(time.Time{}); err != nil {
		return "", false, &PeekError{"closed", err}
	}
	return string(line[len(clientLanePrefix) : len(line)-2]), class == laneExpress, nil
}

// The ends of the line with which a client's lane begins: for small frames, and
// for bulk.
const (
	laneExpress = "e\n"
	laneBulk    = "b\n"
)

// Bare gives the bytes that were looked at and not read yet, and the connection
// under it, which is read from then on. A WebSocket reads ahead and writes
// together from here on, which takes memory.
func (c *Peeked) Bare() (rest []byte, conn net.Conn) {
	if web := webOf(c); web != nil {
		web.wire.gather(readAhead)
	}
	rest, c.again = c.again, nil
	return rest, c.Conn
}

// NetConn is the connection below. What was looked at comes from Read alone.
func (c *Peeked) NetConn() net.Conn { return c.Conn }

func (c *Peeked) Read(p []byte) (int, error) {
	if c.again == nil {
		return c.Conn.Read(p)
	}
	n := copy(p, c.again)
	if c.again = c.again[n:]; len(c.again) == 0 {
		c.again = nil
	}
	return n, nil
}

// peeker keeps what it read. It has no memory before bytes come, and then as
// much as came.
type peeker struct {
	conn net.Conn
	seen []byte
}

var errTooLong = fmt.Errorf("more than %d bytes", maxPeek)

// Peek gives the first n bytes, for which it waits.
func (p *peeker) Peek(n int) ([]byte, error) {
	if n > maxPeek {
		return nil, errTooLong
	}
	for len(p.seen) < n {
		size := 2 << 10 // a ClientHello
		if len(p.seen) == 0 {
			size = 1 // who is silent waits here
		}
		p.seen = slices.Grow(p.seen, size)
		k, err := p.conn.Read(p.seen[len(p.seen):min(cap(p.seen), maxPeek)])
		p.seen = p.seen[:len(p.seen)+k]
		if err != nil && len(p.seen) < n {
			return nil, err
		}
	}
	return p.seen[:n], nil
}

func peek(in *peeker) (kind Kind, token string, err error) {
	first, err := in.Peek(1)
	if err != nil {
		return "", "", peekFailed(err)
	}
	const recordHandshake = 22
	switch c := first[0]; {
	case c == recordHandshake:
		return peekHello(in)
	case c < 'A' || c > 'Z':
		return "", "", &PeekError{"garbage", fmt.Errorf("the first byte is %#02x", c)}
	}
	for i := range len(clientLanePrefix) {
		b, err := in.Peek(i + 1)
		if err != nil {
			return "", "", peekFailed(err)
		}
		if b[i] != clientLanePrefix[i] {
			return KindHTTP, "", nil
		}
	}
	return KindClientLane, "", nil
}

func peekFailed(err error) error {
	var timeout net.Error
	switch {
	case errors.Is(err, errTooLong):
		return &PeekError{"too-long", err}
	case errors.As(err, &timeout) && timeout.Timeout():
		return &PeekError{"silence", err}
	}
	return &PeekError{"closed", err}
}

// peekHello collects a ClientHello, which may come in several records (RFC 8446
// §5.1), and reads its ALPN.
func peekHello(in *peeker) (kind Kind, token string, err error) {
	garbage := func(what string) (Kind, string, error) { return "", "", &PeekError{"garbage", errors.New(what)} }
	var hello []byte
	need := 4 // the handshake message's header
	for at := 0; len(hello) < need; {
		header, err := in.Peek(at + 5)
		if err != nil {
			return "", "", peekFailed(err)
		}
		header = header[at:]
		n := int(binary.BigEndian.Uint16(header[3:]))
		if header[0] != 22 || header[1] != 3 || n == 0 || n > maxPeek {
			return garbage("not a TLS record")
		}
		record, err := in.Peek(at + 5 + n)
		if err != nil {
			return "", "", peekFailed(err)
		}
		hello = append(hello, record[at+5:]...)
		at += 5 + n
		if len(hello) >= 4 && need == 4 {
			if hello[0] != 1 {
				return garbage("not a ClientHello")
			}
			need = 4 + int(hello[1])<<16 + int(hello[2])<<8 + int(hello[3])
			if need > maxPeek {
				return "", "", &PeekError{"too-long", fmt.Errorf("a ClientHello of %d bytes", need)}
			}
		}
	}
	protocols, ok := helloALPN(hello[4:need])
	switch {
	case !ok:
		return garbage("a malformed ClientHello")
	case slices.Contains(protocols, ALPNLane):
		other := slices.DeleteFunc(protocols, func(p string) bool { return p == ALPNLane })
		if len(other) != 1 || len(other[0]) != tokenSize {
			return garbage("a lane without a token")
		}
		return KindLane, other[0], nil
	case slices.Contains(protocols, ALPN):
		return KindSession, "", nil
	}
	return KindTLS, "", nil
}

// field takes a field with a length of so many bytes before it.
func field(b []byte, prefix int) (content, rest []byte, ok bool) {
	if len(b) < prefix {
		return nil, nil, false
	}
	n := 0
	for _, c := range b[:prefix] {
		n = n<<8 | int(c)
	}
	if b = b[prefix:]; len(b) < n {
		return nil, nil, false
	}
	return b[:n], b[n:], true
}

// helloALPN reads the protocols of a ClientHello's body (RFC 8446 §4.1.2, RFC
// 7301 §3.1).
func helloALPN(b []byte) (protocols []string, ok bool) {
	const fixed = 2 + 32 // version, random
	if len(b) < fixed {
		return nil, false
	}
	b = b[fixed:]
	for _, prefix := range []int{1, 2, 1} { // session id, cipher suites, compression
		if _, b, ok = field(b, prefix); !ok {
			return nil, false
		}
	}
	if len(b) == 0 {
		return nil, true // no extensions
	}
	extensions, rest, ok := field(b, 2)
	if !ok || len(rest) != 0 {
		return nil, false
	}
	for len(extensions) > 0 {
		if len(extensions) < 2 {
			return nil, false
		}
		typ := binary.BigEndian.Uint16(extensions)
		var body []byte
		if body, extensions, ok = field(extensions[2:], 2); !ok {
			return nil, false
		}
		if typ != 16 {
			continue
		}
		list, rest, ok := field(body, 2)
		if !ok || len(rest) != 0 {
			return nil, false
		}
		for len(list) > 0 {
			var name []byte
			if name, list, ok = field(list, 1); !ok || len(name) == 0 {
				return nil, false
			}
			protocols = append(protocols, string(name))
		}
	}
	return protocols, true
}
