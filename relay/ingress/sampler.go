package ingress

import (
	"log/slog"
	"sync"
	"time"
)

// Refusals are logged one by one as long as there are few: who is refused a
// hundred thousand times must not fill a disk.
const (
	refusalsLogged = 20 // a second
	refusalsEvery  = time.Second
)

// sampler logs so many refusals each second, and how many it left out.
type sampler struct {
	logger *slog.Logger

	mu sync.Mutex
	// guarded by mu
	since   time.Time
	logged  int
	skipped int
}

// refused logs one refusal, or counts it.
func (s *sampler) refused(args ...any) {
	now := time.Now()
	s.mu.Lock()
	skipped := 0
	if now.Sub(s.since) >= refusalsEvery {
		skipped, s.skipped, s.logged, s.since = s.skipped, 0, 0, now
	}
	log := s.logged < refusalsLogged
	if log {
		s.logged++
	} else {
		s.skipped++
	}
	s.mu.Unlock()
	if skipped > 0 {
		s.logger.Info("refusals were not logged", "number", skipped)
	}
	if log {
		s.logger.Info("refused", args...)
	}
}
