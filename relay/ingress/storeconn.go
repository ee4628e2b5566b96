package ingress

import (
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// storeConn is a stream to a store as an HTTP client uses it. Read gives io.EOF
// only where the store ended well. Close resets the store's connection unless
// whole messages went both ways, as the exchange on it says.
type storeConn struct {
	// static after construction
	*bundle.Pipe
	stream Stream
	name   storeAddr
	over   chan struct{}

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
	c.Pipe = bundle.NewPipe(c.name, storeAddr("ingress"), c.late)
	return c
}

// late drops a store's last words after Close: they belong to no answer.
func (c *storeConn) late(int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// carry carries the stream until it is over.
func (c *storeConn) carry() bundle.Report {
	report := c.stream.Carry(c.Socket(), nil)
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

// Close is the HTTP client's. In the midst of an exchange it takes no more from
// the store, and leaves the rest to end.
func (c *storeConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	_ = c.CloseRead()
	if !c.busy {
		c.sayGoodbyeLocked()
	}
	return nil
}

// sayGoodbyeLocked ends the direction to the store and gives it a while to end
// its own.
func (c *storeConn) sayGoodbyeLocked() {
	_ = c.CloseWrite()
	select {
	case <-c.over:
	default:
		c.timer = time.AfterFunc(idleEnd, func() { c.stream.Reset(bundle.CodeJobReset) })
	}
}

func (c *storeConn) Read(p []byte) (int, error) {
	n, err := c.Pipe.Read(p)
	if errors.Is(err, bundle.ErrCut) {
		err = &net.OpError{Op: "read", Net: "tcp", Addr: c.name, Err: syscall.ECONNRESET}
	}
	return n, err
}

func (c *storeConn) Write(p []byte) (int, error) {
	n, err := c.Pipe.Write(p)
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
