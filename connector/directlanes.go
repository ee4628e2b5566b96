package connector

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// How many direct lanes a node has where its configuration says nothing: proxies
// bound the connections of one machine.
const (
	lanesDirectly = 64
	lanesProxied  = 8
)

const (
	// lanesRefusedFor is how long half as many direct lanes are made after
	// connections that were refused.
	lanesRefusedFor = 10 * time.Minute
	// lanesRefusedOnce is the time in which refusals count as one: lanes are made
	// many at once.
	lanesRefusedOnce = 10 * time.Second
)

// directLanes are the lanes that are connections of their own. They outlive the
// session that asked for them.
type directLanes struct {
	serving sync.WaitGroup

	mu sync.Mutex
	// guarded by mu
	ctx     context.Context // the service's; nil: it is over, or has not begun
	count   int             // being made or open
	most    int             // of the configuration and the way
	halves  int             // how often the network refused more
	refused time.Time       // when it did so last
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

// enter counts a lane in; nil: there is no room for it. The last eighth of the room
// is for small frames, so that no bundle's bulk takes it all.
func (d *directLanes) enter(express bool) context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	room := d.roomLocked()
	if !express {
		room -= room / lanesProxied
	}
	if d.ctx == nil || d.count >= max(room, 1) {
		return nil
	}
	d.count++
	d.serving.Add(1)
	return d.ctx
}

// roomLocked is how many lanes there may be now.
func (d *directLanes) roomLocked() int {
	if time.Since(d.refused) > lanesRefusedFor {
		d.halves = 0
	}
	return max(d.most>>d.halves, 1)
}

// limit sets how many there may be, and gives how many there may be now.
func (d *directLanes) limit(most int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.most = most
	return d.roomLocked()
}

// refuse notes that the network let no further lane through; it tells whether that
// is news.
func (d *directLanes) refuse() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if d.halves > 0 && now.Sub(d.refused) < lanesRefusedOnce || d.roomLocked() == 1 {
		return false
	}
	d.halves++
	d.refused = now
	return true
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
	serving := r.direct.enter(m.Express)
	if serving == nil {
		return tunnel.Errorf("lanes-limit", "node", "streams go on over the lanes that there are; lanes.total in connector.yaml is how many a node may have", "the node has no room for another direct lane")
	}
	route := r.sessions.routeOf(s)
	if route == nil {
		r.direct.leave()
		return failure("session-lost", "relay", nil, "the ingress asks again", "the session that asked for the lane is over")
	}
	lane, err := route.way.NodeLane(ctx, s.Link().Carrier(), m.Token, r.id.laneTLS(ingress))
	if err != nil {
		r.direct.leave()
		r.laneRefused(ctx, err)
		return sessionError(err)
	}
	info := bundle.LaneInfo{
		Carrier: string(s.Link().Carrier()), Local: r.id.name.String(), Peer: ingress.String(), Express: m.Express, Direct: true,
		Way: peer.String(), Over: route, Worn: lane.Worn,
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

// limitLanes puts in force how many direct lanes there may be: the configuration
// says, or the way to the relay, and what the network last refused.
func (r *running) limitLanes() {
	set := r.set.Load()
	most := set.file.Lanes.Total
	if most == 0 {
		most = lanesDirectly
		if slices.ContainsFunc(r.sessions.all(), (*entry).proxied) {
			most = lanesProxied
		}
	}
	room := r.direct.limit(most)
	r.node.LimitLanes(min(set.file.Lanes.Max, room-room/lanesProxied))
}

// proxied tells whether the session's relay is reached through a proxy.
func (e *entry) proxied() bool {
	through, err := e.route.way.Proxied(e.route.to.Host, e.route.to.TLSPort)
	return err == nil && through
}

// laneRefused makes fewer lanes where the network, or a proxy, lets no more
// connections through while the session stands.
func (r *running) laneRefused(ctx context.Context, err error) {
	var s spoken
	if ctx.Err() != nil || !errors.As(err, &s) || s.Hop() != "tcp" && s.Hop() != "proxy" || !r.direct.refuse() {
		return
	}
	r.logger.Warn("the network refuses another connection to the relay: half as many lanes for a while", append(attrs(err), "for", lanesRefusedFor)...)
	r.limitLanes()
}
