package relay

import (
	"maps"
	"sync"
	"time"

	"github.com/google/uuid"
)

// runLinger is how long a run that nobody named goes on after its last stream.
const runLinger = 5 * time.Second

// runs are the runs at the relay's own ingresses: named by the job's user name,
// or else all streams of a job from one address with less than runLinger between
// them.
type runs struct {
	mu sync.Mutex
	// guarded by mu
	open   map[runKey]*run
	pruned time.Time // when those that were over were last forgotten
}

type runKey struct {
	job  jobKey
	name string // as given
	peer string // where no name was given
}

// run is one of them.
type run struct {
	runs *runs
	key  runKey
	id   string

	// guarded by runs.mu
	streams int
	last    time.Time
	sticks  nodeKey
}

func newRuns() *runs { return &runs{open: make(map[runKey]*run)} }

// enter counts a stream into its run.
func (r *runs) enter(job jobKey, name, peer string) *run {
	key := runKey{job: job, name: name}
	if name == "" {
		key.peer = peer
	}
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	u := r.open[key]
	if u != nil && u.over(now) {
		u = nil
	}
	if now.Sub(r.pruned) > runLinger {
		r.pruned = now
		maps.DeleteFunc(r.open, func(_ runKey, old *run) bool { return old.over(now) })
	}
	if u == nil {
		u = &run{runs: r, key: key, id: name}
		if name == "" {
			u.id = uuid.NewString()
		}
		r.open[key] = u
	}
	u.streams++
	return u
}

// over tells whether the run has had no stream for so long that the next one
// begins another; the caller holds runs.mu.
func (u *run) over(now time.Time) bool { return u.streams == 0 && now.Sub(u.last) > runLinger }

// leave counts a stream out.
func (u *run) leave() {
	u.runs.mu.Lock()
	defer u.runs.mu.Unlock()
	u.streams--
	u.last = time.Now()
}

// node is the node that the run's streams went to.
func (u *run) node() nodeKey {
	u.runs.mu.Lock()
	defer u.runs.mu.Unlock()
	return u.sticks
}

func (u *run) stick(n nodeKey) {
	u.runs.mu.Lock()
	defer u.runs.mu.Unlock()
	u.sticks = n
}
