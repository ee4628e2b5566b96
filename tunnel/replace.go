package tunnel

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"time"
)

// maxReplaceWait bounds how long a peer may have this end wait.
const maxReplaceWait = 10 * time.Minute

// replace has the link replaced some time soon, as the peer wants.
func (s *Session) replace(ctx context.Context, body json.RawMessage) {
	var r Replace
	_ = json.Unmarshal(body, &r) // an empty one says as much
	s.mu.Lock()
	said := s.wearing
	s.wearing = true
	s.mu.Unlock()
	if said {
		return
	}
	within := min(max(time.Duration(r.WithinMS)*time.Millisecond, 0), maxReplaceWait)
	s.tasks.Go(func() {
		timer := time.NewTimer(rand.N(within + 1))
		defer timer.Stop()
		select {
		case <-timer.C:
			s.link.Wear(printable(r.Reason, maxPeerName))
		case <-ctx.Done():
		}
	})
}

func (s *Session) retold(body json.RawMessage) {
	var m Relays
	if err := json.Unmarshal(body, &m); err != nil {
		return // Handle says so
	}
	s.mu.Lock()
	s.relays = m.Relays
	s.mu.Unlock()
}
