package bundle

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	mrand "math/rand/v2"
	"net"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pairOf is an ingress and a node with lanes between them, all in memory.
type pairOf struct {
	t       *testing.T
	ingress *Bundle
	node    *Node
	serving sync.WaitGroup
	plain   bool // lanes cannot be written without waiting
}

const (
	nodeID  = "spiffe://x/tenant/default/gateway/corp/node/n1"
	relayID = "spiffe://x/relay/r1"
)

func newPair(t *testing.T, grace time.Duration, open OpenFunc) *pairOf {
	t.Helper()
	p := &pairOf{t: t}
	p.ingress = NewIngress(Config{Incarnation: 1, ResumeGrace: grace})
	p.node = NewNode(Config{Incarnation: 2, ResumeGrace: grace}, open)
	t.Cleanup(p.close)
	return p
}

func (p *pairOf) close() {
	p.ingress.Close(CodeIngressStopped)
	p.node.Close(CodeNodeStopped)
	p.serving.Wait()
}

// lane adds a lane and returns what kills it.
func (p *pairOf) lane(express bool) (cut func()) {
	p.t.Helper()
	a, b := net.Pipe()
	exporter := make([]byte, 32)
	_, _ = rand.Read(exporter)
	p.serving.Go(func() {
		_ = p.node.Serve(context.Background(), b, LaneInfo{Carrier: "pipe", Local: nodeID, Peer: relayID, Exporter: exporter, Express: express})
	})
	if err := p.ingress.Join(context.Background(), a, LaneInfo{Carrier: "pipe", Local: relayID, Peer: nodeID, Exporter: exporter, Express: express}); err != nil {
		p.t.Fatal(err)
	}
	return func() { a.Close(); b.Close() }
}

func (p *pairOf) open() *Stream {
	p.t.Helper()
	s, err := p.ingress.Open(context.Background(), Request{Grant: "g"})
	if err != nil {
		p.t.Fatal(err)
	}
	return s
}

// memSocket is one end of a TCP connection in memory: half-close, and a reset
// where it is closed with linger 0 before both directions ended.
type memSocket struct {
	net.Conn // unused methods
	in, out  *memFlow
	mu       sync.Mutex
	linger   int
}

type memFlow struct {
	mu    sync.Mutex
	cond  sync.Cond
	buf   bytes.Buffer
	eof   bool
	reset bool
	max   int
}

func newFlow() *memFlow { f := &memFlow{max: 64 << 10}; f.cond.L = &f.mu; return f }

func socketPair() (a, b *memSocket) {
	x, y := newFlow(), newFlow()
	return &memSocket{in: x, out: y}, &memSocket{in: y, out: x}
}

func (s *memSocket) Read(p []byte) (int, error) {
	f := s.in
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.buf.Len() == 0 && !f.eof && !f.reset {
		f.cond.Wait()
	}
	switch {
	case f.reset:
		return 0, syscall.ECONNRESET
	case f.buf.Len() > 0:
		defer f.cond.Broadcast()
		return f.buf.Read(p)
	}
	return 0, io.EOF
}

func (s *memSocket) Write(p []byte) (n int, err error) {
	f := s.out
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(p) > 0 {
		for f.buf.Len() >= f.max && !f.eof && !f.reset {
			f.cond.Wait()
		}
		if f.eof || f.reset {
			return n, syscall.EPIPE
		}
		k := min(len(p), f.max-f.buf.Len())
		f.buf.Write(p[:k])
		f.cond.Broadcast()
		n, p = n+k, p[k:]
	}
	return n, nil
}

// WriteNow writes what there is room for.
func (s *memSocket) WriteNow(p []byte) (int, error) {
	f := s.out
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.eof || f.reset {
		return 0, syscall.EPIPE
	}
	n := min(len(p), f.max-f.buf.Len())
	f.buf.Write(p[:n])
	f.cond.Broadcast()
	return n, nil
}

func (f *memFlow) end(reset bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.eof && !reset {
		return
	}
	f.eof = true
	f.reset = f.reset || reset
	f.cond.Broadcast()
}

func (s *memSocket) CloseWrite() error { s.out.end(false); return nil }

func (s *memSocket) SetLinger(sec int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.linger = sec
	return nil
}

func (s *memSocket) Close() error {
	s.mu.Lock()
	reset := s.linger == 0
	s.mu.Unlock()
	s.out.end(reset)
	s.in.end(reset)
	return nil
}

