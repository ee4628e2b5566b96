package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/tunnel"
)

// relay is one of the two relays that a client keeps sessions to, or a place for
// one, and the way there. Which relay it is the roster says; bundles belong to
// none.
type relay struct {
	// static after construction
	*Client
	via int // its place in the roster

	// each guards itself
	memory      carrierMemory
	directLanes directLanes

	mu sync.Mutex
	// guarded by mu
	made  map[tunnel.Link]tunnel.Endpoint // where links lead that are not served yet
	there tunnel.Endpoint                 // where the control session leads
}

func newRelay(c *Client, via int) *relay {
	return &relay{Client: c, via: via, made: make(map[tunnel.Link]tunnel.Endpoint)}
}

// keep keeps the session of one role up.
func (r *relay) keep(ctx context.Context, role string) error {
	k := &tunnel.Keeper{
		Final:  func(err error) bool { return final(err) && r.roster.Hopeless(r.via) },
		Leave:  r.leave,
		Failed: r.failed,
		Hurry:  func() bool { return r.pool.streams() > 0 },
		Logger: r.log,
		Serve: func(ctx context.Context, link tunnel.Link, up func()) error {
			return r.serve(ctx, role, link, up)
		},
	}
	if role == tunnel.RoleBulk {
		k.Dial = func(ctx context.Context) (tunnel.Link, error) {
			carrier, err := r.sessions.awaitBulkWanted(ctx, r.via)
			if err != nil {
				return nil, err
			}
			return r.take(ctx, func(d *tunnel.Dialer) (tunnel.Link, error) { return d.DialCarrier(ctx, carrier) })
		}
		return k.Run(ctx)
	}
	k.Dial = func(ctx context.Context) (tunnel.Link, error) {
		r.sessions.awaitReturn(ctx, r.via)
		return r.take(ctx, func(d *tunnel.Dialer) (tunnel.Link, error) { return d.Dial(ctx) })
	}
	k.Better = func(ctx context.Context, current tunnel.Carrier) (tunnel.Link, error) {
		if r.pool.streams() > 0 && r.cfg.ResumeGrace < 0 {
			return nil, nil // they would not survive the change
		}
		return r.take(ctx, func(d *tunnel.Dialer) (tunnel.Link, error) { return d.Better(ctx, current) })
	}
	return k.Run(ctx)
}

// await waits until a relay has the place.
func (r *relay) await(ctx context.Context) (tunnel.Endpoint, error) {
	for {
		at, ok, changed := r.roster.Place(r.via)
		if ok {
			return at, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return tunnel.Endpoint{}, ctx.Err()
		}
	}
}

// take makes a link to the relay that has the place, and remembers which one that
// was.
func (r *relay) take(ctx context.Context, dial func(*tunnel.Dialer) (tunnel.Link, error)) (tunnel.Link, error) {
	at, err := r.await(ctx)
	if err != nil {
		return nil, err
	}
	link, err := dial(r.dialer(at, &r.memory, r.sessionTLS))
	if link != nil {
		r.mu.Lock()
		r.made[link] = at
		r.mu.Unlock()
	}
	return link, err
}

// madeTo gives where a link leads, once.
func (r *relay) madeTo(link tunnel.Link) tunnel.Endpoint {
	r.mu.Lock()
	defer r.mu.Unlock()
	at := r.made[link]
	delete(r.made, link)
	return at
}

// where is where the control session leads, or led.
func (r *relay) where() tunnel.Endpoint {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.there
}

// failed tells the log what went wrong on the way to the relay. Another one is
// next, where there is one that has no place.
func (r *relay) failed(err error, wait time.Duration) {
	if err == nil || errors.Is(err, context.Canceled) {
		return
	}
	at, ok, _ := r.roster.Place(r.via)
	if ok && !r.sessions.has(r.via) {
		r.roster.Failed(r.via, at)
	}
	r.Client.failed(at, err, wait)
}

// failed tells the log what went wrong on the way to a relay.
func (c *Client) failed(at tunnel.Endpoint, err error, wait time.Duration) {
	c.sessions.troubled(err)
	c.log.Warn("no session to the relay", append([]any{"relay", hostPort(at), "again_in", wait.Round(time.Millisecond).String()}, attributes(err)...)...)
}

// serve runs one session to its end.
func (r *relay) serve(ctx context.Context, role string, link tunnel.Link, up func()) error {
	at := r.madeTo(link)
	s := tunnel.NewSession(link, tunnel.SessionConfig{
		Initiator: true,
		Hello:     tunnel.Hello{Role: role, Incarnation: strconv.FormatUint(r.incarnation, 16), Software: r.cfg.Software},
		Handle:    r.handleMessage,
		Logger:    r.log,
	})
	asked := time.Now()
	hello, err := s.Start(ctx)
	if err != nil {
		return err
	}
	clock := new(tunnel.Clock)
	clock.Set(hello.Time, asked)
	identity, _ := certs.PeerIdentity(link.ConnectionState())
	if err := r.welcome(role, at, identity.String()); err != nil {
		_ = s.Close(err.Error())
		return err
	}
	r.sessions.up(r.via, role, s, clock)
	defer r.depart(s)
	up()
	r.log.Info("session", "role", role, "carrier", link.Carrier(), "relay", identity.String(), "remote", link.RemoteAddr().String())
	if role == tunnel.RoleClient {
		r.learn(s)
		r.pool.arrived(r.via)
		r.ready.Do(func() { r.tellReady(at, link) })
	}
	err = s.Run(ctx)
	if ctx.Err() == nil {
		r.log.Info("session over", "role", role, "relay", identity.String(), "error", err)
	}
	return err
}

