package bundle

import (
	"cmp"
	"crypto/rand"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// Bundle is one end of all lanes between an ingress and a node, with the
// streams that they carry. An ingress makes one with [NewIngress]; at a node
// they come into being with their first lane.
type Bundle struct {
	// static after construction
	cfg     Config
	role    byte
	id      [16]byte
	secret  [secretSize]byte
	open    OpenFunc // at a node
	onOver  func()   // at a node: forgets the bundle; it must not wait
	done    chan struct{}
	wanting chan struct{}  // capacity 1: bulk would use a direct lane
	tasks   sync.WaitGroup // lanes' goroutines and dials

	mu sync.Mutex
	// guarded by mu
	lanes       []*lane
	joined      bool   // there was a lane
	laneCount   uint   // lanes that there ever were
	bestControl int    // rank of the lanes that carry small frames
	bestBulk    int    // and of those that carry bulk
	wantExpress bool   // a direct lane for small frames would be used
	replacing   bool   // ingress: a lane waits for its successor
	growth      growth // and how many for bulk
	level       level  // and how much of it may be under way
	delivered   uint64 // bytes that LACKs covered, on all lanes
	directly    uint64 // and on direct ones for bulk
	chunk       int    // most bytes that are read from a socket at once
	local, peer string // identities of the first lane, and so of all
	incarnation uint64 // of the far end
	secretKnown bool   // ingress: the node answered, it has the secret
	streams     map[uint64]*Stream
	lastID      uint64  // ingress: the newest stream
	seen        seenSet // node: every stream that ever was
	opening     int     // node: dials under way
	draining    bool    // node: no new streams
	grant       string  // node: of the newest stream; those of a run share one
	control     fifo[*Stream]
	light       fifo[*Stream] // with chunks to send, not bulk
	bulk        fifo[*Stream]
	late        []*Stream // whose ACK waits for the timer
	unacked     int64     // bytes sent or to be sent that the far end has not consumed
	closing     Code      // the reason that Close gives, once it was called
	err         *EndError // set when over
	remote      bool      // the far end said that it is over
	timer       *time.Timer
	timerAt     time.Time            // zero: not armed
	ackAt       time.Time            // when late is due
	graceAt     time.Time            // when a bundle without lanes is over
	pressureAt  time.Time            // when stalled streams are looked at again
	stalled     map[*Stream]struct{} // whose socket nobody reads for want of room
	stalledAt   time.Time            // when their sockets are looked at
	closers     []io.Closer
}

// NewIngress makes the ingress' end of a bundle. It does no I/O; give it lanes
// with Join and end it with Close.
func NewIngress(cfg Config) *Bundle {
	b := newBundle(cfg, roleIngress)
	_, _ = rand.Read(b.id[:]) // never fails
	_, _ = rand.Read(b.secret[:])
	return b
}

func newBundle(cfg Config, role byte) *Bundle {
	b := &Bundle{cfg: cfg.withDefaults(), role: role, done: make(chan struct{}), wanting: make(chan struct{}, 1), streams: make(map[uint64]*Stream)}
	b.chunk, b.growth.most = maxChunk, DefaultMaxLanes
	b.seen.low = 1
	b.timer = time.AfterFunc(time.Hour, b.tick)
	b.timer.Stop()
	return b
}

// Done is closed when the bundle is over: closed by either end, or without a
// lane for longer than its grace. Err says why.
func (b *Bundle) Done() <-chan struct{} { return b.done }

// Wanting receives when this end would use a direct lane that it does not have,
// as Wanted says. Whoever makes lanes waits for it.
func (b *Bundle) Wanting() <-chan struct{} { return b.wanting }

// Err is nil while the bundle lives, then an *EndError.
func (b *Bundle) Err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		return nil
	}
	return b.err
}

// Streams is how many streams are open now.
func (b *Bundle) Streams() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := 0
	for _, s := range b.streams {
		if s.phase != phaseOver {
			n++
		}
	}
	return n
}

// Lanes is how many lanes are joined now.
func (b *Bundle) Lanes() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.lanes)
}

// RTT is the least round trip that a lane measured, 0 before the first.
func (b *Bundle) RTT() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.rttLocked()
}

func (b *Bundle) rttLocked() time.Duration {
	var least time.Duration
	for _, l := range b.lanes {
		if l.rtt != 0 && (least == 0 || l.rtt < least) {
			least = l.rtt
		}
	}
	return least
}

