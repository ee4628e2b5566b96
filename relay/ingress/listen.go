package ingress

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Listen listens on a TCP address for jobs. Connections have SO_LINGER 0 from
// birth.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	config := net.ListenConfig{Control: lingerZero}
	l, err := config.Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("ingress: %w", err)
	}
	return l, nil
}

// armedConn closes with a reset, unless the ingress answered by itself.
type armedConn struct {
	*net.TCPConn
	armed   atomic.Bool
	release func() // frees its place, once
}

// Close closes the socket and frees its place.
func (c *armedConn) Close() error {
	c.release()
	return c.TCPConn.Close()
}

// arm makes the socket reset when it closes, from now on.
func (c *armedConn) arm() {
	c.armed.Store(true)
	_ = c.SetLinger(0)
}

// disarmOnAnswer lets the next Write take the reset back.
func (c *armedConn) disarmOnAnswer() { c.armed.Store(false) }

// whileOpen gives a context that ends when the peer gives up during a dial. The
// function that it returns ends the watch and gives the bytes that came
// meanwhile, which belong to the stream.
func (c *armedConn) whileOpen(ctx context.Context) (watched context.Context, done func() []byte) {
	watched, cancel := context.WithCancel(ctx)
	var early []byte
	over := make(chan struct{})
	go func() {
		defer close(over)
		buf := make([]byte, 4<<10)
		n, err := c.TCPConn.Read(buf)
		early = buf[:n]
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, io.EOF) {
			cancel() // a reset; after a mere end of its bytes it still wants answers
		}
	}()
	return watched, func() []byte {
		_ = c.SetReadDeadline(time.Unix(1, 0))
		<-over
		_ = c.SetReadDeadline(time.Time{})
		cancel()
		return early
	}
}

// Write is an answer of the ingress itself: it must arrive.
func (c *armedConn) Write(p []byte) (int, error) {
	if !c.armed.Load() {
		_ = c.SetLinger(-1)
	}
	return c.TCPConn.Write(p)
}

// farewell closes after an answer of the ingress' own. What the peer sent and
// nobody read would make the kernel reset the connection, and the answer with
// it, so it is taken for a moment.
func (c *armedConn) farewell() {
	_ = c.CloseWrite()
	_ = c.SetReadDeadline(time.Now().Add(time.Second))
	_, _ = io.CopyN(io.Discard, c.TCPConn, 64<<10)
	_ = c.Close()
}

// limited bounds the connections that are open at once: the next one is
// accepted when one closes.
func limited(l net.Listener, n int) net.Listener {
	return &limitedListener{Listener: l, slots: make(chan struct{}, n), done: make(chan struct{})}
}

type limitedListener struct {
	net.Listener
	slots chan struct{}
	done  chan struct{}
	once  sync.Once
}

func (l *limitedListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	tcp := conn.(*net.TCPConn)
	_ = tcp.SetLinger(0) // where the listener's option is not inherited
	return &armedConn{TCPConn: tcp, release: sync.OnceFunc(func() { <-l.slots })}, nil
}

func (l *limitedListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}
