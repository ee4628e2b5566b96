package bundle

import (
	"bytes"
	"hash/crc32"
	"slices"
	"time"
)

// receiving is the direction from the far end to the socket.
type receiving struct {
	// guarded by b.mu
	next      uint64 // all bytes before it are here
	consumed  uint64 // of those, written to the socket
	acked     uint64 // consumed as the newest ACK says
	unsaid    int    // pieces consumed since then
	granted   uint64 // how far the far end may go
	reserved  int64  // of the pool; at least granted - consumed
	window    int64  // credit that the stream is worth
	epochAt   time.Time
	epochFrom uint64
	lastRead  time.Time
	inOrder   fifo[piece]
	ahead     []piece // out of order, ascending
	fin       bool
	final     uint64
	finCRC    uint32
	crc       uint32 // of what was consumed
	writing   bool   // the drain goroutine runs
	ending    bool   // the socket's half-close has begun
	delivered bool   // everything, and the FIN, is with the socket
	told      bool   // the far end has our FIN_ACK
}

// piece is received bytes at an offset.
type piece struct {
	off  uint64
	n    int
	from int // where it begins in buf: what was before it is with the socket
	buf  *buffer
}

func (p piece) bytes() []byte { return p.buf.data()[p.from : p.from+p.n] }
func (p piece) end() uint64   { return p.off + uint64(p.n) }

// after is what is left of the piece without its first n bytes.
func (p piece) after(n int) piece {
	return piece{off: p.off + uint64(n), n: p.n - n, from: p.from + n, buf: p.buf}
}

// maxAhead bounds the pieces that wait for one before them.
const maxAhead = 8192

