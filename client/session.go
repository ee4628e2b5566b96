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
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

const (
	// bulkWait is how long a bulk lane waits for the session that it would
	// rather travel on.
	bulkWait = 2 * time.Second
	// maxGrantLife is the longest that a grant is used, whatever the relay says.
	maxGrantLife = 60 * time.Second
	// maxAway bounds how long a draining relay is left alone.
	maxAway = time.Minute
)

// sessions are the ones that are up: on TCP carriers one for questions and small
// frames and one for bulk, on QUIC one for both.
type sessions struct {
	mu sync.Mutex
	// guarded by mu
	control *tunnel.Session
	bulk    *tunnel.Session
	skew    time.Duration // the relay's clock minus ours
	changed chan struct{} // closed and replaced at each change
	away    time.Time     // the relay asked not to be dialled before
	trouble error         // why there is none, as far as is known
	err     error         // set when there will be none any more
}

func newSessions() *sessions { return &sessions{changed: make(chan struct{})} }

func (s *sessions) notifyLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// up puts a session in; a better one takes the place of an older one.
func (s *sessions) up(role string, session *tunnel.Session, skew time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if role == tunnel.RoleBulk {
		s.bulk = session
	} else {
		s.control, s.skew, s.trouble = session, skew, nil
	}
	s.notifyLocked()
}

func (s *sessions) down(session *tunnel.Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.control == session {
		s.control = nil
	}
	if s.bulk == session {
		s.bulk = nil
	}
	if d, ok := session.Draining(); ok {
		s.away = time.Now().Add(min(time.Duration(d.ReconnectAfterMS)*time.Millisecond, maxAway))
	}
	s.notifyLocked()
}

// troubled notes why there is no session.
func (s *sessions) troubled(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trouble = err
}

// end makes every wait return err.
func (s *sessions) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	s.notifyLocked()
}

// all are the sessions that are up.
func (s *sessions) all() (list []*tunnel.Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, session := range []*tunnel.Session{s.control, s.bulk} {
		if session != nil {
			list = append(list, session)
		}
	}
	return list
}

// awaitControl waits for the control session. Where none comes in time, the error
// says what was seen on the way to the relay.
func (s *sessions) awaitControl(ctx context.Context) (*tunnel.Session, time.Duration, error) {
	for {
		s.mu.Lock()
		control, skew, changed, trouble, err := s.control, s.skew, s.changed, s.trouble, s.err
		s.mu.Unlock()
		switch {
		case err != nil:
			return nil, 0, err
		case control != nil:
			return control, skew, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if trouble != nil {
				return nil, 0, fmt.Errorf("%w: %w", errNoSession, trouble)
			}
			return nil, 0, fmt.Errorf("%w: %w", errNoSession, ctx.Err())
		}
	}
}

// forLane gives the session that a lane should travel on.
func (s *sessions) forLane(ctx context.Context, express bool) (*tunnel.Session, error) {
	control, _, err := s.awaitControl(ctx)
	if err != nil || express || control.Link().Carrier() == tunnel.QUIC {
		return control, err
	}
	timer := time.NewTimer(bulkWait)
	defer timer.Stop()
	for {
		s.mu.Lock()
		bulk, changed := s.bulk, s.changed
		s.mu.Unlock()
		if bulk != nil {
			return bulk, nil
		}
		select {
		case <-changed:
		case <-timer.C:
			return control, nil
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", errNoSession, ctx.Err())
		}
	}
}

// awaitBulkWanted waits until a bulk session makes sense, and tells on which
// carrier: the control session's.
func (s *sessions) awaitBulkWanted(ctx context.Context) (tunnel.Carrier, error) {
	for {
		control, _, err := s.awaitControl(ctx)
		if err != nil {
			return "", err
		}
		if carrier := control.Link().Carrier(); carrier != tunnel.QUIC {
			return carrier, nil
		}
		select {
		case <-control.Done():
		case <-ctx.Done():
			return "", ctx.Err()
		}
		s.down(control)
	}
}

// awaitReturn waits until a relay that drains may be dialled again.
func (s *sessions) awaitReturn(ctx context.Context) {
	s.mu.Lock()
	wait := time.Until(s.away)
	s.mu.Unlock()
	if wait > 0 {
		pause(ctx, wait)
	}
}

