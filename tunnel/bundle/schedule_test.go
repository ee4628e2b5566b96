package bundle

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// path is one direction of a lane in memory: what is written arrives after a delay, and stands still while frozen.
type path struct {
	mu     sync.Mutex
	cond   sync.Cond
	delay  func() time.Duration
	road   *road     // nil: only the delay
	had    time.Time // when the road had the newest piece of this lane
	last   time.Time // arrival of the newest piece
	pieces []arrival
	size   int
	frozen bool
	closed bool
	ended  bool // after what is on its way
}

type arrival struct {
	at   time.Time
	data []byte
}

// pathRoom is how many bytes are on their way at most.
const pathRoom = 256 << 10

func newPath(delay func() time.Duration) *path {
	p := &path{delay: delay}
	p.cond.L = &p.mu
	return p
}

func (p *path) wake() {
	p.mu.Lock()
	p.cond.Broadcast()
	p.mu.Unlock()
}

func (p *path) write(data []byte, wait bool) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(data) > 0 {
		for p.size >= pathRoom && !p.closed && !p.ended {
			if !wait {
				return n, nil
			}
			p.cond.Wait()
		}
		if p.closed || p.ended {
			return n, net.ErrClosed
		}
		part := data[:min(len(data), pathRoom-p.size)]
		now := time.Now()
		if p.road != nil {
			p.last = p.road.pass(len(part), &p.had)
		} else {
			p.last = now.Add(p.delay())
		}
		if len(p.pieces) > 0 && p.last.Before(p.pieces[len(p.pieces)-1].at) {
			p.last = p.pieces[len(p.pieces)-1].at // a lane keeps its order
		}
		p.pieces = append(p.pieces, arrival{p.last, bytes.Clone(part)})
		p.size += len(part)
		n, data = n+len(part), data[len(part):]
		time.AfterFunc(p.last.Sub(now), p.wake)
		p.cond.Broadcast()
	}
	return n, nil
}

func (p *path) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if p.closed {
			return 0, io.ErrUnexpectedEOF
		}
		if !p.frozen && len(p.pieces) > 0 && !time.Now().Before(p.pieces[0].at) {
			n := copy(b, p.pieces[0].data)
			if p.pieces[0].data = p.pieces[0].data[n:]; len(p.pieces[0].data) == 0 {
				p.pieces = p.pieces[1:]
			}
			p.size -= n
			p.cond.Broadcast()
			return n, nil
		}
		if p.ended && len(p.pieces) == 0 {
			return 0, io.EOF
		}
		p.cond.Wait()
	}
}

func (p *path) set(change func()) {
	p.mu.Lock()
	change()
	p.cond.Broadcast()
	p.mu.Unlock()
}

// pathConn is one end of a lane of two paths.
type pathConn struct {
	net.Conn // unused methods
	in, out  *path
}

// promptPath is one that can be written without waiting.
type promptPath struct {
	pathConn
	left []byte
}

func (c *promptPath) WriteNow(frames ...[]byte) (left bool, err error) {
	if len(c.left) > 0 {
		panic("written before what was left")
	}
	all := bytes.Join(frames, nil)
	n, err := c.out.write(all, false)
	c.left = all[n:]
	return len(c.left) > 0 && err == nil, err
}

func (c *promptPath) Flush() error {
	_, err := c.out.write(c.left, true)
	c.left = nil
	return err
}

// end makes one end of a lane.
func (p *pairOf) end(in, out *path) net.Conn {
	if c := (pathConn{in: in, out: out}); p.plain {
		return c
	} else {
		return &promptPath{pathConn: c}
	}
}

func (c pathConn) Read(b []byte) (int, error)       { return c.in.read(b) }
func (c pathConn) Write(b []byte) (int, error)      { return c.out.write(b, true) }
func (c pathConn) SetDeadline(time.Time) error      { return nil }
func (c pathConn) SetReadDeadline(time.Time) error  { return nil }
func (c pathConn) SetWriteDeadline(time.Time) error { return nil }
func (c pathConn) Close() error {
	c.in.set(func() { c.in.closed = true })
	c.out.set(func() { c.out.closed = true })
	return nil
}

// testLane is a lane that can be disturbed.
type testLane struct{ up, down *path }

func (l testLane) freeze(frozen bool) {
	for _, p := range []*path{l.up, l.down} {
		p.set(func() { p.frozen = frozen })
	}
}

func (l testLane) kill() { _ = pathConn{in: l.up, out: l.down}.Close() }

// pathLane adds a lane with so much delay a write and direction.
func (p *pairOf) pathLane(info LaneInfo, delay func() time.Duration) testLane {
	p.t.Helper()
	l := testLane{newPath(delay), newPath(delay)}
	info.Carrier, info.Exporter = "path", make([]byte, 32)
	_, _ = rand.Read(info.Exporter)
	far, near := info, info
	near.Local, near.Peer = relayID, nodeID
	far.Local, far.Peer = nodeID, relayID
	p.serving.Go(func() { _ = p.node.Serve(context.Background(), p.end(l.up, l.down), far) })
	if err := p.ingress.Join(context.Background(), p.end(l.down, l.up), near); err != nil {
		var end *EndError
		if !errors.As(err, &end) {
			p.t.Errorf("join: %v", err)
		}
	}
	return l
}

