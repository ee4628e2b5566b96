package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"
)

const (
	// maxForwarded bounds the connections that a Forwarder holds at once.
	maxForwarded = 10000
	// DefaultDialTimeout is how long a job's connection waits for its store.
	DefaultDialTimeout = 30 * time.Second
	acceptPause        = 50 * time.Millisecond // after an accept that failed for want of resources
	drainTime          = 5 * time.Second       // for the connection that ends a drain
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
	// Tally adds up what the connections did, perhaps with those of others; nil: one
	// of the Forwarder's own.
	Tally *Tally
	// Drain, when it is closed, makes Run take the connections that wait already,
	// no others, and return when all are over. nil: never.
	Drain <-chan struct{}
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
		return run.tally.Summary(), err
	}
	if f.Ready != nil {
		f.Ready(ForwarderReady{Listen: ln.Addr().String(), Target: f.Target.String()})
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	accepted := make(chan struct{})
	run.conns.Go(func() { run.markDrain(ctx, accepted) })
	err := run.accept(ctx)
	close(accepted)
	if ctx.Err() != nil {
		err = nil
	}
	if errors.Is(err, errDrained) {
		err = nil
	} else {
		cancel()
	}
	run.conns.Wait()
	if run.last != nil {
		_ = run.last.Close()
	}
	return run.tally.Summary(), err
}

// errDrained is a listener that nobody waits at any more.
var errDrained = errors.New("client: drained")

// markDrain puts a connection of our own behind those that wait already, once the
// listener is to drain: when it is accepted, all before it were.
func (r *forwarding) markDrain(ctx context.Context, accepted <-chan struct{}) {
	defer close(r.marked)
	select {
	case <-r.Drain:
	case <-accepted:
		return
	}
	dialer := net.Dialer{Timeout: drainTime}
	last, err := dialer.DialContext(ctx, "tcp", r.ln.Addr().String())
	if err != nil {
		r.logger.Debug("connections that still wait may be lost", "error", err)
		_ = r.ln.SetDeadline(time.Now())
		return
	}
	r.last = last
}

// drained tells whether conn is the one that ends a drain.
func (r *forwarding) drained(conn net.Conn) bool {
	select {
	case <-r.Drain:
		<-r.marked
		return r.last != nil && conn.RemoteAddr().String() == r.last.LocalAddr().String()
	default:
		return false
	}
}

// forwarding is one call of Run.
type forwarding struct {
	*Forwarder
	ln     *net.TCPListener
	opener opener
	logger *slog.Logger
	tally  *Tally
	places chan struct{}
	conns  sync.WaitGroup
	marked chan struct{} // closed after last was set
	last   net.Conn      // behind it nobody waits; nil: there is none
}

func (f *Forwarder) newRun(ln *net.TCPListener) *forwarding {
	run := &forwarding{
		Forwarder: f, ln: ln, opener: f.opener, logger: f.Logger,
		tally:  f.Tally,
		places: make(chan struct{}, maxForwarded),
		marked: make(chan struct{}),
	}
	if run.opener == nil {
		run.opener = f.Client
	}
	if run.logger == nil {
		run.logger = slog.New(slog.DiscardHandler)
	}
	if run.tally == nil {
		run.tally = NewTally("", run.logger)
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
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return errDrained
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("client: accept: %w", err)
			}
			// Out of descriptors, or a connection that is gone already.
			r.logger.Warn("accept", "error", err)
			pause(ctx, acceptPause)
			continue
		}
		if r.drained(conn) {
			<-r.places
			_ = conn.Close()
			return errDrained
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
		r.tally.Refused(r.Target)
		if ctx.Err() == nil {
			r.logger.Warn("connection reset: no stream", append([]any{"target", r.Target.String(), "from", conn.RemoteAddr().String()}, attributes(err)...)...)
		}
		return
	}
	r.tally.Carry(ctx, stream, conn, nil)
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
