package bundle

import "time"

// On a long path, bulk of one bundle may fill the queue before the bottleneck: then
// everybody's small messages wait in it, the bundle's own, too, however empty their
// lane is. So the ends watch the express lane's round trip while bulk is under way,
// and have less under way when it grows.
const (
	// levelGain and levelLoss are what the limit gains, or becomes, at each round
	// trip.
	levelGain = 0.04 // more each time, up to levelMost
	levelMost = 0.25
	levelLoss = 0.85
	// levelPatience is how long less may be under way without the queue becoming
	// shorter. Then it is somebody else's, and this bundle does not give way.
	levelPatience = 2 * time.Second
	levelDefiance = 10 * time.Second
)

// level is how much bulk may be under way.
type level struct {
	// guarded by b.mu
	limit  int64            // bytes on all lanes for bulk; 0: as much as they take
	recent [3]time.Duration // round trips of the express lane, the newest first
	gain   float64          // of the limit
	longAt time.Time        // since when the queue has been long
	defyAt time.Time        // until when that is no matter
}

// levelLocked takes a round trip of a lane for small frames.
func (b *Bundle) levelLocked(rtt time.Duration) {
	v, now := &b.level, time.Now()
	v.recent[2], v.recent[1], v.recent[0] = v.recent[1], v.recent[0], rtt
	least := b.rttLocked()
	queue := min(v.recent[0], v.recent[1], v.recent[2]) - least // one that was lost and repeated says nothing
	full := max(least/8, shortPath)
	switch {
	case b.growth.at.IsZero() || v.recent[2] == 0 || now.Before(v.defyAt):
	case queue > full:
		if v.longAt.IsZero() {
			v.longAt = now
		}
		if now.Sub(v.longAt) > levelPatience {
			v.limit, v.longAt, v.defyAt = 0, time.Time{}, now.Add(levelDefiance)
			b.wakeAllLocked()
			return
		}
		v.gain = 0
		if flying := b.flyingLocked(); flying > leastLevel && (v.limit == 0 || flying > v.limit/2) { // else it is the other way's
			v.limit = max(int64(float64(flying)*levelLoss), leastLevel)
		}
	default:
		v.longAt = time.Time{}
		if v.limit > 0 && queue < full/2 {
			v.gain = min(v.gain+levelGain, levelMost)
			v.limit = int64(float64(v.limit) * (1 + v.gain))
			if v.limit > maxLaneWindow {
				v.limit = 0
			}
			b.wakeDataLocked(true)
		}
	}
}

// leastLevel is the least that may always be under way, in bytes.
const leastLevel = 256 << 10

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
