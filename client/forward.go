package client

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

const (
	// maxForwarded bounds the connections that a Forwarder holds at once.
	maxForwarded = 10000
	// DefaultDialTimeout is how long a job's connection waits for its store.
	DefaultDialTimeout = 30 * time.Second
	acceptPause        = 50 * time.Millisecond // after an accept that failed for want of resources
)

// opener opens streams; *Client is one.
type opener interface {
	Open(ctx context.Context, t Target) (*Stream, error)
	Check(ctx context.Context, t Target) error
}

// Forwarder accepts connections on a port and carries each to one store. A
// connection whose stream cannot be opened, or does not end well, is reset: its
// job never reads an end that the store did not send.
type Forwarder struct {
	// Client opens the streams; somebody runs it. Not nil.
	Client *Client
	// Target is where the connections go.
	Target Target
	// DialTimeout bounds how long a connection waits for its store, a node that
	// comes online included; 0: DefaultDialTimeout.
	DialTimeout time.Duration
	// Ready is called once, when connections are served; nil: nobody asks.
	Ready func(ForwarderReady)
	// Logger takes what happens to connections; nil discards.
	Logger *slog.Logger

	opener opener // replaced in tests; nil: Client
}

// ForwarderReady says what serves, for the line that the command prints.
type ForwarderReady struct {
	Listen string `json:"listen"`
	Target string `json:"target"`
}

// Run serves ln until ctx ends (nil), and closes it. It fails where the relay
// says that the job may not dial the target at all. When it returns, every
// connection is closed.
func (f *Forwarder) Run(ctx context.Context, ln *net.TCPListener) (Summary, error) {
	defer ln.Close()
	run := f.newRun(ln)
	if err := run.opener.Check(ctx, f.Target); err != nil {
		if ctx.Err() != nil {
			err = nil
		}
		return run.tally.summary(), err
	}
	if f.Ready != nil {
		f.Ready(ForwarderReady{Listen: ln.Addr().String(), Target: f.Target.String()})
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	err := run.accept(ctx)
	if ctx.Err() != nil {
		err = nil
	}
	cancel()
	stop()
	run.conns.Wait()
	return run.tally.summary(), err
}

// forwarding is one call of Run.
type forwarding struct {
	*Forwarder
	ln     *net.TCPListener
	opener opener
	logger *slog.Logger
	tally  tally
	places chan struct{}
	conns  sync.WaitGroup
}

func (f *Forwarder) newRun(ln *net.TCPListener) *forwarding {
	run := &forwarding{
		Forwarder: f, ln: ln, opener: f.opener, logger: f.Logger,
		tally:  tally{start: time.Now()},
		places: make(chan struct{}, maxForwarded),
	}
	if run.opener == nil {
		run.opener = f.Client
	}
	if run.logger == nil {
		run.logger = slog.New(slog.DiscardHandler)
	}
	return run
}

// accept takes connections until the listener is closed.
func (r *forwarding) accept(ctx context.Context) error {
	for {
		select {
		case r.places <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := r.ln.AcceptTCP()
		if err != nil {
			<-r.places
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("client: accept: %w", err)
			}
			// Out of descriptors, or a connection that is gone already.
			r.logger.Warn("accept", "error", err)
			pause(ctx, acceptPause)
			continue
		}
		_ = conn.SetLinger(0) // where the listener's option is not inherited
		r.conns.Go(func() {
			defer func() { <-r.places }()
			r.carry(ctx, conn)
		})
	}
}

// carry takes one connection to its end.
func (r *forwarding) carry(ctx context.Context, conn *net.TCPConn) {
	defer conn.Close() // resets it, unless the stream ended well
	timeout := r.DialTimeout
	if timeout == 0 {
		timeout = DefaultDialTimeout
	}
	dialing, cancel := context.WithTimeout(ctx, timeout)
	stream, err := r.opener.Open(dialing, r.Target)
	cancel()
	if err != nil {
		r.tally.failed()
		if ctx.Err() == nil {
			r.logger.Warn("connection reset: no stream", append([]any{"target", r.Target.String(), "from", conn.RemoteAddr().String()}, attributes(err)...)...)
		}
		return
	}
	stop := context.AfterFunc(ctx, func() { stream.Reset(bundle.CodeIngressStopped) })
	report := stream.Carry(conn, nil)
	stop()
	s := reportOf(r.Target, report)
	r.tally.ended(s)
	level, message := slog.LevelDebug, "stream over"
	if report.Reason != bundle.CodeOK && report.Reason != bundle.CodeIngressStopped {
		level, message = slog.LevelInfo, "connection reset: stream ended badly"
	}
	r.logger.Log(ctx, level, message, "target", s.Target, "uuid", s.UUID, "reason", s.Reason, "by_node", report.Remote,
		"bytes_read", s.BytesRead, "bytes_written", s.BytesWritten, "resumes", s.Resumes, "seconds", s.Seconds)
}

// attributes is an error as a person needs it in a log.
func attributes(err error) []any {
	list := []any{"error", err}
	if e, ok := errors.AsType[interface {
		coded
		Hop() string
		Advice() string
	}](err); ok {
		list = append(list, "code", e.Code(), "hop", e.Hop(), "advice", e.Advice())
	}
	return list
}

// pause waits for a time or for the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
