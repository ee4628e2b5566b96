package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// maxGrantLife is the longest that a grant is used, whatever the relay says.
const maxGrantLife = 60 * time.Second

// The time without an answer after which a relay is pinged, and the time that the
// pong has: the least, or so many round trips.
const (
	silenceLeast = 300 * time.Millisecond
	silenceRTTs  = 6
)

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

// elsewhere tells whether another relay may have an answer to a question that
// this one failed.
func elsewhere(err error) bool {
	if errors.Is(err, errNoSession) {
		return true
	}
	switch codeOf(err) {
	case "no-node-online", "node-elsewhere", "node-offline", "relay-draining", "relay-silent", "relay-busy", "busy", "queue-timeout", "gateway-unknown", "store-unknown", "state-unavailable":
		return true
	}
	return false
}

// asked is what a relay answered.
type asked struct {
	via   int
	grant *grant
	err   error
}

// grant implements broker. It asks one relay, and the other one, too, where the
// first is silent or has no node.
func (c *Client) grant(ctx context.Context, t Target, node string, lanes int) (*grant, error) {
	if err := c.sessions.await(ctx, func() bool { return len(c.sessions.orderLocked()) > 0 }); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	order := c.sessions.order()
	answers, silent := make(chan asked, len(order)), make(chan struct{}, len(order))
	pending := 0
	next := func() {
		if len(order) == 0 {
			return
		}
		via := order[0]
		order = order[1:]
		pending++
		go func() {
			g, err := c.grantBy(ctx, via, t, node, lanes)
			answers <- asked{via, g, err}
		}()
		if len(order) > 0 {
			go c.listen(ctx, via, silent)
		}
	}
	next()
	var failed error
	for pending > 0 {
		select {
		case a := <-answers:
			pending--
			if a.err == nil {
				c.sessions.answered(a.via)
				return a.grant, nil
			}
			if !elsewhere(a.err) {
				return nil, a.err
			}
			if failed == nil || !errors.Is(a.err, errNoSession) {
				failed = a.err
			}
			next()
		case <-silent:
			next()
		}
	}
	if failed == nil {
		failed = errNoSession // they went just now
	}
	return nil, failed
}

// listen says so when a relay is silent: it answers neither the question that it
// was asked nor a ping.
func (c *Client) listen(ctx context.Context, via int, silent chan<- struct{}) {
	s, _ := c.sessions.of(via)
	if s == nil {
		return // the question's end says so
	}
	patience := max(silenceLeast, silenceRTTs*s.RTT())
	pause(ctx, patience)
	once, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := s.Ping(once); err != nil && ctx.Err() == nil {
		silent <- struct{}{} // has room
	}
}

// grantBy asks one relay for a grant.
func (c *Client) grantBy(ctx context.Context, via int, t Target, node string, lanes int) (*grant, error) {
	s, clock := c.sessions.of(via)
	if s == nil {
		return nil, errNoSession
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
	expires := now.Add(answer.Expires.Sub(clock.Now()))
	if latest := now.Add(maxGrantLife); expires.After(latest) {
		expires = latest
	}
	return &grant{target: granted, text: answer.Grant, node: answer.Node, via: via, fetched: now, expires: expires, tokens: answer.LaneTokens}, nil
}

// up implements broker.
func (c *Client) up(via int) bool { return c.sessions.has(via) }

// direct implements broker.
func (c *Client) direct(via int) bool { return c.relays[via].directLanes.allowed() }

// laneTokens implements broker.
func (c *Client) laneTokens(ctx context.Context, via int, node string, n int) ([]string, error) {
	s, err := c.sessions.awaitControl(ctx, via)
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
	return answer.Tokens[:min(len(answer.Tokens), n)], nil
}

// lane implements broker.
func (c *Client) lane(ctx context.Context, via int, node, token string, class int) (net.Conn, bundle.LaneInfo, error) {
	express := class != classBulk
	s, err := c.sessions.forLane(ctx, via, express)
	if err != nil {
		return nil, bundle.LaneInfo{}, err
	}
	info := bundle.LaneInfo{
		Carrier: string(s.Link().Carrier()), Local: c.currentIdentity().String(), Peer: node, Express: express, Over: wayOf(s),
		Way: wayOf(s).relay.String(),
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
	if info.Direct = class == classDirect || class == classBulk && c.direct(via); info.Direct {
		lane, err = c.relays[via].directLane(ctx, s.Link().Carrier(), token, express, config)
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

// directLane makes a lane that is a connection of its own to the relay.
func (r *relay) directLane(ctx context.Context, carrier tunnel.Carrier, token string, express bool, config *tls.Config) (*tunnel.LaneConn, error) {
	lane, err := r.dialer(r.where(), &r.memory, nil).ClientLane(ctx, carrier, token, express, config)
	if pause := r.directLanes.tried(err); pause > 0 {
		r.log.Info("no direct lane: streams stay on the session's", append([]any{"relay", r.where().Host, "again_in", pause.String()}, attributes(err)...)...)
	}
	return lane, err
}

// sessionLane makes a lane of a stream of a session, which the relay joins to one
// of the node, with TLS between the two ends inside. The client is its server.
func (c *Client) sessionLane(ctx context.Context, s *tunnel.Session, join tunnel.Join, config *tls.Config) (*tunnel.LaneConn, error) {
	stream, err := s.OpenLane(ctx, join)
	if err != nil {
		return nil, lost(ctx, err)
	}
	return tunnel.ServeLane(ctx, stream, config)
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
