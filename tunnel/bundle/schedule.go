package bundle

import "time"

// fillLocked gathers what lane l writes next: its own frames, then streams'
// control frames, then DATA as the lane's class and window allow. It returns
// false when there is nothing.
func (b *Bundle) fillLocked(l *lane) bool {
	l.out, l.big = l.out[:0], nil
	b.ownFramesLocked(l)
	if b.growth.tell && !l.lastWords && !l.suspect && b.carriesControlLocked(l) {
		b.growth.tell = false
		l.out = appendLanes(l.out, b.growth.own, b.growth.most)
		l.countLocked(headerSize + 4)
	}
	if !l.lastWords && !l.suspect && b.carriesControlLocked(l) {
		for b.control.len() > 0 && len(l.out) < maxBatch {
			b.control.pop().writeControlLocked(l)
		}
	}
	for !l.lastWords && l.big == nil && len(l.out) < maxBatch {
		c := b.nextChunkLocked(l)
		if c == nil {
			break
		}
		b.placeLocked(l, c)
	}
	if len(l.out) == 0 && l.big == nil {
		return false
	}
	if b.moreLocked() {
		b.wakeOthersLocked()
	}
	return true
}

// ownFramesLocked appends the frames that belong to this lane alone.
func (b *Bundle) ownFramesLocked(l *lane) {
	if l.lackNow {
		l.lackNow, l.lackAt, l.lackSaid = false, time.Time{}, l.taken
		l.out = appendNumber(l.out, frameLack, l.taken)
	}
	for l.pings.len() > 0 {
		l.out = appendNumber(l.out, framePong, l.pings.pop())
		l.countLocked(headerSize + 8)
	}
	if l.ping {
		l.ping = false
		l.pingNonce++
		l.pingSent = time.Now()
		l.out = appendNumber(l.out, framePing, l.pingNonce)
		l.countLocked(headerSize + 8)
	}
	if l.askReplace {
		l.askReplace = false
		l.out = appendReplace(l.out, l.replaced)
		l.countLocked(headerSize + 2)
	}
	if l.goAway {
		l.goAway, l.lastWords = false, true
		l.out = appendGoAway(l.out, l.goAwayCode)
		l.countLocked(headerSize + 2)
	}
}

// countLocked adds a frame's bytes to what the far end's LACK will cover.
func (l *lane) countLocked(n int) { l.sentBytes += uint64(n) }

// recordLocked remembers a frame until a LACK covers it.
func (l *lane) recordLocked(n int, r record) {
	if l.sent.len() == 0 {
		l.busyLocked()
	}
	l.countLocked(n)
	r.end = l.sentBytes
	l.sent.push(r)
}

// placeLocked puts a chunk into what l writes next.
func (b *Bundle) placeLocked(l *lane, c *chunk) {
	if c.writing == 0 { // else a dead lane's writer is not back yet, and the header is there
		putDataHeader(c.buf.block, c.s.id, c.off, c.n)
	}
	c.lane, c.look = l, b.growth.look
	c.s.carriedLocked(l)
	l.recordLocked(headroom+c.n, record{s: c.s, kind: kindData, c: c})
	if c.n <= smallChunk {
		l.out = append(l.out, c.buf.frame(c.n)...)
		return
	}
	c.writing++
	l.big = c
}

// nextChunkLocked takes the next chunk that lane l may carry. Streams of one
// class take turns.
func (b *Bundle) nextChunkLocked(l *lane) *chunk {
	if l.closing || l.suspect || !l.roomLocked() {
		return nil
	}
	if b.carriesControlLocked(l) {
		if c := b.takeLocked(&b.light); c != nil {
			return c
		}
	}
	if b.carriesBulkLocked(l) && !b.yieldLocked(l) {
		return b.takeLocked(&b.bulk)
	}
	return nil
}

func (b *Bundle) takeLocked(q *fifo[*Stream]) *chunk {
	for q.len() > 0 {
		s := q.pop()
		s.ready = false
		c := s.nextLocked()
		if c == nil {
			continue
		}
		s.readyLocked()
		return c
	}
	return nil
}

// carriesControlLocked tells whether small frames go over l: over a direct express
// lane where there is one, else over express lanes, else over any.
func (b *Bundle) carriesControlLocked(l *lane) bool { return l.controlRank() == b.bestControl }

