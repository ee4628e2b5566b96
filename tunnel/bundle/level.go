package bundle

import "time"

// On a long path, bulk of one bundle may fill the queue before the bottleneck: then
// everybody's small messages wait in it, the bundle's own, too, however empty their
// lane is. So the ends watch the express lane's round trip while bulk is under way,
// and have less under way when it grows.
const (
	// levelSounds round trips make one look: the least of them counts, because others
	// were of packets that were lost and sent again, or of processes that had to
	// wait.
	levelSounds = 4
	// levelGain is what the limit gains at a look, more each time up to levelMost.
	levelGain = 0.06
	levelMost = 0.25
	// levelPatience is for how many looks less may be under way without the queue
	// becoming shorter. Then it is somebody else's, and for levelDefiance this bundle
	// does not give way.
	levelPatience = 8
	levelDefiance = 10 * time.Second
	// leastLevel is the least that may always be under way, in bytes.
	leastLevel = 256 << 10
)

// level is how much bulk may be under way.
type level struct {
	// guarded by b.mu
	limit  int64         // bytes on all lanes for bulk; 0: as much as they take
	sounds int           // round trips in this look
	least  time.Duration // of them
	long   int           // looks with a long queue in a row
	gain   float64       // of the limit, at the last look
	defyAt time.Time     // until when the queue is no matter
}

// levelLocked takes a round trip of a lane for small frames.
func (b *Bundle) levelLocked(rtt time.Duration) {
	v := &b.level
	if b.growth.at.IsZero() {
		return
	}
	if v.sounds == 0 || rtt < v.least {
		v.least = rtt
	}
	if v.sounds++; v.sounds < levelSounds {
		return
	}
	v.sounds = 0
	least := b.growth.least
	queue, enough := v.least-least, max(least/8, shortPath)
	switch now := time.Now(); {
	case now.Before(v.defyAt):
	case queue > enough:
		v.gain = 0
		v.long++
		if v.long > levelPatience {
			v.limit, v.long, v.defyAt = 0, 0, now.Add(levelDefiance)
			b.wakeAllLocked()
			return
		}
		flying := b.flyingLocked()
		if v.limit == 0 && v.long == 1 || flying < max(v.limit/2, leastLevel) {
			return // it may pass, or is the other way's
		}
		excess := float64(queue-enough) / float64(least+queue)
		v.limit = max(int64(float64(flying)*(1-excess/2)), leastLevel)
	case v.limit > 0 && queue < enough/2:
		v.long = 0
		v.gain = min(v.gain+levelGain, levelMost)
		v.limit = int64(float64(v.limit) * (1 + v.gain))
		if v.limit > 2*max(b.flyingLocked(), leastLevel) {
			v.limit = 0 // something else holds it back
		}
		b.wakeDataLocked(true)
	default:
		v.long = 0
	}
}

// flyingLocked is how much is under way on the lanes for bulk.
func (b *Bundle) flyingLocked() (sum int64) {
	for _, l := range b.lanes {
		if b.carriesBulkLocked(l) {
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
