package bundle

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// ErrCut is the end of a Pipe's bytes where the store's direction did not end well.
var ErrCut = errors.New("bundle: the stream was reset")

// Pipe is what a socket is elsewhere, for a program of this process: it reads and
// writes the Pipe, and the stream carries the other end, Socket. Each direction is a
// pipe without a buffer: a byte that was read is a byte that the program has, and a
// slow reader holds the store back. All methods may be called from any goroutine.
type Pipe struct {
	// static after construction
	near, far     net.Addr
	late          func(n int) bool
	down, downFar net.Conn // from the store
	up, upFar     net.Conn // to the store

	ended  atomic.Bool  // the store ended its direction, and well
	half   atomic.Bool  // this side ended its own
	cut    atomic.Bool  // the last Write was not taken whole
	writes atomic.Int32 // under way
}

// NewPipe makes a pipe between two addresses. late is asked whether n bytes of the
// store may be dropped that nobody reads any more; else the stream is reset.
func NewPipe(near, far net.Addr, late func(n int) bool) *Pipe {
	p := &Pipe{near: near, far: far, late: late}
	p.down, p.downFar = net.Pipe()
	p.up, p.upFar = net.Pipe()
	return p
}

// Socket is the end that the stream carries.
func (p *Pipe) Socket() Socket { return pipeEnd{p} }

// Read gives io.EOF only where the store's direction ended well, else ErrCut.
func (p *Pipe) Read(b []byte) (int, error) {
	n, err := p.down.Read(b)
	if errors.Is(err, io.EOF) && !p.ended.Load() {
		err = ErrCut
	}
	return n, err
}

// Write waits until the stream has b; io.ErrClosedPipe: it takes nothing any more.
func (p *Pipe) Write(b []byte) (int, error) {
	p.writes.Add(1)
	defer p.writes.Add(-1)
	n, err := p.up.Write(b)
	p.cut.Store(n < len(b))
	return n, err
}

// CloseWrite ends the direction to the store.
func (p *Pipe) CloseWrite() error {
	p.half.Store(true)
	return p.up.Close()
}

// CloseRead takes nothing more from the store.
func (p *Pipe) CloseRead() error { return p.down.Close() }

// Ended tells whether the store has ended its direction, and well.
func (p *Pipe) Ended() bool { return p.ended.Load() }

// Half tells whether this side has ended its direction.
func (p *Pipe) Half() bool { return p.half.Load() }

// Whole tells whether the stream has all that was to be written.
func (p *Pipe) Whole() bool { return p.writes.Load() == 0 && !p.cut.Load() }

// SetReadDeadline bounds Reads, those that wait already too.
func (p *Pipe) SetReadDeadline(t time.Time) error { return p.down.SetReadDeadline(t) }

// SetWriteDeadline bounds Writes, those that wait already too.
func (p *Pipe) SetWriteDeadline(t time.Time) error { return p.up.SetWriteDeadline(t) }

// pipeEnd is the Pipe as its stream sees it: a job's socket.
type pipeEnd struct{ p *Pipe }

func (e pipeEnd) Read(b []byte) (int, error) { return e.p.upFar.Read(b) }

func (e pipeEnd) Write(b []byte) (int, error) {
	n, err := e.p.downFar.Write(b)
	if err != nil && e.p.late(len(b)-n) {
		return len(b), nil
	}
	return n, err
}

// CloseWrite is called after the store's last byte was read.
func (e pipeEnd) CloseWrite() error {
	e.p.ended.Store(true)
	return e.p.downFar.Close()
}

// Close ends what did not end before: Read and Write say so.
func (e pipeEnd) Close() error {
	return errors.Join(e.p.downFar.Close(), e.p.upFar.Close())
}

// SetLinger has nothing to do: an end that is no good one is told by Read.
func (pipeEnd) SetLinger(int) error                { return nil }
func (e pipeEnd) LocalAddr() net.Addr              { return e.p.far }
func (e pipeEnd) RemoteAddr() net.Addr             { return e.p.near }
func (pipeEnd) SetDeadline(time.Time) error        { return nil }
func (pipeEnd) SetReadDeadline(time.Time) error    { return nil }
func (pipeEnd) SetWriteDeadline(t time.Time) error { return nil }
