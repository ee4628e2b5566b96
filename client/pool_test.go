package client

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

var testTarget = Target{Gateway: "corp", Store: "erp-sql"}

// tcpPair is a job's connection and the side of it that we have.
func tcpPair(t *testing.T) (job, ours *net.TCPConn) {
	t.Helper()
	ln, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if ours, err = ln.AcceptTCP(); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn), ours
}

// echoed sends a line through an open stream and reads it back to the end.
func echoed(t *testing.T, s *Stream) {
	t.Helper()
	job, ours := tcpPair(t)
	done := make(chan bundle.Report, 1)
	go func() { done <- s.Carry(ours, nil) }()
	if _, err := io.WriteString(job, "hello"); err != nil {
		t.Error(err)
	}
	job.CloseWrite()
	got, err := io.ReadAll(job)
	if string(got) != "hello" || err != nil {
		t.Errorf("read back %q, %v", got, err)
	}
	if r := <-done; r.Reason != bundle.CodeOK || r.Sent != 5 || r.Received != 5 {
		t.Errorf("report %+v", r)
	}
}

func TestPoolReusesGrantAndBundle(t *testing.T) {
	b := newTestBroker(t, echoStore(t))
	p := testPool(t, b)
	for range 5 {
		s, err := p.open(t.Context(), testTarget)
		if err != nil {
			t.Fatal(err)
		}
		echoed(t, s)
	}
	b.awaitLanes(2)
	if asked, lanes := b.counts(); asked != 1 || lanes != 2 {
		t.Errorf("%d questions and %d lanes for 5 streams", asked, lanes)
	}
	// Another store of the same node needs a grant and no lane.
	s, err := p.open(t.Context(), Target{Gateway: "corp", Store: "files"})
	if err != nil {
		t.Fatal(err)
	}
	echoed(t, s)
	if asked, lanes := b.counts(); asked != 2 || lanes != 2 {
		t.Errorf("another store: %d questions and %d lanes", asked, lanes)
	}
}

func TestPoolAsksOnceForMany(t *testing.T) {
	b := newTestBroker(t, echoStore(t))
	p := testPool(t, b)
	var dials sync.WaitGroup
	for range 20 {
		dials.Go(func() {
			s, err := p.open(t.Context(), testTarget)
			if err != nil {
				t.Error(err)
				return
			}
			s.Reset(bundle.CodeJobReset)
		})
	}
	dials.Wait()
	b.awaitLanes(2)
	if asked, lanes := b.counts(); asked != 1 || lanes != 2 {
		t.Errorf("%d questions and %d lanes for 20 streams at once", asked, lanes)
	}
}

func TestPoolRefusals(t *testing.T) {
	for _, tc := range []struct {
		name      string
		relay     []error
		node      []error
		wantCode  string // "": opened
		wantHop   string
		wantAsked int
	}{
		{"job not allowed", []error{codedError("job-not-allowed")}, nil, "job-not-allowed", "", 1},
		{"store refused", nil, []error{&bundle.RefusedError{Reason: bundle.CodeStoreRefused, Text: "10.0.0.5:1433 refused"}}, "store-refused", "store", 1},
		{"store unknown", nil, []error{&bundle.RefusedError{Reason: bundle.CodeStoreUnknown}}, "store-unknown", "node", 1},
		{"address refused", nil, []error{&bundle.RefusedError{Reason: bundle.CodeAddressRefused}}, "address-refused", "store", 1},
		{"grant grew old", nil, []error{&bundle.RefusedError{Reason: bundle.CodeGrantExpired}}, "", "", 2},
		{"grants never hold", nil, refusals(8, bundle.CodeGrantInvalid), "grant-invalid", "node", 4},
		{"no node at first", []error{codedError("no-node-online"), codedError("no-node-online")}, nil, "", "", 3},
		{"session lost at first", []error{errNoSession}, nil, "", "", 2},
		{"node drains", nil, []error{&bundle.RefusedError{Reason: bundle.CodeNodeDraining}}, "", "", 2},
		{"nonsense", []error{errors.New("nonsense")}, nil, "", "", 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newTestBroker(t, echoStore(t))
			b.refuse, b.nodes["node-1"].answer = tc.relay, tc.node
			p := testPool(t, b)
			s, err := p.open(t.Context(), testTarget)
			if tc.name == "nonsense" {
				if err == nil || err.Error() != "nonsense" {
					t.Errorf("got %v", err)
				}
				return
			}
			if codeOf(err) != tc.wantCode {
				t.Fatalf("got %v", err)
			}
			if e, ok := errors.AsType[*Error](err); ok && e.Hop() != tc.wantHop {
				t.Errorf("hop %q, want %q", e.Hop(), tc.wantHop)
			}
			if asked, _ := b.counts(); asked != tc.wantAsked {
				t.Errorf("asked %d times, want %d", asked, tc.wantAsked)
			}
			if err == nil {
				echoed(t, s)
			}
		})
	}
}

