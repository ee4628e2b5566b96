package activity

import "time"

// Refusal is a dial that was refused: there is no stream.
type Refusal struct {
	Tenant, Job, Run     string
	Gateway, Node, Store string    // empty where that is not known
	UUID                 [16]byte  // of a report, which may come twice; zero: it comes once
	At                   time.Time // when
	Reason, Hop          string    // the code, and where it happened
}

const (
	// maxRefused bounds the runs whose refusals wait to be written. Those of more
	// are written as their job's, without a run or a store.
	maxRefused = 256
	// maxLately bounds the reports that are known again.
	maxLately = 4096
)

// refused are dials that were refused and are not written yet, by run. However
// many there are, a run has one row.
type refused struct {
	by     map[names]refusals
	since  time.Time // of the first
	lately [2]map[[16]byte]struct{}
}

// refusals are those of a run.
type refusals struct {
	count       int64
	first, last int64 // microseconds since 1970
	reason, hop string
}

// What becomes of a refused dial.
const (
	counted = "recorded"
	summed  = "summed"
)

// Refuse takes a dial that was refused. It never waits.
func (r *Recorder) Refuse(x Refusal) {
	at := x.At.UnixMicro()
	r.mu.Lock()
	became := repeated
	if !r.refused.knownLocked(x.UUID) {
		became = r.refused.addLocked(names{x.Tenant, x.Job, x.Run, x.Gateway, x.Node, x.Store}, refusals{1, at, at, x.Reason, x.Hop}, time.Now())
		if len(r.refused.by) == 1 {
			r.rouse()
		}
	}
	r.mu.Unlock()
	r.metrics.refused.WithLabelValues(became).Inc()
}

// knownLocked tells whether the report came before, and remembers it.
func (f *refused) knownLocked(uuid [16]byte) bool {
	if uuid == ([16]byte{}) {
		return false
	}
	for _, known := range f.lately {
		if _, ok := known[uuid]; ok {
			return true
		}
	}
	if f.lately[0] == nil || len(f.lately[0]) >= maxLately {
		f.lately[0], f.lately[1] = make(map[[16]byte]struct{}), f.lately[0]
	}
	f.lately[0][uuid] = struct{}{}
	return false
}

// addLocked adds refusals to a run's, or to those of its job where there are too
// many runs.
func (f *refused) addLocked(n names, more refusals, since time.Time) (became string) {
	if f.by == nil {
		f.by, f.since = make(map[names]refusals), since
	}
	became = counted
	all, ok := f.by[n]
	if !ok && len(f.by) >= maxRefused {
		became = summed
		n = names{tenant: n.tenant, job: n.job}
		if all, ok = f.by[n]; !ok && len(f.by) >= 2*maxRefused {
			return dropped
		}
	}
	if !ok {
		all.first = more.first
	}
	all.count += more.count
	all.first, all.last = min(all.first, more.first), max(all.last, more.last)
	all.reason, all.hop = more.reason, more.hop
	f.by[n] = all
	return became
}
