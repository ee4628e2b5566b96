package bundle

import (
	"slices"
	"time"
)

// On a long path, bulk of one bundle may fill the queue before the bottleneck: then
// everybody's small messages wait in it, the bundle's own, too, however empty their
// lane is. So the ends watch the express lane's round trip while bulk is under way,
// and have less under way when it grows.
const (
	// levelSounds round trips must all be long before anything is held back: others
	// are of packets that were lost and sent again, or of processes that had to wait.
	levelSounds = 4
	// levelTrips is how many round trips' worth is under way at most then, of which
	// some waits for what was lost before it; so much more than that and one round
	// trip's always may be, but not more than leastTrips.
	levelTrips  = 3.0
	leastTrips  = 1.75
	levelMargin = 0.1
	// leastLevel is the least that may always be under way, in bytes.
	leastLevel = 256 << 10
	// levelLoss and levelGain are what becomes of the limit at each round trip. After
	// levelSteady of them without a queue the gain doubles, up to levelMost.
	levelLoss   = 0.9
	levelGain   = 0.04
	levelSteady = 12
	levelMost   = 0.5
	// levelPatience is for how many round trips less may be under way without the
	// queue becoming shorter. Then it is somebody else's, and for levelDefiance this
	// bundle does not give way.
	levelPatience = 32
	levelDefiance = 10 * time.Second
)

// level is how much bulk may be under way.
type level struct {
	// guarded by b.mu
	limit  int64                      // bytes on all lanes for bulk; 0: as much as they take
	trips  [levelSounds]time.Duration // round trips of the express lane, the newest first
	long   int                        // of them in a row, with a queue
	short  int                        // and without
	gain   float64                    // of the limit
	defyAt time.Time                  // until when the queue is no matter
}

// levelLocked takes a round trip of a lane for small frames.
func (b *Bundle) levelLocked(rtt time.Duration) {
	v := &b.level
	if b.growth.at.IsZero() {
		return
	}
	copy(v.trips[1:], v.trips[:])
	v.trips[0] = rtt
	least := b.growth.least
	enough := max(least/6, shortPath)
	queue := min(v.trips[0], v.trips[1]) - least
	if v.limit == 0 {
		queue = slices.Min(v.trips[:]) - least
	}
	switch now := time.Now(); {
	case now.Before(v.defyAt):
	case queue > enough:
		v.short, v.gain = 0, levelGain
		if v.long++; v.long > levelPatience {
			v.limit, v.long, v.defyAt = 0, 0, now.Add(levelDefiance)
			b.wakeAllLocked()
			return
		}
		b.lowerLocked(b.growth.last * least.Seconds())
	case queue < enough/2 && v.limit > 0:
		v.long = 0
		if v.short++; v.short > levelSteady {
			v.gain = min(2*v.gain, levelMost)
		}
		v.limit = int64(float64(v.limit) * (1 + v.gain))
		if v.limit > 2*max(b.flyingLocked(), leastLevel) {
			v.limit = 0 // something else holds it back
		}
		b.wakeDataLocked(true)
	default:
		v.long = 0
	}
}

// leastLocked is how many round trips' worth always may be under way. What is under
// way beyond what the express lane's round trip explains waits for what was lost
// before it: with less, the lanes would stand still meanwhile. Where nothing is lost,
// all beyond one round trip's worth is a queue.
func (b *Bundle) leastLocked(flying int64) float64 {
	rate, least := b.growth.last, b.growth.least.Seconds()
	if rate == 0 || least == 0 {
		return leastTrips
	}
	waits := float64(flying)/rate - min(b.level.trips[0], b.level.trips[1]).Seconds()
	return min(1+levelMargin+max(waits, 0)/least, leastTrips)
}

// lowerLocked has less under way, where so much is delivered in a round trip.
func (b *Bundle) lowerLocked(trip float64) {
	v, flying := &b.level, b.flyingLocked()
	switch {
	case flying < max(v.limit/2, leastLevel): // the queue is the other way's
	case v.limit == 0:
		v.limit = max(int64(min(float64(flying)*levelLoss, levelTrips*trip)), leastLevel)
	default:
		v.limit = max(int64(float64(v.limit)*levelLoss), int64(b.leastLocked(flying)*trip), leastLevel)
	}
}

// flyingLocked is how much is under way on the lanes for bulk. What a suspect holds
// is no longer, or bulk would wait for it.
func (b *Bundle) flyingLocked() (sum int64) {
	for _, l := range b.lanes {
		if b.carriesBulkLocked(l) && !l.suspect {
			sum += int64(l.sentBytes - l.lacked)
		}
	}
	return sum
}

// fullLocked tells whether no more bulk may be under way.
func (b *Bundle) fullLocked() bool {
	return b.level.limit > 0 && b.flyingLocked() >= b.level.limit
}

// soundLocked sends a PING over the lane for small frames.
func (b *Bundle) soundLocked(now time.Time) {
	for _, l := range b.lanes {
		if l.info.Express && !l.suspect && !l.closing && b.carriesControlLocked(l) && !b.carriesBulkLocked(l) {
			if l.pingSent.IsZero() || now.Sub(l.pingSent) > pingBusy {
				l.ping = true
				l.wakeLocked()
			}
			return
		}
	}
}

// pongLocked takes the answer to a PING: a round trip.
func (l *lane) pongLocked(nonce uint64) {
	if nonce != l.pingNonce || l.pingSent.IsZero() {
		return
	}
	rtt := max(time.Since(l.pingSent), time.Microsecond)
	l.pingSent = time.Time{}
	l.trustLocked()
	if l.rtt == 0 || rtt < l.rtt {
		l.rtt = rtt
		l.b.measuredLocked()
	}
	if l.info.Express && l.b.carriesControlLocked(l) {
		l.b.levelLocked(rtt)
		if !l.b.growth.at.IsZero() { // the next one at once
			l.ping = true
			l.wakeLocked()
		}
	}
}
