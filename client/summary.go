package client

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// maxStreamsShown bounds how many ended streams a summary lists.
const maxStreamsShown = 100

// Summary is what a run did.
type Summary struct {
	Run          string  `json:"run,omitempty"`
	Streams      int     `json:"streams"` // that were opened
	Failed       int     `json:"failed"`  // that were not opened, or ended badly
	BytesRead    int64   `json:"bytes_read"`
	BytesWritten int64   `json:"bytes_written"`
	Seconds      float64 `json:"seconds"`
	// Stores are the same by store, in the order of their names.
	Stores []StoreSummary `json:"stores"`
	// Last are the streams that ended last, oldest first; at most 100.
	Last []Report `json:"last"`
}

// StoreSummary is what a run did with one store.
type StoreSummary struct {
	Target       string  `json:"target"`
	Streams      int     `json:"streams"`
	Refused      int     `json:"refused"` // dials that became no stream
	Reset        int     `json:"reset"`   // streams that the job broke off
	Broken       int     `json:"broken"`  // streams that ended badly otherwise
	BytesRead    int64   `json:"bytes_read"`
	BytesWritten int64   `json:"bytes_written"`
	Seconds      float64 `json:"seconds"` // of all streams together
}

// Broken is how many streams ended badly and not by the job's own doing.
func (s Summary) Broken() (n int) {
	for _, store := range s.Stores {
		n += store.Broken
	}
	return n
}

// Tally carries streams and adds up what they did. All methods may be called
// from any goroutine.
type Tally struct {
	// static after construction
	run    string
	logger *slog.Logger
	start  time.Time

	mu sync.Mutex
	// guarded by mu
	sum    Summary // without Stores
	stores map[string]*StoreSummary
}

// NewTally makes a tally of a run, whose time begins now. logger takes the ends
// of streams; nil discards.
func NewTally(run string, logger *slog.Logger) *Tally {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Tally{run: run, logger: logger, start: time.Now(), stores: make(map[string]*StoreSummary)}
}

// Carry carries a stream to its end and counts it. sock and prefix are as for
// [bundle.Stream.Carry]. When ctx ends, the stream is reset.
func (t *Tally) Carry(ctx context.Context, stream *Stream, sock bundle.Socket, prefix []byte) bundle.Report {
	stop := context.AfterFunc(ctx, func() { stream.Reset(bundle.CodeIngressStopped) })
	end := stream.Carry(sock, prefix)
	stop()
	r := reportOf(stream.Target, end)
	t.ended(r)
	level, message := slog.LevelDebug, "stream over"
	if end.Reason != bundle.CodeOK && end.Reason != bundle.CodeIngressStopped {
		level, message = slog.LevelInfo, "connection reset: stream ended badly"
	}
	t.logger.Log(ctx, level, message, "target", r.Target, "uuid", r.UUID, "reason", r.Reason, "by_node", r.Remote,
		"bytes_read", r.BytesRead, "bytes_written", r.BytesWritten, "resumes", r.Resumes, "seconds", r.Seconds)
	return end
}

// Refused counts a dial that became no stream.
func (t *Tally) Refused(target Target) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sum.Failed++
	t.storeLocked(target.String()).Refused++
}

func (t *Tally) ended(r Report) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sum.Streams++
	t.sum.BytesRead += r.BytesRead
	t.sum.BytesWritten += r.BytesWritten
	store := t.storeLocked(r.Target)
	store.Streams++
	store.BytesRead += r.BytesRead
	store.BytesWritten += r.BytesWritten
	store.Seconds += r.Seconds
	switch {
	case r.Reason == ReasonOK:
	case r.code == bundle.CodeJobReset && !r.Remote:
		t.sum.Failed++
		store.Reset++
	default:
		t.sum.Failed++
		store.Broken++
	}
	if len(t.sum.Last) == maxStreamsShown {
		t.sum.Last = append(t.sum.Last[:0], t.sum.Last[1:]...)
	}
	t.sum.Last = append(t.sum.Last, r)
}

// storeLocked gives a store's row; names that are many share one.
func (t *Tally) storeLocked(target string) *StoreSummary {
	s := t.stores[target]
	if s == nil && len(t.stores) >= maxTargets {
		target = "others"
		s = t.stores[target]
	}
	if s == nil {
		s = &StoreSummary{Target: target}
		t.stores[target] = s
	}
	return s
}

// Summary is what was counted until now.
func (t *Tally) Summary() Summary {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.sum
	s.Run = t.run
	s.Last = append([]Report{}, t.sum.Last...)
	s.Stores = make([]StoreSummary, 0, len(t.stores))
	for _, store := range t.stores {
		s.Stores = append(s.Stores, *store)
	}
	slices.SortFunc(s.Stores, func(a, b StoreSummary) int { return cmp.Compare(a.Target, b.Target) })
	s.Seconds = time.Since(t.start).Seconds()
	return s
}
