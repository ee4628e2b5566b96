package bundle

import (
	"slices"
	"time"
)

const (
	// replaceWait is how long a lane that is to be replaced waits for one of its
	// own kind; after that any other lane will do.
	replaceWait = 30 * time.Second
	// partingTime bounds the orderly end of a lane: what is under way is taken
	// off it.
	partingTime = 60 * time.Second
	// partedTime is how long the end that had the last word waits for the other
	// one to close the lane.
	partedTime = 5 * time.Second
)

// Replace has the lanes for which match returns true replaced: another lane comes
// first, then the old one is given up with nothing of it lost. match is called
// under a lock and must be quick. The channels are closed as the lanes are gone.
//
// A lane is given up for [CodeDraining] as soon as there is any lane that stays, or
// no stream is open: nothing new comes through a relay that stops.
func (b *Bundle) Replace(reason Code, match func(LaneInfo) bool) (gone []<-chan struct{}) {
	b.mu.Lock()
	defer b.unlock()
	for _, l := range b.lanes {
		if match(l.info) {
			l.replaceLocked(reason)
			gone = append(gone, l.gone)
		}
	}
	b.partLocked()
	return gone
}

// Replace is the same for the lanes of all bundles of a node, which asks their
// ingresses for other ones.
func (n *Node) Replace(reason Code, match func(LaneInfo) bool) (gone []<-chan struct{}) {
	for _, b := range n.all() {
		gone = append(gone, b.Replace(reason, match)...)
	}
	return gone
}

// replaceLocked notes that a lane is to be replaced. The ingress makes lanes, so
// a node tells it.
func (l *lane) replaceLocked(reason Code) {
	if l.dead || l.closing || l.replaced != CodeOK {
		return
	}
	b := l.b
	l.replaced = reason
	b.cfg.Metrics.replaced.WithLabelValues(reason.String()).Inc()
	if b.role == roleNode {
		l.askReplace = true
		l.wakeLocked()
		return
	}
	b.replacing = true
	l.replaceAt = time.Now().Add(replaceWait)
	b.armLocked(l.replaceAt)
	l.giveNoticeLocked()
	switch {
	case !l.info.Direct:
	case l.info.Express:
		b.wantExpressLocked()
	default:
		b.growth.own = max(b.growth.own, 1)
		b.rankLocked()
		b.missLocked()
	}
}

// giveNoticeLocked tells who made the lane that its place is free, once.
func (l *lane) giveNoticeLocked() {
	if l.info.Replaced != nil && !l.noticed {
		l.b.closers = append(l.b.closers, notice(l.info.Replaced))
	}
	l.noticed = true
}

// notice is a call that waits until the lock is free.
type notice func()

func (f notice) Close() error { f(); return nil }

// partLocked gives up lanes that are to be replaced and whose successor is there.
func (b *Bundle) partLocked() {
	if !b.replacing {
		return
	}
	b.replacing = false
	for _, l := range b.lanes {
		if l.replaced == CodeOK || l.closing {
			continue
		}
		if next := b.successorLocked(l); next != nil {
			next.succeeded = true
			l.partLocked()
		} else if l.replaced == CodeDraining && (len(b.streams) == 0 || b.staysLocked()) {
			l.partLocked()
		} else {
			b.replacing = true
		}
	}
}

// staysLocked tells whether there is a lane that is not to be replaced.
func (b *Bundle) staysLocked() bool {
	return slices.ContainsFunc(b.lanes, func(o *lane) bool { return !o.closing && !o.suspect && o.replaced == CodeOK })
}

// successorLocked is a lane that came after l to carry the same frames, and has
// taken no other's place.
func (b *Bundle) successorLocked(l *lane) *lane {
	for _, o := range b.lanes {
		if o.number > l.number && !o.succeeded && !o.closing && !o.suspect && o.replaced == CodeOK &&
			o.info.Express == l.info.Express && (o.info.Direct || !l.info.Direct) {
			return o
		}
	}
	return nil
}

// partLocked begins the orderly end of a lane: this end writes GOAWAY after what
// it has written, the far end answers with its own, and once each has said that
// all was taken off the lane it is closed.
func (l *lane) partLocked() {
	l.closing = true
	l.goAway, l.goAwayCode = true, CodeOK
	l.partingAt = time.Now().Add(partingTime)
	l.b.armLocked(l.partingAt)
	l.b.rankLocked()
	l.b.wakeAllLocked()
}

// partedLocked tells whether both ends gave the lane up and nothing is under way.
func (l *lane) partedLocked() bool {
	return l.lastWords && l.farAway && l.sent.len() == 0
}

// closableLocked tells whether the far end knows, too, or is about to: the end
// that hears the last LACK closes the lane, so that nothing is lost in it.
func (l *lane) closableLocked() bool {
	if !l.partedLocked() || l.lacked != l.sentBytes || l.lackSaid != l.taken {
		return false
	}
	if !l.heardLast && !l.wroteLast {
		l.wroteLast = true
		l.partingAt = time.Now().Add(partedTime)
		l.b.armLocked(l.partingAt)
	}
	return l.heardLast
}

// wornLocked has a lane replaced whose keys have protected enough.
func (l *lane) wornLocked() {
	if l.info.Worn != nil && l.replaced == CodeOK && !l.closing && l.info.Worn() {
		l.replaceLocked(CodeRecords)
		l.b.partLocked()
	}
}

// replaceTickLocked does what time asks of a lane that is to be replaced, and
// returns when it is to be looked at again.
func (l *lane) replaceTickLocked(now time.Time) time.Time {
	if due(l.partingAt, now) {
		l.b.dropLaneLocked(l, &EndError{Reason: CodeLaneSilent})
		return time.Time{}
	}
	if l.closing || !due(l.replaceAt, now) {
		return earliest(l.partingAt, l.replaceAt)
	}
	l.replaceAt = now.Add(time.Second)
	if l.b.otherLocked(l) {
		l.replaceAt = time.Time{}
		l.partLocked()
	}
	return earliest(l.partingAt, l.replaceAt)
}
