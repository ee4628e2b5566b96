package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

const (
	// dialerGrace is how long Close waits for streams that were closed.
	dialerGrace = 10 * time.Second
	// dialerRest is how long a Dialer whose connection failed for good answers
	// with that failure before it tries again.
	dialerRest = time.Second
)

// Dialer opens connections to stores for programs written in Go. Its fields are
// set before the first use and not changed after; the zero value takes all from
// the environment. The first dial connects it to the relay, and it stays
// connected until Close. All methods may be called from any goroutine.
//
//	d := &client.Dialer{Relay: "relay.example.com", TokenFile: "/etc/copy/token"}
//	defer d.Close()
//	conn, err := d.DialContext(ctx, "tcp", "erp-sql.corp:1433")
type Dialer struct {
	// Relay is HOST[:PORT], or several with commas; empty: as EBBGATE_RELAY says.
	Relay string
	// Token is the job's token. Empty: what TokenFile holds.
	Token string
	// TokenFile holds the job's token; empty: as EBBGATE_JOB_TOKEN_FILE says.
	TokenFile string
	// Run names the run in the relay's activity; empty: one of its own.
	Run string
	// Carriers are what to travel on, in this order; empty: all, raced.
	Carriers []string
	// DialTimeout bounds a dial whose context has no deadline, a node that comes
	// online included; 0: DefaultDialTimeout.
	DialTimeout time.Duration
	// ResumeGrace is how long connections wait for the relay or a lost lane to come
	// back; negative: not at all; 0: as EBBGATE_RESUME_GRACE says, else
	// DefaultResumeGrace.
	ResumeGrace time.Duration
	// Software names the program and its version to the relay: copy/1.2.
	Software string
	// Environment looks up variables; nil: os.Getenv.
	Environment func(string) string
	// Registry takes the metrics, those of one Dialer; nil: nobody asks.
	Registry prometheus.Registerer
	// Logger takes what happens; nil discards.
	Logger *slog.Logger

	once    sync.Once
	metrics *bundle.Metrics // set once

	mu sync.Mutex
	// guarded by mu
	closed  bool
	current *connection
	conns   map[*Conn]struct{} // whose streams are not over
	carries sync.WaitGroup
}

// String does not give the token away.
func (d *Dialer) String() string { return "client.Dialer to " + first(d.Relay, "EBBGATE_RELAY") }

// GoString is for %#v.
func (d *Dialer) GoString() string { return d.String() }

// LogValue is for slog.
func (d *Dialer) LogValue() slog.Value { return slog.StringValue(d.String()) }

// connection is a Client that a Dialer runs.
type connection struct {
	client *Client
	cancel context.CancelFunc
	over   chan struct{} // closed after err and at were set
	err    error
	at     time.Time
}

func (c *connection) run(ctx context.Context) {
	defer close(c.over)
	c.err = c.client.Run(ctx)
	c.at = time.Now()
}

// DialContext opens a connection to a store, whose address is
// STORE.GATEWAY:PORT (port 0: the store's own) or GATEWAY/STORE. network is tcp,
// tcp4 or tcp6, which makes no difference: the node resolves the store's name.
// ctx bounds the dial and not the connection, which is a [*Conn]. Errors have
// Code, Hop and Advice.
func (d *Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := d.Open(ctx, network, address)
	if err != nil {
		return nil, err // not a nil *Conn in an interface
	}
	return conn, nil
}

// Open is DialContext for who wants the *Conn.
func (d *Dialer) Open(ctx context.Context, network, address string) (*Conn, error) {
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return nil, configError("network-unknown", "stores are dialled with network tcp", "there is no network %.40q", network)
	}
	target, err := ParseAddress(address)
	if err != nil {
		return nil, err
	}
	if _, ok := ctx.Deadline(); !ok {
		timeout := d.DialTimeout
		if timeout == 0 {
			timeout = DefaultDialTimeout
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	client, err := d.connected()
	if err != nil {
		return nil, err
	}
	stream, err := client.Open(ctx, target)
	if err != nil {
		return nil, err
	}
	conn := newConn(stream, stream.Target, Addr(client.RunName()), Addr(address))
	d.mu.Lock()
	closed := d.closed
	if !closed {
		d.conns[conn] = struct{}{}
		d.carries.Go(func() { d.carry(conn) })
	}
	d.mu.Unlock()
	if closed {
		stream.Reset(bundle.CodeIngressStopped)
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (d *Dialer) carry(conn *Conn) {
	conn.carry()
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.conns, conn)
}

// connected gives the Client that runs, or starts one.
func (d *Dialer) connected() (*Client, error) {
	d.once.Do(func() { d.metrics = bundle.NewMetrics(d.Registry) })
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, net.ErrClosed
	}
	if c := d.current; c != nil {
		select {
		case <-c.over:
			if time.Since(c.at) < dialerRest {
				return nil, fmt.Errorf("client: not connected: %w", c.err)
			}
			c.cancel()
		default:
			return c.client, nil
		}
	}
	client, err := New(Config{
		Relay: d.Relay, Token: d.Token, TokenFile: d.TokenFile, Run: d.Run, Carriers: d.Carriers,
		ResumeGrace: d.ResumeGrace, Software: d.Software, Environment: d.Environment, Metrics: d.metrics, Logger: d.Logger,
	})
	if err != nil {
		return nil, err
	}
	c := &connection{client: client, over: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	c.cancel = cancel
	if d.conns == nil {
		d.conns = make(map[*Conn]struct{})
	}
	d.current = c
	go c.run(ctx)
	return client, nil
}

// Close waits for the connections that were closed to end well, at most 10 s,
// resets all others, and leaves the relay. Nothing that the Dialer started is
// left when it returns. It may be called twice.
func (d *Dialer) Close() error {
	d.mu.Lock()
	d.closed = true
	current := d.current
	var closing []*Conn
	for conn := range d.conns {
		if conn.closed.Load() {
			closing = append(closing, conn)
		} else {
			conn.stream.Reset(bundle.CodeIngressStopped)
		}
	}
	d.mu.Unlock()
	if current == nil {
		return nil
	}
	grace := time.NewTimer(dialerGrace)
	defer grace.Stop()
	for _, conn := range closing {
		select {
		case <-conn.done:
		case <-current.over:
		case <-grace.C:
			grace.Reset(0)
		}
	}
	current.cancel()
	<-current.over
	d.carries.Wait()
	if current.err != nil && !errors.Is(current.err, net.ErrClosed) {
		return current.err
	}
	return nil
}
