package ingress

import (
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
)

// Port is a TCP port that stands for one store and one job: whoever connects
// dials it, without a token.
type Port struct {
	door
	binding atomic.Pointer[Binding]
}

// Binding is what a port stands for.
type Binding struct {
	Target Target
	Job    Job
}

// NewPort makes the port's server; it listens on nothing.
func NewPort(dialer Dialer, binding Binding, logger *slog.Logger, metrics *Metrics) *Port {
	p := &Port{door: newDoor(dialer, logger, metrics)}
	p.Bind(binding)
	return p
}

// Bind makes the port stand for something else, for connections that come from
// now on.
func (p *Port) Bind(b Binding) { p.binding.Store(&b) }

// Serve accepts on l until ctx ends or l is closed; streams go on
// after that. It returns nil then.
func (p *Port) Serve(ctx context.Context, l *Listener) error {
	if err := p.accept(ctx, l, p.serve); err != nil {
		return fmt.Errorf("ingress: port: %w", err)
	}
	return nil
}

// serve is one connection. A dial that fails can only be told by a reset.
func (p *Port) serve(ctx context.Context, sock *armedConn) {
	to := p.binding.Load()
	sock.arm()
	ctx, cancel := sock.whileOpen(ctx)
	stream, err := p.dialer.Dial(ctx, to.Job, to.Target, sock.RemoteAddr())
	early := cancel()
	if err != nil {
		code := codeOf(err)
		p.metrics.requests.WithLabelValues(code).Inc()
		p.refusals.refused("from", sock.RemoteAddr().String(), "target", to.Target.Host, "job", to.Job.Name, "code", code, "error", err)
		_ = sock.Close()
		return
	}
	p.carry(stream, sock, early, to.Job, to.Target)
}
