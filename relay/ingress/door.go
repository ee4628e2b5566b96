package ingress

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// door is what all ingresses share: who is behind it, and who is inside.
type door struct {
	dialer  Dialer
	logger  *slog.Logger
	metrics *Metrics

	mu sync.Mutex
	// guarded by mu
	draining bool

	carrying sync.WaitGroup
}

func newDoor(dialer Dialer, logger *slog.Logger, metrics *Metrics) door {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	if metrics == nil {
		metrics = NewMetrics(nil)
	}
	return door{dialer: dialer, logger: logger, metrics: metrics}
}

// enter counts a connection in; false while draining.
func (d *door) enter() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.draining {
		return false
	}
	d.carrying.Add(1)
	return true
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

// carry carries an open stream to its end and closes the socket.
func (d *door) carry(stream Stream, sock *armedConn, prefix []byte, job Job, target Target) {
	d.metrics.requests.WithLabelValues("ok").Inc()
	report := stream.Carry(sock.TCPConn, prefix)
	_ = sock.Close()
	d.logger.Debug("stream over", "job", job.Name, "run", job.Run, "target", target.Host, "uuid", fmt.Sprintf("%x", report.UUID),
		"sent", report.Sent, "received", report.Received, "reason", report.Reason.String())
}

// accept serves each connection in a goroutine of its own until ctx ends.
func (d *door) accept(ctx context.Context, l net.Listener, serve func(context.Context, *armedConn)) error {
	l = limited(l, maxConnections)
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
			defer d.carrying.Done()
			serve(ctx, sock)
		}()
	}
}

// Drain lets nobody in any more and waits until every stream is over or ctx
// ends.
func (d *door) Drain(ctx context.Context) error {
	d.shut()
	return d.wait(ctx)
}
