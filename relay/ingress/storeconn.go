package ingress

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// storeConn is a stream to a store as an HTTP client uses it. Read gives io.EOF
// only where the store ended well. Close resets the store's connection unless
// whole messages went both ways, as the exchange on it says.
type storeConn struct {
	// static after construction
	stream  Stream
	name    storeAddr
	down    net.Conn // from the store, a pipe without a buffer
	downFar net.Conn
	up      net.Conn // to the store
	upFar   net.Conn
	over    chan struct{}

	ended  atomic.Bool  // the store ended its direction, and well
	half   atomic.Bool  // this side ended its own
	writes atomic.Int32 // under way
	cut    atomic.Bool  // one was not taken whole

	mu sync.Mutex
	// guarded by mu
	busy   bool // an exchange is under way: it says what an end means
	closed bool
	timer  *time.Timer
}

// storeAddr is the store's name.
type storeAddr string

func (storeAddr) Network() string  { return "tcp" }
func (a storeAddr) String() string { return string(a) }

// idleEnd is how long a store may take to answer the end of an idle connection.
const idleEnd = 10 * time.Second

func newStoreConn(stream Stream, name string) *storeConn {
	c := &storeConn{stream: stream, name: storeAddr(name), over: make(chan struct{})}
	c.down, c.downFar = net.Pipe()
	c.up, c.upFar = net.Pipe()
	return c
}

// carry carries the stream until it is over.
func (c *storeConn) carry() bundle.Report {
	report := c.stream.Carry(storeSocket{c}, nil)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
	}
	close(c.over)
	return report
}

// begin says that an exchange uses the connection.
func (c *storeConn) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = true
}

// end says how it ended: whole, or not.
func (c *storeConn) end(whole bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.busy = false
	switch {
	case !whole:
		c.stream.Reset(bundle.CodeJobReset)
	case c.closed:
		c.sayGoodbyeLocked()
	}
}

// quiet tells whether the stream has all that was to be written.
func (c *storeConn) quiet() bool { return c.writes.Load() == 0 && !c.cut.Load() }

// Close is the HTTP client's. In the midst of an exchange it takes no more from
// the store, and leaves the rest to end.
func (c *storeConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	_ = c.down.Close()
	if !c.busy {
		c.sayGoodbyeLocked()
	}
	return nil
}

// sayGoodbyeLocked ends the direction to the store and gives it a while to end
// its own.
func (c *storeConn) sayGoodbyeLocked() {
	_ = c.up.Close()
	select {
	case <-c.over:
	default:
		c.timer = time.AfterFunc(idleEnd, func() { c.stream.Reset(bundle.CodeJobReset) })
	}
}

// CloseWrite ends the direction to the store.
func (c *storeConn) CloseWrite() error {
	c.half.Store(true)
	return c.up.Close()
}

func (c *storeConn) Read(p []byte) (int, error) {
	n, err := c.down.Read(p)
	if errors.Is(err, io.EOF) && !c.ended.Load() {
		err = &net.OpError{Op: "read", Net: "tcp", Addr: c.name, Err: syscall.ECONNRESET}
	}
	return n, err
}

func (c *storeConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	defer c.writes.Add(-1)
	n, err := c.up.Write(p)
	if n < len(p) {
		c.cut.Store(true)
	}
	if errors.Is(err, io.ErrClosedPipe) {
		err = &net.OpError{Op: "write", Net: "tcp", Addr: c.name, Err: syscall.ECONNRESET}
	}
	return n, err
}

func (c *storeConn) LocalAddr() net.Addr  { return storeAddr("ingress") }
func (c *storeConn) RemoteAddr() net.Addr { return c.name }

func (c *storeConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}
func (c *storeConn) SetReadDeadline(t time.Time) error  { return c.down.SetReadDeadline(t) }
func (c *storeConn) SetWriteDeadline(t time.Time) error { return c.up.SetWriteDeadline(t) }

// storeSocket is a storeConn as its stream sees it: a job's socket.
type storeSocket struct{ c *storeConn }

func (s storeSocket) Read(p []byte) (int, error) { return s.c.upFar.Read(p) }

// Write drops a store's last words after Close: they belong to no answer.
func (s storeSocket) Write(p []byte) (int, error) {
	n, err := s.c.downFar.Write(p)
	if err == nil {
		return n, nil
	}
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if s.c.closed {
		return len(p), nil
	}
	return n, err
}

// CloseWrite comes after the store's last byte was taken.
func (s storeSocket) CloseWrite() error {
	s.c.ended.Store(true)
	return s.c.downFar.Close()
}

// Close ends what did not end before: Read and Write say that it was a reset.
func (s storeSocket) Close() error {
	_ = s.c.downFar.Close()
	return s.c.upFar.Close()
}

func (storeSocket) SetLinger(int) error              { return nil }
func (storeSocket) LocalAddr() net.Addr              { return storeAddr("ingress") }
func (s storeSocket) RemoteAddr() net.Addr           { return s.c.name }
func (storeSocket) SetDeadline(time.Time) error      { return nil }
func (storeSocket) SetReadDeadline(time.Time) error  { return nil }
func (storeSocket) SetWriteDeadline(time.Time) error { return nil }
