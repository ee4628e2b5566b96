package bundle

import (
	"math/bits"
	"sync"
	"time"
)

// Stream is the bytes of one job's connection, both ways. One goroutine calls
// Carry; Reset may be called from any.
type Stream struct {
	// static after construction
	b       *Bundle
	id      uint64
	uuid    [16]byte
	grant   string
	born    time.Time
	done    chan struct{} // closed when the stream is over
	opened  chan struct{} // ingress: closed by OPENED, REFUSED or the end
	cancel  func()        // node: ends the dial
	writers sync.WaitGroup

	// guarded by b.mu
	phase    phase
	sock     Socket
	dirty    uint8 // kinds of control frames that are to be written
	queued   bool  // in b.control
	reason   Code  // of the end
	remote   bool  // the far end said so
	refused  bool  // ingress: by REFUSED
	refusal  string
	finished time.Time
	resumes  int
	stalls   int
	lanes    uint64    // a bit for each lane that carried its bytes, by the lane's number
	current  uint64    // those of them whose loss would count
	moved    time.Time // when an ACK last moved, or bytes were sent after all were consumed
	send     sending
	recv     receiving
	cond     sync.Cond // the socket's reader waits for room
	ready    bool      // in b.light or b.bulk
	lateAck  bool      // in b.late

	prompt  promptSocket // sock, where it can write without waiting; owned by who writes sock
	settled bool         // the socket's congestion control; owned by who writes sock
}

type phase uint8

const (
	phaseOpening phase = iota
	phaseOpen
	phaseOver // ended well, reset or refused; perhaps its last frame is under way
)

// Kinds of frames that a record speaks of; all but kindData are bits of dirty.
const (
	kindData uint8 = 0
	kindOpen uint8 = 1 << iota >> 1
	kindOpened
	kindRefused
	kindAck
	kindFin
	kindFinAck
	kindRst
)

// last are the kinds after whose arrival the stream can be forgotten.
const kindLast = kindRefused | kindFinAck | kindRst

func (b *Bundle) newStream(id uint64) *Stream {
	s := &Stream{b: b, id: id, born: time.Now(), done: make(chan struct{})}
	s.cond.L = &b.mu
	return s
}

// UUID names the stream in the reports of both ends.
func (s *Stream) UUID() [16]byte { return s.uuid }

// Done is closed when the stream is over.
func (s *Stream) Done() <-chan struct{} { return s.done }

// Reset ends the stream in both directions at once: the far end resets its
// socket and so does this one. It does nothing to a stream that is over.
func (s *Stream) Reset(reason Code) {
	s.b.mu.Lock()
	s.resetLocked(reason)
	s.b.unlock()
}

func (s *Stream) resetLocked(reason Code) {
	if s.phase == phaseOver {
		return
	}
	s.endLocked(reason, false)
	s.markLocked(kindRst)
}

// endLocked makes the stream over and lets go of all that it holds. The socket
// is closed outside of the lock: with SO_LINGER 0 that resets it, unless Carry
// took that back.
func (s *Stream) endLocked(reason Code, remote bool) {
	if s.phase == phaseOver {
		return
	}
	if s.phase == phaseOpen {
		s.b.cfg.Metrics.streams.Dec()
		s.b.cfg.Metrics.ended.WithLabelValues(reason.String()).Inc()
	} else {
		s.b.cfg.Metrics.refused.WithLabelValues(reason.String()).Inc()
		if s.opened != nil {
			close(s.opened)
		}
	}
	s.phase, s.reason, s.remote, s.finished = phaseOver, reason, remote, time.Now()
	s.dirty &= kindFinAck
	if reason != CodeOK {
		s.dirty = 0
	}
	s.dropChunksLocked()
	s.dropReceivedLocked()
	if s.cancel != nil {
		s.cancel()
	}
	if s.sock != nil && reason != CodeOK {
		s.b.closers = append(s.b.closers, s.sock)
	}
	close(s.done)
	s.cond.Broadcast()
}

// markLocked asks for a control frame to be written; what it says is decided
// when it is written.
func (s *Stream) markLocked(kind uint8) {
	s.dirty |= kind
	if s.b.err != nil {
		return
	}
	if !s.queued {
		s.queued = true
		s.b.control.push(s)
	}
	s.b.wakeControlLocked()
}

