package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

const (
	// laneTime bounds the opening of one lane, with its handshakes.
	laneTime = 15 * time.Second
	// laneTokenLife is how long a lane token is worth trying.
	laneTokenLife = 8 * time.Second
)

// bundleSlot is the same for a node's bundle. A bundle has one lane for small
// frames and one for bulk; either serves for all where the other is missing.
type bundleSlot struct {
	node string
	turn chan struct{} // who makes a lane has it, so that no lane is made twice

	// guarded by the pool's mu
	current  *bundle.Bundle
	lanes    [3]net.Conn // by class; nil: missing
	adding   bool        // the second lane is to be made
	resuming bool        // lanes that were lost are being made again
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
		slot = &bundleSlot{node: g.node, turn: make(chan struct{}, 1)}
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
	if err := p.addLane(ctx, slot, b, token, classExpress); err != nil {
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
func (p *pool) addLane(ctx context.Context, slot *bundleSlot, b *bundle.Bundle, token string, class int) error {
	ctx, cancel := context.WithTimeout(ctx, laneTime)
	defer cancel()
	conn, info, err := p.broker.lane(ctx, slot.node, token, class)
	if err != nil {
		return err
	}
	info.Express = class != classBulk
	lane := &pooledLane{Conn: conn}
	lane.gone = func() { p.laneGone(slot, class, lane) }
	info.Replaced = lane.gone // its place is free from then on
	p.mu.Lock()
	slot.lanes[class] = lane
	p.mu.Unlock()
	if err := b.Join(ctx, lane, info); err != nil { // it closed the lane
		return fmt.Errorf("client: lane to %s: %w", slot.node, err)
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

func (p *pool) laneGone(slot *bundleSlot, class int, lane net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slot.lanes[class] != lane {
		return
	}
	slot.lanes[class] = nil
	p.resumeLocked(slot)
}

// resumeLocked has missing lanes made again.
func (p *pool) resumeLocked(slot *bundleSlot) {
	if !slot.resuming && !p.closed {
		slot.resuming = true
		p.tasks.Go(func() { p.resume(slot) })
	}
}

const (
	// resumeFirst and resumeMost are the pauses between attempts to give streams
	// that wait a lane again.
	resumeFirst = 50 * time.Millisecond
	resumeMost  = 2 * time.Second
)

// resume makes lost lanes again, until they are back, the bundle gave up waiting,
// or nobody wants it: it has neither lanes nor streams.
func (p *pool) resume(slot *bundleSlot) {
	for pause := resumeFirst; ; pause = min(2*pause, resumeMost) {
		if !p.resumable(slot) {
			return
		}
		if err := p.resumeOnce(slot); err == nil {
			pause = resumeFirst // and look again: lanes that die at once must not be made in a hurry
		} else {
			p.logger.Debug("no lane yet", "node", slot.node, "error", err)
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
// making of lanes ends.
func (p *pool) resumable(slot *bundleSlot) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := slot.current
	if p.closed || len(p.missingLocked(slot)) == 0 || b == nil || b.Err() != nil || b.Streams() == 0 && b.Lanes() == 0 {
		slot.resuming = false
		return false
	}
	return true
}

// resumeOnce tries to make the lanes that are missing.
func (p *pool) resumeOnce(slot *bundleSlot) error {
	ctx, cancel := context.WithTimeout(p.ctx, laneTime)
	defer cancel()
	select {
	case slot.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-slot.turn }()
	p.mu.Lock()
	b, missing := slot.current, p.missingLocked(slot)
	p.mu.Unlock()
	tokens, err := p.broker.laneTokens(ctx, slot.node, len(missing))
	if err != nil {
		return err
	}
	for i, token := range tokens[:min(len(tokens), len(missing))] {
		if err := p.addLane(ctx, slot, b, token, missing[i]); err != nil {
			return err
		}
	}
	return nil
}

// missingLocked are the classes of which there is no lane and one can be made.
func (p *pool) missingLocked(s *bundleSlot) (classes []int) {
	for class, lane := range s.lanes {
		if lane == nil && (class != classDirect || p.broker.direct()) {
			classes = append(classes, class)
		}
	}
	return classes
}

// thickenLocked starts the making of a lane that is missing, with a token of g's,
// or one that the relay is asked for. Without the lane streams are slower to one
// another, and work.
func (p *pool) thickenLocked(slot *bundleSlot, g *grant) {
	if len(p.missingLocked(slot)) == 0 || slot.adding || p.closed {
		return
	}
	token := g.tokenLocked()
	if token == "" {
		p.resumeLocked(slot)
		return
	}
	slot.adding = true
	p.tasks.Go(func() { p.thicken(slot, token) })
}

// thicken makes one lane that is missing.
func (p *pool) thicken(slot *bundleSlot, token string) {
	defer func() {
		p.mu.Lock()
		slot.adding = false
		p.mu.Unlock()
	}()
	select {
	case slot.turn <- struct{}{}:
	case <-p.ctx.Done():
		return
	}
	defer func() { <-slot.turn }()
	p.mu.Lock()
	b, missing := slot.current, p.missingLocked(slot)
	p.mu.Unlock()
	if len(missing) == 0 { // somebody else made it meanwhile
		return
	}
	err := p.addLane(p.ctx, slot, b, token, missing[0])
	if err != nil {
		p.logger.Debug("no other lane", "node", slot.node, "error", err)
	}
	if err != nil || len(missing) > 1 {
		p.mu.Lock()
		p.resumeLocked(slot)
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
