package main

import (
	"context"
	"fmt"
	"io"
	"runtime/debug"
	"time"

	"github.com/ebbgate/ebbgate/client"
)

// A Go program's client has a bundle of three lanes to a node: one of its session, and two connections. Of these, a
// node has room for 64 in all.
const (
	clientLanes = 3
	fewClients  = 2
	manyClients = 24
)

// takeLanes has many clients with one idle stream each beside a few, and weighs the parts. Where the job is, that is
// the difference between two programs. What each client's sessions and its stream take is counted in.
func takeLanes(ctx context.Context, p *path) (sample, error) {
	var weight [2]map[string]int64
	var job [2]int64
	for i, clients := range []int{fewClients, manyClients} {
		held, err := hold(ctx, p, kindLane, clients)
		if err != nil {
			return sample{}, err
		}
		defer held.Kill()
		if err := pause(ctx, 2*time.Second); err != nil { // the lanes beside the first ones are made
			return sample{}, err
		}
		if weight[i], err = memoryOf(p.parts); err != nil {
			return sample{}, err
		}
		own, err := memoryOf([]part{{name: "job", pid: held.PID()}})
		if err != nil {
			return sample{}, err
		}
		job[i] = own["job"]
	}
	s := sample{LaneMemory: map[string]float64{"job": float64(job[1]-job[0]) / (manyClients - fewClients) / clientLanes}}
	for _, name := range []string{"relay", "node"} {
		s.LaneMemory[name] = float64(weight[1][name]-weight[0][name]) / manyClients / clientLanes
	}
	return s, nil
}

// lanes holds clients that are connected to the node, until it is stopped.
func (l load) lanes(ctx context.Context) error {
	for range l.Streams {
		d := &client.Dialer{Relay: l.Way.Relay, Token: l.Way.Token, Carriers: []string{l.Way.Carrier}}
		defer func() { _ = d.Close() }()
		conn, err := d.Open(ctx, "tcp", target)
		if err != nil {
			return err
		}
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			return fmt.Errorf("bench: greeting: %w", err)
		}
	}
	if err := pause(ctx, time.Second); err != nil {
		return err
	}
	debug.FreeOSMemory()
	fmt.Println("ready {}")
	<-ctx.Done()
	return nil
}
