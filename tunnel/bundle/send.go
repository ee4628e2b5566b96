package bundle

import "time"

// sending is the direction from the socket to the far end.
type sending struct {
	// guarded by b.mu
	off      uint64 // bytes read from the socket
	acked    uint64 // of those, what the far end consumed
	credit   uint64 // how far the far end lets us go
	kept     fifo[*chunk]
	unsent   fifo[*chunk]
	waiting  int  // bytes in unsent
	pieces   uint // read from the socket
	fin      bool // off is final, crc is of everything
	finAcked bool
	crc      uint32
}

// maxUnsent is how many bytes of a stream wait for a lane; more would only grow
// old in memory.
const maxUnsent = 2 * maxChunk

// stallTime is how long bytes wait for the far end before that is a stall.
const stallTime = time.Second

// chunk is what one read of the socket brought. It is kept until the far end
// consumed it, and is sent again from here when its lane dies.
type chunk struct {
	s   *Stream
	off uint64
	n   int
	buf *buffer // nil once nobody needs the bytes

	// guarded by b.mu
	lane    *lane  // that had it last
	look    uint32 // b.growth.look then
	writing int    // lanes that are writing it right now
	unsent  bool   // in s.send.unsent
	arrived bool   // the far end has it in memory
	acked   bool   // the far end consumed it, or nobody wants it any more
}

// releaseLocked gives the memory back once nobody writes it.
func (c *chunk) releaseLocked() {
	if c.buf == nil || !c.acked || c.writing > 0 {
		return
	}
	c.s.b.cfg.Pool.kept.release(c.buf.size())
	c.buf.give()
	c.buf = nil
}

func (c *chunk) writtenLocked() {
	c.writing--
	c.releaseLocked()
}

// push hands n bytes of buf, whose memory is reserved, to the lanes. It returns
// false when the stream is over.
func (s *Stream) push(buf *buffer, n int) bool {
	b := s.b
	b.mu.Lock()
	defer b.unlock()
	if s.phase != phaseOpen {
		b.cfg.Pool.kept.release(buf.size())
		buf.give()
		return false
	}
	c := &chunk{s: s, off: s.send.off, n: n, buf: buf, unsent: true}
	if s.send.acked == s.send.off {
		s.moved = time.Now()
	}
	s.send.off += uint64(n)
	s.send.pieces++
	s.send.kept.push(c)
	s.send.unsent.push(c)
	s.send.waiting += n
	if b.unacked == 0 {
		now := time.Now()
		for _, l := range b.lanes {
			l.hurryLocked(now)
		}
	}
	b.unacked += int64(n)
	if !s.queueLocked() {
		return true
	}
	switch l := b.nextLaneLocked(s.bulkLocked()); {
	case l == nil:
	case l.prompt != nil && n <= promptMost && s.send.pieces > promptAfter:
		l.writeNowLocked()
	default:
		l.wakeLocked()
	}
	return true
}

// readyLocked queues the stream for the lanes if it has something to send.
func (s *Stream) readyLocked() {
	if s.queueLocked() {
		s.b.wakeDataLocked(s.bulkLocked())
	}
}

func (s *Stream) bulkLocked() bool { return s.send.off-s.send.acked > bulkThreshold }

func (s *Stream) queueLocked() bool {
	if s.ready || s.send.unsent.len() == 0 || s.b.err != nil {
		return false
	}
	s.ready = true
	if s.bulkLocked() {
		s.b.bulk.push(s)
		s.b.wantBulkLocked()
	} else {
		s.b.light.push(s)
	}
	return true
}

// nextLocked takes the next chunk that still has to be sent.
func (s *Stream) nextLocked() *chunk {
	for s.send.unsent.len() > 0 {
		c := s.send.unsent.pop()
		c.unsent = false
		s.send.waiting -= c.n
		if s.send.waiting < maxUnsent {
			s.cond.Broadcast()
		}
		if !c.acked {
			return c
		}
	}
	return nil
}

// requeueLocked sends a chunk again whose lane died.
func (s *Stream) requeueLocked(c *chunk) {
	if c.acked || c.arrived || c.unsent {
		return
	}
	c.unsent = true
	s.send.unsent.pushFront(c)
	for q := s.send.unsent.all(); len(q) > 1 && q[1].off < q[0].off; q = q[1:] {
		q[0], q[1] = q[1], q[0]
	}
	s.send.waiting += c.n
	s.b.cfg.Metrics.repeated.Inc()
	s.readyLocked()
}

// ackedLocked takes an ACK: the far end consumed so much and grants so much.
func (s *Stream) ackedLocked(consumed, credit uint64) error {
	if consumed > s.send.off {
		return violation("ACK of %d bytes of stream %d, %d were sent", consumed, s.id, s.send.off)
	}
	if consumed > s.send.acked {
		s.b.unacked -= int64(consumed - s.send.acked)
		s.send.acked = consumed
		now := time.Now()
		if now.Sub(s.moved) > stallTime {
			s.stalls++
		}
		s.moved = now
		for s.send.kept.len() > 0 {
			c := *s.send.kept.front()
			if c.off+uint64(c.n) > consumed {
				break
			}
			s.send.kept.pop()
			c.acked = true
			c.releaseLocked()
		}
	}
	if credit > s.send.credit {
		s.send.credit = credit
	}
	s.cond.Broadcast()
	return nil
}

// dropChunksLocked lets go of all chunks.
func (s *Stream) dropChunksLocked() {
	for s.send.kept.len() > 0 {
		c := s.send.kept.pop()
		c.acked = true
		c.releaseLocked()
	}
	s.send.unsent.clear()
	s.send.waiting = 0
	s.b.unacked -= int64(s.send.off - s.send.acked)
}

// awaitRoom waits until the socket may be read and returns how many bytes at
// most; 0 when the stream is over. Where memory is short, a stream that has some
// waits until the far end consumes it: who does not read, delays nobody else.
func (s *Stream) awaitRoom() int {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	allowed := s.b.cfg.Pool.kept.allowance()
	for s.phase == phaseOpen && (s.send.credit <= s.send.off || s.send.waiting >= maxUnsent || int(s.send.off-s.send.acked) > allowed/2) {
		s.b.watchLocked(s)
		s.cond.Wait()
		allowed = s.b.cfg.Pool.kept.allowance()
	}
	delete(s.b.stalled, s)
	if s.phase != phaseOpen {
		return 0
	}
	return int(min(s.send.credit-s.send.off, uint64(s.b.chunk), uint64(allowed)))
}

// finish says that the socket ended well: crc is of all bytes.
func (s *Stream) finish(crc uint32) {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	if s.phase != phaseOpen {
		return
	}
	s.send.fin, s.send.crc = true, crc
	s.markLocked(kindFin)
}
