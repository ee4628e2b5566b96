package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/ebbgate/ebbgate/tunnel"
)

const (
	// firstBytes is how long a connection has to say what it is, and then to
	// finish its handshake.
	firstBytes = 10 * time.Second
	// maxPending bounds the connections that have not proved anything yet;
	// maxPendingHost those of one address, which may be a whole company.
	maxPending     = 16384
	maxPendingHost = 4096
)

// doorkeeper counts connections that have not proved anything yet.
type doorkeeper struct {
	mu sync.Mutex
	// guarded by mu
	total int
	hosts map[string]int
}

func newDoorkeeper() *doorkeeper { return &doorkeeper{hosts: make(map[string]int)} }

func (k *doorkeeper) enter(host string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.total >= maxPending || k.hosts[host] >= maxPendingHost {
		return false
	}
	k.total++
	k.hosts[host]++
	return true
}

func (k *doorkeeper) leave(host string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.total--
	if k.hosts[host]--; k.hosts[host] == 0 {
		delete(k.hosts, host)
	}
}

// acceptTLS accepts on the port for everything until ctx ends.
func (r *Relay) acceptTLS(ctx context.Context, l net.Listener) error {
	web := r.newWebsite(r.site(), r.self.publicConfig())
	defer web.close()
	return r.accept(ctx, l, func(conn net.Conn, proved func()) { r.greet(ctx, conn, web, proved) })
}

// acceptHTTP accepts on the port of WebSockets without TLS of their own until
// ctx ends; nil: there is none.
func (r *Relay) acceptHTTP(ctx context.Context, l net.Listener) error {
	if l == nil {
		return nil
	}
	web := r.newWebsite(r.plainSite(), nil)
	defer web.close()
	return r.accept(ctx, l, func(conn net.Conn, proved func()) {
		defer proved()
		stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
		defer stop()
		r.metrics.connections.WithLabelValues("plain").Inc()
		web.serve(ctx, conn, proved)
	})
}

// accept accepts on l until ctx ends. Everything about a connection happens off
// this loop, in serve, which calls proved at least once, when the connection is
// no longer anonymous or is over.
func (r *Relay) accept(ctx context.Context, l net.Listener, serve func(conn net.Conn, proved func())) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	pause := time.Duration(0)
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = conn.Close()
			}
			return nil
		}
		if err != nil {
			if !scarce(err) {
				return fmt.Errorf("relay: accept: %w", err)
			}
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			r.log.Warn("cannot accept connections for now", "error", err, "pause", pause)
			r.metrics.connections.WithLabelValues("accept-failed").Inc()
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			continue
		}
		pause = 0
		host := hostOf(conn.RemoteAddr())
		if !r.doorkeeper.enter(host) {
			r.metrics.connections.WithLabelValues("too-many").Inc()
			_ = conn.Close()
			continue
		}
		r.sessions.Go(func() { serve(conn, sync.OnceFunc(func() { r.doorkeeper.leave(host) })) })
	}
}

// scarce tells errors of Accept that pass: no descriptors, no memory, or a
// client that was gone already.
func scarce(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// greet finds out what a connection is and serves it.
func (r *Relay) greet(ctx context.Context, conn net.Conn, web *website, proved func()) {
	defer proved()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	kind, peeked, err := tunnel.Peek(conn, firstBytes)
	if err != nil {
		stop()
		r.metrics.connections.WithLabelValues(codeOf(err)).Inc()
		_ = conn.Close()
		return
	}
	r.metrics.connections.WithLabelValues(string(kind)).Inc()
	switch kind {
	case tunnel.KindSession:
		defer stop()
		r.handshake(ctx, peeked, proved)
	case tunnel.KindTLS:
		web.serve(ctx, peeked, proved)
		stop()
	case tunnel.KindHTTP:
		stop()
		_ = conn.SetWriteDeadline(time.Now().Add(firstBytes))
		_, _ = conn.Write([]byte("HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\nThis port speaks TLS: use https://\n"))
		_ = conn.Close()
	case tunnel.KindLane:
		stop()
		r.nodeLane(peeked)
	case tunnel.KindClientLane:
		defer stop()
		r.clientLane(ctx, peeked, proved)
	}
}

// serveInside finds out what a WebSocket carries and serves it: a session or a
// lane.
func (r *Relay) serveInside(ctx context.Context, conn net.Conn, proved func()) {
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	kind, peeked, err := tunnel.Peek(conn, firstBytes)
	if err != nil {
		r.metrics.connections.WithLabelValues(codeOf(err)).Inc()
		_ = conn.Close()
		return
	}
	switch kind {
	case tunnel.KindSession:
		r.handshake(ctx, peeked, proved)
	case tunnel.KindLane:
		stop()
		r.nodeLane(peeked)
	case tunnel.KindClientLane:
		r.clientLane(ctx, peeked, proved)
	default:
		r.metrics.connections.WithLabelValues("garbage").Inc()
		_ = conn.Close()
	}
}

// handshake makes a link of a connection and serves it.
func (r *Relay) handshake(ctx context.Context, conn net.Conn, proved func()) {
	link, err := tunnel.ServeTLS(ctx, conn, r.self.sessionConfig())
	if err != nil {
		r.metrics.connections.WithLabelValues("handshake-failed").Inc()
		r.log.Debug("handshake failed", "from", conn.RemoteAddr().String(), "error", err)
		return
	}
	r.serveLink(ctx, link, proved)
}

// acceptQUIC accepts links on a UDP socket until ctx ends; nil: there is none.
func (r *Relay) acceptQUIC(ctx context.Context, socket net.PacketConn) error {
	if socket == nil {
		return nil
	}
	l, err := tunnel.ListenQUIC(socket, r.self.sessionConfig())
	if err != nil {
		return err
	}
	defer l.Close()
	for {
		link, err := l.Accept(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		host := hostOf(link.RemoteAddr())
		if !r.doorkeeper.enter(host) {
			r.metrics.connections.WithLabelValues("too-many").Inc()
			r.sessions.Go(func() { _ = link.Close("too many connections") })
			continue
		}
		r.metrics.connections.WithLabelValues("quic").Inc()
		r.sessions.Go(func() {
			proved := sync.OnceFunc(func() { r.doorkeeper.leave(host) })
			defer proved()
			r.serveLink(ctx, link, proved)
		})
	}
}
