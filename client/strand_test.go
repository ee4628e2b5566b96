package client

import (
	"io"
	"net"
	"testing"

	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// laneOf is a bundle's lane through a relay, or nil.
func laneOf(p *pool, via, class int) net.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bundles["node-1"].strands[via].lanes[class]
}

// A bundle has its lanes through both relays, and goes on over the one that is
// there; what comes back is used again.
func TestPoolHasLanesThroughBothRelays(t *testing.T) {
	b := newTestBroker(t, echoStore(t))
	p := patientPool(t, b)
	s, err := p.open(t.Context(), testTarget)
	if err != nil {
		t.Fatal(err)
	}
	job, ours := tcpPair(t)
	carried := make(chan bundle.Report, 1)
	go func() { carried <- s.Carry(ours, nil) }()
	appear := func(via int) {
		b.mu.Lock()
		b.away[via] = false
		b.mu.Unlock()
		p.arrived(via)
	}
	appear(1)
	for round := range 4 {
		gone := round % 2
		for via := range 2 {
			for class := range 2 {
				until(t, "lanes through both", func() bool { return laneOf(p, via, class) != nil })
			}
		}
		b.mu.Lock()
		b.away[gone] = true
		b.mu.Unlock()
		for class := range 2 {
			laneOf(p, gone, class).Close()
		}
		text := "still here"
		io.WriteString(job, text)
		got := make([]byte, len(text))
		if _, err := io.ReadFull(job, got); string(got) != text || err != nil {
			t.Fatalf("round %d: %q, %v", round, got, err)
		}
		appear(gone)
	}
	job.CloseWrite()
	if rest, err := io.ReadAll(job); len(rest) != 0 || err != nil {
		t.Errorf("%q, %v", rest, err)
	}
	if r := <-carried; r.Reason != bundle.CodeOK {
		t.Errorf("report %+v", r)
	}
}

// A relay that is silent keeps no lane through the other one from coming back.
func TestPoolDoesNotWaitForASilentRelay(t *testing.T) {
	b := newTestBroker(t, echoStore(t))
	b.away, b.silent = [2]bool{}, true
	p := patientPool(t, b)
	s, err := p.open(t.Context(), testTarget)
	if err != nil {
		t.Fatal(err)
	}
	for class := range 2 {
		until(t, "lanes through the first", func() bool { return laneOf(p, 0, class) != nil })
	}
	for class := range 2 {
		old := laneOf(p, 0, class)
		old.Close()
		until(t, "lanes through the first again", func() bool { now := laneOf(p, 0, class); return now != nil && now != old })
	}
	echoed(t, s)
}