// Close ends the bundle in an orderly way: the far end is told the reason, its
// streams and ours are reset with it. Close waits until the far end has heard it,
// which is when it closes the lanes, at most half a second, and for all
// goroutines of the bundle: the caller may close what the lanes travel on right
// after. Closing twice is fine.
func (b *Bundle) Close(reason Code) {
	b.mu.Lock()
	waiting := make([]*lane, 0, len(b.lanes))
	if b.err == nil {
		b.closing = reason
		for _, l := range b.lanes {
			l.goAway, l.goAwayCode = true, reason
			waiting = append(waiting, l)
			l.wakeLocked()
		}
	}
	b.mu.Unlock()
	flushed := time.NewTimer(closeFlush)
	defer flushed.Stop()
	for _, l := range waiting {
		select {
		case <-l.gone:
		case <-flushed.C:
			flushed.Reset(0)
		}
	}
	b.mu.Lock()
	b.overLocked(&EndError{Reason: reason}, false)
	b.unlock()
	b.tasks.Wait()
}

// unlock releases mu and closes what was left to be closed outside of it.
func (b *Bundle) unlock() {
	closers := b.closers
	b.closers = nil
	b.mu.Unlock()
	for _, c := range closers {
		_ = c.Close()
	}
}

// overLocked ends the bundle: every stream is reset, every lane closed.
func (b *Bundle) overLocked(err *EndError, remote bool) {
	if b.err != nil {
		return
	}
	b.err, b.remote = err, remote
	for _, s := range b.streams {
		s.endLocked(err.Reason, remote)
	}
	clear(b.streams)
	b.control.clear()
	b.light.clear()
	b.bulk.clear()
	b.late = nil
	for len(b.lanes) > 0 {
		b.dropLaneLocked(b.lanes[0], err)
	}
	b.timer.Stop()
	close(b.done)
	if b.onOver != nil {
		b.onOver()
	}
}

// addLane makes conn a lane after its HELLOs. It fails where the lane does not
// belong to the bundle's two ends.
func (b *Bundle) addLane(conn net.Conn, info LaneInfo, peerIncarnation uint64) (*lane, error) {
	b.mu.Lock()
	defer b.unlock()
	switch {
	case b.err != nil:
		return nil, b.err
	case b.joined && (b.peer != info.Peer || b.local != info.Local):
		return nil, &EndError{Reason: CodeLaneRefused, Err: violation("a lane of %q for a bundle of %q", info.Peer, b.peer)}
	case b.joined && b.incarnation != peerIncarnation:
		err := &EndError{Reason: CodeEndRestarted}
		b.overLocked(err, true)
		return nil, err
	case len(b.lanes) >= maxLanes:
		return nil, &EndError{Reason: CodeLaneRefused, Err: violation("more than %d lanes", maxLanes)}
	}
	b.joined, b.local, b.peer, b.incarnation = true, info.Local, info.Peer, peerIncarnation
	b.graceAt = time.Time{}
	l := newLane(b, conn, info)
	l.number, l.bit = b.laneCount, 1<<(b.laneCount%64)
	b.laneCount++
	b.lanes = append(b.lanes, l)
	b.rankLocked()
	b.partLocked()
	b.wishLocked()
	b.joinedLocked()
	b.cfg.Metrics.lanes.Inc()
	l.pingAt = time.Now()
	b.armLocked(l.pingAt)
	b.wakeAllLocked()
	return l, nil
}

// dropLaneLocked takes a dead lane out and hands what it carried to the others.
func (b *Bundle) dropLaneLocked(l *lane, err error) {
	i := slices.Index(b.lanes, l)
	if i < 0 {
		return
	}
	b.lanes = slices.Delete(b.lanes, i, i+1)
	b.rankLocked()
	l.dead = true
	close(l.gone)
	l.cond.Signal()
	b.closers = append(b.closers, l.conn)
	b.cfg.Metrics.lanes.Dec()
	reason, parted := reasonOf(err), l.partedLocked()
	if parted {
		reason = l.replaced
	}
	b.cfg.Metrics.laneEnds.WithLabelValues(reason.String()).Inc()
	b.cfg.Logger.Debug("lane over", "carrier", l.info.Carrier, "peer", l.info.Peer, "reason", reason.String(), "error", err)
	l.repeatLocked()
	l.sent.clear()
	for _, s := range b.streams {
		if parted {
			s.current &^= l.bit
		}
		s.resumedLocked(l)
	}
	if b.err != nil {
		return
	}
	b.wishLocked()
	if len(b.lanes) > 0 {
		b.wakeAllLocked()
		return
	}
	b.orphanLocked(err)
}

