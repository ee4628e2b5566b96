package bundle

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"time"
)

// mac is HMAC-SHA-256(secret, role ‖ bundle id ‖ lane's exporter): it proves
// that the sender knows the bundle's secret, on this lane and in this role.
func mac(secret [secretSize]byte, role byte, bundle [16]byte, exporter []byte) (sum [32]byte) {
	h := hmac.New(sha256.New, secret[:])
	h.Write([]byte{role})
	h.Write(bundle[:])
	h.Write(exporter)
	h.Sum(sum[:0])
	return sum
}

// readHello reads the first frame of a lane, byte for byte: what follows it
// stays in conn.
func readHello(conn net.Conn, role byte) (hello, error) {
	var buf [headerSize + helloSize + secretSize]byte
	if _, err := io.ReadFull(conn, buf[:headerSize]); err != nil {
		return hello{}, laneEnd(fmt.Errorf("read HELLO: %w", err))
	}
	typ, n, err := parseHeader(buf[:headerSize])
	if err != nil {
		return hello{}, err
	}
	if typ == frameGoAway {
		if _, err := io.ReadFull(conn, buf[:n]); err != nil {
			return hello{}, laneEnd(err)
		}
		return hello{}, &EndError{Reason: Code(uint16(buf[0])<<8 | uint16(buf[1]))}
	}
	if typ != frameHello {
		return hello{}, violation("%v before HELLO", typ)
	}
	body := buf[headerSize : headerSize+n]
	if _, err := io.ReadFull(conn, body); err != nil {
		return hello{}, laneEnd(fmt.Errorf("read HELLO: %w", err))
	}
	h, err := parseHello(body)
	if err == nil && h.role != role {
		err = violation("HELLO of the wrong role")
	}
	return h, err
}

// withDeadline bounds f's reads and writes on conn by the HELLO's time limit
// and by ctx.
func withDeadline(ctx context.Context, conn net.Conn, f func() error) error {
	deadline := time.Now().Add(helloTimeout)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return fmt.Errorf("bundle: hello: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err := f()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("bundle: hello: %w", err)
	}
	return conn.SetDeadline(time.Time{})
}

// Join adds a lane to an ingress' bundle: it exchanges HELLO within ten
// seconds (or ctx), then returns; the bundle owns conn from then on. Where Join
// fails, conn is closed. A node that does not know the bundle any more, because
// it restarted, ends the bundle.
func (b *Bundle) Join(ctx context.Context, conn net.Conn, info LaneInfo) error {
	if b.role != roleIngress {
		panic("bundle: BUG: Join at a node")
	}
	var answer hello
	err := withDeadline(ctx, conn, func() (err error) {
		h := hello{role: roleIngress, bundle: b.id, incarnation: b.cfg.Incarnation, mac: mac(b.secret, roleIngress, b.id, info.Exporter)}
		b.mu.Lock()
		if !b.secretKnown {
			h.secret = &b.secret
		}
		b.mu.Unlock()
		if _, err := conn.Write(appendHello(nil, h)); err != nil {
			return laneEnd(err)
		}
		if answer, err = readHello(conn, roleNode); err != nil {
			return err
		}
		want := mac(b.secret, roleNode, b.id, info.Exporter)
		if answer.bundle != b.id || !hmac.Equal(answer.mac[:], want[:]) {
			return &EndError{Reason: CodeLaneRefused, Err: violation("the node's HMAC does not fit")}
		}
		return nil
	})
	if err != nil {
		_ = conn.Close()
		if reasonOf(err) == CodeUnknownBundle {
			b.mu.Lock()
			b.overLocked(&EndError{Reason: CodeEndRestarted}, true)
			b.unlock()
		}
		return err
	}
	l, err := b.addLane(conn, info, answer.incarnation)
	if err != nil {
		_ = conn.Close()
		return err
	}
	b.mu.Lock()
	b.secretKnown = true
	b.mu.Unlock()
	b.tasks.Go(func() { _ = l.run() })
	return nil
}

// Open opens a stream to the store that the grant names and waits until the
// node has dialled it. A node that refuses gives a *RefusedError. When ctx ends
// first, the node is told to give up.
func (b *Bundle) Open(ctx context.Context, req Request) (*Stream, error) {
	if len(req.Grant) > maxGrant {
		return nil, violation("a grant of %d bytes", len(req.Grant))
	}
	b.mu.Lock()
	if b.err != nil {
		b.mu.Unlock()
		return nil, b.err
	}
	s := b.newStream(b.lastID + 1)
	s.uuid, s.grant, s.opened = req.UUID, req.Grant, make(chan struct{})
	if len(b.streams) >= maxStreams || !s.firstCreditLocked() {
		b.mu.Unlock()
		return nil, &RefusedError{Reason: CodeNodeBusy, Text: "the ingress has no room for another stream"}
	}
	b.lastID++
	b.streams[s.id] = s
	b.wantExpressLocked()
	s.markLocked(kindOpen)
	b.mu.Unlock()

	select {
	case <-s.opened:
	case <-ctx.Done():
		s.Reset(CodeCancelled)
		return nil, ctx.Err()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case s.phase != phaseOver || s.reason == CodeOK:
		return s, nil
	case b.err != nil:
		return nil, b.err
	case s.refused:
		return nil, &RefusedError{Reason: s.reason, Text: s.refusal}
	}
	return nil, &ResetError{Reason: s.reason, Remote: s.remote}
}
