package relay

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

const (
	// ownLanePause is the pause before a lane that could not be opened is tried
	// again; it grows with each attempt.
	ownLanePause = 250 * time.Millisecond
	// ownLaneTries is after how many of them in a row the session is given up: the
	// node will come with another one.
	ownLaneTries = 5
)

// keepOwnLanes keeps the lanes of the relay's own bundle to a node over one
// session, until the session is over: on QUIC both classes, on TCP carriers the
// one that the session is for.
func (r *Relay) keepOwnLanes(ctx context.Context, v *visit) {
	classes := []bool{true, false} // express, bulk
	if v.session.Link().Carrier() != tunnel.QUIC {
		classes = []bool{v.role == tunnel.RoleControl}
	}
	var keeping sync.WaitGroup
	for _, express := range classes {
		keeping.Go(func() { r.keepOwnLane(ctx, v, express) })
	}
	keeping.Wait()
}

// keepOwnLane keeps the lane of one class. A lane may die before its session: a
// node that stood still did not answer the lane's pings, which are closer.
func (r *Relay) keepOwnLane(ctx context.Context, v *visit, express bool) {
	for tries := 0; ; {
		if swapped := v.node.superseded(v.session, v.role); swapped != nil {
			select {
			case <-swapped:
				continue
			case <-v.session.Done():
				return
			case <-ctx.Done():
				return
			}
		}
		lane, err := r.openOwnLane(ctx, v, express)
		var wait <-chan time.Time
		var gone <-chan struct{}
		switch {
		case err == nil:
			tries, gone = 0, lane.gone
		case tries == ownLaneTries:
			r.log.Warn("no lane to a node", "node", v.identity.String(), "express", express, "error", err)
			_ = v.session.Close("no lane")
			return
		default:
			tries++
			wait = time.After(time.Duration(tries) * ownLanePause)
		}
		select {
		case <-gone:
		case <-wait:
		case <-v.session.Done():
			return
		case <-ctx.Done():
			return
		}
	}
}

// openOwnLane opens a lane. A node that does not know the bundle any more ended
// it: then the lane is the first one of a new bundle.
func (r *Relay) openOwnLane(ctx context.Context, v *visit, express bool) (*ownLane, error) {
	own := r.registry.ownBundle(v.node, r.bundles)
	lane, err := r.joinOwnLane(ctx, v, own, express)
	if err != nil && own.Err() != nil && v.session.Link().Err() == nil {
		lane, err = r.joinOwnLane(ctx, v, r.registry.ownBundle(v.node, r.bundles), express)
	}
	return lane, err
}

func (r *Relay) joinOwnLane(ctx context.Context, v *visit, own *bundle.Bundle, express bool) (*ownLane, error) {
	stream, err := v.session.OpenLane(ctx, tunnel.Join{Ingress: r.name.String(), Node: v.identity.String(), Express: express})
	if err != nil {
		return nil, err
	}
	exporter, err := v.session.LaneExporter(stream)
	if err != nil {
		_ = stream.Close()
		return nil, fmt.Errorf("relay: lane: %w", err)
	}
	lane := &ownLane{Conn: stream, gone: make(chan struct{})}
	return lane, own.Join(ctx, lane, bundle.LaneInfo{
		Carrier: string(v.session.Link().Carrier()), Local: r.name.String(), Peer: v.identity.String(),
		Exporter: exporter, Express: express, Replaced: lane.release,
	})
}

// ownLane tells when its bundle lets go of it.
type ownLane struct {
	net.Conn
	once sync.Once
	gone chan struct{} // closed by the first Close, or when its place is free
}

// Close is net.Conn's.
func (l *ownLane) Close() error {
	l.release()
	return l.Conn.Close()
}

// release says that another lane may take this one's place.
func (l *ownLane) release() { l.once.Do(func() { close(l.gone) }) }
