package bundle

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// renewing is a pair whose lanes are made again when they are to be replaced.
type renewing struct {
	*pairOf
	t     *testing.T
	limit int64 // writes after which an end's lane is worn; 0: never
	delay func() time.Duration

	mu    sync.Mutex
	made  int
	stop  bool // no lane is made again
	live  map[int]testLane
	tasks sync.WaitGroup
}

// counted counts what an end writes.
type counted struct {
	pathConn
	writes atomic.Int64
}

func (c *counted) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.pathConn.Write(p)
}

func newRenewing(t *testing.T, limit int64, delay time.Duration) (*renewing, chan *memSocket) {
	open, stores := storeServer()
	r := &renewing{t: t, pairOf: newPair(t, 0, open), limit: limit, delay: func() time.Duration { return delay }, live: make(map[int]testLane)}
	t.Cleanup(func() {
		r.mu.Lock()
		r.stop = true
		r.mu.Unlock()
		r.tasks.Wait()
	})
	return r, stores
}

func (r *renewing) add(info LaneInfo) {
	l := testLane{newPath(r.delay), newPath(r.delay)}
	here, there := &counted{pathConn: pathConn{in: l.down, out: l.up}}, &counted{pathConn: pathConn{in: l.up, out: l.down}}
	info.Carrier, info.Exporter = "path", make([]byte, 32)
	_, _ = rand.Read(info.Exporter)
	again := info
	near, far := info, info
	near.Local, near.Peer, far.Local, far.Peer = relayID, nodeID, nodeID, relayID
	if r.limit > 0 {
		near.Worn = func() bool { return here.writes.Load() >= r.limit }
		far.Worn = func() bool { return there.writes.Load() >= r.limit }
	}
	r.mu.Lock()
	number := r.made
	r.made++
	r.live[number] = l
	r.mu.Unlock()
	near.Replaced = func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.stop {
			return
		}
		r.tasks.Go(func() {
			time.Sleep(4 * r.delay()) // handshakes
			r.add(again)
		})
	}
	r.serving.Go(func() {
		_ = r.node.Serve(context.Background(), there, far)
		r.mu.Lock()
		delete(r.live, number)
		r.mu.Unlock()
	})
	if err := r.ingress.Join(context.Background(), here, near); err != nil && r.ingress.Err() == nil {
		r.t.Errorf("join: %v", err)
	}
}

// Close lets what was written arrive, as TCP does.
func (c *counted) Close() error {
	c.in.set(func() { c.in.closed = true })
	c.out.set(func() { c.out.ended = true })
	return nil
}

// copies moves bodies both ways, which both arrive with nothing repeated, resumed or stalled.
func (r *renewing) copies(stores chan *memSocket, n int, during func()) {
	r.t.Helper()
	c := r.carry(stores)
	up, down := content(3, n), content(4, n)
	var all sync.WaitGroup
	for _, way := range []struct {
		from, to *memSocket
		body     []byte
	}{{c.job, c.store, up}, {c.store, c.job, down}} {
		all.Go(func() { _, _ = way.from.Write(way.body); _ = way.from.CloseWrite() })
		all.Go(func() {
			if got, err := io.ReadAll(way.to); err != nil || !bytes.Equal(got, way.body) {
				r.t.Errorf("%d of %d bytes, %v", len(got), len(way.body), err)
			}
		})
	}
	during()
	all.Wait()
	if got := <-c.report; got.Err() != nil || got.Resumes != 0 || got.Stalls != 0 {
		r.t.Errorf("%+v", got)
	}
	for _, m := range []*Metrics{r.ingress.cfg.Metrics, r.node.cfg.Metrics} {
		if n := value(m.repeated); n != 0 {
			r.t.Errorf("%v chunks were sent again", n)
		}
	}
	r.settled()
}

func (r *renewing) lanes() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.live)
}

// TestWornLanesAreReplaced: each lane carries only so much, counted at both ends; streams notice nothing.
func TestWornLanesAreReplaced(t *testing.T) {
	for _, delay := range []time.Duration{100 * time.Microsecond, 40 * time.Millisecond} {
		t.Run(delay.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, stores := newRenewing(t, 30, delay)
				r.add(LaneInfo{Express: true})
				r.add(LaneInfo{Direct: true})
				r.add(LaneInfo{Direct: true})
				r.copies(stores, 16<<20, func() {})
				if r.made < 8 {
					t.Errorf("only %d lanes were made", r.made)
				}
				if n := value(r.ingress.cfg.Metrics.laneEnds.WithLabelValues("lanes-lost")); n != 0 {
					t.Errorf("%v lanes did not end in an orderly way", n)
				}
				if n := value(r.node.cfg.Metrics.laneEnds.WithLabelValues("lanes-lost")); n != 0 {
					t.Errorf("%v lanes did not end in an orderly way at the node", n)
				}
			})
		})
	}
}

