package tunnel

import (
	"sync/atomic"
	"time"
)

// Clock is the relay's time, as its hellos gave it. Between two of them it goes on
// with this machine's monotonic clock: whoever sets the machine's time meanwhile,
// as NTP does after a start with a wrong one, does not change it. The zero value
// is this machine's time until [Clock.Set]. It is safe for concurrent use.
type Clock struct {
	last atomic.Pointer[reading]

	// Nil but in tests.
	wall    func() time.Time
	elapsed func() time.Duration // on the monotonic clock
}

// reading is what a hello said.
type reading struct {
	relay time.Time
	wall  time.Time // here, then
	at    time.Duration
}

// started is where the monotonic clock begins.
var started = time.Now()

func (c *Clock) here() (wall time.Time, at time.Duration) {
	if c.wall != nil {
		return c.wall(), c.elapsed()
	}
	now := time.Now()
	return now.Round(0), now.Sub(started)
}

// Set learns the relay's time, which it sent some time during the round trip
// that began at start. It gives by how much the relay's is ahead of this
// machine's.
func (c *Clock) Set(relay, start time.Time) (offset time.Duration) {
	if relay.IsZero() {
		return 0
	}
	wall, at := c.here()
	relay = relay.Add(time.Since(start) / 2)
	c.last.Store(&reading{relay, wall, at})
	return relay.Sub(wall)
}

// Now is the relay's time.
func (c *Clock) Now() time.Time {
	wall, at := c.here()
	if r := c.last.Load(); r != nil {
		return r.relay.Add(at - r.at)
	}
	return wall
}

// Latest is the latest that the relay's time may be: the monotonic clock stands
// still while the machine sleeps.
func (c *Clock) Latest() time.Time {
	now := c.Now()
	wall, _ := c.here()
	if r := c.last.Load(); r != nil {
		if slept := r.relay.Add(wall.Sub(r.wall)); slept.After(now) {
			return slept
		}
	}
	return now
}
