package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

const (
	// laneTime bounds the opening of one lane, with its handshakes.
	laneTime = 15 * time.Second
	// laneTokenLife is how long a lane token is worth trying.
	laneTokenLife = 8 * time.Second
)

// bundleSlot is the same for a node's bundle.
type bundleSlot struct {
	node    string
	turn    chan struct{}          // who makes the bundle has it, so that none is made twice
	strands [tunnel.Places]*strand // by relay

	current *bundle.Bundle // guarded by the pool's mu
}

// strand is a bundle's lanes through one relay: one for small frames and one for
// bulk; either serves for all where the other is missing. A bundle has one through
// each relay, so that it goes on over the other when one is gone or stands still.
type strand struct {
	slot *bundleSlot
	via  int
	turn chan struct{} // who makes a lane has it, so that no lane is made twice

	// guarded by the pool's mu
	lanes    [3]net.Conn // by class; nil: missing
	adding   bool        // the second lane is to be made
	resuming bool        // lanes that were lost are being made again
}

func newBundleSlot(node string) *bundleSlot {
	slot := &bundleSlot{node: node, turn: make(chan struct{}, 1)}
	for via := range slot.strands {
		slot.strands[via] = &strand{slot: slot, via: via, turn: make(chan struct{}, 1)}
	}
	return slot
}

// Classes of lanes, in the order in which they are made.
const (
	classExpress = iota // a session lane for small frames: there at once
	classBulk           // for bulk: a connection of its own, else a session lane
	classDirect         // a connection of its own for small frames
)

// errNoToken is a grant without a token that could open a lane.
var errNoToken = errors.New("client: the grant has no lane token left")

// bundleFor gives the bundle to a grant's node, with at least one lane.
func (p *pool) bundleFor(ctx context.Context, g *grant) (*bundle.Bundle, error) {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, net.ErrClosed
	}
	slot := p.bundles[g.node]
	if slot == nil {
		slot = newBundleSlot(g.node)
		p.bundles[g.node] = slot
	}
	b := slot.current
	if usable(b) {
		p.thickenLocked(slot, g)
	}
	p.mu.Unlock()
	if usable(b) {
		return b, nil
	}
	select {
	case slot.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-slot.turn }()
	return p.connect(ctx, slot, g)
}

// connect makes a bundle with its first lane, the express one. The other one
// follows while streams are opened already.
func (p *pool) connect(ctx context.Context, slot *bundleSlot, g *grant) (*bundle.Bundle, error) {
	p.mu.Lock()
	b := slot.current
	if usable(b) {
		p.mu.Unlock()
		return b, nil
	}
	token := g.tokenLocked()
	p.mu.Unlock()
	if token == "" {
		return nil, errNoToken
	}
	fresh := b == nil || b.Err() != nil
	if fresh {
		if b != nil {
			b.Close(bundle.CodeIngressStopped) // over, but perhaps not all of it is gone
		}
		b = bundle.NewIngress(p.config)
	}
	if err := p.addLane(ctx, slot.strands[g.via], b, token, classExpress); err != nil {
		return nil, err
	}
	p.mu.Lock()
	closed := p.closed
	if !closed {
		if fresh {
			p.tasks.Go(func() { p.grow(slot, b) })
		}
		slot.current = b
		p.thickenLocked(slot, g)
	}
	p.mu.Unlock()
	if closed {
		b.Close(bundle.CodeIngressStopped)
		return nil, net.ErrClosed
	}
	return b, nil
}

// addLane opens a lane of a class and joins it to b.
func (p *pool) addLane(ctx context.Context, s *strand, b *bundle.Bundle, token string, class int) error {
	ctx, cancel := context.WithTimeout(ctx, laneTime)
	defer cancel()
	conn, info, err := p.broker.lane(ctx, s.via, s.slot.node, token, class)
	if err != nil {
		return err
	}
	info.Express = class != classBulk
	pooled := &pooledLane{Conn: conn}
	var lane net.Conn = pooled
	if prompt, ok := conn.(bundle.PromptConn); ok {
		lane = &promptLane{pooled, prompt}
	}
	pooled.gone = func() { p.laneGone(s, class, lane) }
	info.Replaced = pooled.gone // its place is free from then on
	p.mu.Lock()
	s.lanes[class] = lane
	p.mu.Unlock()
	if err := b.Join(ctx, lane, info); err != nil { // it closed the lane
		return fmt.Errorf("client: lane to %s: %w", s.slot.node, err)
	}
	return nil
}

// pooledLane tells the pool when it is closed.
type pooledLane struct {
	net.Conn
	once sync.Once
	gone func()
}

func (l *pooledLane) Close() error {
	l.once.Do(l.gone)
	return l.Conn.Close()
}

// NetConn is the connection below.
func (l *pooledLane) NetConn() net.Conn { return l.Conn }

// promptLane is one that can be written without waiting.
type promptLane struct {
	*pooledLane
	prompt bundle.PromptConn
}

func (l *promptLane) WriteNow(frames ...[]byte) (left bool, err error) {
	return l.prompt.WriteNow(frames...)
}

func (l *promptLane) Flush() error { return l.prompt.Flush() }

func (p *pool) laneGone(s *strand, class int, lane net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.lanes[class] != lane {
		return
	}
	s.lanes[class] = nil
	p.resumeLocked(s)
}