// TestEachEndReplacesLanes: both may want it, at the same time; there are as many lanes afterwards as before.
func TestEachEndReplacesLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, stores := newRenewing(t, 0, 5*time.Millisecond)
		r.add(LaneInfo{Express: true})
		r.add(LaneInfo{Direct: true})
		every := func(LaneInfo) bool { return true }
		r.copies(stores, 16<<20, func() {
			for range 3 {
				time.Sleep(50 * time.Millisecond)
				gone := append(r.ingress.Replace(CodeCertificate, every), r.node.Replace(CodeCertificate, every)...)
				if len(gone) < 4 {
					t.Errorf("%d lanes were to be replaced", len(gone))
				}
				for _, c := range gone {
					<-c
				}
			}
		})
		if r.made != 8 || r.lanes() != 2 {
			t.Errorf("%d lanes were made, %d are there", r.made, r.lanes())
		}
	})
}

// TestReplacedLaneStaysWithoutAnother: a lane that cannot be replaced goes on.
func TestReplacedLaneStaysWithoutAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, stores := newRenewing(t, 0, time.Millisecond)
		r.stop = true
		r.add(LaneInfo{})
		r.node.Replace(CodeMoved, func(LaneInfo) bool { return true })
		time.Sleep(5 * time.Minute)
		r.copies(stores, 1<<20, func() {})
		if r.lanes() != 1 {
			t.Errorf("%d lanes", r.lanes())
		}
		r.add(LaneInfo{Express: true}) // of another kind: good enough in the end
		time.Sleep(time.Minute)
		if r.lanes() != 1 {
			t.Errorf("%d lanes", r.lanes())
		}
		r.copies(stores, 1<<20, func() {})
	})
}

// TestDrainingLaneGoesWhenIdle: nobody needs another lane where no stream is open.
func TestDrainingLaneGoesWhenIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, stores := newRenewing(t, 0, time.Millisecond)
		r.stop = true
		r.add(LaneInfo{Express: true})
		r.add(LaneInfo{Direct: true})
		r.copies(stores, 4<<20, func() {
			time.Sleep(10 * time.Millisecond)
			r.ingress.Replace(CodeDraining, func(LaneInfo) bool { return true })
			time.Sleep(10 * time.Millisecond)
			if r.lanes() != 2 {
				t.Errorf("%d lanes while a stream is open", r.lanes())
			}
		})
		time.Sleep(time.Second)
		if r.lanes() != 0 {
			t.Errorf("%d lanes are left", r.lanes())
		}
	})
}

// TestPartingLaneDies: what was under way on a lane that is given up goes over its successor.
func TestPartingLaneDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open, stores := storeServer()
		p := newPair(t, 0, open)
		slow := func() time.Duration { return 200 * time.Millisecond }
		old := p.pathLane(LaneInfo{}, slow)
		c := p.carry(stores)
		body := content(9, 8<<20)
		go func() { c.store.Write(body); c.store.CloseWrite() }()
		got := make([]byte, len(body))
		if _, err := io.ReadFull(c.job, got[:1<<20]); err != nil {
			t.Fatal(err)
		}
		p.ingress.Replace(CodeMoved, func(LaneInfo) bool { return true })
		p.pathLane(LaneInfo{}, slow)
		time.Sleep(50 * time.Millisecond)
		old.kill()
		if _, err := io.ReadFull(c.job, got[1<<20:]); err != nil || !bytes.Equal(got, body) {
			t.Errorf("the same bytes: %v, %v", bytes.Equal(got, body), err)
		}
		c.job.CloseWrite()
		if r := <-c.report; r.Err() != nil {
			t.Errorf("%+v", r)
		}
	})
}

// value is what a counter counted.
func value(m prometheus.Metric) float64 {
	var out dto.Metric
	_ = m.Write(&out)
	return out.GetCounter().GetValue()
}
