package tunnel

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"
)

const (
	// maxEnds bounds the ends that wait for a relay: about 4 MB.
	maxEnds = 16 << 10
	// maxEndsBytes bounds what of them one message carries.
	maxEndsBytes = 60 << 10
	// manyEnds fill a message: nothing gathers any longer.
	manyEnds = maxEndsBytes / endText
	// endsTime is how long a relay has to answer.
	endsTime = 15 * time.Second
	// endsPause is how long ends gather, endsRetry and endsRetryMost are the
	// pauses after a relay did not take them.
	endsPause     = 50 * time.Millisecond
	endsRetry     = 250 * time.Millisecond
	endsRetryMost = 15 * time.Second
)

// Reporter reports the ends of streams to a relay, again and again until it
// acknowledges them: a relay knows a repeated one by its UUID. What it holds is
// in memory, and bounded: the oldest go first. The zero value with its static
// fields works; Add and Flush may be called from any goroutine.
type Reporter struct {
	// static
	// Session waits for a session with a relay.
	Session func(ctx context.Context) (*Session, error)
	// Dropped is told how many ends were given up; nil: nobody is.
	Dropped func(n int)
	// Logger takes what was given up or refused; nil discards.
	Logger *slog.Logger

	once sync.Once

	mu sync.Mutex
	// guarded by mu
	waiting []Ended // oldest first
	first   uint64  // number of waiting[0]
	wake    chan struct{}
	empty   chan struct{} // closed while nothing waits
	hurry   bool
}

func (r *Reporter) init() {
	r.wake = make(chan struct{}, 1)
	r.empty = make(chan struct{})
	close(r.empty)
	if r.Logger == nil {
		r.Logger = slog.New(slog.DiscardHandler)
	}
	if r.Dropped == nil {
		r.Dropped = func(int) {}
	}
}

// Add has an end reported. It does not wait.
func (r *Reporter) Add(e Ended) {
	r.once.Do(r.init)
	r.mu.Lock()
	dropped := 0
	if len(r.waiting) >= maxEnds {
		dropped = maxEnds / 16
		r.cutLocked(dropped)
	}
	if len(r.waiting) == 0 {
		r.empty = make(chan struct{})
	}
	r.waiting = append(r.waiting, e)
	r.mu.Unlock()
	r.rouse()
	if dropped > 0 {
		r.Dropped(dropped)
		r.Logger.Error("no relay takes the ends of streams: the oldest are missing in the activity record", "dropped", dropped, "waiting", maxEnds-dropped)
	}
}

// cutLocked takes the n oldest out.
func (r *Reporter) cutLocked(n int) {
	r.waiting = append(r.waiting[:0:0], r.waiting[n:]...)
	r.first += uint64(n)
	if len(r.waiting) == 0 {
		close(r.empty)
	}
}

func (r *Reporter) rouse() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Flush waits until a relay has all ends, as long as ctx lasts and relays take some
// at least every patience, and tells how many they have not.
func (r *Reporter) Flush(ctx context.Context, patience time.Duration) int {
	r.once.Do(r.init)
	r.mu.Lock()
	empty, at := r.empty, r.first
	r.hurry = true
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		r.hurry = false
		r.mu.Unlock()
	}()
	r.rouse()
	for timer := time.NewTimer(patience); ; timer.Reset(patience) {
		select {
		case <-empty:
			timer.Stop()
			return 0
		case <-timer.C:
		case <-ctx.Done():
		}
		r.mu.Lock()
		left, now := len(r.waiting), r.first
		r.mu.Unlock()
		if left == 0 || now == at || ctx.Err() != nil {
			timer.Stop()
			return left
		}
		at = now
	}
}

// Run reports until ctx ends.
func (r *Reporter) Run(ctx context.Context) {
	r.once.Do(r.init)
	pause := endsPause
	for {
		select {
		case <-r.wake:
		case <-ctx.Done():
			return
		}
		for n := r.pending(); n > 0; n = r.pending() {
			if !r.hurried() && (pause > endsPause || n < manyEnds) {
				r.wait(ctx, pause)
			}
			if ctx.Err() != nil {
				return
			}
			switch err := r.report(ctx); {
			case err == nil:
				pause = endsPause
			default:
				pause = min(max(2*pause, endsRetry), endsRetryMost)
				r.Logger.Debug("ends of streams were not reported", "again_in", pause, "error", err)
				if r.hurried() {
					r.wait(ctx, endsPause)
				}
			}
		}
	}
}

func (r *Reporter) pending() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.waiting)
}

func (r *Reporter) hurried() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.hurry
}

// wait waits; a Flush ends it.
func (r *Reporter) wait(ctx context.Context, pause time.Duration) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-r.wake:
			if r.hurried() {
				return
			}
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// report reports the oldest ends in one message.
func (r *Reporter) report(ctx context.Context) error {
	s, err := r.Session(ctx)
	if err != nil {
		return err
	}
	groups, until := r.oldest(time.Now())
	ctx, cancel := context.WithTimeout(ctx, endsTime)
	defer cancel()
	var taken EndsTaken
	if err := s.Call(ctx, TypeEnded, Ends{groups}, &taken); err != nil {
		if refusal, ok := errors.AsType[*Error](err); !ok || !refusal.Final {
			return err
		}
		r.Logger.Warn("the relay refuses the ends of streams", "error", err)
	}
	for i, refused := range taken.Refused {
		if i == 3 {
			break
		}
		r.Logger.Warn("the relay refuses the ends of streams", "ends", refused.Ends, "code", printable(refused.Code, maxPeerName), "reasons", len(taken.Refused))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if until > r.first {
		r.cutLocked(int(until - r.first))
	}
	return nil
}

// endText is what an end takes in a message, at most.
const endText = (EndSize + 2) / 3 * 4

// oldest are the ends that fit a message, by their names, and the number of the
// one after them.
func (r *Reporter) oldest(now time.Time) (groups []EndsOf, until uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	size, n := 0, 0
	index := make(map[Names]int)
	for ; n < len(r.waiting); n++ {
		e := &r.waiting[n]
		i, known := index[e.Names]
		if !known {
			text, err := json.Marshal(EndsOf{Names: e.Names})
			if err != nil {
				panic("tunnel: BUG: an end is not JSON: " + err.Error())
			}
			size += len(text) + 4
		}
		if size += endText; size > maxEndsBytes && n > 0 {
			break
		}
		if !known {
			i = len(groups)
			index[e.Names] = i
			groups = append(groups, EndsOf{Names: e.Names})
		}
		e.Age = max(now.Sub(e.at), 0)
		groups[i].Ends = AppendEnd(groups[i].Ends, e.End)
	}
	return groups, r.first + uint64(n)
}
