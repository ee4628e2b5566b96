package bundle

import (
	"slices"
	"time"
)

// The time without a LACK after which a lane is suspect: on paths shorter than
// shortPath, and otherwise the least, or so many round trips.
const (
	shortPath      = 5 * time.Millisecond
	suspectShort   = 200 * time.Millisecond
	suspectLeast   = 500 * time.Millisecond
	suspectRTTs    = 6
	suspectRecheck = 100 * time.Millisecond
)

// doubtLocked makes a lane suspect that should have answered by now: what it
// holds is sent again over the others, and it gets nothing new until it answers.
// A relay that stands still so costs a moment, and not the ten seconds after
// which the lane is dead. With a relay stand all of its lanes: those of the same way
// that were silent meanwhile, for want of anything to answer, are asked before they
// get something that would wait there, too. It returns when the lane is to be looked
// at again.
func (l *lane) doubtLocked(now time.Time) time.Time {
	if l.sent.len() == 0 || l.suspect || l.dead {
		return time.Time{}
	}
	patience := suspectShort
	if rtt := l.b.wayRTTLocked(l.info.Way); rtt == 0 || rtt > shortPath {
		patience = max(suspectLeast, suspectRTTs*rtt)
	}
	if at := l.heardAt.Add(patience); now.Before(at) {
		return at
	}
	if !l.b.otherLocked(l) {
		return now.Add(suspectRecheck)
	}
	l.suspectLocked()
	if l.b.otherWayLocked(l) {
		for _, o := range l.b.lanes {
			if o.info.Way == l.info.Way && !o.suspect && o.saidAt.Before(l.heardAt) {
				o.suspectLocked()
				o.ping = true
			}
		}
	}
	l.b.rankLocked()
	l.b.wakeAllLocked()
	return time.Time{}
}

func (l *lane) suspectLocked() {
	l.suspect = true
	l.b.cfg.Metrics.suspects.Inc()
	l.repeatLocked()
}

// trustLocked gives a lane that answered new frames again.
func (l *lane) trustLocked() {
	if l.suspect {
		l.suspect = false
		l.b.rankLocked()
		l.b.wakeAllLocked()
	}
}

// otherWayLocked tells whether a lane of another way takes new frames.
func (b *Bundle) otherWayLocked(l *lane) bool {
	return slices.ContainsFunc(b.lanes, func(o *lane) bool {
		return o.info.Way != l.info.Way && !o.closing && !o.suspect
	})
}

// wayRTTLocked is the least round trip that a lane of the way measured. A lane's own
// may be of a queue in which it began.
func (b *Bundle) wayRTTLocked(way string) (least time.Duration) {
	for _, l := range b.lanes {
		if l.info.Way == way && l.rtt != 0 && (least == 0 || l.rtt < least) {
			least = l.rtt
		}
	}
	return least
}

// repeatLocked has everything that the lane holds sent again by others, once.
func (l *lane) repeatLocked() {
	records := l.sent.all()
	for i := len(records) - 1; i >= 0; i-- {
		if r := &records[i]; !r.gone {
			r.gone = true
			r.repeatLocked()
			if r.kind == kindData {
				r.s.resumedLocked(l)
			}
		}
	}
}
