package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Secure makes a job's connection of an accepted TCP connection: server puts TLS
// on it, whose handshake comes with the first Read or Write. conn is a
// *net.TCPConn, or has one below itself that its NetConn leads to.
func Secure(conn net.Conn, server func(net.Conn) *tls.Conn) net.Conn {
	c := &armedConn{Socket: newSecureSocket(conn, server)}
	c.loose.Store(true)
	return c
}

// WithConn is a context for the requests of a connection that [Secure] made, for
// [Connect.ServeHTTP]. proved is called once a job has authenticated itself.
func WithConn(ctx context.Context, conn net.Conn, proved func()) context.Context {
	c, ok := conn.(*armedConn)
	if !ok {
		return ctx
	}
	return context.WithValue(ctx, visitKey{}, &visit{conn: c, proved: proved})
}

// visit is a connection whose requests an HTTP server reads.
type visit struct {
	conn   *armedConn
	proved func()
	asked  atomic.Bool // there was a request

	mu sync.Mutex
	// guarded by mu
	client *storeClient // of the last request in absolute form
}

// visitKey is for a request's visit in its context.
type visitKey struct{}

// visitOf is the visit of a request's or connection's context; nil: [WithConn]
// knew none.
func visitOf(ctx context.Context) *visit {
	v, _ := ctx.Value(visitKey{}).(*visit)
	return v
}

// NetConn is the connection right below TLS; nil where there is no TLS.
func (c *armedConn) NetConn() net.Conn {
	if s, ok := c.Socket.(*secureSocket); ok {
		return s.NetConn()
	}
	return nil
}

// ConnectionState is that of TLS; zero where there is no TLS.
func (c *armedConn) ConnectionState() tls.ConnectionState {
	if s, ok := c.Socket.(*secureSocket); ok {
		return s.Conn.ConnectionState()
	}
	return tls.ConnectionState{}
}

// secureSocket is a TCP connection with TLS whose ends are as honest as those of
// TCP: the peer's end of file is its close_notify (RFC 8446 §6.1), and a FIN
// without one is an error. It closes with a reset and without a close_notify,
// unless its linger is taken back.
type secureSocket struct {
	*tls.Conn
	below   *underTLS
	orderly atomic.Bool // Close says goodbye
}

func newSecureSocket(conn net.Conn, server func(net.Conn) *tls.Conn) *secureSocket {
	below := &underTLS{Conn: conn, tcp: tcpOf(conn)}
	s := &secureSocket{Conn: server(below), below: below}
	_ = s.SetLinger(-1) // an alert of the handshake must arrive
	return s
}

// tcpOf finds the TCP connection at the bottom.
func tcpOf(conn net.Conn) *net.TCPConn {
	for {
		if tcp, ok := conn.(*net.TCPConn); ok {
			return tcp
		}
		upper, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			panic("ingress: BUG: TLS on a connection that is not TCP")
		}
		conn = upper.NetConn()
	}
}

// Write writes the records of p together: crypto/tls alone makes a system call for
// each 16 KiB. Like any connection, this one has one writer at a time.
func (s *secureSocket) Write(p []byte) (int, error) {
	if len(p) <= maxRecord {
		return s.Conn.Write(p)
	}
	s.below.gather()
	n, err := s.Conn.Write(p)
	return n, errors.Join(err, s.below.flush())
}

// maxRecord is how much one record of TLS holds (RFC 8446 §5.1).
const maxRecord = 16 << 10

// CloseWrite sends a close_notify. crypto/tls gives it 5 s; a job that reads its
// last bytes more slowly has as long as it needs.
func (s *secureSocket) CloseWrite() error {
	s.below.patient.Store(true)
	_ = s.below.Conn.SetWriteDeadline(time.Time{})
	return s.Conn.CloseWrite()
}

// SetLinger is that of TCP. With 0, Close sends no close_notify either.
func (s *secureSocket) SetLinger(sec int) error {
	s.orderly.Store(sec != 0)
	return s.below.tcp.SetLinger(sec)
}

// Close says goodbye where the end is a good one.
func (s *secureSocket) Close() error {
	if s.orderly.Load() {
		return s.Conn.Close()
	}
	return s.below.Close()
}

// underTLS is what crypto/tls reads from and writes to.
type underTLS struct {
	net.Conn
	tcp     *net.TCPConn
	patient atomic.Bool // crypto/tls' deadline for its last alert does not count

	mu sync.Mutex
	// guarded by mu
	out *[]byte // records that wait for flush; nil: they are written at once
}

// records are buffers for what is written together.
var records = sync.Pool{New: func() any { b := make([]byte, 0, 288<<10); return &b }}

func (u *underTLS) gather() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.out = records.Get().(*[]byte)
}

// Write is crypto/tls'.
func (u *underTLS) Write(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.out == nil || len(*u.out)+len(p) > cap(*u.out) {
		if err := u.writeOutLocked(); err != nil {
			return 0, err
		}
		if u.out == nil || len(p) > cap(*u.out) {
			return u.Conn.Write(p)
		}
	}
	*u.out = append(*u.out, p...)
	return len(p), nil
}

// flush writes what was gathered.
func (u *underTLS) flush() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	err := u.writeOutLocked()
	records.Put(u.out)
	u.out = nil
	return err
}

func (u *underTLS) writeOutLocked() error {
	if u.out == nil || len(*u.out) == 0 {
		return nil
	}
	_, err := u.Conn.Write(*u.out)
	*u.out = (*u.out)[:0]
	return err
}

// errBareEnd is a FIN without a close_notify before it: anybody on the way can
// send one.
var errBareEnd = errors.New("ingress: the connection ended without a TLS close_notify")

// NetConn is the connection below.
func (u *underTLS) NetConn() net.Conn { return u.Conn }

// Read tells a bare FIN from an end: crypto/tls takes one between two records
// for a good end.
func (u *underTLS) Read(p []byte) (int, error) {
	n, err := u.Conn.Read(p)
	if errors.Is(err, io.EOF) {
		err = errBareEnd
	}
	return n, err
}

// SetWriteDeadline is crypto/tls', unless the last alert has all time.
func (u *underTLS) SetWriteDeadline(t time.Time) error {
	if u.patient.Load() {
		return nil
	}
	return u.Conn.SetWriteDeadline(t)
}