// welcome decides whether a session that is up is wanted.
func (r *relay) welcome(role string, at tunnel.Endpoint, identity string) error {
	if role == tunnel.RoleClient {
		if err := r.roster.Arrived(r.via, at, identity); err != nil {
			return err
		}
		r.mu.Lock()
		r.there = at
		r.mu.Unlock()
		r.directLanes.forget() // what was in the way may be gone with the relay's absence
		return nil
	}
	if control := r.roster.There(r.via); control != identity && control != "" {
		return tunnel.Errorf("relay-other", "relay", "give each relay a name of its own: --relay a.example.com,b.example.com",
			"%s leads to %s now, the other session is with %s", at.Host, identity, control)
	}
	return nil
}

// depart takes a session that is over out.
func (r *relay) depart(s *tunnel.Session) {
	r.sessions.down(r.via, s)
	if !r.sessions.has(r.via) {
		r.roster.Left(r.via)
	}
}

func (c *Client) tellReady(at tunnel.Endpoint, link tunnel.Link) {
	if c.cfg.Ready == nil {
		return
	}
	c.cfg.Ready(Ready{
		Job: c.currentIdentity().String(), Relay: hostPort(at),
		Carrier: string(link.Carrier()), Proxy: c.proxy.Status().Proxy, Run: c.cfg.Run,
	})
}

func hostPort(at tunnel.Endpoint) string {
	return net.JoinHostPort(at.Host, strconv.Itoa(at.TLSPort))
}

// handleMessage answers a relay.
func (c *Client) handleMessage(_ context.Context, s *tunnel.Session, typ string, _ json.RawMessage) (any, error) {
	switch typ {
	case tunnel.TypeDrain:
		c.drained(s)
		return nil, nil
	case tunnel.TypeRelays:
		c.learn(s)
		return nil, nil
	}
	return nil, tunnel.Errorf("message-unknown", "relay", "use the same version at both ends", "no message %.40q is expected by a client", typ)
}

// learn takes what the relay of a session tells of the relays.
func (c *Client) learn(s *tunnel.Session) {
	c.learning.Lock()
	defer c.learning.Unlock()
	c.told(s.Relays())
}

func (c *Client) told(relays []tunnel.RelayInfo) {
	if c.roster.Learn(tunnel.KnownRelays(relays, c.currentIdentity().TrustDomain)) {
		var names []string
		for _, at := range c.roster.All() {
			names = append(names, hostPort(at))
		}
		c.log.Info("the relays are others now", "relays", names)
	}
}

// dialer makes links to a relay.
func (c *Client) dialer(at tunnel.Endpoint, memory *carrierMemory, config func() *tls.Config) *tunnel.Dialer {
	return &tunnel.Dialer{
		Endpoint: at,
		Carriers: c.carriers,
		TLS:      config,
		DialTCP:  c.proxy.DialContext,
		Proxied: func(host string, port int) (bool, error) {
			u, err := c.proxy.For(host, port)
			return u != nil, err
		},
		Explain: c.proxy.Explain,
		Upgrade: c.proxy.Upgrade,
		Memory:  memory,
		Logger:  c.log,
	}
}

// sessionTLS is for a session with this job's certificate.
func (c *Client) sessionTLS() *tls.Config {
	return certs.ClientConfig(&c.holder, c.currentTrust, onlyRelay, []string{tunnel.ALPN})
}

func onlyRelay(id certs.Identity) error {
	if id.Role != certs.RoleRelay {
		return fmt.Errorf("client: %s is not a relay", id)
	}
	return nil
}

func (c *Client) currentTrust() *certs.Trust {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trust
}

func (c *Client) currentIdentity() certs.Identity {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.identity
}

// The time in which no direct lane is tried after one that could not be made
// doubles from the first to the last.
const (
	directFirst = time.Second
	directLast  = 10 * time.Minute
)

// directLanes remembers whether direct lanes can be made.
type directLanes struct {
	mu sync.Mutex
	// guarded by mu
	until time.Time // not tried before
	pause time.Duration
}

func (d *directLanes) allowed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Now().After(d.until)
}

// forget has direct lanes tried again.
func (d *directLanes) forget() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.until, d.pause = time.Time{}, 0
}

// tried is told how an attempt ended; it gives for how long none is made now.
func (d *directLanes) tried(err error) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err == nil {
		d.pause = 0
		return 0
	}
	d.pause = min(max(2*d.pause, directFirst), directLast)
	d.until = time.Now().Add(d.pause)
	return d.pause
}

// carrierMemory remembers for this process which carrier worked where.
type carrierMemory struct {
	mu      sync.Mutex
	winners map[string]tunnel.Carrier // guarded by mu; by network
}

// maxNetworks bounds the memory.
const maxNetworks = 64

// Recall implements tunnel.CarrierMemory.
func (m *carrierMemory) Recall(network string) (tunnel.Carrier, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, ok := m.winners[network]
	return c, ok
}

// Remember implements tunnel.CarrierMemory.
func (m *carrierMemory) Remember(network string, c tunnel.Carrier) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.winners == nil || len(m.winners) >= maxNetworks {
		m.winners = make(map[string]tunnel.Carrier)
	}
	m.winners[network] = c
}
