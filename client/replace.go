package client

import (
	"context"

	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// replace has the pool's lanes replaced for which match returns true, other ones
// first. The channels are closed as they are gone.
func (p *pool) replace(reason bundle.Code, match func(bundle.LaneInfo) bool) (gone []<-chan struct{}) {
	p.mu.Lock()
	var bundles []*bundle.Bundle
	for _, slot := range p.bundles {
		if slot.current != nil {
			bundles = append(bundles, slot.current)
		}
	}
	p.mu.Unlock()
	for _, b := range bundles {
		gone = append(gone, b.Replace(reason, match)...)
	}
	return gone
}

// leave moves what travels on a session's link to the next one's.
func (c *Client) leave(ctx context.Context, link tunnel.Link) {
	tunnel.Vacate(ctx, func() []<-chan struct{} {
		return c.pool.replace(bundle.CodeMoved, func(i bundle.LaneInfo) bool { return !i.Direct && i.Over == link })
	})
}

// renewed has everything replaced that began with the certificate before.
func (c *Client) renewed() {
	c.pool.replace(bundle.CodeCertificate, func(i bundle.LaneInfo) bool { return i.Direct })
	for _, s := range c.sessions.all() {
		s.Link().Wear("certificate")
	}
}

// drained lets go of a relay that stops: lanes through it go elsewhere, or, where
// there is nowhere, once no stream needs them.
func (c *Client) drained(link tunnel.Link) {
	c.pool.replace(bundle.CodeDraining, func(i bundle.LaneInfo) bool { return i.Over == link })
}
