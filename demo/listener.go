package demo

import (
	"context"
	"net"
	"net/http"
	"sync"
)

// boundedListener accepts no more than a number of connections at once; others
// wait in the kernel's queue. Its connections keep their half-close.
type boundedListener struct {
	*net.TCPListener
	free chan struct{} // a token for each connection that may be open
	done chan struct{}
	once sync.Once // closes done
}

func newBoundedListener(ln *net.TCPListener, limit int) *boundedListener {
	return &boundedListener{TCPListener: ln, free: make(chan struct{}, limit), done: make(chan struct{})}
}

func (l *boundedListener) Accept() (net.Conn, error) {
	select {
	case l.free <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	c, err := l.AcceptTCP()
	if err != nil {
		<-l.free
		return nil, err
	}
	return &boundedConn{TCPConn: c, free: l.free}, nil
}

func (l *boundedListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.TCPListener.Close()
}

type boundedConn struct {
	*net.TCPConn
	free chan struct{}
	once sync.Once // gives the token back
}

func (c *boundedConn) Close() error {
	err := c.TCPConn.Close()
	c.once.Do(func() { <-c.free })
	return err
}

// serveUntil runs srv on ln until ctx ends (nil) or ln fails. When it returns,
// no connection of srv is left but those that were hijacked.
func serveUntil(ctx context.Context, srv *http.Server, ln net.Listener) error {
	var conns sync.WaitGroup
	srv.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew: // set by the accept loop, so before Serve returns
			conns.Add(1)
		case http.StateClosed, http.StateHijacked:
			conns.Done()
		}
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		srv.Close()
	})
	err := srv.Serve(ln)
	if stop() {
		srv.Close()
	} else {
		<-stopped
		err = nil
	}
	conns.Wait()
	return err
}
