package connector

import (
	"context"
	"fmt"
	"sync"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// maxDirectLanes bounds the direct lanes of a node, being made or open.
const maxDirectLanes = 64

// directLanes are the lanes that are connections of their own. They outlive the
// session that asked for them.
type directLanes struct {
	serving sync.WaitGroup

	mu sync.Mutex
	// guarded by mu
	ctx   context.Context // the service's; nil: it is over, or has not begun
	count int
}

// begin lets lanes live until ctx ends.
func (d *directLanes) begin(ctx context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ctx = ctx
}

// end waits until every lane is over; none begins any more.
func (d *directLanes) end() {
	d.mu.Lock()
	d.ctx = nil
	d.mu.Unlock()
	d.serving.Wait()
}

// enter counts a lane in; nil: there is no room for it.
func (d *directLanes) enter() context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ctx == nil || d.count >= maxDirectLanes {
		return nil
	}
	d.count++
	d.serving.Add(1)
	return d.ctx
}

func (d *directLanes) leave() {
	d.mu.Lock()
	d.count--
	d.mu.Unlock()
	d.serving.Done()
}

// openLane makes a direct lane that the relay asks for, and serves it in the
// background. It answers once the lane's two ends know each other.
func (r *running) openLane(ctx context.Context, s *tunnel.Session, m tunnel.OpenLane) error {
	ingress, err := certs.ParseIdentity(m.Ingress)
	if err != nil {
		return tunnel.Errorf("lane-refused", "node", "use the same version at both ends", "a lane to %.200q: %v", m.Ingress, err)
	}
	peer, known := s.Peer()
	switch {
	case ingress.Role == certs.RoleRelay && known && peer == ingress:
	case ingress.Role == certs.RoleJob && ingress.TrustDomain == r.id.name.TrustDomain && ingress.Tenant == r.id.name.Tenant:
	default:
		return tunnel.Errorf("lane-refused", "node", "use the same version at both ends", "%s is no ingress that %s may ask a lane for", ingress, peer)
	}
	serving := r.direct.enter()
	if serving == nil {
		return tunnel.Errorf("lanes-limit", "node", "streams go on over the lanes that there are", "the node has %d direct lanes, which is the most", maxDirectLanes)
	}
	route := r.sessions.routeOf(s)
	if route == nil {
		r.direct.leave()
		return failure("session-lost", "relay", nil, "the ingress asks again", "the session that asked for the lane is over")
	}
	lane, err := route.way.NodeLane(ctx, s.Link().Carrier(), m.Token, r.id.laneTLS(ingress))
	if err != nil {
		r.direct.leave()
		return sessionError(err)
	}
	info := bundle.LaneInfo{
		Carrier: string(s.Link().Carrier()), Local: r.id.name.String(), Peer: ingress.String(), Express: m.Express, Direct: true,
		Over: route, Worn: lane.Worn,
	}
	if info.Exporter, err = lane.Exporter(); err != nil {
		_ = lane.Close()
		r.direct.leave()
		return fmt.Errorf("connector: direct lane: %w", err)
	}
	go func() {
		defer r.direct.leave()
		r.metrics.direct.Inc()
		defer r.metrics.direct.Dec()
		if err := r.node.Serve(serving, lane, info); err != nil {
			r.logger.Debug("direct lane over", "ingress", info.Peer, "error", err)
		}
	}()
	return nil
}
