package bundle

import "time"

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
// which the lane is dead. It returns when the lane is to be looked at again.
func (l *lane) doubtLocked(now time.Time) time.Time {
	if l.sent.len() == 0 || l.suspect || l.dead {
		return time.Time{}
	}
	patience := suspectShort
	if l.rtt == 0 || l.rtt > shortPath {
		patience = max(suspectLeast, suspectRTTs*l.rtt)
	}
	if at := l.heardAt.Add(patience); now.Before(at) {
		return at
	}
	if !l.b.otherLocked(l) {
		return now.Add(suspectRecheck)
	}
	l.suspect = true
	l.b.rankLocked()
	l.b.cfg.Metrics.suspects.Inc()
	l.repeatLocked()
	l.b.wakeAllLocked()
	return time.Time{}
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
