package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

const (
	// lanesAtOnce is how many lanes are made at once.
	lanesAtOnce = 16
	// moreFirst and moreMost are the pauses after lanes that could not be made.
	moreFirst = time.Second
	moreMost  = 10 * time.Minute
)

// grow makes the lanes for bulk that a bundle wants beside the one that its slot
// keeps, until it is over.
func (p *pool) grow(slot *bundleSlot, b *bundle.Bundle) {
	pause := moreFirst
	for {
		select {
		case <-b.Wanting():
		case <-b.Done():
			return
		case <-p.ctx.Done():
			return
		}
		for n := p.missing(slot, b); n > 0; n = p.missing(slot, b) {
			err := p.more(slot, b, n)
			if err == nil {
				pause = moreFirst
				continue
			}
			p.logger.Debug("no more lanes", "node", slot.node, "again_in", pause, "error", err)
			timer := time.NewTimer(rand.N(pause) + pause/2)
			select {
			case <-timer.C:
			case <-b.Done():
				timer.Stop()
				return
			case <-p.ctx.Done():
				timer.Stop()
				return
			}
			pause = min(2*pause, moreMost)
		}
	}
}

// missing is how many lanes for bulk are wanted that the slot does not keep. It
// waits for one that is being made.
func (p *pool) missing(slot *bundleSlot, b *bundle.Bundle) int {
	select {
	case slot.turn <- struct{}{}:
	case <-p.ctx.Done():
		return 0
	}
	defer func() { <-slot.turn }()
	p.mu.Lock()
	defer p.mu.Unlock()
	_, bulk := b.Wanted()
	for _, s := range slot.strands {
		if p.broker.up(s.via) && s.lanes[classBulk] == nil {
			bulk--
		}
	}
	return bulk
}

// errNoDirect is no relay through which direct lanes are worth trying now.
var errNoDirect = errors.New("client: no direct lanes now")

// more makes direct lanes for bulk, as many through each relay.
func (p *pool) more(slot *bundleSlot, b *bundle.Bundle, n int) error {
	var vias []int
	for via := range slot.strands {
		if p.broker.up(via) && p.broker.direct(via) {
			vias = append(vias, via)
		}
	}
	if len(vias) == 0 {
		return errNoDirect
	}
	var making errgroup.Group
	for i, via := range vias {
		share := n / len(vias)
		if i < n%len(vias) {
			share++
		}
		making.Go(func() error { return p.moreVia(via, slot, b, share) })
	}
	return making.Wait()
}

// moreVia makes direct lanes for bulk through one relay.
func (p *pool) moreVia(via int, slot *bundleSlot, b *bundle.Bundle, n int) (err error) {
	for n > 0 && err == nil {
		var tokens []string
		ctx, cancel := context.WithTimeout(p.ctx, laneTime)
		tokens, err = p.broker.laneTokens(ctx, via, slot.node, min(n, lanesAtOnce))
		if err == nil {
			err = p.moreWith(ctx, via, slot, b, tokens)
		}
		cancel()
		n -= len(tokens)
	}
	return err
}

// moreWith makes a lane with each token.
func (p *pool) moreWith(ctx context.Context, via int, slot *bundleSlot, b *bundle.Bundle, tokens []string) error {
	var making errgroup.Group
	for _, token := range tokens {
		making.Go(func() error {
			conn, info, err := p.broker.lane(ctx, via, slot.node, token, classBulk)
			switch {
			case err != nil:
				return err
			case !info.Direct: // there is one of the session's already
				_ = conn.Close()
				return nil
			}
			return b.Join(ctx, conn, info)
		})
	}
	return making.Wait()
}