// arrived is told that there is a session with a relay: bundles get their lanes
// through it again.
func (p *pool) arrived(via int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, slot := range p.bundles {
		p.resumeLocked(slot.strands[via])
	}
}

// resumeLocked has missing lanes made again.
func (p *pool) resumeLocked(s *strand) {
	if !s.resuming && !p.closed && p.broker.up(s.via) {
		s.resuming = true
		p.tasks.Go(func() { p.resume(s) })
	}
}

const (
	// resumeFirst and resumeMost are the pauses between attempts to give streams
	// that wait a lane again.
	resumeFirst = 50 * time.Millisecond
	resumeMost  = 2 * time.Second
)

// resume makes lost lanes again, until they are back, the relay is gone, the bundle
// gave up waiting, or nobody wants them: it has neither lanes nor streams.
func (p *pool) resume(s *strand) {
	failed := false
	for pause := resumeFirst; ; pause = min(2*pause, resumeMost) {
		if !p.resumable(s, failed) {
			return
		}
		if err := p.resumeOnce(s); err == nil {
			failed, pause = false, resumeFirst // and look again: lanes that die at once must not be made in a hurry
		} else {
			failed = true
			p.logger.Debug("no lane yet", "node", s.slot.node, "relay", s.via, "error", err)
		}
		timer := time.NewTimer(rand.N(pause) + pause/2)
		select {
		case <-timer.C:
		case <-p.ctx.Done():
			timer.Stop()
		}
	}
}

// resumable tells whether lanes are missing that streams want; if not, the
// making of lanes ends. What has to be tried again, as where the node is not at
// that relay, is tried for streams alone once there are lanes through another one.
func (p *pool) resumable(s *strand, failed bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := s.slot.current
	idle := b == nil || b.Err() != nil || b.Streams() == 0 && (b.Lanes() == 0 || failed && s.emptyLocked())
	if p.closed || idle || len(p.missingLocked(s)) == 0 || !p.broker.up(s.via) {
		s.resuming = false
		return false
	}
	return true
}

// emptyLocked tells whether there is no lane through the relay.
func (s *strand) emptyLocked() bool { return s.lanes == [len(s.lanes)]net.Conn{} }

// resumeOnce tries to make the lanes that are missing.
func (p *pool) resumeOnce(s *strand) error {
	ctx, cancel := context.WithTimeout(p.ctx, laneTime)
	defer cancel()
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.turn }()
	p.mu.Lock()
	b, missing := s.slot.current, p.missingLocked(s)
	p.mu.Unlock()
	if b == nil || len(missing) == 0 { // somebody else made it meanwhile
		return nil
	}
	tokens, err := p.broker.laneTokens(ctx, s.via, s.slot.node, len(missing))
	if err != nil {
		return err
	}
	var making errgroup.Group
	for i, token := range tokens[:min(len(tokens), len(missing))] {
		making.Go(func() error { return p.addLane(ctx, s, b, token, missing[i]) })
	}
	return making.Wait()
}

// missingLocked are the classes of which there is no lane and one can be made.
func (p *pool) missingLocked(s *strand) (classes []int) {
	for class, lane := range s.lanes {
		if lane == nil && (class != classDirect || p.broker.direct(s.via)) {
			classes = append(classes, class)
		}
	}
	return classes
}

// thickenLocked starts the making of the lanes that are missing: through the relay
// that gave the grant with a token of g's, else with one that the relay is asked
// for. Without them streams are slower to one another, and work.
func (p *pool) thickenLocked(slot *bundleSlot, g *grant) {
	for _, s := range slot.strands {
		if len(p.missingLocked(s)) == 0 || s.adding || s.resuming || p.closed {
			continue
		}
		token := ""
		if s.via == g.via {
			token = g.tokenLocked()
		}
		if token == "" {
			p.resumeLocked(s)
			continue
		}
		s.adding = true
		p.tasks.Go(func() { p.thicken(s, token) })
	}
}

// thicken makes one lane that is missing.
func (p *pool) thicken(s *strand, token string) {
	defer func() {
		p.mu.Lock()
		s.adding = false
		p.mu.Unlock()
	}()
	select {
	case s.turn <- struct{}{}:
	case <-p.ctx.Done():
		return
	}
	defer func() { <-s.turn }()
	p.mu.Lock()
	b, missing := s.slot.current, p.missingLocked(s)
	p.mu.Unlock()
	if len(missing) == 0 { // somebody else made it meanwhile
		return
	}
	err := p.addLane(p.ctx, s, b, token, missing[0])
	if err != nil {
		p.logger.Debug("no other lane", "node", s.slot.node, "relay", s.via, "error", err)
	}
	if err != nil || len(missing) > 1 {
		p.mu.Lock()
		p.resumeLocked(s)
		p.mu.Unlock()
	}
}

// streams is how many streams are open.
func (p *pool) streams() (sum int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, slot := range p.bundles {
		if slot.current != nil {
			sum += slot.current.Streams()
		}
	}
	return sum
}

// tokenLocked takes a lane token that is young enough; "" where there is none.
func (g *grant) tokenLocked() string {
	if len(g.tokens) == 0 || time.Since(g.fetched) > laneTokenLife {
		return ""
	}
	token := g.tokens[0]
	g.tokens = g.tokens[1:]
	return token
}

func usable(b *bundle.Bundle) bool { return b != nil && b.Err() == nil && b.Lanes() > 0 }
