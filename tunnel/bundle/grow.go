package bundle

import "time"

// How many direct lanes a bundle has for bulk.
const (
	// DefaultMaxLanes is the most where a node's configuration says nothing.
	DefaultMaxLanes = 16
	// MaxLanes is the most that a node may allow.
	MaxLanes = 64
	// firstLanes is how many a bundle begins with once it has bulk. On short paths
	// each brings another goroutine at both ends, on long ones another share of what
	// loss leaves.
	firstLanes = 4
)

// Bundles look at themselves while bulk is under way on a long path.
const (
	// growLooks looks make a judgement, growLook apart at least, else a round trip.
	growLooks = 6
	growLook  = 60 * time.Millisecond
	// growGain is what each lane that was added must bring, as a part of what one
	// had brought before.
	growGain = 0.3
	// growHold is the pause after lanes that brought less.
	growHold = time.Minute
	// growIdle is how long after the last bulk its lanes are given up, but for one.
	growIdle = time.Minute
	// thinLane is how many bytes a lane has under way at most where loss holds it
	// back: more lanes are added at once then.
	thinLane = 64 << 10
	// enoughLane is the same for lanes that need no help any more.
	enoughLane = thinLane * 3 / 2
)

// growth is how many direct lanes for bulk a bundle would use: as many as fill
// the path. One connection does on a short one; on a long one that loses, each
// moves a little, whatever the rate of the link, and more of them move more.
//
// Where that is as many as there may be and each moves little all the same, bulk
// uses the session lanes beside them: on QUIC, too, which is the better way where a
// network holds TCP back. Each lane takes what it can carry; so it is goodput that
// decides. When the direct lanes carry enough again, they do so alone.
//
// Each end judges by what it sends. The ingress makes lanes, so a node tells it
// what it would use, and the most that it lets the bundle have.
type growth struct {
	// guarded by b.mu
	own, far int           // lanes that each end would use; 0: it has had no bulk
	most     int           // that the node allows
	have     int           // that there are
	all      bool          // bulk uses the session lanes, too
	tell     bool          // node: a LANES is to be written
	said     bool          // node: one was
	least    time.Duration // round trip of the nearest lane
	long     bool          // that is long

	at      time.Time // of the next look; zero: no bulk is under way
	usedAt  time.Time // when bulk was last seen
	began   time.Time // of this judgement
	from    uint64    // delivered then
	fromTCP uint64    // and of that, over direct lanes
	number  uint      // lanes that there ever were then
	look    uint32    // counts looks
	looks   int
	waited  int     // of them, with bulk that no lane could take
	last    float64 // bytes per second at the last judgement
	before  float64 // and before lanes were added; 0: none were
	step    float64 // how many times as many there are since
	settled time.Time
}

// Wanted tells which direct lanes this end would use and does not have: one for
// small frames, and so many for bulk.
func (b *Bundle) Wanted() (express bool, bulk int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.wantExpress && !b.expressLocked(), max(b.targetLocked()-b.growth.have, 0)
}

// targetLocked is how many direct lanes for bulk there should be.
func (b *Bundle) targetLocked() int {
	return min(max(b.growth.own, b.growth.far), b.growth.most)
}

// wantBulkLocked notes that there is bulk. It is called for each chunk.
func (b *Bundle) wantBulkLocked() {
	g := &b.growth
	if g.own == 0 {
		g.own = firstLanes
		b.wishLocked()
	}
	now := time.Now()
	g.usedAt = now
	if g.at.IsZero() && g.long {
		b.judgeLocked(now)
	}
	if b.role == roleIngress && g.have < max(g.own, g.far) {
		b.missLocked()
	}
}

// wishLocked makes known that another number of lanes would be used, or that there
// are fewer: at a node to the ingress, there to whoever makes lanes.
func (b *Bundle) wishLocked() {
	if g := &b.growth; b.role == roleNode {
		if g.said || g.own > 0 || g.most != DefaultMaxLanes {
			g.said, g.tell = true, true
			b.wakeControlLocked()
		}
		return
	}
	b.missLocked()
}

// missLocked tells whoever makes lanes that some are missing.
func (b *Bundle) missLocked() {
	if b.growth.have >= b.targetLocked() {
		return
	}
	select {
	case b.wanting <- struct{}{}:
	default: // it is told already
	}
}

// limitLocked sets the most that the node allows.
func (b *Bundle) limitLocked(most int) {
	if most = min(max(most, 1), MaxLanes); most != b.growth.most {
		b.growth.most = most
		b.wishLocked()
	}
}

// lanesLocked takes a LANES: what the node would use, and allows.
func (b *Bundle) lanesLocked(lanes, most int) error {
	if b.role != roleIngress || most < 1 {
		return violation("LANES from an ingress, or that allows none")
	}
	b.growth.far = min(lanes, MaxLanes)
	b.growth.most = min(most, MaxLanes)
	b.missLocked()
	return nil
}

// measuredLocked notes a round trip: it tells whether the path is long.
func (b *Bundle) measuredLocked() {
	g := &b.growth
	g.least = b.rttLocked()
	g.long = g.least > shortPath
	b.chunk = maxChunk
	if g.long {
		b.chunk = b.chunkLocked()
	}
}

