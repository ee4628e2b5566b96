package wan

import (
	"math/rand/v2"
	"time"
)

// Shape says what one way of a link does to packets. The zero value carries everything at once.
type Shape struct {
	Delay  time.Duration // one way
	Jitter time.Duration // up to so much is added at random; the order stays
	Rate   float64       // bytes a second, IP headers included; 0: no bottleneck
	Queue  int           // bytes that wait before the bottleneck; 0: what fits into two delays, at least 64 KiB
	Loss   float64       // the share of packets that is lost, after the bottleneck
}

// Long is 80 ms of round trip at 200 Mbit/s.
var Long = Shape{Delay: 40 * time.Millisecond, Rate: 25e6}

// Losing returns the shape with another loss.
func (s Shape) Losing(share float64) Shape {
	s.Loss = share
	return s
}

// Away returns the shape with another delay.
func (s Shape) Away(oneWay time.Duration) Shape {
	s.Delay = oneWay
	return s
}

func (s Shape) queue() float64 {
	if s.Queue > 0 {
		return float64(s.Queue)
	}
	return max(64<<10, s.Rate*2*s.Delay.Seconds())
}

// burst is how much later than it came a packet may be seen without loss of the bottleneck's time: the forwarder
// looks at its devices a few thousand times a second and not all the time.
const burst = 500 * time.Microsecond

const mtu = 1500

// fate is what becomes of a packet.
type fate int

const (
	travels fate = iota
	lost
	overflowed
)

// line decides about the packets of one way. Times count from any moment, the same for all calls.
type line struct {
	free time.Duration // when the bottleneck has sent all that it was given
	last time.Duration // when the last packet arrives
	rand *rand.Rand
}

// Seed is where the chance of every link begins.
const Seed = 1

func newLine(seed, way uint64) *line { return &line{rand: rand.New(rand.NewPCG(seed, way))} }

// admit takes a packet of n bytes and says when it arrives.
func (l *line) admit(now time.Duration, n int, s Shape) (due time.Duration, f fate) {
	sent := now
	if s.Rate > 0 {
		sent = max(now-burst, l.free)
		if waiting := (sent - now).Seconds() * s.Rate; waiting+float64(n) > s.queue() {
			return 0, overflowed
		}
		sent += time.Duration(float64(n) / s.Rate * float64(time.Second))
		l.free = sent
	}
	if s.Loss > 0 && l.rand.Float64() < s.Loss {
		return 0, lost
	}
	due = max(sent, now) + s.Delay
	if s.Jitter > 0 {
		due += time.Duration(l.rand.Int64N(int64(s.Jitter)))
	}
	l.last = max(due, l.last)
	return l.last, travels
}
