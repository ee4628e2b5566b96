package bundle

import (
	"bytes"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestFrozenWayCostsLittle has lanes through two relays on a long path that copies fill both ways, so that the round
// trip grows and only so much may be under way. Each relay stands still once.
func TestFrozenWayCostsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open, stores := storeServer()
		p := newPair(t, time.Minute, open)
		there, back := &road{delay: 40 * time.Millisecond, rate: 2e6, each: 200e3}, &road{delay: 40 * time.Millisecond, rate: 2e6, each: 200e3}
		ways := []string{"a", "b"}
		lanes := make(map[string][]testLane)
		for _, way := range ways {
			lanes[way] = append(lanes[way], p.roadLane(LaneInfo{Express: true, Direct: true, Way: way}, there, back))
		}
		var mu sync.Mutex // of lanes
		added := 0
		add := func() {
			way := ways[added%4/3]
			l := p.roadLane(LaneInfo{Direct: true, Way: way}, there, back)
			mu.Lock()
			lanes[way] = append(lanes[way], l)
			mu.Unlock()
			added++
		}
		add()
		stop := p.growing(add)
		defer stop()
		time.Sleep(time.Second)
		up, down := p.carry(stores), p.carry(stores)
		var copies sync.WaitGroup
		var gaps [2]time.Duration
		for i, c := range []struct{ from, to *memSocket }{{up.job, up.store}, {down.store, down.job}} {
			body := content(7, 38<<20)
			copies.Go(func() { _, _ = c.from.Write(body); _ = c.from.CloseWrite() })
			copies.Go(func() {
				gaps[i] = readAll(t, c.to, body, 5*time.Second)
				_ = c.to.CloseWrite()
				_, _ = io.Copy(io.Discard, c.from)
			})
		}
		for _, way := range ways {
			time.Sleep(6 * time.Second)
			for _, frozen := range []bool{true, false} {
				mu.Lock()
				for _, l := range lanes[way] {
					l.freeze(frozen)
				}
				mu.Unlock()
				time.Sleep(4 * time.Second)
			}
		}
		copies.Wait()
		for i, gap := range gaps {
			if gap > 3*time.Second {
				t.Errorf("%s: the copy stood still for %v", [...]string{"up", "down"}[i], gap)
			}
		}
		t.Logf("gaps %v", gaps)
		for _, c := range []carried{up, down} {
			if r := <-c.report; r.Err() != nil {
				t.Error(r)
			}
		}
	})
}

// TestSilentLanesOfAFrozenWay: when a lane is suspect, idle ones that go through the same relay get nothing until they
// answer.
func TestSilentLanesOfAFrozenWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open, stores := storeServer()
		p := newPair(t, time.Minute, open)
		there, back := &road{delay: 40 * time.Millisecond}, &road{delay: 40 * time.Millisecond}
		var frozen []testLane
		for _, info := range []LaneInfo{{Express: true}, {}, {}, {}} {
			info.Way = "a"
			frozen = append(frozen, p.roadLane(info, there, back))
			info.Way = "b"
			p.roadLane(info, there, back)
		}
		c := p.carry(stores)
		time.Sleep(3 * time.Second)
		for _, l := range frozen {
			l.freeze(true)
		}
		_, _ = c.job.Write([]byte{1}) // over the first lane, which is suspect soon
		time.Sleep(time.Second)
		if n := suspects(p.ingress); n != len(frozen) {
			t.Errorf("%d suspects, want %d", n, len(frozen))
		}
		body := append([]byte{1}, content(7, 1<<20)...)
		go func() { _, _ = c.job.Write(body[1:]); _ = c.job.CloseWrite() }()
		if gap := readAll(t, c.store, body, 0); gap > 300*time.Millisecond {
			t.Errorf("the copy stood still for %v", gap)
		}
		for _, l := range frozen {
			l.freeze(false)
		}
		time.Sleep(time.Second)
		if n := suspects(p.ingress); n != 0 {
			t.Errorf("%d suspects after all answered", n)
		}
		_ = c.store.CloseWrite()
		_, _ = io.Copy(io.Discard, c.job)
		if r := <-c.report; r.Err() != nil {
			t.Error(r)
		}
	})
}

func suspects(b *Bundle) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range b.lanes {
		if l.suspect {
			n++
		}
	}
	return n
}

// TestSuspectsHoldNothingBack: what a suspect holds went elsewhere, and does not count as under way.
func TestSuspectsHoldNothingBack(t *testing.T) {
	b := newBundle(Config{}, roleIngress)
	for range 2 {
		b.lanes = append(b.lanes, &lane{b: b, info: LaneInfo{Direct: true}})
	}
	b.rankLocked()
	l := b.lanes[0]
	b.level.limit, l.sentBytes = 1<<20, 2<<20
	if !b.fullLocked() {
		t.Error("twice the limit is under way, and more may be")
	}
	l.suspect = true
	if b.rankLocked(); b.fullLocked() {
		t.Error("bulk waits for a suspect")
	}
}

// readAll reads what must be body and gives the longest time without any of it, after a ramp.
func readAll(t *testing.T, from io.Reader, body []byte, ramp time.Duration) (gap time.Duration) {
	t.Helper()
	began := time.Now()
	buf := make([]byte, 64<<10)
	for last := began; ; last = time.Now() {
		n, err := from.Read(buf)
		if !bytes.HasPrefix(body, buf[:n]) {
			t.Error("other bytes")
			return gap
		}
		body = body[n:]
		if last.Sub(began) > ramp {
			gap = max(gap, time.Since(last))
		}
		if err != nil {
			if len(body) > 0 || err != io.EOF {
				t.Errorf("%d bytes are missing: %v", len(body), err)
			}
			return gap
		}
	}
}