// keeper keeps the session of one role up.
func (c *Client) keeper(role string) *tunnel.Keeper {
	k := &tunnel.Keeper{
		Final:  final,
		Leave:  c.leave,
		Failed: c.failed,
		Hurry:  func() bool { return c.pool.streams() > 0 },
		Logger: c.log,
		Serve: func(ctx context.Context, link tunnel.Link, up func()) error {
			return c.serve(ctx, role, link, up)
		},
	}
	if role == tunnel.RoleBulk {
		k.Dial = func(ctx context.Context) (tunnel.Link, error) {
			carrier, err := c.sessions.awaitBulkWanted(ctx)
			if err != nil {
				return nil, err
			}
			return c.dialer(c.sessionTLS).DialCarrier(ctx, carrier)
		}
		return k
	}
	k.Dial = func(ctx context.Context) (tunnel.Link, error) {
		c.sessions.awaitReturn(ctx)
		return c.dialer(c.sessionTLS).Dial(ctx)
	}
	k.Better = func(ctx context.Context, current tunnel.Carrier) (tunnel.Link, error) {
		if c.pool.streams() > 0 && c.cfg.ResumeGrace < 0 {
			return nil, nil // they would not survive the change
		}
		return c.dialer(c.sessionTLS).Better(ctx, current)
	}
	return k
}

// failed tells the log what went wrong on the way to the relay.
func (c *Client) failed(err error, wait time.Duration) {
	if err == nil || errors.Is(err, context.Canceled) {
		return
	}
	c.sessions.troubled(err)
	c.log.Warn("no session to the relay", append([]any{"again_in", wait.Round(time.Millisecond).String()}, attributes(err)...)...)
}

// serve runs one session to its end.
func (c *Client) serve(ctx context.Context, role string, link tunnel.Link, up func()) error {
	s := tunnel.NewSession(link, tunnel.SessionConfig{
		Initiator: true,
		Hello:     tunnel.Hello{Role: role, Incarnation: strconv.FormatUint(c.incarnation, 16), Software: c.cfg.Software},
		Handle:    c.handleMessage,
		Logger:    c.log,
	})
	asked := time.Now()
	hello, err := s.Start(ctx)
	if err != nil {
		return err
	}
	// The relay wrote its hello somewhere between the question and now.
	now := time.Now()
	skew := hello.Time.Sub(asked.Add(now.Sub(asked) / 2))
	c.sessions.up(role, s, skew)
	defer c.sessions.down(s)
	up()
	c.log.Info("session", "role", role, "carrier", link.Carrier(), "relay", link.RemoteAddr().String())
	if role == tunnel.RoleClient {
		c.ready.Do(func() { c.tellReady(link) })
	}
	err = s.Run(ctx)
	if ctx.Err() == nil {
		c.log.Info("session over", "role", role, "error", err)
	}
	return err
}

func (c *Client) tellReady(link tunnel.Link) {
	if c.cfg.Ready == nil {
		return
	}
	c.mu.Lock()
	identity, endpoint := c.identity, c.endpoint
	c.mu.Unlock()
	c.cfg.Ready(Ready{
		Job: identity.String(), Relay: net.JoinHostPort(endpoint.Host, strconv.Itoa(endpoint.TLSPort)),
		Carrier: string(link.Carrier()), Proxy: c.proxy.Status().Proxy, Run: c.cfg.Run,
	})
}

// handleMessage answers the relay.
func (c *Client) handleMessage(_ context.Context, s *tunnel.Session, typ string, _ json.RawMessage) (any, error) {
	if typ == tunnel.TypeDrain {
		c.drained(s.Link())
		return nil, nil
	}
	return nil, tunnel.Errorf("message-unknown", "relay", "use the same version at both ends", "no message %.40q is expected by a client", typ)
}

