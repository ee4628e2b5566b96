package wan

import (
	"testing"
	"time"
)

// TestLine gives the bottleneck more than it carries and looks at what arrives when.
func TestLine(t *testing.T) {
	const size = 1000
	s := Shape{Delay: 40 * time.Millisecond, Rate: 1e6, Queue: 10 * size}
	l := newLine(Seed, 0)
	now := time.Second
	var due []time.Duration
	for range 20 {
		if at, f := l.admit(now, size, s); f == travels {
			due = append(due, at)
		} else if f != overflowed {
			t.Fatalf("fate %d", f)
		}
	}
	if len(due) != 10 {
		t.Fatalf("%d packets had room, want 10", len(due))
	}
	for i, at := range due {
		want := now + time.Duration(i+1)*time.Millisecond - burst + s.Delay
		if d := at - want; d < -time.Microsecond || d > time.Microsecond {
			t.Errorf("packet %d arrives at %v, want %v", i, at, want)
		}
	}
	// When two packets have left, there is room for two.
	if _, f := l.admit(now+2*time.Millisecond, 2*size, s); f != travels {
		t.Errorf("no room: fate %d", f)
	}
	if _, f := l.admit(now+2*time.Millisecond, size, s); f != overflowed {
		t.Errorf("too much room: fate %d", f)
	}
}

// TestLoss counts what is lost, and that the same seed loses the same packets.
func TestLoss(t *testing.T) {
	const packets = 100_000
	s := Long.Losing(0.01)
	a, b := newLine(Seed, 0), newLine(Seed, 0)
	losses := 0
	for i := range packets {
		now := time.Duration(i) * time.Millisecond
		at, f := a.admit(now, mtu, s)
		if again, same := b.admit(now, mtu, s); again != at || same != f {
			t.Fatalf("packet %d: %v and %v", i, f, same)
		}
		if f == lost {
			losses++
		}
	}
	if losses < packets/100*9/10 || losses > packets/100*11/10 {
		t.Errorf("%d of %d lost", losses, packets)
	}
}

// TestOrder has jitter and a delay that shrinks.
func TestOrder(t *testing.T) {
	l := newLine(Seed, 0)
	s := Shape{Delay: 40 * time.Millisecond, Jitter: 10 * time.Millisecond}
	var last time.Duration
	for i := range 1000 {
		if i == 500 {
			s.Delay = 0
		}
		at, _ := l.admit(time.Duration(i)*100*time.Microsecond, mtu, s)
		if at < last {
			t.Fatalf("packet %d overtakes", i)
		}
		last = at
	}
}