// writeControlLocked writes the stream's control frames into l's batch.
func (s *Stream) writeControlLocked(l *lane) {
	s.queued = false
	dirty := s.dirty
	s.dirty = 0
	put := func(kind uint8, encode func([]byte) []byte) {
		if dirty&kind == 0 {
			return
		}
		from := len(l.out)
		l.out = encode(l.out)
		l.recordLocked(len(l.out)-from, record{s: s, kind: kind})
	}
	put(kindOpen, func(b []byte) []byte { return appendOpen(b, s.id, s.uuid, s.recv.granted, s.grant) })
	put(kindOpened, func(b []byte) []byte { return appendOpened(b, s.id, s.recv.granted) })
	put(kindRefused, func(b []byte) []byte { return appendRefused(b, s.id, s.reason, s.refusal) })
	put(kindAck, func(b []byte) []byte {
		s.recv.acked = s.recv.consumed
		return appendAck(b, s.id, s.recv.consumed, s.recv.granted)
	})
	put(kindFin, func(b []byte) []byte { return appendFin(b, s.id, s.send.off, s.send.crc) })
	put(kindFinAck, func(b []byte) []byte { return appendFinAck(b, s.id) })
	put(kindRst, func(b []byte) []byte { return appendRst(b, s.id, s.reason, s.send.off) })
}

// arrivedLocked is called when a LACK covers the frame.
func (r record) arrivedLocked() {
	s := r.s
	if r.kind == kindData {
		r.c.arrived = true
		return
	}
	if r.kind == kindFinAck {
		s.recv.told = true
	}
	if r.kind&kindLast != 0 && s.phase == phaseOver {
		s.b.forgetLocked(s)
	}
}

// repeatLocked is called for each frame of a dead lane that no LACK covered:
// what it said goes out again on another lane.
func (r record) repeatLocked() {
	s := r.s
	switch {
	case s.b.err != nil:
	case r.kind != kindData:
		if s.phase == phaseOver && r.kind&kindLast == 0 {
			return
		}
		if r.kind == kindOpen && s.phase != phaseOpening || r.kind == kindFin && s.send.finAcked {
			return
		}
		s.markLocked(r.kind)
	default:
		s.requeueLocked(r.c)
	}
}

// forgetLocked drops a stream that is over and whose last frame arrived.
func (b *Bundle) forgetLocked(s *Stream) {
	if b.streams[s.id] == s {
		delete(b.streams, s.id)
		if len(b.streams) == 0 {
			b.partLocked()
		}
	}
}

// settleLocked ends the stream well once both directions did.
func (s *Stream) settleLocked() {
	if s.phase == phaseOpen && s.send.finAcked && s.recv.delivered {
		s.endLocked(CodeOK, false)
		if s.recv.told {
			s.b.forgetLocked(s)
		}
	}
}

// carriedLocked notes that a lane carries bytes of the stream.
func (s *Stream) carriedLocked(l *lane) {
	s.lanes |= l.bit
	s.current |= l.bit
}

// resumedLocked counts a lane that is lost to a stream which it carried, or
// silent, once.
func (s *Stream) resumedLocked(l *lane) {
	if s.phase == phaseOpen && s.current&l.bit != 0 {
		s.current &^= l.bit
		s.resumes++
	}
}

// Report says how a stream ended. Sent and Received are seen from this end:
// Sent was read from the socket here and consumed by the far end's socket,
// Received was written to the socket here; in bytes, with their CRC-32C.
type Report struct {
	UUID                 [16]byte
	Sent, Received       int64
	SentCRC, ReceivedCRC uint32
	Resumes              int  // lanes that carried its bytes and died, or stood still, before its end
	Stalls               int  // times that bytes waited longer than a second for the far end
	Lanes                int  // lanes that carried its bytes, either way; 64 for more
	Reason               Code // CodeOK: both directions ended well
	Remote               bool // the far end gave the reason
	Start, End           time.Time
}

func (s *Stream) reportLocked() Report {
	return Report{
		UUID: s.uuid,
		Sent: int64(s.send.acked), SentCRC: s.send.crc,
		Received: int64(s.recv.consumed), ReceivedCRC: s.recv.crc,
		Resumes: s.resumes, Stalls: s.stalls, Lanes: bits.OnesCount64(s.lanes), Reason: s.reason, Remote: s.remote,
		Start: s.born, End: s.finished,
	}
}
