package bundle

import (
	"encoding/binary"
	"time"
)

func beUint64(b []byte) uint64 { return binary.BigEndian.Uint64(b) }

// handle takes one frame other than DATA off lane l. An error ends the lane.
func (b *Bundle) handle(l *lane, typ frameType, body []byte) error {
	b.mu.Lock()
	defer b.unlock()
	if b.err != nil {
		return b.err
	}
	if err := b.handleLocked(l, typ, body); err != nil {
		return err
	}
	if typ != frameLack {
		l.tookLocked(headerSize + len(body))
	}
	return nil
}

func (b *Bundle) handleLocked(l *lane, typ frameType, body []byte) error {
	switch typ {
	case frameLack:
		return l.lackLocked(beUint64(body))
	case framePing:
		if l.pings.len() < 16 { // more would be a flood; one answer is as good
			l.pings.push(beUint64(body))
			l.wakeLocked()
		}
		return nil
	case framePong:
		l.pongLocked(beUint64(body))
		return nil
	case frameGoAway:
		return b.goAwayLocked(l, Code(binary.BigEndian.Uint16(body)))
	case frameReplace:
		return b.replaceLocked(l, Code(binary.BigEndian.Uint16(body)))
	case frameLanes:
		return b.lanesLocked(int(binary.BigEndian.Uint16(body)), int(binary.BigEndian.Uint16(body[2:])))
	case frameOpen:
		return b.openLocked(l, body)
	case frameHello:
		return violation("a second HELLO")
	case frameRst, frameRefused:
		if Code(binary.BigEndian.Uint16(body[8:])) == CodeOK { // only two FINs are a good end
			return violation("%v of stream %d with code 0", typ, beUint64(body))
		}
	}
	s, err := b.findLocked(beUint64(body), typ)
	if err != nil {
		if typ == frameRst && b.role == roleNode {
			return b.tombstoneLocked(beUint64(body), err)
		}
		return err
	}
	if s == nil {
		return nil
	}
	body = body[8:]
	switch typ {
	case frameOpened:
		return s.openedLocked(beUint64(body))
	case frameRefused:
		return s.refusedLocked(Code(binary.BigEndian.Uint16(body)), string(body[2:]))
	case frameAck:
		return s.ackedLocked(beUint64(body), beUint64(body[8:]))
	case frameFin:
		s.finLocked(beUint64(body), binary.BigEndian.Uint32(body[8:]))
	case frameFinAck:
		return s.finAckedLocked()
	case frameRst:
		s.endLocked(Code(binary.BigEndian.Uint16(body)), true)
		b.forgetLocked(s)
	}
	return nil
}

// tombstoneLocked takes an RST that overtook its OPEN: that OPEN never dials.
func (b *Bundle) tombstoneLocked(id uint64, unknown error) error {
	if id == 0 || !b.seen.add(id) {
		return unknown
	}
	return nil
}

func (s *Stream) openedLocked(credit uint64) error {
	if s.b.role != roleIngress {
		return violation("OPENED from an ingress")
	}
	if s.phase == phaseOpening {
		s.phase = phaseOpen
		s.b.cfg.Metrics.streams.Inc()
		s.b.cfg.Metrics.opened.Inc()
		close(s.opened)
	}
	if credit > s.send.credit {
		s.send.credit = credit
		s.cond.Broadcast()
	}
	return nil
}

func (s *Stream) refusedLocked(code Code, text string) error {
	if s.b.role != roleIngress || s.phase != phaseOpening {
		return violation("REFUSED for stream %d, which is open", s.id)
	}
	s.refused, s.refusal = true, text
	s.endLocked(code, true)
	s.b.forgetLocked(s)
	return nil
}

func (s *Stream) finAckedLocked() error {
	if !s.send.fin {
		return violation("FIN_ACK for stream %d without FIN", s.id)
	}
	if err := s.ackedLocked(s.send.off, 0); err != nil {
		return err
	}
	s.send.finAcked = true
	s.settleLocked()
	return nil
}

// goAwayLocked takes a GOAWAY: the lane closes soon, or the far end is over.
func (b *Bundle) goAwayLocked(l *lane, code Code) error {
	if code == CodeOK {
		l.farAway, l.lackNow = true, true
		if !l.closing {
			l.giveNoticeLocked()
			l.partLocked()
		}
		l.wakeLocked()
		return nil
	}
	if code == CodeUnknownBundle {
		code = CodeEndRestarted
	}
	err := &EndError{Reason: code}
	b.overLocked(err, true)
	return err
}

// replaceLocked takes a REPLACE: the node wants another lane instead of this one.
func (b *Bundle) replaceLocked(l *lane, reason Code) error {
	if b.role != roleIngress || reason == CodeOK {
		return violation("REPLACE from an ingress, or without a reason")
	}
	l.replaceLocked(reason)
	b.partLocked()
	return nil
}

// openLocked takes an OPEN at a node: dials the store, once.
func (b *Bundle) openLocked(l *lane, body []byte) error {
	if b.role != roleNode {
		return violation("OPEN from a node")
	}
	id := beUint64(body)
	if s := b.streams[id]; s != nil {
		if s.phase == phaseOpen {
			s.markLocked(kindOpened) // a repeated OPEN is answered from state
		}
		return nil
	}
	if id != 0 && b.seen.has(id) {
		b.cfg.Metrics.dropped.WithLabelValues("stream-over").Inc()
		return nil
	}
	if id == 0 || !b.seen.add(id) {
		return violation("OPEN of stream %d, far ahead of the others", id)
	}
	s := b.newStream(id)
	copy(s.uuid[:], body[8:24])
	s.send.credit = beUint64(body[24:])
	if string(body[32:]) != b.grant {
		b.grant = string(body[32:])
	}
	s.grant = b.grant
	b.streams[id] = s
	switch {
	case b.draining:
		s.refuseLocked(CodeNodeDraining, "the node stops and takes no new streams")
	case len(b.streams) > maxStreams || b.opening >= maxOpening || !s.firstCreditLocked():
		s.refuseLocked(CodeNodeBusy, "the node has no room for another stream")
	default:
		b.opening++
		b.tasks.Go(func() { s.serve(l.info.Peer) })
	}
	return nil
}

// refuseLocked answers an OPEN with REFUSED.
func (s *Stream) refuseLocked(code Code, text string) {
	if s.phase == phaseOver {
		return
	}
	if len(text) > maxText {
		text = text[:maxText]
	}
	s.refusal = text
	s.endLocked(code, false)
	s.markLocked(kindRefused)
}

// attachLocked gives the stream its socket and writes what came before it.
func (s *Stream) attachLocked(sock Socket) {
	s.sock, s.prompt = sock, promptOf(sock)
	s.recv.lastRead = time.Now()
	s.drainLocked()
}
