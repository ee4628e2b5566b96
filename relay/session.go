package relay

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/relay/state"
	"github.com/ebbgate/ebbgate/tunnel"
)

// heartbeatSeconds is how often nodes report.
const heartbeatSeconds = 10

// enrolTime is how long a session may last that only enrols.
const enrolTime = 30 * time.Second

// maxClientLanes bounds the lanes of one client's session, maxRefusedLanes those
// that may be refused before a peer's session ends: no honest one comes near.
const (
	maxClientLanes  = 64
	maxRefusedLanes = 64
)

// maxStores bounds the stores that one node may announce.
const maxStores = 4096

// visit is one session at the relay: who came, and as what.
type visit struct {
	r        *Relay
	session  *tunnel.Session
	identity certs.Identity // of nodes and clients
	role     string
	node     *node // of nodes

	lanes, refusedLanes, waiting atomic.Int32 // of clients
}

// serveLink serves a session from its hello to its end.
func (r *Relay) serveLink(ctx context.Context, link tunnel.Link, proved func()) {
	v := &visit{r: r}
	v.session = tunnel.NewSession(link, tunnel.SessionConfig{
		Accept: v.accept, Handle: v.handle, Lane: v.lane, Logger: r.log,
	})
	_, err := v.session.Start(ctx)
	if err == nil && v.role == tunnel.RoleEnrol { // it stays a stranger
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, enrolTime, failure("enrolment-timeout", "registration", "try again", "no enrolment within %v", enrolTime))
		defer cancel()
	} else {
		proved()
	}
	if err != nil {
		r.metrics.sessionEnds.WithLabelValues(codeOf(err)).Inc()
		r.log.Info("session refused", "from", link.RemoteAddr().String(), "carrier", link.Carrier(), "error", err)
		v.part("refused: " + err.Error())
		return
	}
	gauge := r.metrics.sessions.WithLabelValues(v.role, string(link.Carrier()))
	gauge.Inc()
	defer gauge.Dec()
	if v.node != nil {
		r.sessions.Go(v.recall)
		r.sessions.Go(func() { r.keepOwnLanes(ctx, v) })
	}
	r.log.Debug("session", "role", v.role, "identity", v.identity.String(), "carrier", link.Carrier(), "from", link.RemoteAddr().String())
	err = v.session.Run(ctx)
	if late := context.Cause(ctx); v.role == tunnel.RoleEnrol && ctx.Err() != nil && late != nil {
		err = late
	}
	v.part(reasonOf(err))
	r.metrics.sessionEnds.WithLabelValues(codeOf(err)).Inc()
	if v.role != tunnel.RoleEnrol {
		r.log.Info("session over", "role", v.role, "identity", v.identity.String(), "carrier", link.Carrier(), "reason", reasonOf(err))
	}
}

func reasonOf(err error) string {
	var over *tunnel.LinkError
	if errors.As(err, &over) {
		return over.Reason
	}
	if err == nil {
		return "closed"
	}
	return err.Error()
}

// accept decides about a hello: the certificate says who it is, and the relay's
// records whether that still holds.
func (v *visit) accept(ctx context.Context, s *tunnel.Session, hello tunnel.Hello) (tunnel.Hello, error) {
	if !v.r.registry.enter(s) {
		return tunnel.Hello{}, failure("relay-draining", "relay", "try again when the relay is back", "the relay is stopping")
	}
	answer := tunnel.Hello{
		Role: tunnel.RoleRelay, Relay: v.r.name.String(), Incarnation: strconv.FormatUint(v.r.incarnation, 16),
		Software: v.r.cfg.Software, Ports: v.r.ports(), HeartbeatSeconds: heartbeatSeconds, Relays: v.r.peers.infos(),
	}
	id, shown := s.Peer()
	v.identity, v.role = id, hello.Role
	switch {
	case hello.Role == tunnel.RoleEnrol:
		return answer, nil
	case !shown:
		return tunnel.Hello{}, failure("certificate-missing", "relay", "register this machine", "a session as %.20q needs a certificate", hello.Role)
	case id.Role == certs.RoleNode && (hello.Role == tunnel.RoleControl || hello.Role == tunnel.RoleBulk):
		return answer, v.acceptNode(ctx, hello)
	case id.Role == certs.RoleJob && (hello.Role == tunnel.RoleClient || hello.Role == tunnel.RoleBulk):
		job, err := known(ctx, v.r.state, func() (state.Job, error) {
			job, err := v.r.state.Job(id.Tenant, id.Name)
			if err == nil && job.Revoked {
				err = state.ErrRefused
			}
			return job, err
		})
		// a job that was made again under the same name is another one
		older := certs.IssuedAt(s.Link().ConnectionState().PeerCertificates[0]).Add(time.Second).Before(job.Created)
		if err != nil || older {
			e := failure("revoked", "registration", "create the job again", "job %s was revoked", id.Name)
			e.Final = true
			return tunnel.Hello{}, e
		}
		v.role = tunnel.RoleClient
		v.r.registry.client(s, id)
		return answer, nil
	}
	return tunnel.Hello{}, failure("role-refused", "relay", "use the same version at both ends", "%s may not have a session as %.20q", id, hello.Role)
}

