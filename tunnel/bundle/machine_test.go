package bundle

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// machine is two honest ends whose outsides and lanes do what a string of bytes
// says.
type machine struct {
	t       *testing.T
	pair    *pairOf
	pool    *Pool
	lanes   []func()
	streams []*machineStream
	running sync.WaitGroup

	mu sync.Mutex
	// guarded by mu
	stores map[[16]byte]*outside
}

// machineStream is one stream with both of its outsides.
type machineStream struct {
	job, store *outside
	cancel     context.CancelFunc
	carried    bool
	report     Report
}

// outside is a job or a store: what it wrote and read, and how reading ended.
type outside struct {
	sock *memSocket
	seed byte
	todo chan func(*outside)

	mu   sync.Mutex
	cond sync.Cond
	// guarded by mu
	paused bool
	wrote  int
	closed bool // it ended its bytes well
	gone   bool // it reset its connection, and so may have read less than came
	got    []byte
	end    error // of reading; io.EOF is the good one
}

func newOutside(seed byte) *outside {
	o := &outside{seed: seed, todo: make(chan func(*outside), 256)}
	o.cond.L = &o.mu
	return o
}

// slab is what all outsides write pieces of.
var slab = content(1, 1<<20)

// piece is n bytes at an offset of what an outside writes.
func (o *outside) piece(off, n int) []byte {
	off = (off + 7919*int(o.seed)) % (len(slab) - n)
	return slab[off : off+n]
}

// write runs what the outside is told, in order.
func (o *outside) write() {
	for f := range o.todo {
		f(o)
	}
}

func (o *outside) send(n int) {
	for n > 0 { // pieces begin anywhere, so they are cut at offsets that both know
		o.mu.Lock()
		off, closed := o.wrote, o.closed
		o.mu.Unlock()
		k := min(n, pieceSize-off%pieceSize)
		if closed {
			return
		}
		k, err := o.sock.Write(o.piece(off-off%pieceSize, pieceSize)[off%pieceSize:][:k])
		o.mu.Lock()
		o.wrote += k
		o.mu.Unlock()
		if err != nil {
			return
		}
		n -= k
	}
}

const pieceSize = 64 << 10

// finish ends the outside's bytes well.
func (o *outside) finish() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	_ = o.sock.CloseWrite()
}

func (o *outside) reset() {
	o.mu.Lock()
	o.gone = true
	o.mu.Unlock()
	_ = o.sock.Close() // linger 0
}

// read reads while it is not paused.
func (o *outside) read() {
	buf := make([]byte, 32<<10)
	for {
		o.mu.Lock()
		for o.paused {
			o.cond.Wait()
		}
		o.mu.Unlock()
		n, err := o.sock.Read(buf)
		o.mu.Lock()
		o.got = append(o.got, buf[:n]...)
		if err != nil {
			o.end = err
			o.mu.Unlock()
			return
		}
		o.mu.Unlock()
	}
}

func (o *outside) pause(paused bool) {
	o.mu.Lock()
	o.paused = paused
	o.mu.Unlock()
	o.cond.Broadcast()
}

// heard checks what o read of what from wrote: always a beginning of it, and all
// of it where it ended well, which from must have said.
func (o *outside) heard(from *outside) error {
	from.mu.Lock()
	wrote, closed := from.wrote, from.closed
	from.mu.Unlock()
	o.mu.Lock()
	defer o.mu.Unlock()
	for at := 0; at < len(o.got); {
		n := min(pieceSize, len(o.got)-at)
		if string(o.got[at:at+n]) != string(from.piece(at, pieceSize)[:n]) {
			return errors.New("read other bytes than were written")
		}
		at += n
	}
	if len(o.got) > wrote {
		return errors.New("read more than was written")
	}
	if errors.Is(o.end, io.EOF) && (!closed || len(o.got) != wrote) {
		return errors.New("read a good end that never was")
	}
	return nil
}

// machineSizes are how much an outside writes at once, in bytes.
var machineSizes = []int{0, 1, 100, 1 << 10, 8 << 10, 64 << 10, 64<<10 + 1, 300 << 10}

// step does one operation: what, to which stream, how much.
func (m *machine) step(op, which, arg byte) {
	if op%16 <= 1 || len(m.streams) == 0 {
		m.open(arg)
		return
	}
	s := m.streams[int(which)%len(m.streams)]
	size := machineSizes[int(arg)%len(machineSizes)]
	tell := func(o *outside, f func(*outside)) {
		select {
		case o.todo <- f:
		default:
		}
	}
	switch op % 16 {
	case 2, 3:
		tell(s.job, func(o *outside) { o.send(size) })
	case 4, 5:
		tell(s.store, func(o *outside) { o.send(size) })
	case 6:
		tell(s.job, (*outside).finish)
	case 7:
		tell(s.store, (*outside).finish)
	case 8:
		s.job.reset()
	case 9:
		s.store.reset()
	case 10:
		s.job.pause(arg%2 == 0)
	case 11:
		s.store.pause(arg%2 == 0)
	case 12:
		if len(m.lanes) > 0 {
			m.lanes[0]()
			m.lanes = m.lanes[1:]
		}
	case 13:
		if len(m.lanes) < 8 {
			m.lane(arg%2 == 0)
		}
	case 14:
		s.cancel()
	case 15:
		time.Sleep(time.Duration(arg) * time.Duration(arg) * time.Millisecond)
	}
	synctest.Wait()
}

