package connector

import (
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/certs/grant"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// runs knows which streams belong to which run, and which jobs were revoked.
type runs struct {
	mu sync.Mutex
	// guarded by mu
	streams map[streamKey]openStream
	count   map[runKey]int
	revoked map[string]time.Time // by job: grants that expire no later are void
}

// streamKey names a stream: its UUID is the ingress' choice.
type streamKey struct {
	peer string
	uuid [16]byte
}

type runKey struct{ job, run string }

// openStream is what a stream's grant said.
type openStream struct {
	runKey
	store string
}

func newRuns() *runs {
	return &runs{streams: make(map[streamKey]openStream), count: make(map[runKey]int), revoked: make(map[string]time.Time)}
}

// enter counts a stream in, until leave is called.
func (r *runs) enter(key streamKey, g grant.Grant) error {
	of := openStream{runKey{g.Job, g.Run}, g.Store}
	r.mu.Lock()
	defer r.mu.Unlock()
	if until, ok := r.revoked[g.Job]; ok && !g.Expires.After(until) {
		return &bundle.RefusedError{Reason: bundle.CodeRevoked, Text: "job " + g.Job + " was revoked"}
	}
	if _, ok := r.streams[key]; ok {
		return &bundle.RefusedError{Reason: bundle.CodeProtocol, Text: "a stream of this name is open"}
	}
	r.streams[key] = of
	r.count[of.runKey]++
	return nil
}

// leave counts a stream out that is over, or whose store was not reached, and
// tells what it was.
func (r *runs) leave(key streamKey) (of openStream, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if of, ok = r.streams[key]; !ok {
		return of, false
	}
	delete(r.streams, key)
	if r.count[of.runKey]--; r.count[of.runKey] == 0 {
		delete(r.count, of.runKey)
	}
	return of, true
}

const (
	// clockLeeway is what package grant gives grants beyond their end.
	clockLeeway = time.Minute
	// clockSlack is how far our idea of the relay's clock may be off.
	clockSlack = 2 * time.Second
)

// revoke voids the grants that a job has at now.
func (r *runs) revoke(job string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for j, until := range r.revoked {
		if until.Add(clockLeeway).Before(now) {
			delete(r.revoked, j)
		}
	}
	r.revoked[job] = now.Add(grant.MaxLife + clockSlack)
}

// of tells whether a stream is a job's.
func (r *runs) of(job string, key streamKey) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	run, ok := r.streams[key]
	return ok && run.job == job
}

// active is how many runs have a stream now.
func (r *runs) active() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.count)
}