func (v *visit) acceptNode(ctx context.Context, hello tunnel.Hello) error {
	id := v.identity
	record, err := known(ctx, v.r.state, func() (state.Node, error) { return v.r.state.Node(id.Tenant, id.Gateway, id.Name) })
	if err != nil {
		e := failure("node-unknown", "registration", "register the machine again: remove its state directory and run ebbgate connector register", "the relay has no node %s/%s", id.Gateway, id.Name)
		e.Final = true
		return e
	}
	if len(hello.Stores) > maxStores || len(hello.Incarnation) > 64 || hello.Incarnation == "" {
		return failure("protocol-violation", "node", "use the same version at both ends", "a hello with %d stores and incarnation %.70q", len(hello.Stores), hello.Incarnation)
	}
	if err := v.r.peers.admits(keyOf(id), hello.Incarnation); err != nil {
		return err
	}
	if v.node, err = v.r.registry.join(ctx, v.session, id, hello); err != nil {
		return err
	}
	if skew := time.Since(hello.Time).Abs(); skew > time.Minute && !hello.Time.IsZero() {
		v.r.log.Warn("a node's clock differs", "node", id.String(), "by", skew.Round(time.Second))
	}
	if hello.Role == tunnel.RoleControl {
		v.announce(ctx, record, hello.Stores)
		v.r.peers.mark(keyOf(id))
	}
	return nil
}

// announce remembers a node's stores for when it is offline. A state that takes
// no changes now is no reason to send the node away.
func (v *visit) announce(ctx context.Context, record state.Node, stores []tunnel.StoreInfo) {
	var rows []state.StoreRow
	for _, s := range stores {
		rows = append(rows, state.StoreRow{Name: s.Name, Port: s.Port, Aliases: s.Aliases})
	}
	if err := v.r.state.AnnounceStores(ctx, record.Tenant, record.Gateway, record.Name, rows); err != nil {
		v.r.log.Warn("a node's stores were not remembered", "node", v.identity.String(), "error", err)
	}
}

// configure takes over what a node says of itself after its configuration
// changed.
func (v *visit) configure(ctx context.Context, c tunnel.NodeConfig) error {
	if len(c.Stores) > maxStores {
		return failure("protocol-violation", "node", "use the same version at both ends", "a configuration with %d stores", len(c.Stores))
	}
	record, err := v.r.state.Node(v.identity.Tenant, v.identity.Gateway, v.identity.Name)
	if err != nil {
		return err
	}
	if !v.node.configure(v.session, c) {
		return failure("session-superseded", "node", "", "a newer session of node %s/%s is there", v.identity.Gateway, v.identity.Name)
	}
	v.announce(ctx, record, c.Stores)
	v.r.peers.mark(v.node.key)
	v.r.log.Info("a node's stores changed", "node", v.identity.String(), "stores", len(c.Stores))
	return nil
}

// part takes the session out of the registry.
func (v *visit) part(reason string) {
	if v.node != nil {
		v.r.registry.part(v.session, v.node.key, reason)
	}
	v.r.registry.leave(v.session)
}

