package ingress

import (
	"context"
	"fmt"
	"log/slog"
	"net"
)

// Port is a TCP port that stands for one store and one job: whoever connects
// dials it, without a token.
type Port struct {
	door
	target Target
	job    Job
}

// NewPort makes the port's server for a job's dials of a target; it listens on
// nothing.
func NewPort(dialer Dialer, target Target, job Job, logger *slog.Logger, metrics *Metrics) *Port {
	return &Port{door: newDoor(dialer, logger, metrics), target: target, job: job}
}

// Serve accepts on l, which comes from [Listen], until ctx ends; streams go on
// after that. It returns nil then.
func (p *Port) Serve(ctx context.Context, l net.Listener) error {
	if err := p.accept(ctx, l, p.serve); err != nil {
		return fmt.Errorf("ingress: port: %w", err)
	}
	return nil
}

// serve is one connection. A dial that fails can only be told by a reset.
func (p *Port) serve(ctx context.Context, sock *armedConn) {
	sock.arm()
	ctx, cancel := sock.whileOpen(ctx)
	stream, err := p.dialer.Dial(ctx, p.job, p.target, sock.RemoteAddr())
	early := cancel()
	if err != nil {
		code := codeOf(err)
		p.metrics.requests.WithLabelValues(code).Inc()
		p.logger.Info("refused", "from", sock.RemoteAddr().String(), "target", p.target.Host, "job", p.job.Name, "code", code, "error", err)
		_ = sock.Close()
		return
	}
	p.carry(stream, sock, early, p.job, p.target)
}
