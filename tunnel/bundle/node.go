package bundle

import (
	"context"
	"crypto/hmac"
	"errors"
	"net"
	"sync"
)

// Node is the node's end of all bundles of a connector. Bundles come into being
// with their first lane and go when they are over.
type Node struct {
	// static after construction
	cfg  Config
	open OpenFunc

	mu sync.Mutex
	// guarded by mu
	bundles  map[bundleKey]*Bundle
	count    map[string]int // bundles by peer
	closed   *EndError
	draining bool
	most     int // direct lanes for bulk that a bundle may have

	ending sync.WaitGroup // bundles that are over, until their goroutines ended
}

// bundleKey tells bundles apart: an id means something only with the verified
// identity of who made it.
type bundleKey struct {
	peer string
	id   [16]byte
}

// NewNode makes a node's end; open dials the stores. It does no I/O.
func NewNode(cfg Config, open OpenFunc) *Node {
	return &Node{cfg: cfg.withDefaults(), open: open, bundles: make(map[bundleKey]*Bundle), count: make(map[string]int), most: DefaultMaxLanes}
}

// Serve takes a lane from an ingress: it exchanges HELLO within ten seconds (or
// ctx), joins the lane to its bundle and serves it until the lane is over, which
// it returns the reason of. When ctx ends, the lane is closed. conn is closed in
// every case.
func (n *Node) Serve(ctx context.Context, conn net.Conn, info LaneInfo) error {
	var b *Bundle
	var l *lane
	err := withDeadline(ctx, conn, func() error {
		h, err := readHello(conn, roleIngress)
		if err != nil {
			return err
		}
		if b, err = n.find(h, info); err != nil {
			_, _ = conn.Write(appendGoAway(nil, reasonOf(err)))
			return err
		}
		// The lane joins before the answer says so: the ingress may give up
		// another lane for it at once.
		if l, err = b.addLane(conn, info, h.incarnation); err != nil {
			_, _ = conn.Write(appendGoAway(nil, reasonOf(err)))
			return err
		}
		answer := hello{role: roleNode, bundle: h.bundle, incarnation: n.cfg.Incarnation, mac: mac(b.secret, roleNode, h.bundle, info.Exporter)}
		_, err = conn.Write(appendHello(nil, answer))
		return err
	})
	if err != nil {
		_ = conn.Close()
		if l == nil {
			n.refused(info, err)
		} else {
			b.mu.Lock()
			b.dropLaneLocked(l, err)
			b.unlock()
		}
		n.dropUnused(b)
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	return l.run()
}

// refused counts a lane that never joined.
func (n *Node) refused(info LaneInfo, err error) {
	reason := reasonOf(err)
	n.cfg.Metrics.laneEnds.WithLabelValues(reason.String()).Inc()
	if reason == CodeLaneRefused || reason == CodeProtocol {
		n.cfg.Logger.Warn("lane refused", "carrier", info.Carrier, "peer", info.Peer, "error", err)
	}
}

// find gives the bundle that a HELLO belongs to, or makes it.
func (n *Node) find(h hello, info LaneInfo) (*Bundle, error) {
	key := bundleKey{info.Peer, h.bundle}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed != nil {
		return nil, n.closed
	}
	b := n.bundles[key]
	secret := [secretSize]byte{}
	switch {
	case b == nil && h.secret == nil:
		return nil, &EndError{Reason: CodeUnknownBundle}
	case b == nil:
		secret = *h.secret
	case h.secret != nil && !hmac.Equal(h.secret[:], b.secret[:]):
		return nil, &EndError{Reason: CodeLaneRefused, Err: violation("another secret for a bundle that is there")}
	default:
		secret = b.secret
	}
	if want := mac(secret, roleIngress, h.bundle, info.Exporter); !hmac.Equal(want[:], h.mac[:]) {
		return nil, &EndError{Reason: CodeLaneRefused, Err: violation("the HMAC of %q does not fit", info.Peer)}
	}
	if b != nil {
		return b, nil
	}
	if n.count[info.Peer] >= maxBundles {
		return nil, &EndError{Reason: CodeLaneRefused, Err: violation("more than %d bundles of %q", maxBundles, info.Peer)}
	}
	b = newBundle(n.cfg, roleNode)
	b.id, b.secret, b.open, b.draining = h.bundle, secret, n.open, n.draining
	b.growth.most = n.most
	b.onOver = func() { n.ending.Go(func() { n.forget(key, b) }) }
	n.bundles[key] = b
	n.count[info.Peer]++
	return b, nil
}

// forget drops a bundle that is over, and waits for what is left of it.
func (n *Node) forget(key bundleKey, b *Bundle) {
	n.mu.Lock()
	if n.bundles[key] == b {
		delete(n.bundles, key)
		if n.count[key.peer]--; n.count[key.peer] == 0 {
			delete(n.count, key.peer)
		}
	}
	n.mu.Unlock()
	b.tasks.Wait()
}

// dropUnused ends a bundle whose first lane did not come about.
func (n *Node) dropUnused(b *Bundle) {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.unlock()
	if !b.joined {
		b.overLocked(&EndError{Reason: CodeLanesLost}, false)
	}
}

func (n *Node) all() []*Bundle {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := make([]*Bundle, 0, len(n.bundles))
	for _, b := range n.bundles {
		list = append(list, b)
	}
	return list
}

// Streams is how many streams are open now.
func (n *Node) Streams() (sum int) {
	for _, b := range n.all() {
		sum += b.Streams()
	}
	return sum
}

// Drain makes the node refuse new streams; the open ones go on.
func (n *Node) Drain() {
	n.mu.Lock()
	n.draining = true
	n.mu.Unlock()
	for _, b := range n.all() {
		b.mu.Lock()
		b.draining = true
		b.mu.Unlock()
	}
}

// LimitLanes bounds the direct lanes for bulk of each bundle, 1 to MaxLanes: their
// ingresses are told, and ask for no more. Those that there are stay.
func (n *Node) LimitLanes(most int) {
	n.mu.Lock()
	n.most = min(max(most, 1), MaxLanes)
	n.mu.Unlock()
	for _, b := range n.all() {
		b.mu.Lock()
		b.limitLocked(most)
		b.mu.Unlock()
	}
}

// Reset resets the streams for which match returns true, which is called under
// a lock and must be quick.
func (n *Node) Reset(reason Code, match func(peer string, req Request) bool) {
	for _, b := range n.all() {
		b.mu.Lock()
		for _, s := range b.streams {
			if s.phase != phaseOver && match(b.peer, Request{UUID: s.uuid, Grant: s.grant}) {
				s.resetLocked(reason)
			}
		}
		b.unlock()
	}
}

// Close ends all bundles in an orderly way: each ingress is told the reason.
// It returns when every goroutine of the node's bundles has ended.
func (n *Node) Close(reason Code) {
	n.mu.Lock()
	n.closed = &EndError{Reason: reason}
	n.mu.Unlock()
	var wg sync.WaitGroup
	for _, b := range n.all() {
		wg.Go(func() { b.Close(reason) })
	}
	wg.Wait()
	n.ending.Wait()
}

// serve is the life of one stream at the node: dial, answer, carry.
func (s *Stream) serve(peer string) {
	b := s.b
	ctx, cancel := context.WithCancel(context.Background()) // until the stream's end
	b.mu.Lock()
	s.cancel = cancel
	over := s.phase == phaseOver
	b.mu.Unlock()
	var sock Socket
	err := error(&RefusedError{Reason: CodeCancelled})
	if !over {
		sock, err = b.open(ctx, peer, Request{UUID: s.uuid, Grant: s.grant})
	}
	b.mu.Lock()
	b.opening--
	switch {
	case err != nil:
		refused := &RefusedError{Reason: CodeInternal, Text: "the node could not dial the store"}
		errors.As(err, &refused)
		s.refuseLocked(refused.Reason, refused.Text)
		b.unlock()
		cancel()
		return
	case s.phase == phaseOver:
		b.closers = append(b.closers, sock)
		report := s.reportLocked()
		b.unlock()
		cancel()
		s.tell(peer, report)
		return
	}
	s.phase = phaseOpen
	b.cfg.Metrics.streams.Inc()
	b.cfg.Metrics.opened.Inc()
	s.markLocked(kindOpened)
	b.unlock()
	b.tasks.Go(func() { // on a stack that no dial has grown
		defer cancel()
		s.tell(peer, s.Carry(sock, nil))
	})
}

// tell tells the end of a stream at a node.
func (s *Stream) tell(peer string, report Report) {
	if s.b.cfg.Ended != nil {
		s.b.cfg.Ended(peer, Request{UUID: s.uuid, Grant: s.grant}, report)
	}
}
