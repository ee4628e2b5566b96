package bundle

import (
	"bufio"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// lane is one authenticated byte pipe of a bundle: one reader, one writer.
type lane struct {
	// static after construction
	b      *Bundle
	conn   net.Conn
	prompt PromptConn // conn, where it can write without waiting
	info   LaneInfo
	number uint          // of the bundle's lanes, counted as they came
	bit    uint64        // stands for the lane in its streams' reports
	gone   chan struct{} // closed when the lane is dropped

	// owned by the reader
	in   *bufio.Reader
	body []byte

	// owned by the writer, filled under b.mu
	out  []byte // control frames and small DATA
	big  *chunk // one large DATA frame, written after out
	left bool   // some of what was written still has to be flushed

	// guarded by b.mu
	cond       sync.Cond // the writer waits for work
	idle       bool      // nobody writes the lane, its writer waits
	poked      bool      // there is more to write than who writes knows
	dead       bool
	closing    bool      // this lane ends soon: nothing new goes here
	farAway    bool      // the far end said GOAWAY
	replaced   Code      // why the lane is to be replaced; CodeOK: it stays
	noticed    bool      // who made it knows
	askReplace bool      // a REPLACE is to be written
	succeeded  bool      // it took another lane's place
	replaceAt  time.Time // when any other lane may take its place
	partingAt  time.Time // when its orderly end has taken long enough
	wroteLast  bool      // its last LACK went out
	heardLast  bool      // the far end's last LACK came after ours
	sent       fifo[record]
	sentBytes  uint64 // of frames that LACK counts
	lacked     uint64 // of those, what the far end took
	taken      uint64 // bytes of frames taken off this lane
	lackSaid   uint64
	lackNow    bool
	lackAt     time.Time
	goAway     bool // a GOAWAY is to be written
	goAwayCode Code
	lastWords  bool         // a GOAWAY went out: nothing but the lane's own frames follows
	pings      fifo[uint64] // PONGs to be written
	ping       bool         // a PING is to be written
	pingAt     time.Time    // when the next PING is due
	pingNonce  uint64
	pingSent   time.Time // of the newest PING, for its round trip
	unanswered int
	rtt        time.Duration // least that a PING took
	rate       float64       // best bytes per second that LACKs showed
	sampleAt   time.Time
	sampleFrom uint64
	sampleSent uint64    // sentBytes when the sample began
	limited    bool      // by the window, since the sample began
	heardAt    time.Time // when a LACK last moved, or the lane got work again
	saidAt     time.Time // when anything came off the lane
	overtaken  bool      // of b.overtakeLocked
	suspect    bool      // it is silent: what it holds went elsewhere, nothing new goes here
}

// record is a frame that was written and that no LACK covers yet.
type record struct {
	end  uint64 // l.sentBytes after it
	s    *Stream
	kind uint8
	c    *chunk // of kindData
	gone bool   // it was sent again elsewhere
}

// maxBatch is how many bytes of small frames are written at once.
const maxBatch = 32 << 10

// smallChunk is the largest DATA that is copied among the small frames.
const smallChunk = 8 << 10

// windowFloor is the least that a lane may have under way, in bytes: four chunks
// in the air and four in the far end's hands.
const windowFloor = 2 << 20

// lackEvery is how many bytes a LACK covers at most where the path is short: there
// each wakes three processes for a few microseconds' worth of bytes. longLack is
// the same on long paths, where news is worth more than CPU.
const (
	lackEvery = 512 << 10
	longLack  = 128 << 10
)

const maxLaneWindow = 64 << 20

// On long paths a lane has less under way at first, because there are many, and
// more of what it moves in a round trip: bytes that came wait for what was lost
// before them.
const (
	longFloor = 128 << 10
	longGain  = 4.0
)

func newLane(b *Bundle, conn net.Conn, info LaneInfo) *lane {
	l := &lane{
		b: b, conn: conn, info: info,
		gone: make(chan struct{}),
		in:   bufio.NewReaderSize(conn, 16<<10), body: make([]byte, 32+maxGrant),
	}
	l.cond.L = &b.mu
	l.prompt, _ = conn.(PromptConn)
	if info.Direct {
		SettleCongestion(conn)
	}
	return l
}

// run serves the lane until it is over and returns why.
func (l *lane) run() error {
	writer := make(chan struct{})
	go l.write(writer)
	err := l.read()
	l.b.mu.Lock()
	l.b.dropLaneLocked(l, err)
	l.b.unlock()
	<-writer
	return err
}

// read takes frames off the lane until it fails. It never waits for a socket
// or for another lane.
func (l *lane) read() error {
	for {
		header, err := l.in.Peek(headerSize)
		if err != nil {
			return laneEnd(err)
		}
		typ, length, err := parseHeader(header)
		if err != nil {
			l.refuse(err)
			return err
		}
		_, _ = l.in.Discard(headerSize)
		if typ == frameData {
			err = l.readData(length)
		} else {
			body := l.body[:length]
			if _, err := io.ReadFull(l.in, body); err != nil {
				return laneEnd(err)
			}
			err = l.b.handle(l, typ, body)
		}
		if err != nil {
			l.refuse(err)
			return err
		}
	}
}

// laneEnd makes an error of whatever ended a lane: a lane has no good end, so
// EOF is one too.
func laneEnd(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return &EndError{Reason: CodeLanesLost, Err: err}
}

// refuse counts a violation of the protocol; the lane ends, the rest goes on.
func (l *lane) refuse(err error) {
	var bad *protocolError
	if !errors.As(err, &bad) {
		return
	}
	l.b.cfg.Metrics.dropped.WithLabelValues(bad.reason.String()).Inc()
	l.b.cfg.Logger.Warn("lane refused", "carrier", l.info.Carrier, "peer", l.info.Peer, "error", err)
}

// readData reads one DATA frame straight into a buffer of its size, after its
// stream and credit were checked.
func (l *lane) readData(length int) error {
	body, err := l.in.Peek(dataHeaderSize)
	if err != nil {
		return laneEnd(err)
	}
	id, offset := beUint64(body), beUint64(body[8:])
	_, _ = l.in.Discard(dataHeaderSize)
	n := length - dataHeaderSize
	s, err := l.b.expect(id, offset, n)
	if err != nil {
		return err
	}
	if s == nil {
		if _, err := l.in.Discard(n); err != nil {
			return laneEnd(err)
		}
		l.tookFrame(headerSize + length)
		return nil
	}
	buf := takeBuffer(n)
	if _, err := io.ReadFull(l.in, buf.data()[:n]); err != nil {
		buf.give()
		return laneEnd(err)
	}
	l.b.mu.Lock()
	defer l.b.unlock()
	s.carriedLocked(l)
	s.receiveLocked(offset, buf, n)
	l.tookLocked(headerSize + length)
	return nil
}

func (l *lane) tookFrame(n int) {
	l.b.mu.Lock()
	l.tookLocked(n)
	l.b.mu.Unlock()
}

// tookLocked counts bytes off the lane and says so before long.
func (l *lane) tookLocked(n int) {
	l.taken += uint64(n)
	l.unanswered, l.saidAt = 0, time.Now()
	if l.dead {
		return
	}
	every := uint64(lackEvery)
	if l.b.growth.long {
		every = longLack
	}
	if l.taken-l.lackSaid >= every {
		l.lackNow = true
		l.wakeLocked()
	} else if l.lackAt.IsZero() {
		l.lackAt = l.saidAt.Add(lackDelay)
		l.b.armLocked(l.lackAt)
	}
}

// lackLocked takes a LACK: the far end has taken so many bytes off this lane.
func (l *lane) lackLocked(taken uint64) error {
	if taken > l.sentBytes {
		return violation("LACK of %d bytes, %d were sent", taken, l.sentBytes)
	}
	if taken <= l.lacked {
		return nil
	}
	l.b.delivered += taken - l.lacked
	if l.info.Direct && !l.info.Express {
		l.b.directly += taken - l.lacked
	}
	l.lacked, l.heardAt = taken, time.Now()
	l.saidAt = l.heardAt
	l.trustLocked()
	for l.sent.len() > 0 && l.sent.front().end <= taken {
		l.sent.pop().arrivedLocked()
	}
	l.heardLast = l.partedLocked() && l.lackSaid == l.taken
	l.sampleLocked()
	if l.idle {
		l.wakeLocked()
	}
	if l.b.level.limit > 0 && l.b.bulk.len() > 0 {
		l.b.wakeDataLocked(true)
	}
	return nil
}

// sampleLocked follows the lane's rate, for its window.
func (l *lane) sampleLocked() {
	now := time.Now()
	if l.sampleAt.IsZero() {
		l.sampleAt, l.sampleFrom, l.sampleSent, l.limited = now, l.lacked, l.sentBytes, false
		return
	}
	elapsed := now.Sub(l.sampleAt)
	if elapsed < max(l.rtt, 10*time.Millisecond) {
		return
	}
	rate := float64(l.lacked-l.sampleFrom) / elapsed.Seconds()
	rounds := elapsed.Seconds() / max(l.rtt, time.Millisecond).Seconds()
	switch {
	case l.b.growth.long && rate > l.rate: // what loss held back comes at once
		l.rate += (rate - l.rate) * min(rounds/2, 1)
	case l.b.growth.long && l.lacked < l.sampleSent: // it was never empty
		l.rate += (rate - l.rate) * min(rounds/4, 1)
	case rate > l.rate:
		l.rate = rate
	case l.limited: // it could have been faster, and was not
		l.rate += (rate - l.rate) / 8
	}
	l.sampleAt, l.sampleFrom, l.sampleSent, l.limited = now, l.lacked, l.sentBytes, false
}

// roomLocked tells whether the lane's window lets more DATA out.
func (l *lane) roomLocked() bool {
	if l.b.level.limit > 0 && l.b.carriesBulkLocked(l) && l.b.fullLocked() {
		return false
	}
	if l.sentBytes-l.lacked < l.windowLocked() {
		return true
	}
	l.limited = true
	return false
}

// windowLocked is how many bytes the lane may have under way.
func (l *lane) windowLocked() uint64 {
	floor, gain, rtt := float64(windowFloor), 2.0, l.rtt
	if l.b.growth.long {
		floor, gain = longFloor, longGain
		rtt = min(rtt, l.b.growth.least*3/2) // its own may be of a queue in which it began
	}
	return uint64(min(max(floor, gain*l.rate*rtt.Seconds()), maxLaneWindow))
}

func (l *lane) wakeLocked() {
	l.poked = true
	if l.idle {
		l.idle = false
		l.cond.Signal()
	}
}

// write writes frames until the lane is dead.
func (l *lane) write(done chan<- struct{}) {
	defer close(done)
	b := l.b
	b.mu.Lock()
	for {
		for !l.dead && !l.left && !b.fillLocked(l) {
			if l.closableLocked() {
				b.dropLaneLocked(l, &EndError{Reason: l.replaced})
				b.unlock()
				b.mu.Lock()
				continue
			}
			l.idle = true
			l.cond.Wait()
		}
		l.idle = false
		if l.dead {
			b.mu.Unlock()
			return
		}
		b.mu.Unlock()
		err := l.flush()
		b.mu.Lock()
		l.wroteLocked(err)
		if len(b.closers) > 0 {
			b.unlock()
			b.mu.Lock()
		}
	}
}

// writeNowLocked does the work of the lane's writer, which waits, in the caller's
// goroutine, once: nobody has to be woken. What the kernel does not take at once is
// the writer's.
func (l *lane) writeNowLocked() {
	b := l.b
	l.idle, l.poked = false, false
	if !b.fillLocked(l) {
		l.idle = true
		return
	}
	b.mu.Unlock()
	left, err := l.prompt.WriteNow(l.out, l.bigFrame())
	b.mu.Lock()
	l.left = left
	l.wroteLocked(err)
	l.idle = true
	if l.left || l.poked || b.moreLocked() {
		l.wakeLocked()
	}
}

// wroteLocked is called after something was written.
func (l *lane) wroteLocked(err error) {
	if l.big != nil {
		l.big.writtenLocked()
		l.big = nil
	}
	if err != nil {
		l.b.dropLaneLocked(l, &EndError{Reason: CodeLanesLost, Err: err})
		return
	}
	l.wornLocked()
}

// bigFrame is the large DATA frame that is to be written, if there is one.
func (l *lane) bigFrame() []byte {
	if l.big == nil {
		return nil
	}
	return l.big.buf.frame(l.big.n)
}

// flush writes what fillLocked gathered, and what was left of what was written
// before.
func (l *lane) flush() error {
	if l.prompt != nil {
		left, err := l.left, error(nil)
		if l.left = false; !left {
			left, err = l.prompt.WriteNow(l.out, l.bigFrame())
		}
		if left && err == nil {
			err = l.prompt.Flush()
		}
		return err
	}
	if len(l.out) > 0 {
		if _, err := l.conn.Write(l.out); err != nil {
			return err
		}
	}
	if l.big != nil {
		if _, err := l.conn.Write(l.bigFrame()); err != nil {
			return err
		}
	}
	return nil
}

// tickLocked does what the lane's timers ask for and returns when it next has
// something to do.
func (l *lane) tickLocked(now time.Time) time.Time {
	if due(l.lackAt, now) {
		l.lackAt = time.Time{}
		l.lackNow = l.taken > l.lackSaid
		l.wakeLocked()
	}
	if due(l.pingAt, now) {
		allowed, interval := maxIdlePings, pingIdle
		if l.b.unacked > 0 || l.sent.len() > 0 {
			allowed, interval = maxBusyPings, pingBusy
		}
		if l.unanswered >= allowed {
			l.b.dropLaneLocked(l, &EndError{Reason: CodeLaneSilent})
			return time.Time{}
		}
		l.b.thinLocked(now)
		l.unanswered++
		l.ping = true
		l.pingAt = now.Add(interval)
		l.wakeLocked()
	}
	return earliest(l.lackAt, l.pingAt, l.doubtLocked(now), l.replaceTickLocked(now))
}

// busyLocked notes that the lane has something to answer for from now on.
func (l *lane) busyLocked() {
	l.heardAt = time.Now()
	l.b.armLocked(l.heardAt.Add(suspectShort))
}

// hurryLocked brings the next PING forward because something is now
// unacknowledged.
func (l *lane) hurryLocked(now time.Time) {
	if soon := now.Add(pingBusy); l.pingAt.After(soon) {
		l.pingAt = soon
		l.b.armLocked(soon)
	}
}