// ackEvery is how many consumed bytes an ACK waits for at most, ackPieces how
// many pieces: small messages pin the far end's memory as well.
const (
	ackEvery  = 1 << 20
	ackPieces = 64
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// expect finds the stream of a DATA frame before its bytes are read. No stream
// and no error: the bytes are for a stream that is over, and are dropped.
func (b *Bundle) expect(id, offset uint64, n int) (*Stream, error) {
	b.mu.Lock()
	defer b.unlock()
	s, err := b.findLocked(id, frameData)
	if s == nil || err != nil {
		return nil, err
	}
	end := offset + uint64(n)
	if end < offset || end > s.recv.granted || s.recv.fin && end > s.recv.final {
		b.cfg.Metrics.dropped.WithLabelValues(CodeCredit.String()).Inc()
		s.resetLocked(CodeCredit)
		return nil, nil
	}
	if end <= s.recv.next {
		b.cfg.Metrics.dropped.WithLabelValues("duplicate").Inc()
		return nil, nil
	}
	return s, nil
}

// findLocked finds the live stream that a frame is for. nil without an error:
// it is over. A stream that never was is a violation.
func (b *Bundle) findLocked(id uint64, typ frameType) (*Stream, error) {
	if s := b.streams[id]; s != nil {
		if s.phase != phaseOver {
			return s, nil
		}
	} else if b.role == roleIngress && (id == 0 || id > b.lastID) || b.role == roleNode && !b.seen.has(id) {
		return nil, violation("%v for stream %d, which never was", typ, id)
	}
	b.cfg.Metrics.dropped.WithLabelValues("stream-over").Inc()
	return nil, nil
}

// receiveLocked takes the bytes of a DATA frame; buf is the stream's from now.
func (s *Stream) receiveLocked(off uint64, buf *buffer, n int) {
	p := piece{off: off, n: n, buf: buf}
	switch {
	case s.phase == phaseOver || p.end() <= s.recv.next:
		buf.give()
	case off == s.recv.next:
		s.appendLocked(p)
		for len(s.recv.ahead) > 0 && s.recv.ahead[0].off == s.recv.next {
			q := s.recv.ahead[0]
			s.recv.ahead = slices.Delete(s.recv.ahead, 0, 1)
			s.appendLocked(q)
		}
		if s.prompt != nil && s.recv.inOrder.len() == 1 && s.recv.inOrder.front().n <= promptMost && s.drainableLocked() {
			s.writeNowLocked()
			return
		}
		s.drainLocked()
	case off < s.recv.next:
		buf.give()
		s.resetLocked(CodeOverlap)
	default:
		s.keepAheadLocked(p)
	}
}

// appendLocked adds the next bytes in order. Small ones share a buffer, so that
// a peer of small frames cannot pin more than twice its credit.
func (s *Stream) appendLocked(p piece) {
	s.recv.next = p.end()
	if s.recv.inOrder.len() > 0 {
		last := s.recv.inOrder.back()
		free := last.buf.data()[last.from+last.n:]
		if p.n <= len(free) && p.n <= smallChunk {
			copy(free, p.bytes())
			last.n += p.n
			p.buf.give()
			return
		}
	}
	s.recv.inOrder.push(p)
}

// keepAheadLocked keeps a piece until the ones before it came. A piece that is
// here already must be the same bytes.
func (s *Stream) keepAheadLocked(p piece) {
	i, same := slices.BinarySearchFunc(s.recv.ahead, p.off, func(q piece, off uint64) int {
		switch {
		case q.off < off:
			return -1
		case q.off > off:
			return 1
		}
		return 0
	})
	if same && s.recv.ahead[i].n == p.n && bytes.Equal(s.recv.ahead[i].bytes(), p.bytes()) {
		p.buf.give()
		return
	}
	clash := same || i > 0 && s.recv.ahead[i-1].end() > p.off || i < len(s.recv.ahead) && p.end() > s.recv.ahead[i].off
	if clash || len(s.recv.ahead) >= maxAhead {
		p.buf.give()
		s.resetLocked(CodeOverlap)
		return
	}
	s.recv.ahead = slices.Insert(s.recv.ahead, i, p)
}

// finLocked takes a FIN: the direction ends at final with this CRC-32C.
func (s *Stream) finLocked(final uint64, crc uint32) {
	switch {
	case s.recv.fin && (final != s.recv.final || crc != s.recv.finCRC),
		final < s.recv.next,
		len(s.recv.ahead) > 0 && final < s.recv.ahead[len(s.recv.ahead)-1].end():
		s.resetLocked(CodeProtocol)
		return
	case s.recv.delivered:
		s.markLocked(kindFinAck)
		return
	}
	s.recv.fin, s.recv.final, s.recv.finCRC = true, final, crc
	s.drainLocked()
}

// drainLocked starts the goroutine that writes the socket, if there is
// something to write and it does not run.
func (s *Stream) drainLocked() {
	if s.drainableLocked() {
		s.recv.writing = true
		s.writers.Add(1)
		go s.drain()
	}
}

func (s *Stream) drainableLocked() bool {
	more := s.recv.inOrder.len() > 0 || s.recv.fin && s.recv.consumed == s.recv.final && !s.recv.delivered
	return more && s.sock != nil && !s.recv.writing && s.phase == phaseOpen
}

// writeNowLocked writes the one piece that is there to the socket, as far as the
// socket takes it at once: the lane's reader does that itself, and nobody has to be
// woken. A goroutine writes the rest.
func (s *Stream) writeNowLocked() {
	b := s.b
	p := s.recv.inOrder.pop()
	s.recv.writing = true
	s.writers.Add(1)
	crc := s.recv.crc
	b.mu.Unlock()
	s.settleCongestion(p.n)
	n, err := s.prompt.WriteNow(p.bytes())
	if n > 0 {
		crc = crc32.Update(crc, castagnoli, p.bytes()[:n])
	}
	b.mu.Lock()
	if n > 0 {
		s.consumedLocked(n, crc)
	}
	if n < p.n && err == nil && s.phase == phaseOpen {
		s.recv.inOrder.pushFront(p.after(n))
	} else {
		p.buf.give()
	}
	if err != nil {
		s.resetLocked(b.socketReset())
	}
	s.recv.writing = false
	if s.drainableLocked() {
		s.recv.writing = true
		go s.drain()
		return
	}
	s.writers.Done()
}

// settleCongestion settles the socket's congestion control before the first bulk
// is written. Who writes the socket calls it.
func (s *Stream) settleCongestion(n int) {
	if n > bulkThreshold && !s.settled {
		s.settled = true
		SettleCongestion(s.sock)
	}
}

// drain writes what is in order to the socket, until there is no more.
func (s *Stream) drain() {
	defer s.writers.Done()
	b := s.b
	b.mu.Lock()
	for s.phase == phaseOpen {
		if s.recv.inOrder.len() > 0 {
			p := s.recv.inOrder.pop()
			crc := s.recv.crc
			b.mu.Unlock()
			s.settleCongestion(p.n)
			crc = crc32.Update(crc, castagnoli, p.bytes())
			_, err := s.sock.Write(p.bytes())
			p.buf.give()
			b.mu.Lock()
			if err != nil {
				s.resetLocked(s.b.socketReset())
				break
			}
			s.consumedLocked(p.n, crc)
			continue
		}
		if !s.recv.fin || s.recv.consumed != s.recv.final || s.recv.delivered {
			break
		}
		if s.recv.crc != s.recv.finCRC {
			b.cfg.Metrics.dropped.WithLabelValues(CodeDigest.String()).Inc()
			s.resetLocked(CodeDigest)
			break
		}
		s.recv.ending = true
		b.mu.Unlock()
		err := s.sock.CloseWrite()
		b.mu.Lock()
		if err != nil {
			s.resetLocked(s.b.socketReset())
			break
		}
		if s.phase == phaseOpen {
			s.recv.delivered = true
			s.markLocked(kindFinAck)
			s.settleLocked()
		}
	}
	s.recv.writing = false
	b.unlock()
}

// socketReset is whose socket this end has.
func (b *Bundle) socketReset() Code {
	if b.role == roleNode {
		return CodeStoreReset
	}
	return CodeJobReset
}

// consumedLocked counts bytes that the socket took and says so by bytes, by
// pieces and by time.
func (s *Stream) consumedLocked(n int, crc uint32) {
	s.recv.consumed += uint64(n)
	s.recv.crc = crc
	s.b.cfg.Metrics.bytesWritten.Add(float64(n))
	if s.phase == phaseOver {
		return // it ended while the socket took them: they count for the report
	}
	s.recv.unsaid++
	owed := int64(s.recv.consumed - s.recv.acked)
	if owed >= min(s.recv.window/4, ackEvery) || s.recv.unsaid >= ackPieces {
		s.ackLocked()
		return
	}
	if s.lateAck {
		return
	}
	s.lateAck = true
	s.b.late = append(s.b.late, s)
	if s.b.ackAt.IsZero() {
		s.b.ackAt = time.Now().Add(ackDelay)
		s.b.armLocked(s.b.ackAt)
	}
}

// ackLocked renews the credit and asks for an ACK.
func (s *Stream) ackLocked() {
	if s.phase != phaseOpen {
		return
	}
	s.recv.unsaid = 0
	s.recv.lastRead = time.Now()
	s.widenLocked(s.recv.lastRead)
	s.grantLocked()
	s.markLocked(kindAck)
}

// widenLocked doubles the window of a stream that drains half of it in less
// than four round trips, as long as the pool is not short; in less than eight
// where bytes came that wait for others, on slower lanes.
func (s *Stream) widenLocked(now time.Time) {
	r := &s.recv
	if r.epochAt.IsZero() {
		r.epochAt, r.epochFrom = now, r.consumed
		return
	}
	if int64(r.consumed-r.epochFrom) < r.window/2 {
		return
	}
	rtt := max(s.b.rttLocked(), time.Millisecond)
	enough := 4 * rtt
	if s.b.growth.long && len(r.ahead) > 0 {
		enough = 8 * rtt
	}
	if now.Sub(r.epochAt) < enough && r.window < maxWindow {
		r.window = min(2*r.window, maxWindow)
	}
	r.epochAt, r.epochFrom = now, r.consumed
}

// grantLocked grants up to the window, out of what is reserved and what the
// pool has. What was granted is never taken back.
func (s *Stream) grantLocked() {
	r := &s.recv
	outstanding := int64(r.granted - r.consumed)
	want := r.window - r.reserved
	if want > 0 && !s.b.cfg.Pool.credit.try(want, 3) {
		want = 0
		if s.b.pressureAt.IsZero() {
			s.b.pressureAt = time.Now().Add(time.Second)
			s.b.armLocked(s.b.pressureAt)
		}
	}
	if want < 0 { // a narrowed window: give back what consumption set free
		want = -min(-want, r.reserved-outstanding)
		s.b.cfg.Pool.credit.release(-want)
	}
	r.reserved += want
	r.granted = r.consumed + uint64(max(outstanding, min(r.reserved, r.window)))
}

// firstCredits is what a fresh stream gets while so much of the pool is in use.
var firstCredits = [...]struct{ bytes, quarters int64 }{
	{initialCredit, 1}, {scarceCredit, 3}, {leastCredit, 4},
}

// firstCreditLocked reserves a fresh stream's credit; false: the pool is dry.
func (s *Stream) firstCreditLocked() bool {
	for _, first := range firstCredits {
		if n := first.bytes; s.b.cfg.Pool.credit.try(n, first.quarters) {
			s.recv.reserved, s.recv.window, s.recv.granted = n, n, uint64(n)
			return true
		}
	}
	return false
}

// narrowLocked halves the window of a stream whose socket took nothing for a
// second, down to the floor.
func (s *Stream) narrowLocked(now time.Time) {
	if s.phase == phaseOpen && s.recv.window > leastCredit && now.Sub(s.recv.lastRead) > time.Second {
		s.recv.window = max(s.recv.window/2, leastCredit)
	}
}

// dropReceivedLocked lets go of everything that was received and granted.
func (s *Stream) dropReceivedLocked() {
	for s.recv.inOrder.len() > 0 {
		s.recv.inOrder.pop().buf.give()
	}
	for _, p := range s.recv.ahead {
		p.buf.give()
	}
	s.recv.ahead = nil
	s.b.cfg.Pool.credit.release(s.recv.reserved)
	s.recv.reserved = 0
}
