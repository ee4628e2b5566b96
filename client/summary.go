package client

import (
	"sync"
	"time"
)

// maxStreamsShown bounds how many ended streams a summary lists.
const maxStreamsShown = 100

// Summary is what a run did.
type Summary struct {
	Streams      int     `json:"streams"` // that were opened
	Failed       int     `json:"failed"`  // that were not opened, or ended badly
	BytesRead    int64   `json:"bytes_read"`
	BytesWritten int64   `json:"bytes_written"`
	Seconds      float64 `json:"seconds"`
	// Last are the streams that ended last, oldest first; at most 100.
	Last []Report `json:"last"`
}

// tally adds up a summary.
type tally struct {
	start time.Time

	mu  sync.Mutex
	sum Summary // guarded by mu
}

func (t *tally) failed() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sum.Failed++
}

func (t *tally) ended(r Report) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sum.Streams++
	t.sum.BytesRead += r.BytesRead
	t.sum.BytesWritten += r.BytesWritten
	if r.Reason != ReasonOK {
		t.sum.Failed++
	}
	if len(t.sum.Last) == maxStreamsShown {
		t.sum.Last = append(t.sum.Last[:0], t.sum.Last[1:]...)
	}
	t.sum.Last = append(t.sum.Last, r)
}

func (t *tally) summary() Summary {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sum
	s.Last = append([]Report{}, t.sum.Last...)
	s.Seconds = time.Since(t.start).Seconds()
	return s
}
