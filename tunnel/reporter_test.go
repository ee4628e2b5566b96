package tunnel

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// endOf is the end of stream n, with names as long as they may be.
func endOf(n int) Ended {
	e := Ended{End: EndAtNode(bundle.Report{Sent: int64(n), Start: time.Now().Add(-time.Second), End: time.Now(), Reason: bundle.CodeLanesLost})}
	binary.BigEndian.PutUint64(e.UUID[:], uint64(n))
	e.Run = fmt.Sprint(n/9, strings.Repeat("\x01", 120))
	e.Ingress = "spiffe://" + strings.Repeat("a", 300)
	e.Node = e.Ingress
	return e
}

// TestReporter: ends are reported until they are acknowledged, by the next session
// where the one is gone, in messages that fit; each of them arrives.
func TestReporter(t *testing.T) {
	const total = 700
	var mu sync.Mutex
	got := make(map[int]int)
	calls := 0
	relay := func(_ context.Context, _ *Session, typ string, body json.RawMessage) (any, error) {
		var ends Ends
		if err := json.Unmarshal(body, &ends); err != nil || typ != TypeEnded {
			t.Errorf("%s: %v", typ, err)
		}
		mu.Lock()
		defer mu.Unlock()
		for _, g := range ends.Groups {
			list, err := g.Decode()
			if err != nil {
				t.Error(err)
			}
			for _, e := range list {
				n := int(binary.BigEndian.Uint64(e.UUID[:]))
				want := endOf(n)
				want.Age, want.Lasted, want.at = e.Age, e.Lasted, time.Time{}
				if got[n]++; e != want.End || g.Names != want.Names || e.Age < 0 || e.Age > time.Hour || e.Lasted < 500*time.Millisecond {
					t.Errorf("%+v", e)
				}
			}
		}
		if calls++; calls == 1 || calls == 4 { // taken, and the answer is lost
			return nil, Errorf("activity-unavailable", "relay", "", "not now")
		}
		return EndsTaken{Refused: []EndRefused{{Ends: 1, Code: "job-unknown"}}}, nil
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
	if left := r.Flush(flush, time.Minute); left != 0 {
		t.Errorf("%d ends are left", left)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(got) != total || calls < 5 {
		t.Errorf("%d ends of %d came, in %d messages", len(got), total, calls)
	}
	for id, n := range got {
		if n > 3 {
			t.Errorf("end %d came %d times", id, n)
		}
	}
}

// TestReporterBounded: without a relay, the oldest ends go, and are counted.
func TestReporterBounded(t *testing.T) {
	dropped := 0
	r := &Reporter{Session: func(ctx context.Context) (*Session, error) { <-ctx.Done(); return nil, ctx.Err() }, Dropped: func(n int) { dropped += n }}
	for n := range 3 * maxEnds {
		r.Add(endOf(n))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	left := r.Flush(ctx, time.Minute)
	if left > maxEnds || left+dropped != 3*maxEnds {
		t.Errorf("%d are left, %d dropped", left, dropped)
	}
	if last := binary.BigEndian.Uint64(r.waiting[left-1].UUID[:]); last != 3*maxEnds-1 {
		t.Errorf("the newest is %d", last)
	}
	r.Run(ctx) // ends with its context
}

// TestEndOnTheWire: an end is what it was, in so many bytes, and whatever comes in
// its place is read without harm.
func TestEndOnTheWire(t *testing.T) {
	e := End{
		UUID: [16]byte{1, 15: 16}, Age: 3 * time.Second, Lasted: 90 * time.Minute, BytesRead: 1 << 40, BytesWritten: 7, ReadCRC32C: 0xdeadbeef, WrittenCRC32C: 5,
		Resumes: 3, Stalls: 4, Lanes: 64, Reason: bundle.CodeStoreReset, Remote: true, Refused: true,
	}
	text := AppendEnd(nil, e)
	list, err := EndsOf{Ends: append(AppendEnd(nil, End{}), text...)}.Decode()
	if err != nil || len(text) != EndSize || len(list) != 2 || list[0] != (End{}) || list[1] != e {
		t.Errorf("%d bytes: %+v, %v", len(text), list, err)
	}
	worst := bytes.Repeat([]byte{0xff}, EndSize)
	list, err = EndsOf{Ends: worst}.Decode()
	if err != nil || list[0].Age < 0 || list[0].Lasted < 0 || list[0].Reason.String() != "unknown-code" {
		t.Errorf("%+v, %v", list, err)
	}
	if _, err := (EndsOf{Ends: worst[1:]}).Decode(); err == nil {
		t.Error("a piece of an end is taken")
	}
}

// TestFlush: who stops waits while relays take ends, however many there are, and no
// longer; in virtual time.
func TestFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Reporter{}
		for n := range 1000 {
			r.Add(endOf(n))
		}
		taking := func(ends int) {
			for range ends {
				time.Sleep(600 * time.Millisecond)
				r.mu.Lock()
				r.cutLocked(100)
				r.mu.Unlock()
			}
		}
		start := time.Now()
		go taking(4)
		if left := r.Flush(t.Context(), time.Second); left != 600 || time.Since(start) > 4*time.Second {
			t.Errorf("%d are left after %v", left, time.Since(start))
		}
		start = time.Now()
		go taking(6)
		if left := r.Flush(t.Context(), time.Second); left != 0 || time.Since(start) != 3600*time.Millisecond {
			t.Errorf("%d are left after %v", left, time.Since(start))
		}
		r.Add(endOf(1))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if left := r.Flush(ctx, time.Second); left != 1 {
			t.Errorf("%d are left", left)
		}
	})
}