// carriesBulkLocked tells whether bulk goes over l: over direct lanes where there
// is one, else over session lanes, over express lanes only where there is nothing
// else. Where direct lanes carry little, session lanes help.
func (b *Bundle) carriesBulkLocked(l *lane) bool {
	rank := l.bulkRank()
	return rank == b.bestBulk || b.growth.all && rank == rankSession
}

func (l *lane) controlRank() int {
	switch {
	case l.info.Express && l.info.Direct:
		return 3
	case l.info.Express:
		return 2
	}
	return 1
}

func (l *lane) bulkRank() int {
	switch {
	case l.info.Express:
		return 1
	case l.info.Direct:
		return 3
	}
	return rankSession
}

// rankSession is the rank of a session lane for bulk.
const rankSession = 2

// rankLocked finds out again which lanes carry what. It is called whenever a lane
// comes, goes, or may not be used for a while.
func (b *Bundle) rankLocked() {
	b.bestControl, b.bestBulk, b.growth.have = 0, 0, 0
	for _, l := range b.lanes {
		if l.info.Direct && !l.info.Express && !l.closing && l.replaced == CodeOK {
			b.growth.have++
		}
		if !l.closing && !l.suspect {
			b.bestControl = max(b.bestControl, l.controlRank())
			b.bestBulk = max(b.bestBulk, l.bulkRank())
		}
	}
}

// otherLocked tells whether another lane takes new frames.
func (b *Bundle) otherLocked(l *lane) bool {
	for _, o := range b.lanes {
		if o != l && !o.closing && !o.suspect {
			return true
		}
	}
	return false
}

// expressLocked tells whether there is a direct lane for small frames.
func (b *Bundle) expressLocked() bool {
	for _, l := range b.lanes {
		if l.info.Direct && l.info.Express && !l.closing && l.replaced == CodeOK {
			return true
		}
	}
	return false
}

// wantExpressLocked tells whoever makes lanes that this end would use a direct one
// for small frames.
func (b *Bundle) wantExpressLocked() {
	b.wantExpress = true
	if b.expressLocked() {
		return
	}
	select {
	case b.wanting <- struct{}{}:
	default: // it is told already
	}
}

func (b *Bundle) moreLocked() bool {
	return b.control.len() > 0 || b.light.len() > 0 || b.bulk.len() > 0
}

// wakeControlLocked wakes one lane that waits and carries small frames.
func (b *Bundle) wakeControlLocked() {
	for _, l := range b.lanes {
		if l.idle && !l.suspect && b.carriesControlLocked(l) {
			l.wakeLocked()
			return
		}
	}
}

// wakeDataLocked wakes a lane that waits and may take a chunk of the class.
func (b *Bundle) wakeDataLocked(bulk bool) {
	if l := b.nextLaneLocked(bulk); l != nil {
		l.wakeLocked()
	}
}

// nextLaneLocked is the lane that waits, may take a chunk of the class and would have
// delivered what it holds first; nil: there is none. On short paths any is as good.
func (b *Bundle) nextLaneLocked(bulk bool) (next *lane) {
	for _, l := range b.lanes {
		if !l.idle || l.closing || l.suspect {
			continue
		}
		if (bulk && b.carriesBulkLocked(l) || !bulk && b.carriesControlLocked(l)) && l.roomLocked() {
			if !b.growth.long {
				return l
			}
			if next == nil || l.backlogLocked() < next.backlogLocked() {
				next = l
			}
		}
	}
	return next
}

// backlogLocked is how many seconds the lane needs for what it holds, roughly.
func (l *lane) backlogLocked() float64 {
	return float64(l.sentBytes-l.lacked) / max(l.rate, thinLane)
}

// yieldLocked leaves bulk to a lane that waits and has less to do: a chunk that
// lies on a busy lane keeps all that come after it waiting.
func (b *Bundle) yieldLocked(l *lane) bool {
	if !b.growth.long || b.bulk.len() == 0 {
		return false
	}
	o := b.nextLaneLocked(true)
	if o == nil || o == l || 2*o.backlogLocked() >= l.backlogLocked() {
		return false
	}
	o.wakeLocked()
	return true
}

func (b *Bundle) wakeOthersLocked() {
	if b.control.len() > 0 {
		b.wakeControlLocked()
	}
	if b.bulk.len() > 0 {
		b.wakeDataLocked(true)
	}
}

func (b *Bundle) wakeAllLocked() {
	for _, l := range b.lanes {
		l.wakeLocked()
	}
}
