package connector

import (
	"context"
	"reflect"
	"time"

	"github.com/ebbgate/ebbgate/tunnel"
)

// The time between attempts to tell the relay doubles from the first to the last.
const (
	announceFirst = time.Second
	announceLast  = time.Minute
)

// announce keeps a relay informed of the stores, until ctx ends. said is what the
// session's hello told.
func (r *running) announce(ctx context.Context, e *entry, said *settings) {
	pause := announceFirst
	for {
		set, changed := r.latest()
		var again <-chan time.Time
		if set != said {
			if err := r.tell(ctx, e.session, said, set); err == nil {
				said, pause = set, announceFirst
				r.sessions.told(e, set.number)
			} else if ctx.Err() == nil {
				r.logger.Warn("the relay was not told the changed stores", append(attrs(err), "relay", e.relay, "again_in", pause)...)
				again = time.After(pause)
				pause = min(2*pause, announceLast)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-again:
		}
	}
}

// tell tells the relay what is different.
func (r *running) tell(ctx context.Context, s *tunnel.Session, said, set *settings) error {
	stores := announced(set.file.Stores)
	if reflect.DeepEqual(stores, announced(said.file.Stores)) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, announceTimeout)
	defer cancel()
	return sessionError(s.Call(ctx, tunnel.TypeConfig, tunnel.NodeConfig{Stores: stores}, nil))
}
