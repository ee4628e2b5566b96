package tunnel

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// endOf is the end of stream n, with names as long as they may be.
func endOf(n int) Ended {
	e := EndedAtNode(bundle.Report{Sent: int64(n), Start: time.Now().Add(-time.Second), End: time.Now(), Reason: bundle.CodeLanesLost})
	e.UUID = fmt.Sprint(n)
	e.Run = strings.Repeat("\x01", 128)
	e.Ingress = "spiffe://" + strings.Repeat("a", 300)
	e.Node = e.Ingress
	return e
}

// TestReporter: ends are reported until they are acknowledged, by the next session
// where the one is gone, in messages that fit; each of them arrives.
func TestReporter(t *testing.T) {
	const total = 700
	var mu sync.Mutex
	got := make(map[string]int)
	calls := 0
	relay := func(_ context.Context, _ *Session, typ string, body json.RawMessage) (any, error) {
		var ends Ends
		if err := json.Unmarshal(body, &ends); err != nil || typ != TypeEnded {
			t.Errorf("%s: %v", typ, err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, e := range ends.Ends {
			got[e.UUID]++
			if e.Age < 0 || e.Age > 60 || e.Seconds < 0.5 {
				t.Errorf("%+v", e)
			}
		}
		if calls++; calls == 1 || calls == 4 { // taken, and the answer is lost
			return nil, Errorf("activity-unavailable", "relay", "", "not now")
		}
		return EndsTaken{Refused: []EndRefused{{UUID: "0", Reason: "job-unknown"}}}, nil
	}
	first, _ := pair(t, TLS, SessionConfig{}, SessionConfig{Handle: relay})
	second, _ := pair(t, TLS, SessionConfig{}, SessionConfig{Handle: relay})
	var once sync.Once
	r := &Reporter{Session: func(context.Context) (*Session, error) {
		mu.Lock()
		defer mu.Unlock()
		if calls < 3 {
			return first, nil
		}
		once.Do(func() { _ = first.Close("gone") })
		return second, nil
	}}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { r.Run(ctx) })
	defer running.Wait()
	defer cancel()
	for n := range total {
		r.Add(endOf(n))
	}
	flush, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	if left := r.Flush(flush); left != 0 {
		t.Errorf("%d ends are left", left)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(got) != total || calls < total/60 {
		t.Errorf("%d ends of %d came, in %d messages", len(got), total, calls)
	}
	for id, n := range got {
		if n > 3 {
			t.Errorf("end %s came %d times", id, n)
		}
	}
}

// TestReporterBounded: without a relay, the oldest ends go, and are counted.
func TestReporterBounded(t *testing.T) {
	dropped := 0
	r := &Reporter{Session: func(ctx context.Context) (*Session, error) { <-ctx.Done(); return nil, ctx.Err() }, Dropped: func(n int) { dropped += n }}
	for n := range 3 * maxEnds {
		r.Add(Ended{UUID: fmt.Sprint(n)})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	left := r.Flush(ctx)
	if left > maxEnds || left+dropped != 3*maxEnds {
		t.Errorf("%d are left, %d dropped", left, dropped)
	}
	if last := r.waiting[left-1].UUID; last != fmt.Sprint(3*maxEnds-1) {
		t.Errorf("the newest is %s", last)
	}
	r.Run(ctx) // ends with its context
}
