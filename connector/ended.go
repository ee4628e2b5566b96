package connector

import (
	"context"
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/certs/grant"
	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// farewell is how long the ends of the last streams have to reach a relay when
// the connector stops.
const farewell = 300 * time.Millisecond

// dialled remembers, for each stream whose store was dialled, the grant that it
// came with, until its end was told.
type dialled struct {
	mu sync.Mutex
	// guarded by mu
	grants map[streamKey]grant.Grant
}

func (d *dialled) add(key streamKey, g grant.Grant) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.grants == nil {
		d.grants = make(map[streamKey]grant.Grant)
	}
	d.grants[key] = g
}

func (d *dialled) remove(key streamKey) (grant.Grant, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	g, ok := d.grants[key]
	delete(d.grants, key)
	return g, ok
}

// ended is told the end of each stream by the bundles, and has it reported.
func (r *running) ended(peer string, req bundle.Request, report bundle.Report) {
	g, ok := r.gate.dialled.remove(streamKey{peer, req.UUID})
	if !ok {
		return
	}
	e := tunnel.EndedAtNode(report)
	e.Ingress, e.Node, e.Store, e.Job, e.Run = peer, r.id.name.String(), g.Store, g.Job, g.Run
	r.ends.Add(e)
}

// awaitControl waits for a control session.
func (r *running) awaitControl(ctx context.Context) (*tunnel.Session, error) {
	for {
		session, changed := r.sessions.anyControl()
		if session != nil {
			return session, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// reportLast gives the last ends a moment to reach a relay. What does not is
// known to the other ends of the streams alone.
func (r *running) reportLast() {
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	if n := r.ends.Flush(ctx); n > 0 {
		r.logger.Warn("ends of streams were not reported before the connector stopped: the activity record has only what their ingresses say", "streams", n)
	}
}
