package activity

import (
	"context"
	"time"
)

const (
	// maxWaiting bounds the halves that wait to be written: some 4 MB.
	maxWaiting = 16 << 10
	// maxBatch bounds what one transaction writes.
	maxBatch = 1024
	// hold is how long a half of this process' own waits for the far one, so that
	// the stream is written once; maxHeld bounds how many do.
	hold    = 700 * time.Millisecond
	maxHeld = maxWaiting / 2
	// gather is how long halves gather that somebody waits for, gatherMany the same
	// where there are many: then the two ends of a stream meet.
	gather     = 10 * time.Millisecond
	gatherMany = 60 * time.Millisecond
	many       = 64
)

// own is a half of this process' own.
type own struct {
	Half
	since time.Time
}

// entry is halves that came together, and that somebody waits for.
type entry struct {
	halves []Half
	done   chan error // has room for one
	since  time.Time
}

// batch is what one transaction writes.
type batch struct {
	own      []own
	reported []entry
	refused  refused
}

// fitsLocked counts n more halves that wait, where there is room for them.
func (r *Recorder) fitsLocked(n int) bool {
	if r.waiting+n > maxWaiting {
		return false
	}
	r.waiting += n
	r.metrics.waiting.Set(float64(r.waiting))
	return true
}

func (r *Recorder) rouse() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// gather lets more come, so that one transaction writes them all, and each stream
// once.
func (r *Recorder) gather(ctx context.Context) {
	for ctx.Err() == nil {
		r.mu.Lock()
		wait := r.restLocked(time.Now())
		r.mu.Unlock()
		if wait <= 0 {
			return
		}
		timer := time.NewTimer(wait)
		select {
		case <-r.wake:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// restLocked is how long nothing has to be written yet.
func (r *Recorder) restLocked(now time.Time) time.Duration {
	reported := r.waiting - len(r.own)
	switch {
	case r.closing, reported >= maxBatch, len(r.own) >= maxHeld:
		return 0
	case len(r.queue) > 0 && reported >= many:
		return gatherMany - now.Sub(r.queue[0].since)
	case len(r.queue) > 0:
		return gather - now.Sub(r.queue[0].since)
	case len(r.own)+len(r.refused.by) == 0:
		return 0
	}
	wait := hold
	if len(r.own) > 0 {
		wait -= now.Sub(r.own[0].since)
	}
	if len(r.refused.by) > 0 {
		wait = min(wait, hold-now.Sub(r.refused.since))
	}
	return wait
}

// take takes what is to be written now: what was reported, with our own halves of
// these streams, and those of our own that waited long enough.
func (r *Recorder) take(now time.Time) (b batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	far := make(map[[16]byte]struct{})
	n := 0
	for i, e := range r.queue {
		if n += len(e.halves); i > 0 && n > maxBatch {
			break
		}
		b.reported = append(b.reported, e)
		r.waiting -= len(e.halves)
		for j := range e.halves {
			far[e.halves[j].UUID] = struct{}{}
		}
	}
	r.queue = append([]entry(nil), r.queue[len(b.reported):]...)
	all := r.closing || len(r.own) >= maxHeld
	kept := r.own[:0]
	for i := range r.own {
		h := &r.own[i]
		_, met := far[h.UUID]
		if len(b.own) < maxBatch && (met || all || now.Sub(h.since) >= hold) {
			b.own = append(b.own, *h)
		} else {
			kept = append(kept, *h)
		}
	}
	b.refused, r.refused = r.refused, refused{lately: r.refused.lately}
	clear(r.own[len(kept):])
	r.own = kept
	r.waiting -= len(b.own)
	r.metrics.waiting.Set(float64(r.waiting))
	return b
}

// putBack keeps what was not written for the next attempt; who waits is told.
func (r *Recorder) putBack(b batch, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range b.reported {
		e.done <- unavailable(err)
	}
	r.own = append(b.own, r.own...)
	r.waiting += len(b.own)
	for n, more := range b.refused.by {
		r.refused.addLocked(n, more, b.refused.since)
	}
}
