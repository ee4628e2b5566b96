package client

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

const (
	// closeTime is how long a closed Conn may take to end well before it is reset.
	closeTime = 30 * time.Second
	// closeDrop is how many bytes of the store a closed Conn drops before it is
	// reset: a last word, not a copy.
	closeDrop = 64 << 10
)

// Conn is one stream to a store, a [net.Conn] like one of TCP. All methods may
// be called from any goroutine.
//
// Read returns [io.EOF] only when the store ended its direction, every byte
// before was read and their digest is right. Any other end is an [*Error] that
// names the reason and the hop; errors.Is finds [syscall.ECONNRESET] in it.
//
// A Write that returned has handed its bytes over; they are with the store when
// the store's answer, or its end, says so.
type Conn struct {
	// static after construction
	stream carrier
	local  Addr
	remote Addr
	pipe   *bundle.Pipe
	done   chan struct{}

	closed atomic.Bool  // by the application
	read   atomic.Int64 // bytes that the application has
	wrote  atomic.Int64 // bytes that the stream has
	drop   atomic.Int64 // bytes that came after Close
	closer sync.Once
	timer  *time.Timer // resets what does not end after Close

	start  time.Time
	target Target
	report Report // final when done is closed
}

// carrier is a stream; *bundle.Stream is one.
type carrier interface {
	Carry(sock bundle.Socket, prefix []byte) bundle.Report
	Reset(reason bundle.Code)
	UUID() [16]byte
}

// Addr is an end of a Conn. RemoteAddr's text can be dialled again.
type Addr string

// Network is tcp: that is what the store speaks.
func (Addr) Network() string { return "tcp" }

func (a Addr) String() string { return string(a) }

func newConn(stream carrier, target Target, local, remote Addr) *Conn {
	c := &Conn{stream: stream, target: target, local: local, remote: remote, done: make(chan struct{}), start: time.Now()}
	c.pipe = bundle.NewPipe(local, remote, c.late)
	c.timer = time.AfterFunc(time.Hour, func() { c.stream.Reset(bundle.CodeJobReset) })
	c.timer.Stop()
	return c
}

// carry moves the stream's bytes until it is over.
func (c *Conn) carry() Report {
	report := c.stream.Carry(c.pipe.Socket(), nil)
	c.timer.Stop()
	c.report = reportOf(c.target, report)
	close(c.done)
	return c.report
}

// Read reads what the store sent.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, err := c.pipe.Read(p)
	c.read.Add(int64(n))
	switch {
	case err == nil:
		return n, nil
	case c.closed.Load():
		return n, net.ErrClosed
	case errors.Is(err, bundle.ErrCut):
		return n, c.badEnd()
	}
	return n, err
}

// Write hands p to the stream; it waits while the store takes nothing.
func (c *Conn) Write(p []byte) (int, error) {
	switch {
	case c.closed.Load():
		return 0, net.ErrClosed
	case len(p) == 0:
		return 0, nil
	}
	n, err := c.pipe.Write(p)
	c.wrote.Add(int64(n))
	if err == nil {
		return n, nil
	}
	switch {
	case c.closed.Load():
		return n, net.ErrClosed
	case c.pipe.Half():
		return n, syscall.EPIPE
	case errors.Is(err, io.ErrClosedPipe):
		return n, c.badEnd()
	}
	return n, err
}

// badEnd is why the stream is over.
func (c *Conn) badEnd() error {
	<-c.done
	if err := c.report.err(); err != nil {
		return err
	}
	return net.ErrClosed
}

// CloseWrite ends the direction to the store: it reads end of file after the
// last byte. Reading goes on.
func (c *Conn) CloseWrite() error {
	switch {
	case c.closed.Load():
		return net.ErrClosed
	case c.over() && !c.pipe.Half():
		return c.badEnd()
	}
	return c.pipe.CloseWrite()
}

func (c *Conn) over() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// Close ends both directions as a TCP connection does: what was written is
// delivered and followed by an end of file, in the background, for up to 30 s.
// What the store still sends is dropped; more than 64 KiB of it reset the stream.
// Where a Write is under way or was not taken whole, the stream is reset: half a
// message is never followed by a good end. Closing twice is fine.
//
// A program that ends right after Close calls [Dialer.Close] first, which waits.
// One that must know that the store has all of an upload calls CloseWrite and
// reads until io.EOF. One that gives up calls Reset.
func (c *Conn) Close() error {
	c.closer.Do(func() {
		c.closed.Store(true)
		if !c.pipe.Whole() {
			c.stream.Reset(bundle.CodeJobReset)
		}
		c.timer.Reset(closeTime)
		if c.over() {
			c.timer.Stop()
		}
		_ = c.pipe.CloseRead()
		_ = c.pipe.CloseWrite()
	})
	return nil
}

// Reset breaks the stream off: the store's connection is reset, too, and nobody
// takes what was written for a whole.
func (c *Conn) Reset() {
	c.stream.Reset(bundle.CodeJobReset)
	_ = c.Close()
}

// Done is closed when the stream is over and Report is final.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Report says what the stream did: so far, or in all once Done is closed.
func (c *Conn) Report() Report {
	if c.over() {
		return c.report
	}
	return Report{
		UUID: uuidText(c.stream.UUID()), Target: c.target.String(), Reason: ReasonOpen,
		BytesRead: c.read.Load(), BytesWritten: c.wrote.Load(), Seconds: time.Since(c.start).Seconds(),
	}
}

// LocalAddr names the run.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is the address that was dialled.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline bounds Reads, those that wait already too.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.deadline(c.pipe.SetReadDeadline(t)) }

// SetWriteDeadline bounds Writes, those that wait already too.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.deadline(c.pipe.SetWriteDeadline(t)) }

// deadline makes of a pipe's answer what a TCP connection says: a deadline that
// has nothing left to bound is no error.
func (c *Conn) deadline(err error) error {
	if err != nil && c.closed.Load() {
		return net.ErrClosed
	}
	return nil
}

// late drops a last word of the store after Close, but no copy.
func (c *Conn) late(n int) bool { return c.closed.Load() && c.drop.Add(int64(n)) <= closeDrop }
