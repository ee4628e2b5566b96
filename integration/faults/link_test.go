//go:build unix

package faults

import (
	"context"
	"net"
	"sync"
	"testing"
)

// link is a TCP forwarder that can be cut: every connection is closed, or nothing moves any more.
type link struct {
	addr string

	mu     sync.Mutex
	conns  map[net.Conn]struct{} // guarded by mu
	frozen chan struct{}         // closed while bytes may move; guarded by mu
}

// newLink forwards to an address until the test ends.
func newLink(t *testing.T, to string) *link {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{addr: ln.Addr().String(), conns: make(map[net.Conn]struct{}), frozen: make(chan struct{})}
	close(l.frozen)
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	tasks.Go(func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			tasks.Go(func() { l.carry(ctx, near, to) })
		}
	})
	t.Cleanup(func() {
		cancel()
		_ = ln.Close()
		l.kill()
		tasks.Wait()
	})
	return l
}

func (l *link) carry(ctx context.Context, near net.Conn, to string) {
	far, err := new(net.Dialer).DialContext(ctx, "tcp", to)
	if err != nil {
		_ = near.Close()
		return
	}
	l.mu.Lock()
	l.conns[near], l.conns[far] = struct{}{}, struct{}{}
	l.mu.Unlock()
	var both sync.WaitGroup
	pump := func(to, from net.Conn) {
		defer func() { _ = to.Close(); _ = from.Close() }()
		buf := make([]byte, 64<<10)
		for {
			n, err := from.Read(buf)
			if n > 0 && l.pass(ctx) {
				if _, err := to.Write(buf[:n]); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
	both.Go(func() { pump(near, far) })
	both.Go(func() { pump(far, near) })
	both.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns, near)
	delete(l.conns, far)
}

// pass waits until bytes may move; false: the test is over.
func (l *link) pass(ctx context.Context) bool {
	l.mu.Lock()
	frozen := l.frozen
	l.mu.Unlock()
	select {
	case <-frozen:
		return true
	case <-ctx.Done():
		return false
	}
}

// freeze keeps all bytes where they are; thaw lets them go on.
func (l *link) freeze() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.frozen = make(chan struct{})
}

func (l *link) thaw() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.frozen)
}

// kill closes every connection.
func (l *link) kill() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = c.Close()
	}
}
