package relay

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

const (
	// directTime bounds the making of a direct lane: the node may have to
	// authenticate at a proxy.
	directTime = 15 * time.Second
	// After a direct lane that could not be made, the pause before the next
	// attempt doubles from the first to the last. Session lanes serve meanwhile.
	directFirst = 10 * time.Second
	directLast  = 10 * time.Minute
)

// nodeLane gives a node's direct lane to whoever asked for it.
func (r *Relay) nodeLane(conn *tunnel.Peeked) {
	if !r.tickets.arrive(conn) {
		r.metrics.connections.WithLabelValues("lane-token-invalid").Inc()
		_ = conn.Close()
	}
}

// clientLane serves a client's direct lane until it is over: the node is asked
// for its half, and the two are joined.
func (r *Relay) clientLane(ctx context.Context, conn *tunnel.Peeked, proved func()) {
	err := r.tryClientLane(ctx, conn, proved)
	_ = conn.Close()
	if err != nil {
		r.metrics.connections.WithLabelValues(codeOf(err)).Inc()
		r.log.Debug("client's direct lane refused", "from", conn.RemoteAddr().String(), "error", err)
	}
}

func (r *Relay) tryClientLane(ctx context.Context, conn *tunnel.Peeked, proved func()) error {
	token, express, err := conn.ClientLane(firstBytes)
	if err != nil {
		return err
	}
	held, err := r.tickets.claim(token)
	if err != nil {
		return err
	}
	n := r.registry.node(held.node)
	if n == nil {
		return failure("no-node-online", "node", "ask for a new grant", "node %s is gone", held.node.node)
	}
	far, err := r.askForLane(ctx, n, held.ingress, express, &r.sessions)
	if err != nil {
		return err
	}
	proved()
	defer r.splices.enter(held.ingress, conn, far)()
	r.metrics.lanes.Inc()
	defer r.metrics.lanes.Dec()
	spliced := splice(ctx, conn, far)
	r.metrics.spliced.Add(float64(spliced))
	return nil
}

// askForLane asks a node for a direct lane to an ingress, and gives the node's
// half of it: a connection whose ClientHello is still to be read. The caller runs
// under tasks, which waits for what is left to be heard.
func (r *Relay) askForLane(ctx context.Context, n *node, ingress certs.Identity, express bool, tasks *sync.WaitGroup) (*tunnel.Peeked, error) {
	session := n.session(true)
	if session == nil {
		return nil, failure("no-node-online", "node", "ask for a new grant", "node %s is gone", n.key.node)
	}
	token, arrived, done, err := r.tickets.expect(ingress, n.key)
	if err != nil {
		return nil, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, directTime)
	defer cancel()
	answer := make(chan error, 1)
	tasks.Go(func() { // the node answers once both ends have shaken hands
		answering, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*directTime)
		defer cancel()
		answer <- session.Call(answering, tunnel.TypeOpenLane, tunnel.OpenLane{Token: token, Ingress: ingress.String(), Express: express}, nil)
	})
	for {
		select {
		case conn := <-arrived:
			return conn, nil
		case err := <-answer:
			if err != nil { // whose code is the node's: it must not make up labels of metrics
				e := failure("lane-refused", "node", "streams go on over the session's lanes", "node %s: %v", n.key.node, err)
				e.Err = err
				return nil, e
			}
			answer = nil // it came first; so did the connection, or it is lost
		case <-ctx.Done():
			return nil, failure("lane-timeout", "node", "look at the node's log: does its network let more connections to the relay out?", "node %s made no direct lane within %v", n.key.node, directTime)
		}
	}
}

// splice moves bytes between two lanes' connections until either ends, and
// closes both: a lane has no half-close. Between two TCP connections the kernel
// moves them, on Linux (splice(2)).
func splice(ctx context.Context, client, node *tunnel.Peeked) (moved int64) {
	stop := context.AfterFunc(ctx, func() { _ = client.Close(); _ = node.Close() })
	defer stop()
	clientRest, clientConn := client.Bare()
	nodeRest, nodeConn := node.Bare()
	bundle.SettleCongestion(clientConn)
	bundle.SettleCongestion(nodeConn)
	var both sync.WaitGroup
	var up, down int64
	both.Go(func() { up = move(nodeConn, clientRest, clientConn) })
	both.Go(func() { down = move(clientConn, nodeRest, nodeConn) })
	both.Wait()
	return up + down
}

