package bundle

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// road is what all lanes of a test share in one direction: a bottleneck with a
// queue before it.
type road struct {
	delay time.Duration
	rate  float64 // bytes per second of all lanes; 0: no bottleneck
	each  float64 // of one lane: what loss leaves of it

	mu   sync.Mutex
	free time.Time
}

// pass gives when so many bytes of a lane arrive, which had its last at from.
func (r *road) pass(n int, from *time.Time) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	at := now
	if r.rate > 0 {
		if r.free.Before(now) {
			r.free = now
		}
		r.free = r.free.Add(time.Duration(float64(n) / r.rate * 1e9))
		at = r.free
	}
	if r.each > 0 {
		if from.Before(now) {
			*from = now
		}
		*from = from.Add(time.Duration(float64(n) / r.each * 1e9))
		if from.After(at) {
			at = *from
		}
	}
	return at.Add(r.delay)
}

// longRoads makes direct lanes of a bundle whenever one is wanted.
func (p *pairOf) longRoads(up, down *road) (stop func()) {
	return p.growing(func() { p.roadLane(LaneInfo{Direct: true}, up, down) })
}

// growing calls add whenever a lane for bulk is wanted.
func (p *pairOf) growing(add func()) (stop func()) {
	over := make(chan struct{})
	var making sync.WaitGroup
	making.Go(func() {
		for {
			select {
			case <-over:
				return
			case <-p.ingress.Wanting():
			}
			for {
				_, bulk := p.ingress.Wanted()
				if bulk == 0 {
					break
				}
				add()
			}
		}
	})
	return func() { close(over); making.Wait() }
}

func (p *pairOf) roadLane(info LaneInfo, up, down *road) testLane {
	p.t.Helper()
	l := testLane{newPath(nil), newPath(nil)}
	l.up.road, l.down.road = up, down
	info.Carrier, info.Exporter = "road", make([]byte, 32)
	_, _ = rand.Read(info.Exporter)
	far, near := info, info
	near.Local, near.Peer = relayID, nodeID
	far.Local, far.Peer = nodeID, relayID
	p.serving.Go(func() { _ = p.node.Serve(context.Background(), pathConn{in: l.up, out: l.down}, far) })
	if err := p.ingress.Join(context.Background(), pathConn{in: l.down, out: l.up}, near); err != nil {
		p.t.Error(err)
	}
	return l
}

// copied moves bytes through one stream for a while and gives how many came.
func copied(from, to net.Conn, d time.Duration) int {
	over := make(chan struct{})
	go func() {
		buf := make([]byte, 64<<10)
		for {
			select {
			case <-over:
				return
			default:
			}
			if _, err := from.Write(buf); err != nil {
				return
			}
		}
	}()
	total := 0
	end := time.Now().Add(d)
	buf := make([]byte, 256<<10)
	for time.Now().Before(end) {
		n, err := to.Read(buf)
		total += n
		if err != nil {
			break
		}
	}
	close(over)
	return total
}

// copyFor is long enough for all judgements that matter.
const copyFor = 15 * time.Second

func TestLanesGrowWhereEachMovesLittle(t *testing.T) {
	const mega = 1e6
	for _, c := range []struct {
		name        string
		up          bool
		rate, each  float64
		delay       time.Duration
		least, most int
	}{
		{"lossy, up", true, 0, mega / 4, 40 * time.Millisecond, 16, 16},
		{"lossy, down", false, 0, mega / 4, 40 * time.Millisecond, 16, 16},
		{"full, up", true, 4 * mega, 0, 40 * time.Millisecond, 4, 8},
		{"full, down", false, 4 * mega, 0, 40 * time.Millisecond, 4, 8},
		{"short", true, 2 * mega, 0, 100 * time.Microsecond, 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				open, stores := storeServer()
				p := newPair(t, time.Minute, open)
				narrow, wide := &road{delay: c.delay, rate: c.rate, each: c.each}, &road{delay: c.delay}
				up, down := narrow, wide
				if !c.up {
					up, down = wide, narrow
				}
				p.roadLane(LaneInfo{Express: true, Direct: true}, up, down)
				p.roadLane(LaneInfo{Direct: true}, up, down)
				stop := p.longRoads(up, down)
				time.Sleep(time.Second)
				s := p.carry(stores)
				from, to := net.Conn(s.job), net.Conn(s.store)
				if !c.up {
					from, to = to, from
				}
				n := copied(from, to, copyFor)
				lanes := p.ingress.Lanes() - 1
				if lanes < c.least || lanes > c.most {
					t.Errorf("%d lanes for bulk, want %d to %d", lanes, c.least, c.most)
				}
				if all := max(c.rate, float64(lanes)*c.each); float64(n) < all*copyFor.Seconds()/2 {
					t.Errorf("%d bytes, %.0f would have had room", n, all*copyFor.Seconds())
				}
				s.job.Close()
				<-s.report
				go func() { _, _ = io.Copy(io.Discard, s.store) }()
				time.Sleep(3 * growIdle)
				if left := p.ingress.Lanes() - 1; left != 1 {
					t.Errorf("%d lanes for bulk at rest, want 1", left)
				}
				stop()
			})
		})
	}
}

func TestNodeLimitsLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open, stores := storeServer()
		p := newPair(t, time.Minute, open)
		p.node.LimitLanes(3)
		up, down := &road{delay: 40 * time.Millisecond, each: 250e3}, &road{delay: 40 * time.Millisecond}
		p.roadLane(LaneInfo{Express: true, Direct: true}, up, down)
		p.roadLane(LaneInfo{Direct: true}, up, down)
		stop := p.longRoads(up, down)
		time.Sleep(time.Second)
		s := p.carry(stores)
		for _, most := range []int{3, 7} {
			p.node.LimitLanes(most)
			copied(s.job, s.store, copyFor)
			if lanes := p.ingress.Lanes() - 1; lanes != most {
				t.Errorf("%d lanes for bulk, the node allows %d", lanes, most)
			}
		}
		s.job.Close()
		<-s.report
		stop()
	})
}

// TestSessionLanesHelp: where TCP is held back, bulk goes over the session as well, and most of it there; once TCP
// carries enough again, over TCP alone. It does not go to and fro between them.
func TestSessionLanesHelp(t *testing.T) {
	for _, up := range []bool{true, false} {
		t.Run(fmt.Sprintf("up=%v", up), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				open, stores := storeServer()
				p := newPair(t, time.Minute, open)
				p.node.LimitLanes(2)
				road40 := func(each float64) *road { return &road{delay: 40 * time.Millisecond, each: each} }
				p.roadLane(LaneInfo{Express: true, Direct: true}, road40(500e3), road40(500e3))
				p.roadLane(LaneInfo{}, road40(500e3), road40(500e3))
				there, back := road40(40e3), road40(40e3)
				p.roadLane(LaneInfo{Direct: true}, there, back)
				stop := p.longRoads(there, back)
				defer stop()
				time.Sleep(time.Second)
				s := p.carry(stores)
				from, to, sender := net.Conn(s.job), net.Conn(s.store), p.ingress
				if !up {
					from, to = to, from
					p.node.mu.Lock()
					for _, b := range p.node.bundles {
						sender = b
					}
					p.node.mu.Unlock()
				}
				changes := watchHelp(t, sender)
				copied(from, to, copyFor)
				if n := copied(from, to, copyFor/2); float64(n) < 400e3*copyFor.Seconds()/2 {
					t.Errorf("%d bytes, the session's lane carries 500 KB/s", n)
				}
				if n := changes(); n != 1 {
					t.Errorf("the session's lanes began or ceased to help %d times, want once", n)
				}
				for _, r := range []*road{there, back} {
					r.mu.Lock()
					r.each = 1.5e6
					r.mu.Unlock()
				}
				copied(from, to, copyFor/2)
				if n := copied(from, to, copyFor/5); float64(n) < 2e6*copyFor.Seconds()/5 {
					t.Errorf("%d bytes, the direct lanes carry 3 MB/s", n)
				}
				if n := changes(); n != 2 {
					t.Errorf("the session's lanes began or ceased to help %d times, want twice", n)
				}
				_ = s.job.Close()
				<-s.report
			})
		})
	}
}

// watchHelp counts how often session lanes begin or cease to help.
func watchHelp(t *testing.T, b *Bundle) (changes func() int) {
	ctx, was, n := t.Context(), false, 0
	go func() {
		for ctx.Err() == nil {
			b.mu.Lock()
			if b.growth.all != was {
				was = !was
				n++
			}
			b.mu.Unlock()
			time.Sleep(10 * time.Millisecond)
		}
	}()
	return func() int {
		b.mu.Lock()
		defer b.mu.Unlock()
		return n
	}
}
