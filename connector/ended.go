package connector

import (
	"context"
	"time"

	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// farewell is how long relays may take nothing of the ends of the last streams when
// the connector stops; farewellMost is how long they have in all.
const (
	farewell     = 500 * time.Millisecond
	farewellMost = 5 * time.Second
)

// ended is told the end of each stream by the bundles, and has it reported.
func (r *running) ended(peer string, req bundle.Request, report bundle.Report) {
	of, ok := r.gate.runs.leave(streamKey{peer, req.UUID})
	if !ok {
		return
	}
	r.ends.Add(tunnel.Ended{Names: tunnel.Names{Ingress: peer, Node: r.id.text, Store: of.store, Job: of.job, Run: of.run}, End: tunnel.EndAtNode(report)})
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
	ctx, cancel := context.WithTimeout(context.Background(), farewellMost)
	defer cancel()
	if n := r.ends.Flush(ctx, farewell); n > 0 {
		r.logger.Warn("ends of streams were not reported before the connector stopped: the activity record has only what their ingresses say", "streams", n)
	}
}