// lane adds a lane, unless the bundle is over.
func (m *machine) lane(express bool) {
	if m.pair.ingress.Err() == nil {
		m.lanes = append(m.lanes, m.pair.lane(express))
	}
}

// open opens a stream and carries it; refused where arg says so.
func (m *machine) open(arg byte) {
	if len(m.streams) >= 16 {
		return
	}
	i := byte(len(m.streams))
	ctx, cancel := context.WithCancel(context.Background())
	s := &machineStream{job: newOutside(2 * i), store: newOutside(2*i + 1), cancel: cancel}
	m.streams = append(m.streams, s)
	job, jobIn := socketPair()
	s.job.sock = job
	store, storeIn := socketPair()
	s.store.sock = store
	uuid := [16]byte{i, arg}
	m.mu.Lock()
	m.stores[uuid] = &outside{sock: storeIn}
	m.mu.Unlock()
	for _, o := range []*outside{s.job, s.store} {
		m.running.Go(o.write)
		m.running.Go(o.read)
	}
	m.running.Go(func() {
		stream, err := m.pair.ingress.Open(ctx, Request{UUID: uuid, Grant: "g"})
		if err != nil {
			_ = jobIn.Close()
			_ = storeIn.Close()
			return
		}
		s.report, s.carried = stream.Carry(jobIn, nil), true
	})
	synctest.Wait()
}

// dial is the node's: each stream has its store already.
func (m *machine) dial(_ context.Context, _ string, req Request) (Socket, error) {
	if req.UUID[1]%8 == 7 {
		return nil, &RefusedError{Reason: CodeStoreRefused}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	o := m.stores[req.UUID]
	delete(m.stores, req.UUID)
	if o == nil {
		m.t.Error("a stream was dialled twice")
		return nil, &RefusedError{Reason: CodeInternal}
	}
	return o.sock, nil
}

// settle lets everything end: lanes are back, everybody reads, everybody ends.
func (m *machine) settle() {
	m.lane(true)
	m.lane(false)
	for _, s := range m.streams {
		for _, o := range []*outside{s.job, s.store} {
			o.pause(false)
			o.todo <- (*outside).finish
			close(o.todo)
		}
	}
	m.running.Wait() // in virtual time: whatever hangs is a deadlock that synctest reports
	for _, s := range m.streams {
		s.cancel()
	}
}

func (m *machine) check() {
	for i, s := range m.streams {
		if err := s.job.heard(s.store); err != nil {
			m.t.Errorf("stream %d: the job %v", i, err)
		}
		if err := s.store.heard(s.job); err != nil {
			m.t.Errorf("stream %d: the store %v", i, err)
		}
		if s.carried && s.report.Reason == CodeOK {
			if s.report.Sent != int64(s.job.wrote) || s.report.Received != int64(s.store.wrote) ||
				!s.store.gone && len(s.store.got) != s.job.wrote || !s.job.gone && len(s.job.got) != s.store.wrote {
				m.t.Errorf("stream %d ended well: %+v, but the job wrote %d, the store %d, they read %d and %d",
					i, s.report, s.job.wrote, s.store.wrote, len(s.job.got), len(s.store.got))
			}
		}
	}
	if used := m.pool.Used(); used != 0 {
		m.t.Errorf("%d bytes of the pool are still in use", used)
	}
}

// watchdog ends a run that spins, in real time: synctest sees only what waits.
func watchdog() *time.Timer {
	return time.AfterFunc(30*time.Second, func() { panic("it does not end") })
}

// FuzzStreams runs sequences of operations over a bundle: opening, writing,
// half-closes and resets of either side, readers that pause, lanes that die and
// come, time that passes. Nothing hangs, every good end is true, and the memory
// is given back.
func FuzzStreams(f *testing.F) {
	f.Fuzz(func(t *testing.T, ops []byte) {
		if len(ops) > 3*64 {
			return
		}
		defer watchdog().Stop()
		synctest.Test(t, func(t *testing.T) {
			m := &machine{t: t, pool: NewPool(1 << 20), stores: make(map[[16]byte]*outside)}
			m.pair = &pairOf{t: t}
			m.pair.ingress = NewIngress(Config{Incarnation: 1, ResumeGrace: 20 * time.Second, Pool: m.pool})
			m.pair.node = NewNode(Config{Incarnation: 2, ResumeGrace: 20 * time.Second, Pool: m.pool}, m.dial)
			m.lane(true)
			for ; len(ops) >= 3; ops = ops[3:] {
				m.step(ops[0], ops[1], ops[2])
			}
			m.settle()
			m.pair.close()
			m.check()
		})
	})
}

// A node that closes waits for dials of bundles that were over before, too.
func TestCloseWaitsForEndedBundles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		returned := false
		p := newPair(t, 0, func(ctx context.Context, _ string, _ Request) (Socket, error) {
			<-ctx.Done()
			time.Sleep(time.Minute) // a resolver, say, that does not listen to ctx
			returned = true
			return nil, ctx.Err()
		})
		p.lane(true)
		go func() { _, _ = p.ingress.Open(t.Context(), Request{}) }()
		synctest.Wait()
		p.ingress.Close(CodeIngressStopped)
		synctest.Wait()
		p.node.Close(CodeNodeStopped)
		if !returned {
			t.Error("Close returned while a dial was under way")
		}
	})
}
