package ingress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// door is what all ingresses share: who is behind it, and who is inside.
type door struct {
	dialer   Dialer
	logger   *slog.Logger
	refusals *sampler
	metrics  *Metrics

	mu sync.Mutex
	// guarded by mu
	draining bool
	inside   int

	carrying sync.WaitGroup
}

func newDoor(dialer Dialer, logger *slog.Logger, metrics *Metrics) door {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	if metrics == nil {
		metrics = NewMetrics(nil)
	}
	return door{dialer: dialer, logger: logger, refusals: &sampler{logger: logger}, metrics: metrics}
}

// enter counts a connection or a request in; false while draining, or when too
// many are inside.
func (d *door) enter() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.draining || d.inside >= maxConnections {
		return false
	}
	d.inside++
	d.carrying.Add(1)
	return true
}

// stay counts what is inside once more, for its stream.
func (d *door) stay() {
	d.mu.Lock()
	d.inside++
	d.mu.Unlock()
	d.carrying.Add(1)
}

// exit counts it out.
func (d *door) exit() {
	d.mu.Lock()
	d.inside--
	d.mu.Unlock()
	d.carrying.Done()
}

// shut lets nobody in any more.
func (d *door) shut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.draining = true
}

// wait waits until nobody is inside, or ctx ends.
func (d *door) wait(ctx context.Context) error {
	over := make(chan struct{})
	go func() { d.carrying.Wait(); close(over) }()
	select {
	case <-over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// carry begins to carry an open stream to its end, where it closes the socket. Who
// calls it is inside. Most streams are idle, so they get a stack that no dial has
// grown.
func (d *door) carry(stream Stream, sock *armedConn, prefix []byte, job Job, target Target) {
	d.metrics.requests.WithLabelValues("ok").Inc()
	d.stay()
	go func() {
		defer d.exit()
		report := stream.Carry(sock.Socket, prefix)
		_ = sock.Close()
		d.tell(report, job, target)
	}()
}

// tell logs the end of a stream.
func (d *door) tell(report bundle.Report, job Job, target Target) {
	if !d.logger.Enabled(context.Background(), slog.LevelDebug) {
		return
	}
	d.logger.Debug("stream over", "job", job.Name, "run", job.Run, "target", target.Host, "uuid", fmt.Sprintf("%x", report.UUID),
		"sent", report.Sent, "received", report.Received, "reason", report.Reason.String())
}

// uninvited counts a connection from where nobody gets in.
func (d *door) uninvited(addr net.Addr) {
	d.metrics.requests.WithLabelValues("address-not-allowed").Inc()
	d.logger.Debug("refused", "from", addr.String(), "code", "address-not-allowed")
}

// accept serves each connection in a goroutine of its own until ctx ends or the
// listener is closed.
func (d *door) accept(ctx context.Context, listener *Listener, serve func(context.Context, *armedConn)) error {
	l := newGate(listener, maxConnections, d.uninvited)
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	defer l.Close()
	for pause := time.Duration(0); ; {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			d.logger.Warn("cannot accept connections for now", "error", err, "pause", pause)
			select {
			case <-time.After(pause):
				continue
			case <-ctx.Done():
				return nil
			}
		}
		pause = 0
		sock := conn.(*armedConn)
		if !d.enter() {
			_ = sock.Close()
			continue
		}
		go func() {
			defer d.exit()
			if d.shake(ctx, sock) {
				serve(ctx, sock)
			}
		}()
	}
}

// shake does the handshake of a connection with TLS.
func (d *door) shake(ctx context.Context, sock *armedConn) bool {
	secure, ok := sock.Socket.(*secureSocket)
	if !ok {
		return true
	}
	if err := secure.HandshakeContext(ctx); err != nil {
		d.metrics.requests.WithLabelValues("handshake-failed").Inc()
		d.refusals.refused("from", sock.RemoteAddr().String(), "code", "handshake-failed", "error", err)
		_ = sock.Close()
		return false
	}
	_ = sock.SetDeadline(time.Time{})
	return true
}

// Drain lets nobody in any more and waits until every stream is over or ctx
// ends.
func (d *door) Drain(ctx context.Context) error {
	d.shut()
	return d.wait(ctx)
}
