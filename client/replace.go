package client

import (
	"context"

	"github.com/ebbgate/ebbgate/certs"
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
		return c.pool.replace(bundle.CodeMoved, func(i bundle.LaneInfo) bool { return !i.Direct && i.Over.(way).link == link })
	})
}

// renewed has everything replaced that began with the certificate before.
func (c *Client) renewed() {
	c.pool.replace(bundle.CodeCertificate, func(i bundle.LaneInfo) bool { return i.Direct })
	for _, s := range c.sessions.all() {
		s.Link().Wear("certificate")
	}
}

// drained lets go of a relay that stops: what its lanes carry goes over those of
// another relay, or, where there is none, they go once no stream needs them.
func (c *Client) drained(s *tunnel.Session) {
	relay := wayOf(s).relay
	c.pool.replace(bundle.CodeDraining, func(i bundle.LaneInfo) bool { return i.Over.(way).relay == relay })
}

// way is what a lane travels on: a session's link, or a connection of its own that
// was made beside one, and the relay.
type way struct {
	link  tunnel.Link
	relay certs.Identity
}

func wayOf(s *tunnel.Session) way {
	relay, _ := s.Peer()
	return way{s.Link(), relay}
}