func refusals(n int, code bundle.Code) (list []error) {
	for range n {
		list = append(list, &bundle.RefusedError{Reason: code})
	}
	return list
}

func TestRefusalSaysWhatTheNodeSaid(t *testing.T) {
	err := refused(testTarget, &bundle.RefusedError{Reason: bundle.CodeStoreRefused, Text: "10.0.0.5:1433\x1b[2J"})
	if text := err.Error(); !strings.Contains(text, "corp/erp-sql") || !strings.Contains(text, "10.0.0.5:1433") || strings.Contains(text, "\x1b") {
		t.Errorf("got %q", text)
	}
	if err.Advice() == "" {
		t.Error("no advice")
	}
}

func TestPoolWaitsForANodeOnlyAsLongAsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestBroker(t, "127.0.0.1:1")
		for range 1000 {
			b.refuse = append(b.refuse, codedError("no-node-online"))
		}
		p := testPool(t, b)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		start := time.Now()
		_, err := p.open(ctx, testTarget)
		if codeOf(err) != "no-node-online" {
			t.Errorf("got %v", err)
		}
		if d := time.Since(start); d != 30*time.Second {
			t.Errorf("after %v", d)
		}
		if asked, _ := b.counts(); asked < 12 || asked > 40 {
			t.Errorf("asked %d times in 30 s", asked)
		}
	})
}

func TestGrantsAreRenewedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newTestBroker(t, "127.0.0.1:1")
		p := testPool(t, b)
		get := func() *grant {
			t.Helper()
			g, err := p.grantFor(t.Context(), testTarget, nil)
			if err != nil {
				t.Fatal(err)
			}
			return g
		}
		first := get()
		time.Sleep(39 * time.Second)
		if get() != first {
			t.Error("a grant with 21 s to live was not used")
		}
		time.Sleep(2 * time.Second)
		if get() != first {
			t.Error("a grant with 19 s to live was not used")
		}
		synctest.Wait() // the refresh
		second := get()
		if asked, _ := b.counts(); second == first || asked != 2 {
			t.Errorf("not refreshed in the background: %d questions", asked)
		}
		// Without use nobody asks; then the next dial does.
		time.Sleep(56 * time.Second)
		if asked, _ := b.counts(); asked != 2 {
			t.Errorf("%d questions without a dial", asked)
		}
		third := get()
		if asked, _ := b.counts(); third == second || asked != 3 {
			t.Errorf("a grant with 4 s to live was used: %d questions", asked)
		}
		// A refresh that fails is the next dial's business.
		b.refuse = []error{codedError("no-node-online")}
		time.Sleep(45 * time.Second)
		if get() != third {
			t.Error("a grant with 15 s to live was not used")
		}
		synctest.Wait()
		b.refuse = []error{codedError("job-not-allowed")}
		time.Sleep(12 * time.Second)
		if _, err := p.grantFor(t.Context(), testTarget, nil); codeOf(err) != "job-not-allowed" {
			t.Errorf("got %v", err)
		}
	})
}