func content(seed uint64, n int) []byte {
	p := make([]byte, n)
	r := mrand.NewChaCha8([32]byte{byte(seed)})
	_, _ = r.Read(p)
	return p
}

// carried is a stream with both outsides.
type carried struct {
	job, store *memSocket
	report     chan Report
}

func (p *pairOf) carry(stores chan *memSocket) carried {
	s := p.open()
	jobOut, jobIn := socketPair()
	c := carried{job: jobOut, store: <-stores, report: make(chan Report, 1)}
	go func() { c.report <- s.Carry(jobIn, nil) }()
	return c
}

// storeServer is an OpenFunc whose sockets' far ends come out of the channel.
func storeServer() (OpenFunc, chan *memSocket) {
	stores := make(chan *memSocket, 1024)
	return func(context.Context, string, Request) (Socket, error) {
		a, b := socketPair()
		stores <- b
		return a, nil
	}, stores
}

func TestCopiesBothWays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open, stores := storeServer()
		p := newPair(t, 0, open)
		p.lane(true)
		p.lane(false)
		up, down := content(1, 5<<20), content(2, 7<<20)
		c := p.carry(stores)
		var wg sync.WaitGroup
		wg.Go(func() { c.job.Write(up); c.job.CloseWrite() })
		wg.Go(func() { c.store.Write(down); c.store.CloseWrite() })
		wg.Go(func() {
			got, err := io.ReadAll(c.store)
			if err != nil || !bytes.Equal(got, up) {
				t.Errorf("the store read %d bytes, %v", len(got), err)
			}
		})
		wg.Go(func() {
			got, err := io.ReadAll(c.job)
			if err != nil || !bytes.Equal(got, down) {
				t.Errorf("the job read %d bytes, %v", len(got), err)
			}
		})
		wg.Wait()
		r := <-c.report
		if r.Err() != nil || r.Sent != int64(len(up)) || r.Received != int64(len(down)) {
			t.Errorf("report %+v", r)
		}
		p.settled()
	})
}

// settled checks that nothing of any stream is left.
func (p *pairOf) settled() {
	p.t.Helper()
	synctest.Wait()
	time.Sleep(time.Second)
	synctest.Wait()
	bundles := append(p.node.all(), p.ingress)
	for _, b := range bundles {
		b.mu.Lock()
		if len(b.streams) != 0 || b.unacked != 0 {
			p.t.Errorf("role %d: %d streams and %d bytes are left", b.role, len(b.streams), b.unacked)
		}
		if used := b.cfg.Pool.Used(); used != 0 {
			p.t.Errorf("role %d: %d bytes of the pool are left", b.role, used)
		}
		b.mu.Unlock()
	}
}

func TestHalfCloseEachWay(t *testing.T) {
	for _, first := range []string{"job", "store"} {
		t.Run(first, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				open, stores := storeServer()
				p := newPair(t, 0, open)
				p.lane(true)
				c := p.carry(stores)
				near, far := c.job, c.store
				if first == "store" {
					near, far = far, near
				}
				near.Write([]byte("question"))
				near.CloseWrite()
				got, err := io.ReadAll(far)
				if err != nil || string(got) != "question" {
					t.Fatalf("%q %v", got, err)
				}
				time.Sleep(time.Hour) // the other direction stays open
				far.Write([]byte("answer"))
				far.CloseWrite()
				got, err = io.ReadAll(near)
				if err != nil || string(got) != "answer" {
					t.Fatalf("%q %v", got, err)
				}
				if r := <-c.report; r.Err() != nil {
					t.Fatal(r.Err())
				}
				p.settled()
			})
		})
	}
}

func TestResetsStayResets(t *testing.T) {
	for _, who := range []string{"job", "store"} {
		t.Run(who, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				open, stores := storeServer()
				p := newPair(t, 0, open)
				p.lane(true)
				c := p.carry(stores)
				near, far, want := c.job, c.store, CodeJobReset
				if who == "store" {
					near, far, want = far, near, CodeStoreReset
				}
				near.Write(content(1, 1000))
				io.ReadFull(far, make([]byte, 1000))
				near.Close() // linger 0: a reset
				if _, err := io.ReadAll(far); !errors.Is(err, syscall.ECONNRESET) {
					t.Fatalf("the far socket saw %v, want a reset", err)
				}
				if r := <-c.report; r.Reason != want {
					t.Fatalf("reason %v, want %v", r.Reason, want)
				}
				p.settled()
			})
		})
	}
}

func TestLosingTheLastLaneResetsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open, stores := storeServer()
		p := newPair(t, 0, open)
		cut := p.lane(true)
		c := p.carry(stores)
		c.store.Write(content(1, 1000))
		io.ReadFull(c.job, make([]byte, 1000))
		start := time.Now()
		cut()
		for _, sock := range []*memSocket{c.job, c.store} {
			if _, err := io.ReadAll(sock); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%v, want a reset", err)
			}
		}
		if r := <-c.report; r.Reason != CodeLanesLost {
			t.Errorf("reason %v", r.Reason)
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("took %v", d)
		}
		<-p.ingress.Done()
	})
}

func TestStreamsOutliveTheirLanes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open, stores := storeServer()
		p := newPair(t, 2*time.Minute, open)
		p.lane(true)
		up, down := content(3, 8<<20), content(4, 8<<20)
		c := p.carry(stores)
		var wg sync.WaitGroup
		wg.Go(func() { c.job.Write(up); c.job.CloseWrite() })
		wg.Go(func() { c.store.Write(down); c.store.CloseWrite() })
		stop := make(chan struct{})
		var chaos sync.WaitGroup
		chaos.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(time.Microsecond):
				}
				cut := p.lane(i%3 == 0)
				time.Sleep(time.Microsecond)
				cut()
			}
		})
		wg.Go(func() {
			if got, err := io.ReadAll(c.store); err != nil || !bytes.Equal(got, up) {
				t.Errorf("the store read %d bytes, %v", len(got), err)
			}
		})
		wg.Go(func() {
			if got, err := io.ReadAll(c.job); err != nil || !bytes.Equal(got, down) {
				t.Errorf("the job read %d bytes, %v", len(got), err)
			}
		})
		wg.Wait()
		if r := <-c.report; r.Err() != nil {
			t.Errorf("%+v", r)
		}
		close(stop)
		chaos.Wait()
		p.lane(true)
		p.settled()
	})
}

func TestRefusedWithReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, 0, func(context.Context, string, Request) (Socket, error) {
			return nil, &RefusedError{Reason: CodeStoreRefused, Text: "10.0.0.1:1433: connection refused"}
		})
		p.lane(true)
		_, err := p.ingress.Open(context.Background(), Request{Grant: "g"})
		var refused *RefusedError
		if !errors.As(err, &refused) || refused.Reason != CodeStoreRefused || refused.Text != "10.0.0.1:1433: connection refused" {
			t.Fatalf("%v", err)
		}
		p.settled()
	})
}

func TestCancelledOpenCancelsTheDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cancelled := make(chan struct{})
		p := newPair(t, 0, func(ctx context.Context, _ string, _ Request) (Socket, error) {
			<-ctx.Done()
			close(cancelled)
			return nil, ctx.Err()
		})
		p.lane(true)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if _, err := p.ingress.Open(ctx, Request{Grant: "g"}); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		<-cancelled
		p.settled()
	})
}

func TestOrderlyCloseTellsTheReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open, stores := storeServer()
		p := newPair(t, 2*time.Minute, open)
		p.lane(true)
		c := p.carry(stores)
		p.node.Close(CodeNodeStopped)
		if r := <-c.report; r.Reason != CodeNodeStopped || !r.Remote {
			t.Fatalf("%+v", r)
		}
		if _, err := io.ReadAll(c.job); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("%v, want a reset", err)
		}
	})
}

func TestDryPoolSlowsAndBreaksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open, stores := storeServer()
		p := newPair(t, 0, open)
		small := NewPool(1 << 20)
		p.ingress.cfg.Pool, p.node.cfg.Pool = small, NewPool(1<<20)
		p.lane(true)
		var wg sync.WaitGroup
		for i := range 20 {
			c := p.carry(stores)
			data := content(uint64(i), 300_000)
			wg.Go(func() { c.store.Write(data); c.store.CloseWrite(); c.job.CloseWrite() })
			wg.Go(func() {
				time.Sleep(time.Duration(20-i) * time.Second) // the first ones stall the longest
				got, err := io.ReadAll(c.job)
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("stream %d: %d bytes, %v", i, len(got), err)
				}
			})
		}
		wg.Wait()
		p.settled()
	})
}