// move moves one direction of a lane and ends both when it is over.
func move(to net.Conn, rest []byte, from net.Conn) (moved int64) {
	defer func() { _ = to.Close(); _ = from.Close() }()
	n, err := to.Write(rest)
	moved = int64(n)
	if err == nil {
		moved += moveAll(to, from)
	}
	return moved
}

// copySize is how much is copied at once where the kernel cannot, in bytes.
const copySize = 128 << 10

// moveAll moves bytes until either connection ends.
func moveAll(to, from net.Conn) (moved int64) {
	out, okOut := to.(*net.TCPConn)
	in, okIn := from.(*net.TCPConn)
	if okOut && okIn {
		moved, _ = io.Copy(out, in)
		return moved
	}
	// struct{io.Writer}: nothing but Write, so that the buffer is used
	moved, _ = io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, copySize))
	return moved
}

// splices are the clients' direct lanes that are joined now.
type splices struct {
	mu sync.Mutex
	// guarded by mu
	open map[*tunnel.Peeked]splicedLane
	left chan struct{} // closed and replaced as one ends
}

type splicedLane struct {
	ingress certs.Identity
	far     *tunnel.Peeked
}

func (s *splices) enter(ingress certs.Identity, near, far *tunnel.Peeked) (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		s.open, s.left = make(map[*tunnel.Peeked]splicedLane), make(chan struct{})
	}
	s.open[near] = splicedLane{ingress, far}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.open, near)
		close(s.left)
		s.left = make(chan struct{})
	}
}

// wait waits until none is open any more, or ctx ends.
func (s *splices) wait(ctx context.Context) {
	for {
		s.mu.Lock()
		open, left := len(s.open), s.left
		s.mu.Unlock()
		if open == 0 {
			return
		}
		select {
		case <-left:
		case <-ctx.Done():
			return
		}
	}
}

// cut ends the lanes of a job's clients.
func (s *splices) cut(job jobKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for near, lane := range s.open {
		if lane.ingress.Tenant == job.tenant && lane.ingress.Name == job.job {
			_ = near.Close()
			_ = lane.far.Close()
		}
	}
}

// keepDirectLanes gives the relay's own bundle to a node the direct lanes that it
// wants, until the bundle is over.
func (r *Relay) keepDirectLanes(n *node, own *bundle.Bundle) {
	pause := directFirst
	for {
		select {
		case <-own.Done():
			return
		case <-own.Wanting():
		}
		err := r.openDirectLanes(n, own)
		if err == nil {
			pause = directFirst
			continue
		}
		if own.Err() != nil {
			return
		}
		r.log.Info("no direct lane: streams stay on the session's", "node", n.identity.String(), "again_in", pause, "error", err)
		timer := time.NewTimer(pause)
		select {
		case <-own.Done():
		case <-timer.C:
		}
		timer.Stop()
		pause = min(2*pause, directLast)
	}
}

// directAtOnce is how many direct lanes are made at once.
const directAtOnce = 16

// openDirectLanes makes those that are wanted.
func (r *Relay) openDirectLanes(n *node, own *bundle.Bundle) error {
	express, bulk := own.Wanted()
	var making errgroup.Group
	making.SetLimit(directAtOnce)
	if express {
		making.Go(func() error { return r.openDirectLane(n, own, true) })
	}
	for range bulk {
		making.Go(func() error { return r.openDirectLane(n, own, false) })
	}
	return making.Wait()
}

// openDirectLane makes one and joins it.
func (r *Relay) openDirectLane(n *node, own *bundle.Bundle, express bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*directTime)
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-own.Done():
			cancel()
		case <-ctx.Done():
		}
	})
	defer watching.Wait()
	defer cancel()
	conn, err := r.askForLane(ctx, n, r.name, express, &r.registry.ending)
	if err != nil {
		return err
	}
	lane, err := tunnel.ServeLane(ctx, conn, r.self.laneConfig(n.identity))
	if err != nil {
		return fmt.Errorf("relay: direct lane of %s: %w", n.key.node, err)
	}
	exporter, err := lane.Exporter()
	if err != nil {
		_ = lane.Close()
		return fmt.Errorf("relay: direct lane of %s: %w", n.key.node, err)
	}
	return own.Join(ctx, lane, bundle.LaneInfo{
		Carrier: "tls", Local: r.name.String(), Peer: n.identity.String(), Exporter: exporter, Express: express, Direct: true, Worn: lane.Worn,
	})
}