func TestPoolMakesANewBundleWhenLanesAreLost(t *testing.T) {
	b := newTestBroker(t, echoStore(t))
	p := testPool(t, b)
	s, err := p.open(t.Context(), testTarget)
	if err != nil {
		t.Fatal(err)
	}
	until(t, "both lanes are joined", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		slot := p.bundles["node-1"]
		return slot.current.Lanes() == 2 && !slot.strands[0].adding
	})
	until(t, "the stream is over", func() bool {
		b.nodes["node-1"].cut() // a lane may have come between the loss of the one and of the other
		select {
		case <-s.Done():
			return true
		default:
			return false
		}
	})
	s, err = p.open(t.Context(), testTarget)
	if err != nil {
		t.Fatal(err)
	}
	echoed(t, s)
	until(t, "the new bundle has both lanes", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.bundles["node-1"].current.Lanes() == 2
	})
}

func TestPoolReplacesALostLane(t *testing.T) {
	b := newTestBroker(t, echoStore(t))
	b.life = grantRefresh - time.Second // each dial asks for the next grant
	p := testPool(t, b)
	s, err := p.open(t.Context(), testTarget)
	if err != nil {
		t.Fatal(err)
	}
	b.awaitLanes(2)
	until(t, "both lanes are joined", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.bundles["node-1"].current.Lanes() == 2
	})
	job, ours := tcpPair(t)
	carried := make(chan bundle.Report, 1)
	go func() { carried <- s.Carry(ours, nil) }()
	for class := range 2 {
		p.mu.Lock()
		lane := p.bundles["node-1"].strands[0].lanes[class]
		p.mu.Unlock()
		lane.Close()
		until(t, "the lane is replaced", func() bool {
			other, err := p.open(t.Context(), testTarget)
			if err != nil {
				t.Fatal(err)
			}
			other.Reset(bundle.CodeJobReset)
			p.mu.Lock()
			defer p.mu.Unlock()
			slot := p.bundles["node-1"]
			now := slot.strands[0].lanes[class]
			return now != nil && now != lane && slot.current.Lanes() == 2
		})
	}
	// All the while, the first stream went on.
	io.WriteString(job, "still here")
	job.CloseWrite()
	if got, err := io.ReadAll(job); string(got) != "still here" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if r := <-carried; r.Reason != bundle.CodeOK {
		t.Errorf("report %+v", r)
	}
	// The relay was asked for the node that we have lanes to.
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.preferred[0] != "" || b.preferred[1] != "node-1" {
		t.Errorf("asked for nodes %q", b.preferred)
	}
}

// until polls for a condition.
func until(t *testing.T, what string, condition func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("never: %s", what)
		}
	}
}

func TestPoolFollowsTheRelayToAnotherNode(t *testing.T) {
	b := newTestBroker(t, echoStore(t))
	p := testPool(t, b)
	s, err := p.open(t.Context(), testTarget)
	if err != nil {
		t.Fatal(err)
	}
	echoed(t, s)
	second := b.addNode("node-2", echoStore(t))
	b.mu.Lock()
	b.node = "node-2"
	b.mu.Unlock()
	b.nodes["node-1"].Drain()
	b.awaitLanes(2)
	if s, err = p.open(t.Context(), testTarget); err != nil {
		t.Fatal(err)
	}
	echoed(t, s)
	if n := len(second.opened()); n != 1 {
		t.Errorf("the second node opened %d streams", n)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.preferred[1] != "" {
		t.Errorf("a draining node was asked for: %q", b.preferred)
	}
}

func TestPoolClosed(t *testing.T) {
	b := newTestBroker(t, echoStore(t))
	p := newPool(b, bundle.Config{Incarnation: 1}, slog.New(slog.DiscardHandler))
	s, err := p.open(t.Context(), testTarget)
	if err != nil {
		t.Fatal(err)
	}
	p.close(bundle.CodeIngressStopped)
	<-s.Done()
	if _, err := p.open(t.Context(), testTarget); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a closed pool: %v", err)
	}
}