// handle answers a message. What a session may ask follows from who it is.
func (v *visit) handle(ctx context.Context, s *tunnel.Session, typ string, body json.RawMessage) (any, error) {
	switch {
	case typ == tunnel.TypeDrain:
		if v.node != nil {
			v.node.mu.Lock()
			v.node.leaving = true
			v.node.mu.Unlock()
			v.r.peers.mark(v.node.key)
		}
		return nil, nil
	case typ == tunnel.TypeEnrol && v.role == tunnel.RoleEnrol:
		var req tunnel.Enrol
		if err := decode(typ, body, &req); err != nil {
			return nil, err
		}
		return v.r.enrol(ctx, s, req)
	case typ == tunnel.TypeHeartbeat && v.node != nil:
		var h tunnel.Heartbeat
		if err := decode(typ, body, &h); err != nil {
			return nil, err
		}
		v.node.mu.Lock()
		v.node.report = h
		v.node.mu.Unlock()
		return nil, nil
	case typ == tunnel.TypeConfig && v.node != nil && v.role == tunnel.RoleControl:
		var c tunnel.NodeConfig
		if err := decode(typ, body, &c); err != nil {
			return nil, err
		}
		return nil, v.configure(ctx, c)
	case typ == tunnel.TypeRenewCert && v.node != nil:
		var req tunnel.RenewCert
		if err := decode(typ, body, &req); err != nil {
			return nil, err
		}
		return v.r.renew(ctx, s, v.node, req)
	case typ == tunnel.TypeEnded && (v.node != nil || v.role == tunnel.RoleClient):
		var ends tunnel.Ends
		if err := decode(typ, body, &ends); err != nil {
			return nil, err
		}
		return v.ended(ctx, ends)
	case typ == tunnel.TypeGrant && v.role == tunnel.RoleClient:
		var req tunnel.GrantRequest
		if err := decode(typ, body, &req); err != nil {
			return nil, err
		}
		return v.r.dials.forClient(v.identity, req)
	case typ == tunnel.TypeLanes && v.role == tunnel.RoleClient:
		var req tunnel.LanesRequest
		if err := decode(typ, body, &req); err != nil {
			return nil, err
		}
		return v.lanesFor(ctx, req)
	}
	return nil, failure("message-unknown", "relay", "use the same version at both ends", "no message %.40q is expected from a session as %s", typ, v.role)
}

// A client whose lanes are gone, as after this relay's restart, often asks before the
// node is back: so many questions of a session wait for so long.
const (
	maxLanesWaiting = 16
	lanesWait       = 3 * time.Second
)

// lanesFor answers a client that wants lanes.
func (v *visit) lanesFor(ctx context.Context, req tunnel.LanesRequest) (*tunnel.LaneTokens, error) {
	wait := lanesWait
	defer v.waiting.Add(-1)
	if v.waiting.Add(1) > maxLanesWaiting {
		wait = 0
	}
	return v.r.dials.lanes(ctx, v.identity, req, wait)
}

func decode(typ string, body json.RawMessage, into any) error {
	if err := json.Unmarshal(body, into); err != nil {
		return failure("message-malformed", "relay", "use the same version at both ends", "%s: %v", typ, err)
	}
	return nil
}

// ports are the relay's as peers reach them.
func (r *Relay) ports() tunnel.Ports {
	return tunnel.Ports{TLS: portOf(r.ready.TLS), QUIC: portOf(r.ready.QUIC), HTTP: portOf(r.ready.HTTP)}
}

// lane joins a client's lane to a lane of the node that its token is for.
func (v *visit) lane(ctx context.Context, _ *tunnel.Session, join tunnel.Join, stream tunnel.Stream) {
	err := v.joinLane(ctx, join, stream)
	if err == nil {
		return
	}
	_ = stream.Close()
	count(v.r.metrics.laneEnds, err)
	v.r.log.Info("client's lane refused", "client", v.identity.String(), "error", err)
	if v.refusedLanes.Add(1) == maxRefusedLanes {
		_ = v.session.Close("too many lanes were refused")
	}
}

func (v *visit) joinLane(ctx context.Context, join tunnel.Join, stream tunnel.Stream) error {
	if v.identity.Role != certs.RoleJob {
		return failure("role-refused", "relay", "", "%s opens no lanes", v.identity)
	}
	defer v.lanes.Add(-1)
	if v.lanes.Add(1) > maxClientLanes {
		return failure("lanes-too-many", "relay", "use fewer lanes", "more than %d lanes of one session", maxClientLanes)
	}
	key, err := v.r.tickets.redeem(join.Token, v.identity)
	if err != nil {
		return err
	}
	n := v.r.registry.node(key)
	if n == nil {
		return failure("no-node-online", "node", "ask for a new grant", "node %s is gone", key.node)
	}
	session := n.session(join.Express)
	if session == nil {
		return failure("no-node-online", "node", "ask for a new grant", "node %s is gone", key.node)
	}
	far, err := session.OpenLane(ctx, tunnel.Join{Ingress: v.identity.String(), Node: n.identity.String(), Express: join.Express})
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = stream.Close(); _ = far.Close() })
	defer stop()
	count(v.r.metrics.laneEnds, nil)
	v.r.metrics.lanes.Inc()
	defer v.r.metrics.lanes.Dec()
	v.r.tickets.join(stream, far, v.r.metrics.copied)
	return nil
}
