package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/integration/proc"
	"github.com/ebbgate/ebbgate/integration/rig"
)

// way is how a load reaches the store.
type way struct {
	Addr    string       // of the store, or of what leads to it
	Ingress *rig.Ingress // to be asked for Target, instead of Addr
	Target  string

	Relay, Token, Carrier string // of an ingress beside the job; for Go programs
}

// dial connects and waits for the store's greeting.
func (w way) dial(ctx context.Context) (*net.TCPConn, error) {
	conn, err := w.connect(ctx)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	var first [1]byte
	if _, err := io.ReadFull(conn, first[:]); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("bench: the store's greeting: %w", err)
	}
	return conn, conn.SetDeadline(time.Time{})
}

func (w way) connect(ctx context.Context) (*net.TCPConn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if w.Ingress != nil {
		return w.Ingress.Dial(ctx, w.Target)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", w.Addr)
	if err != nil {
		return nil, fmt.Errorf("bench: %w", err)
	}
	return conn.(*net.TCPConn), nil
}

// load is what a load process does.
type load struct {
	Way     way
	Measure string // the kind of a measure
	Streams int
	For     time.Duration
	Ramp    time.Duration // of flows: what is not counted at the beginning
	Alone   bool          // of flows: nothing goes on beside them
}

// result is what a load process found out. Durations are those of single operations, sorted.
type result struct {
	Bytes   int64
	Elapsed time.Duration
	Each    []time.Duration
	Dials   []time.Duration // during a flow, when Each are round trips
	Flows   []tally         // of each stream
	Failed  int
	Failure string
}

// patience bounds a single operation on a lossy way.
const patience = 20 * time.Second

// runLoad runs a load process to its end.
func runLoad(ctx context.Context, at place, l load) (result, error) {
	spec, err := roleSpec(at, "load", l)
	if err != nil {
		return result{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, l.For+30*time.Second)
	defer cancel()
	out, err := proc.Run(ctx, spec)
	if err != nil {
		return result{}, err
	}
	var r result
	if err := json.Unmarshal(out, &r); err != nil {
		return result{}, fmt.Errorf("bench: load: %w", err)
	}
	return r, nil
}

// loadRole prints its result; for idle streams it first prints the ready line, and then waits to be stopped.
func loadRole(ctx context.Context) error {
	var l load
	if err := roleInput(&l); err != nil {
		return err
	}
	var (
		r   result
		err error
	)
	switch l.Measure {
	case kindUp, kindDown:
		r, err = l.bulk(ctx)
	case kindRTT:
		r, err = l.roundTrips(ctx)
	case kindDial, kindDials, kindGreet:
		r, err = l.dials(ctx)
	case kindFlowUp, kindFlowDown, kindFlowBoth:
		r, err = l.flow(ctx)
	case kindIdle:
		return l.idle(ctx)
	case kindLane:
		return l.lanes(ctx)
	default:
		err = fmt.Errorf("bench: BUG: no kind %q", l.Measure)
	}
	if err != nil {
		return err
	}
	slices.Sort(r.Each)
	slices.Sort(r.Dials)
	return json.NewEncoder(os.Stdout).Encode(r)
}

// bulk moves blocks over all streams at once. The time runs from the first request to the last block's arrival.
func (l load) bulk(ctx context.Context) (result, error) {
	conns := make([]*net.TCPConn, l.Streams)
	for i := range conns {
		conn, err := l.Way.dial(ctx)
		if err != nil {
			return result{}, err
		}
		defer func() { _ = conn.Close() }()
		conns[i] = conn
	}
	var (
		each = make([]int64, len(conns))
		errs = make([]error, len(conns))
		all  sync.WaitGroup
	)
	start := time.Now()
	for i, conn := range conns {
		all.Go(func() { each[i], errs[i] = l.move(conn) })
	}
	all.Wait()
	r := result{Elapsed: time.Since(start)}
	for i := range conns {
		if errs[i] != nil {
			return r, errs[i]
		}
		r.Bytes += each[i]
	}
	return r, nil
}

func (l load) move(conn net.Conn) (int64, error) {
	if l.Measure == kindDown {
		ask := binary.BigEndian.AppendUint64([]byte{askDown}, uint64(l.For))
		if _, err := conn.Write(ask); err != nil {
			return 0, fmt.Errorf("bench: %w", err)
		}
		return readBlocks(conn)
	}
	if _, err := conn.Write([]byte{askUp}); err != nil {
		return 0, fmt.Errorf("bench: %w", err)
	}
	counted := &counter{w: conn}
	if err := sendBlocks(counted, l.For); err != nil {
		return 0, err
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	return counted.n, err
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// echo sends one byte and waits for its echo.
func echo(conn net.Conn) error {
	b := [1]byte{askEcho}
	if _, err := conn.Write(b[:]); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	return nil
}

func (l load) roundTrips(ctx context.Context) (result, error) {
	conn, err := l.Way.dial(ctx)
	if err != nil {
		return result{}, err
	}
	defer func() { _ = conn.Close() }()
	for range 100 {
		if err := echo(conn); err != nil {
			return result{}, err
		}
	}
	var r result
	start := time.Now()
	for time.Since(start) < l.For {
		from := time.Now()
		if err := echo(conn); err != nil {
			return r, err
		}
		r.Each = append(r.Each, time.Since(from))
	}
	r.Elapsed = time.Since(start)
	return r, nil
}

// dials opens streams one after the other in as many workers as there are streams. A dial is over when the store has
// greeted; on loopback, when it has echoed a byte, too. Single failures are counted.
func (l load) dials(ctx context.Context) (result, error) {
	var (
		mu      sync.Mutex
		r       result
		workers sync.WaitGroup
	)
	start := time.Now()
	worker := func() {
		var each []time.Duration
		for time.Since(start) < l.For {
			from := time.Now()
			if err := l.dialOnce(ctx); err != nil {
				mu.Lock()
				r.Failed++
				r.Failure = err.Error()
				mu.Unlock()
				continue
			}
			each = append(each, time.Since(from))
		}
		mu.Lock()
		defer mu.Unlock()
		r.Each = append(r.Each, each...)
	}
	for range l.Streams {
		workers.Go(worker)
	}
	workers.Wait()
	r.Elapsed = time.Since(start)
	if len(r.Each) == 0 {
		return r, fmt.Errorf("bench: no dial succeeded: %s", r.Failure)
	}
	return r, nil
}

func (l load) dialOnce(ctx context.Context) error {
	conn, err := l.Way.dial(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if l.Measure == kindDial || l.Measure == kindDials {
		_ = conn.SetDeadline(time.Now().Add(patience))
		if err := echo(conn); err != nil {
			return err
		}
	}
	return conn.SetLinger(-1) // over: close it as programs do
}

// idle opens streams and holds them until it is stopped.
func (l load) idle(ctx context.Context) error {
	var (
		mu      sync.Mutex
		conns   []net.Conn
		failure error
		workers sync.WaitGroup
		todo    = make(chan struct{}, l.Streams)
	)
	for range l.Streams {
		todo <- struct{}{}
	}
	close(todo)
	worker := func() {
		for range todo {
			conn, err := l.Way.dial(ctx)
			if err == nil {
				err = echo(conn)
			}
			mu.Lock()
			if err != nil {
				failure = err
			} else {
				conns = append(conns, conn)
			}
			mu.Unlock()
		}
	}
	for range 16 {
		workers.Go(worker)
	}
	workers.Wait()
	if failure != nil {
		return failure
	}
	fmt.Printf("ready {}\n")
	<-ctx.Done()
	for _, c := range conns {
		_ = c.Close()
	}
	return nil
}
