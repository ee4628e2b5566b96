package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/integration/oracle"
)

// slot is the unit of a tally.
const slot = 250 * time.Millisecond

// tally is what one stream's receiver has seen.
type tally struct {
	Slots []int64       // bytes that came in each slot since the stream was asked for
	Gap   time.Duration // the longest time without any, after the first
}

// seed is that of the content of all flows.
const seed = 1

// receive counts what comes on a connection for a time, and looks at every byte.
func receive(conn net.Conn, d time.Duration) (tally, error) {
	var (
		t     = tally{Slots: make([]int64, (d+slot-1)/slot)}
		buf   = make([]byte, 256<<10)
		want  = make([]byte, len(buf))
		at    int64
		start = time.Now()
		last  time.Time
	)
	if err := conn.SetReadDeadline(start.Add(d)); err != nil {
		return t, fmt.Errorf("bench: %w", err)
	}
	for {
		n, err := conn.Read(buf)
		now := time.Now()
		oracle.Fill(want[:n], seed, at)
		if !bytes.Equal(buf[:n], want[:n]) {
			return t, fmt.Errorf("bench: receive: wrong bytes from offset %d on", at)
		}
		at += int64(n)
		if !last.IsZero() {
			t.Gap = max(t.Gap, now.Sub(last))
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return t, nil
		}
		if err != nil {
			return t, fmt.Errorf("bench: receive: %w", err)
		}
		last = now
		t.Slots[min(int(now.Sub(start)/slot), len(t.Slots)-1)] += int64(n)
	}
}

// perSecond is the rate of a stream after its ramp.
func (t tally) perSecond(ramp time.Duration) float64 {
	counted := t.Slots[min(int(ramp/slot), len(t.Slots)):]
	var total int64
	for _, n := range counted {
		total += n
	}
	return float64(total) / max(slot, time.Duration(len(counted))*slot).Seconds()
}

// flood writes until the connection ends.
func flood(conn net.Conn) {
	buf := make([]byte, 256<<10)
	for at := int64(0); ; at += int64(len(buf)) {
		oracle.Fill(buf, seed, at)
		if _, err := conn.Write(buf); err != nil {
			return
		}
	}
}

// serveFlow is the store's part in a flow.
func serveFlow(conn net.Conn, ask byte) {
	var d [8]byte
	if _, err := io.ReadFull(conn, d[:]); err != nil {
		return
	}
	if ask == askFlowDown {
		flood(conn)
		return
	}
	t, err := receive(conn, time.Duration(binary.BigEndian.Uint64(d[:])))
	if err == nil && json.NewEncoder(conn).Encode(t) == nil {
		_ = conn.SetReadDeadline(time.Time{})
		_, _ = io.Copy(io.Discard, conn)
	}
}

// flow keeps all streams full for a time and has the receivers count. Meanwhile, after the ramp, one connection goes
// to and fro with small messages, and others are dialled one after the other.
func (l load) flow(ctx context.Context) (result, error) {
	var r result
	conns := make([]net.Conn, l.Streams+1)
	for i := range conns {
		conn, err := l.Way.dial(ctx)
		if err != nil {
			return r, err
		}
		_ = conn.SetLinger(0) // ends in the middle of everything
		defer func() { _ = conn.Close() }()
		conns[i] = conn
	}
	small, conns := conns[0], conns[1:]
	if err := echo(small); err != nil {
		return r, err
	}
	var (
		all  sync.WaitGroup
		errs = make([]error, len(conns))
		end  = time.Now().Add(l.For)
	)
	_ = small.SetDeadline(end.Add(patience))
	if l.Alone {
		end = time.Time{}
	}
	r.Flows = make([]tally, len(conns))
	for i, conn := range conns {
		up := l.Measure == kindFlowUp || (l.Measure == kindFlowBoth && i%2 == 0)
		all.Go(func() { r.Flows[i], errs[i] = l.fill(conn, up) })
	}
	all.Go(func() {
		_ = pause(ctx, l.Ramp)
		for time.Now().Before(end) {
			from := time.Now()
			if echo(small) != nil {
				return
			}
			r.Each = append(r.Each, time.Since(from))
		}
	})
	all.Go(func() {
		_ = pause(ctx, l.Ramp)
		for time.Now().Before(end) {
			from := time.Now()
			if err := l.dialOnce(ctx); err != nil {
				r.Failed++
				r.Failure = err.Error()
				return
			}
			r.Dials = append(r.Dials, time.Since(from))
		}
	})
	all.Wait()
	for i := range conns {
		if errs[i] != nil {
			return r, errs[i]
		}
		for _, n := range r.Flows[i].Slots {
			r.Bytes += n
		}
	}
	return r, nil
}

// fill asks for one stream's flow and returns its tally.
func (l load) fill(conn net.Conn, up bool) (tally, error) {
	ask := byte(askFlowDown)
	if up {
		ask = askFlowUp
	}
	if _, err := conn.Write(binary.BigEndian.AppendUint64([]byte{ask}, uint64(l.For))); err != nil {
		return tally{}, fmt.Errorf("bench: %w", err)
	}
	if ask == askFlowDown {
		t, err := receive(conn, l.For)
		return t, errors.Join(err, conn.Close())
	}
	var sender sync.WaitGroup
	sender.Go(func() { flood(conn) })
	defer sender.Wait()
	defer func() { _ = conn.Close() }()
	var t tally
	if err := json.NewDecoder(bufio.NewReader(conn)).Decode(&t); err != nil {
		return t, fmt.Errorf("bench: the store's tally: %w", err)
	}
	return t, nil
}