// TestFrozenLaneIsSuspect: a lane stands still in mid-copy, as one whose relay is stopped; what it holds goes over the
// other one at once, long before it would be dead.
func TestFrozenLaneIsSuspect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open, stores := storeServer()
		p := newPair(t, 2*time.Minute, open)
		short := func() time.Duration { return 100 * time.Microsecond }
		p.pathLane(LaneInfo{Express: true}, short)
		bulk := p.pathLane(LaneInfo{}, short)
		c := p.carry(stores)
		body := content(5, 4<<20)
		go func() { c.store.Write(body); c.store.CloseWrite() }()
		got := make([]byte, len(body))
		if _, err := io.ReadFull(c.job, got[:1<<20]); err != nil {
			t.Fatal(err)
		}
		bulk.freeze(true)
		start := time.Now()
		if _, err := io.ReadFull(c.job, got[1<<20:]); err != nil || !bytes.Equal(got, body) {
			t.Errorf("the same bytes: %v, %v", bytes.Equal(got, body), err)
		}
		if gap := time.Since(start); gap > time.Second {
			t.Errorf("the copy stood still for %v", gap)
		}
		bulk.freeze(false)
		bulk.kill()
		synctest.Wait()
		c.job.CloseWrite()
		if r := <-c.report; r.Err() != nil || r.Lanes != 2 || r.Resumes == 0 {
			t.Errorf("%+v", r)
		}
	})
}

// TestSchedules runs streams over lanes that are slow, stand still, die and come again in random ways: every byte
// arrives, in order, and both ends are good. EBBGATE_SCHEDULES says how many, EBBGATE_SEED the first seed.
func TestSchedules(t *testing.T) {
	schedules, seed := 200, mrand.Uint64()
	if testing.Short() {
		schedules = 20
	}
	if n, err := strconv.Atoi(os.Getenv("EBBGATE_SCHEDULES")); err == nil {
		schedules = n
	}
	if n, err := strconv.ParseUint(os.Getenv("EBBGATE_SEED"), 10, 64); err == nil {
		seed = n
	}
	for i := range schedules {
		ok := t.Run("", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { schedule(t, seed+uint64(i)) })
		})
		if !ok {
			t.Fatalf("reproduce with EBBGATE_SCHEDULES=1 EBBGATE_SEED=%d", seed+uint64(i))
		}
	}
}

// schedule is one life of a bundle.
func schedule(t *testing.T, seed uint64) {
	r := mrand.New(mrand.NewPCG(seed, 1))
	var dice sync.Mutex
	random := func(n int64) int64 {
		dice.Lock()
		defer dice.Unlock()
		return r.Int64N(n)
	}
	open, stores := storeServer()
	p := newPair(t, 10*time.Minute, open)
	p.plain = seed%2 == 0
	slowest := 1 + random(int64(80*time.Millisecond))
	delay := func() time.Duration { return time.Duration(random(slowest)) }
	add := func() testLane {
		return p.pathLane(LaneInfo{Express: random(3) == 0, Direct: random(3) == 0}, delay)
	}
	lanes := []testLane{add()}
	stop := make(chan struct{})
	var chaos sync.WaitGroup
	chaos.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(random(int64(400 * time.Millisecond)))):
			}
			l := lanes[random(int64(len(lanes)))]
			switch random(8) {
			case 0:
				l.kill()
			case 1:
				l.freeze(true)
			case 2, 3:
				l.freeze(false)
			case 4:
				p.ingress.Replace(CodeRecords, func(LaneInfo) bool { return random(2) == 0 })
			case 5:
				p.node.Replace(CodeMoved, func(LaneInfo) bool { return random(2) == 0 })
			default:
				if len(lanes) < 500 {
					lanes = append(lanes, add())
				}
			}
		}
	})
	var copies sync.WaitGroup
	for i := range 1 + random(4) {
		c := p.carry(stores)
		up, down := content(seed+uint64(2*i), int(random(600<<10))), content(seed+uint64(2*i+1), int(random(600<<10)))
		for _, way := range []struct {
			from, to *memSocket
			body     []byte
			name     string
		}{{c.job, c.store, up, "store"}, {c.store, c.job, down, "job"}} {
			copies.Go(func() { _, _ = way.from.Write(way.body); _ = way.from.CloseWrite() })
			copies.Go(func() {
				if got, err := io.ReadAll(way.to); err != nil || !bytes.Equal(got, way.body) {
					t.Errorf("seed %d: the %s read %d of %d bytes, %v", seed, way.name, len(got), len(way.body), err)
				}
			})
		}
		copies.Go(func() {
			if got := <-c.report; got.Err() != nil {
				t.Errorf("seed %d: %s", seed, fmt.Sprint(got))
			}
		})
	}
	copies.Wait()
	close(stop)
	chaos.Wait()
}