// chunkLocked is how many bytes a chunk has at most on a long path. One that takes
// long on its lane keeps all that comes after it waiting.
func (b *Bundle) chunkLocked() int {
	var rate float64
	lanes := 0
	for _, l := range b.lanes {
		if b.carriesBulkLocked(l) && l.rate > 0 {
			rate += l.rate
			lanes++
		}
	}
	if lanes > 0 && rate/float64(lanes)*b.growth.least.Seconds() > 2*thinLane {
		return 64 << 10
	}
	return 16 << 10
}

// judgeLocked begins a judgement.
func (b *Bundle) judgeLocked(now time.Time) {
	g := &b.growth
	g.usedAt = now
	g.began, g.from, g.fromTCP, g.number, g.looks, g.waited = now, b.delivered, b.directly, b.laneCount, 0, 0
	g.at = now.Add(max(growLook, b.growth.least))
	b.armLocked(g.at)
}

// growLocked looks at bulk that is under way on a long path, and asks for more
// lanes where more would move more.
func (b *Bundle) growLocked(now time.Time) {
	g := &b.growth
	g.at = time.Time{}
	if b.unacked == 0 || !g.long {
		g.last, g.before, g.all = 0, 0, false
		b.level = level{}
		return
	}
	b.chunk = b.chunkLocked()
	b.soundLocked(now)
	g.look++
	g.looks++
	if late := b.overtakeLocked(); late || b.waitingLocked() {
		g.waited++
	}
	if g.looks < growLooks {
		g.at = now.Add(max(growLook, b.growth.least))
		return
	}
	if g.number == b.laneCount && g.have > 0 && g.have >= min(g.own, g.most) {
		elapsed := now.Sub(g.began).Seconds()
		rate := float64(b.delivered-g.from) / elapsed
		b.weighLocked(now, rate, float64(b.directly-g.fromTCP)/elapsed)
		g.last = rate
	}
	b.judgeLocked(now)
}

// weighLocked decides about more lanes, and whether session lanes help.
func (b *Bundle) weighLocked(now time.Time, rate, directly float64) {
	g := &b.growth
	rises := rate > 1.1*g.last // by itself
	each := directly / float64(g.have) * g.least.Seconds()
	thin := each < thinLane
	g.all = g.all && each < enoughLane
	little := g.before > 0 && rate < g.before*(1+growGain*(g.step-1))
	switch {
	case g.waited*4 < growLooks*3, b.level.limit > 0, now.Before(g.settled), rises && (little || !thin):
		return
	case little, g.have >= g.most:
		if g.all = g.all || thin; g.all {
			b.wakeAllLocked()
		}
		if little {
			g.before, g.settled = 0, now.Add(growHold)
		}
		return
	}
	more := 2 * g.have
	if thin {
		more = 4 * g.have
	}
	more = min(more, g.most)
	g.before, g.step = rate, float64(more)/float64(g.have)
	g.own = more
	b.wishLocked()
}

// joinedLocked begins a judgement anew where the lanes that were wanted are there.
func (b *Bundle) joinedLocked() {
	if g := &b.growth; !g.at.IsZero() && g.have >= min(g.own, g.most) {
		b.judgeLocked(time.Now())
	}
}

// waitingLocked tells whether there is bulk that no lane can take now.
func (b *Bundle) waitingLocked() bool {
	if b.bulk.len() == 0 {
		return false
	}
	for _, l := range b.lanes {
		if l.idle && !l.closing && !l.suspect && b.carriesBulkLocked(l) && l.roomLocked() {
			return false
		}
	}
	return true
}

// thinLocked gives up the lanes that neither end has used for bulk for a while, but
// for one. Those that somebody keeps on purpose stay.
func (b *Bundle) thinLocked(now time.Time) {
	g := &b.growth
	if !g.at.IsZero() || now.Sub(g.usedAt) < growIdle {
		return
	}
	if g.own > 1 {
		g.own = 0
		b.wishLocked()
	}
	for i := len(b.lanes) - 1; i >= 0 && b.role == roleIngress && g.have > max(b.targetLocked(), 1); i-- {
		if l := b.lanes[i]; l.info.Direct && !l.info.Express && l.info.Replaced == nil && !l.closing && l.replaced == CodeOK {
			l.replaced = CodeIdle
			l.partLocked()
		}
	}
}

// overtakeLooks is for how many looks a stream waits for a chunk on its lane.
const overtakeLooks = 4

// overtakeLocked has chunks sent again on other lanes whose own are late with them
// while their streams may send nothing more: one slow lane must not stop the
// others. It tells whether there are such chunks.
func (b *Bundle) overtakeLocked() (late bool) {
	free := 0
	for _, l := range b.lanes {
		if l.idle && !l.closing && !l.suspect && b.carriesBulkLocked(l) && l.roomLocked() {
			free++
		}
	}
	for _, s := range b.streams {
		if s.phase != phaseOpen || s.send.credit > s.send.off || s.send.unsent.len() > 0 {
			continue
		}
		var again []*chunk
		for _, c := range s.send.kept.all() {
			if c.arrived || b.growth.look-c.look < overtakeLooks {
				if len(again) == 0 && !c.arrived {
					break // what the far end waits for is not late
				}
				continue
			}
			late = true
			if len(again) >= free || c.writing > 0 {
				break
			}
			again = append(again, c)
		}
		for i := len(again) - 1; i >= 0; i-- {
			c := again[i]
			if !c.lane.overtaken {
				c.lane.overtaken = true
				c.lane.rate /= 2
			}
			s.requeueLocked(c)
			free--
		}
	}
	for _, l := range b.lanes {
		l.overtaken = false
	}
	return late
}