// Orphan says that what the bundle's lanes travelled on is gone: without a lane,
// the grace begins now, also for a bundle that never had one.
func (b *Bundle) Orphan() {
	b.mu.Lock()
	defer b.unlock()
	if b.err == nil && len(b.lanes) == 0 && b.graceAt.IsZero() {
		b.orphanLocked(nil)
	}
}

// orphanLocked begins the grace of a bundle that has no lane.
func (b *Bundle) orphanLocked(err error) {
	if b.cfg.ResumeGrace <= 0 {
		b.overLocked(&EndError{Reason: cmp.Or(b.closing, CodeLanesLost), Err: err}, false)
		return
	}
	b.graceAt = time.Now().Add(b.cfg.ResumeGrace)
	b.armLocked(b.graceAt)
}

// End ends the bundle at once: every stream is reset with the reason. It is for
// a far end that is known to be gone; Close is for one that is still there.
func (b *Bundle) End(reason Code) {
	b.mu.Lock()
	b.overLocked(&EndError{Reason: reason}, false)
	b.unlock()
	b.tasks.Wait()
}

// armLocked makes the timer fire at t or earlier.
func (b *Bundle) armLocked(t time.Time) {
	if b.err != nil || (!b.timerAt.IsZero() && !t.Before(b.timerAt)) {
		return
	}
	b.timerAt = t
	b.timer.Reset(time.Until(t))
}

// tick does everything that waits for time: late ACKs and LACKs, pings, the
// end of the grace, and stalled streams when memory is short.
func (b *Bundle) tick() {
	b.mu.Lock()
	stalled := b.tickLocked(time.Now())
	b.unlock()
	for s, sock := range stalled {
		if s.resetUnseen(sock) {
			s.Reset(b.socketReset())
		}
	}
}

// tickLocked does what is due, and gives the sockets that have to be looked at.
func (b *Bundle) tickLocked(now time.Time) (stalled map[*Stream]Socket) {
	if b.err != nil {
		return nil
	}
	b.timerAt = time.Time{}
	if due(b.ackAt, now) {
		b.ackAt = time.Time{}
		for _, s := range b.late {
			s.lateAck = false
			s.ackLocked()
		}
		b.late = b.late[:0]
	}
	if due(b.graceAt, now) {
		b.overLocked(&EndError{Reason: CodeLanesLost}, false)
		return nil
	}
	if due(b.stalledAt, now) {
		stalled = b.stalledLocked(now)
	}
	if due(b.pressureAt, now) {
		b.relieveLocked(now)
	}
	if due(b.growth.at, now) {
		b.growLocked(now)
	}
	next := earliest(b.ackAt, b.graceAt, b.pressureAt, b.stalledAt, b.growth.at)
	for _, l := range slices.Clone(b.lanes) {
		next = earliest(next, l.tickLocked(now))
	}
	if !next.IsZero() {
		b.armLocked(next)
	}
	return stalled
}

// watchLocked has a stream's socket looked at while nobody reads it: a job that
// gave up must not keep its store waiting.
func (b *Bundle) watchLocked(s *Stream) {
	if b.stalled == nil {
		b.stalled = make(map[*Stream]struct{})
	}
	b.stalled[s] = struct{}{}
	if b.stalledAt.IsZero() {
		b.stalledAt = time.Now().Add(stallCheck)
		b.armLocked(b.stalledAt)
	}
}

func (b *Bundle) stalledLocked(now time.Time) map[*Stream]Socket {
	b.stalledAt = time.Time{}
	if len(b.stalled) == 0 {
		return nil
	}
	b.stalledAt = now.Add(stallCheck)
	sockets := make(map[*Stream]Socket, len(b.stalled))
	for s := range b.stalled {
		if s.sock != nil {
			sockets[s] = s.sock
		}
	}
	return sockets
}

func due(t, now time.Time) bool { return !t.IsZero() && !now.Before(t) }

// earliest is the first of the times that are not zero.
func earliest(times ...time.Time) (first time.Time) {
	for _, t := range times {
		if !t.IsZero() && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	return first
}

// relieveLocked narrows the windows of streams that stalled while credit is
// short: what they consume later goes back to the pool.
func (b *Bundle) relieveLocked(now time.Time) {
	b.pressureAt = time.Time{}
	if !b.cfg.Pool.credit.short() {
		return
	}
	for _, s := range b.streams {
		s.narrowLocked(now)
	}
	if len(b.streams) > 0 {
		b.pressureAt = now.Add(time.Second)
	}
}
