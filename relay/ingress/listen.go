package ingress

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
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

// Write is an answer of the ingress itself: it must arrive.
func (c *armedConn) Write(p []byte) (int, error) {
	if !c.armed.Load() {
		_ = c.SetLinger(-1)
	}
	return c.TCPConn.Write(p)
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
