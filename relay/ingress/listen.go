package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// Rules say who gets in at a listener.
type Rules struct {
	// AllowFrom are the networks that connections may come from; empty: all.
	// Nothing is read from others.
	AllowFrom []netip.Prefix
	// TLS is put on each connection; nil: none.
	TLS *tls.Config
}

func (r *Rules) allow(addr net.Addr) bool {
	if r == nil || len(r.AllowFrom) == 0 {
		return true
	}
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return false
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	return slices.ContainsFunc(r.AllowFrom, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// Listener accepts jobs' connections. They have SO_LINGER 0 from birth.
type Listener struct {
	net.Listener
	rules atomic.Pointer[Rules]
}

// Listen listens on a TCP address for jobs.
func Listen(ctx context.Context, address string) (*Listener, error) {
	config := net.ListenConfig{
		Control: func(network, address string, raw syscall.RawConn) error {
			return errors.Join(armListener(network, address, raw), bundle.BeginCongestion(network, address, raw))
		},
		KeepAlive: acceptedKeepAlive,
	}
	l, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("ingress: %w", err)
	}
	return &Listener{Listener: l}, nil
}

// SetRules replaces the rules for connections that come from now on.
func (l *Listener) SetRules(r Rules) { l.rules.Store(&r) }

// armedConn is a job's connection. It closes with a reset, unless the ingress
// answered by itself.
type armedConn struct {
	bundle.Socket // *net.TCPConn or *secureSocket: what a stream is carried on
	armed         atomic.Bool
	loose         atomic.Bool                   // it was, or may have been, told to close well
	answer        atomic.Pointer[chan struct{}] // closed once there is one; nil: nobody waits for it

	mu sync.Mutex
	// guarded by mu
	closed bool
	after  []func() // run once after Close
}

// Close closes the socket and frees its place.
func (c *armedConn) Close() error {
	err := c.Socket.Close()
	c.mu.Lock()
	c.closed = true
	after := c.after
	c.after = nil
	c.mu.Unlock()
	for _, f := range after {
		f()
	}
	return err
}

// onClose has f run once the connection is closed.
func (c *armedConn) onClose(f func()) {
	c.mu.Lock()
	closed := c.closed
	if !closed {
		c.after = append(c.after, f)
	}
	c.mu.Unlock()
	if closed {
		f()
	}
}

// reset breaks the connection off at once.
func (c *armedConn) reset() {
	c.arm()
	_ = c.Socket.Close()
}

// disarm lets the connection close well.
func (c *armedConn) disarm() {
	c.armed.Store(false)
	c.loosen()
}

func (c *armedConn) loosen() {
	c.loose.Store(true)
	_ = c.SetLinger(-1)
}

// arm makes the socket reset when it closes, from now on.
func (c *armedConn) arm() {
	c.armed.Store(true)
	if c.loose.Swap(false) {
		_ = c.SetLinger(0)
	}
}

// Read is net/http's, which takes the end of a job's bytes for the end of the job.
// While a dial is under way, that waits: a job that has said all still wants its
// answer.
func (c *armedConn) Read(p []byte) (int, error) {
	n, err := c.Socket.Read(p)
	if answer := c.answer.Load(); n == 0 && errors.Is(err, io.EOF) && answer != nil {
		<-*answer
	}
	return n, err
}

// awaitAnswer has the end of the job's bytes wait until answered is called.
func (c *armedConn) awaitAnswer() (answered func()) {
	answer := make(chan struct{})
	c.answer.Store(&answer)
	return sync.OnceFunc(func() {
		c.answer.Store(nil)
		close(answer)
	})
}

// disarmOnAnswer lets the next Write take the reset back.
func (c *armedConn) disarmOnAnswer() { c.armed.Store(false) }

// watchAfter is how long a dial takes before the ingress looks whether the peer
// still wants it. Most are over by then, and cost nothing.
const watchAfter = 20 * time.Millisecond

// whileOpen gives a context that ends when the peer gives up during a dial. The
// function that it returns ends the watch and gives the bytes that were read
// meanwhile, which belong to the stream.
func (c *armedConn) whileOpen(ctx context.Context) (watched context.Context, done func() []byte) {
	watched, cancel := context.WithCancel(ctx)
	var early []byte
	over := make(chan struct{})
	timer := time.AfterFunc(watchAfter, func() {
		defer close(over)
		buf := make([]byte, 1<<10)
		n, err := c.Socket.Read(buf)
		early = buf[:n]
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, io.EOF) {
			cancel() // a reset; after a mere end of its bytes it still wants answers
		}
	})
	return watched, func() []byte {
		defer cancel()
		if timer.Stop() {
			return nil
		}
		_ = c.SetReadDeadline(time.Unix(1, 0))
		<-over
		_ = c.SetReadDeadline(time.Time{})
		return early
	}
}

// Write is an answer of the ingress itself: it must arrive.
func (c *armedConn) Write(p []byte) (int, error) {
	if !c.armed.Load() {
		c.loosen()
	}
	return c.Socket.Write(p)
}

// farewell closes after an answer of the ingress' own. What the peer sent and
// nobody read would make the kernel reset the connection, and the answer with
// it, so it is taken for a moment.
func (c *armedConn) farewell() {
	_ = c.CloseWrite()
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	_, _ = io.CopyN(io.Discard, c.Socket, 64<<10)
	_ = c.Close()
}

// gate is a Listener with a bound on the connections that are open at once: the
// next one is accepted when one closes. Who is not allowed in is reset.
type gate struct {
	*Listener
	refused func(net.Addr)
	slots   chan struct{}
	done    chan struct{}
	once    sync.Once
}

func newGate(l *Listener, n int, refused func(net.Addr)) *gate {
	return &gate{Listener: l, refused: refused, slots: make(chan struct{}, n), done: make(chan struct{})}
}

// Accept gives an *armedConn.
func (g *gate) Accept() (net.Conn, error) {
	select {
	case g.slots <- struct{}{}:
	case <-g.done:
		return nil, net.ErrClosed
	}
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			<-g.slots
			return nil, err
		}
		tcp := conn.(*net.TCPConn)
		if !inherits {
			_ = tcp.SetLinger(0)
		}
		rules := g.rules.Load()
		if !rules.allow(tcp.RemoteAddr()) {
			g.refused(tcp.RemoteAddr())
			_ = tcp.Close()
			continue
		}
		sock := &armedConn{Socket: tcp}
		if rules != nil && rules.TLS != nil {
			_ = tcp.SetDeadline(time.Now().Add(handshakeTime))
			sock.Socket = newSecureSocket(tcp, func(c net.Conn) *tls.Conn { return tls.Server(c, rules.TLS) })
			sock.loose.Store(true) // by its handshake
		}
		sock.onClose(func() { <-g.slots })
		return sock, nil
	}
}

func (g *gate) Close() error {
	g.once.Do(func() { close(g.done) })
	return g.Listener.Close()
}