// dialer makes links to the relay with the newest that is known of it.
func (c *Client) dialer(config func() *tls.Config) *tunnel.Dialer {
	c.mu.Lock()
	endpoint := c.endpoint
	c.mu.Unlock()
	return &tunnel.Dialer{
		Endpoint: endpoint,
		Carriers: c.carriers,
		TLS:      config,
		DialTCP:  c.proxy.DialContext,
		Proxied: func(host string, port int) (bool, error) {
			u, err := c.proxy.For(host, port)
			return u != nil, err
		},
		Explain: c.proxy.Explain,
		Upgrade: c.proxy.Upgrade,
		Memory:  &c.memory,
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

// lost makes the failure of a question to the relay what the pool retries, where
// it is of the session and not of the question.
func lost(ctx context.Context, err error) error {
	if _, ok := errors.AsType[*tunnel.Error](err); ok {
		return err // the relay's answer
	}
	if ctx.Err() != nil {
		return &Error{code: "relay-silent", hop: "relay", message: "the relay does not answer", err: err, advice: "try again; is the relay overloaded?"}
	}
	return fmt.Errorf("%w: %w", errNoSession, err)
}

// grant implements broker.
func (c *Client) grant(ctx context.Context, t Target, node string, lanes int) (*grant, error) {
	s, skew, err := c.sessions.awaitControl(ctx)
	if err != nil {
		return nil, err
	}
	var answer tunnel.Granted
	req := tunnel.GrantRequest{Gateway: t.Gateway, Store: t.Store, Host: t.Host, Port: t.Port, Run: c.cfg.Run, Node: node, Lanes: lanes}
	if err := s.Call(ctx, tunnel.TypeGrant, req, &answer); err != nil {
		return nil, lost(ctx, err)
	}
	// A grant leads to the gateway that was asked for and nowhere else. What a
	// name stands for, the relay says.
	id, err := certs.ParseIdentity(answer.Node)
	own := c.currentIdentity()
	granted := Target{Gateway: id.Gateway, Store: answer.Store}
	if t.Host == "" {
		granted = Target{Gateway: t.Gateway, Store: t.Store}
	}
	if err != nil || id.Role != certs.RoleNode || id.TrustDomain != own.TrustDomain || id.Tenant != own.Tenant || id.Gateway != granted.Gateway || granted.Store == "" {
		return nil, &Error{code: "grant-malformed", hop: "relay", message: fmt.Sprintf("the relay's grant for %s names %.300q", t, answer.Node), advice: "use the same version at both ends"}
	}
	now := time.Now()
	expires := answer.Expires.Add(-skew)
	if latest := now.Add(maxGrantLife); expires.After(latest) {
		expires = latest
	}
	return &grant{target: granted, text: answer.Grant, node: answer.Node, fetched: now, expires: expires, tokens: answer.LaneTokens}, nil
}

// laneTokens implements broker.
func (c *Client) laneTokens(ctx context.Context, node string, n int) ([]string, error) {
	s, _, err := c.sessions.awaitControl(ctx)
	if err != nil {
		return nil, err
	}
	var answer tunnel.LaneTokens
	if err := s.Call(ctx, tunnel.TypeLanes, tunnel.LanesRequest{Node: node, Lanes: n}, &answer); err != nil {
		return nil, lost(ctx, err)
	}
	if len(answer.Tokens) == 0 {
		return nil, &Error{code: "lane-refused", hop: "relay", message: "the relay gave no token for a lane", advice: "use the same version at both ends"}
	}
	return answer.Tokens, nil
}

// lane implements broker.
func (c *Client) lane(ctx context.Context, node, token string, class int) (net.Conn, bundle.LaneInfo, error) {
	express := class != classBulk
	s, err := c.sessions.forLane(ctx, express)
	if err != nil {
		return nil, bundle.LaneInfo{}, err
	}
	info := bundle.LaneInfo{
		Carrier: string(s.Link().Carrier()), Local: c.currentIdentity().String(), Peer: node, Express: express, Over: s.Link(),
	}
	var stranger error // who answered in the node's place
	config := certs.ServerConfig(&c.holder, c.currentTrust, certs.ServerOptions{
		ALPN: []string{tunnel.ALPNLane}, RequireClient: true,
		Accept: func(id certs.Identity) error {
			if id.String() != node {
				stranger = fmt.Errorf("client: the lane leads to %s and not to %s", id, node)
			}
			return stranger
		},
	})
	var lane *tunnel.LaneConn
	if info.Direct = class == classDirect || class == classBulk && c.direct(); info.Direct {
		lane, err = c.dialer(nil).ClientLane(ctx, s.Link().Carrier(), token, express, config)
		if pause := c.directLanes.tried(err); pause > 0 {
			c.log.Info("no direct lane: streams stay on the session's", append([]any{"again_in", pause.String()}, attributes(err)...)...)
		}
	} else {
		lane, err = c.sessionLane(ctx, s, tunnel.Join{Token: token, Ingress: info.Local, Node: node, Express: express}, config)
	}
	if err != nil {
		return nil, bundle.LaneInfo{}, laneError(node, err, stranger)
	}
	if info.Exporter, err = lane.Exporter(); err != nil {
		_ = lane.Close()
		return nil, bundle.LaneInfo{}, laneError(node, err, nil)
	}
	info.Worn = lane.Worn
	return lane, info, nil
}

// direct implements broker.
func (c *Client) direct() bool { return c.directLanes.allowed() }

// sessionLane makes a lane of a stream of a session, which the relay joins to one
// of the node, with TLS between the two ends inside. The client is its server.
func (c *Client) sessionLane(ctx context.Context, s *tunnel.Session, join tunnel.Join, config *tls.Config) (*tunnel.LaneConn, error) {
	stream, err := s.OpenLane(ctx, join)
	if err != nil {
		return nil, lost(ctx, err)
	}
	return tunnel.ServeLane(ctx, stream, config)
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

// laneError is a lane that did not come about. A node that is not who it should
// be is no matter of time; everything else is.
func laneError(node string, err, stranger error) error {
	_, unverified := errors.AsType[*certs.VerifyError](err)
	if stranger != nil || unverified {
		return &Error{
			code: "node-unverified", hop: "node", message: "what answered is not the node " + node, err: err,
			advice: "see who is between this machine and the node: the relay may not be what it seems",
		}
	}
	return &Error{
		code: "lane-lost", hop: "node", message: "no lane to the node " + node, err: err,
		advice: "see whether the connector is online (ebbgate node list)",
	}
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
