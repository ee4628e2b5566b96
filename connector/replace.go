package connector

import (
	"context"
	"time"

	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// leave moves what travels on a session's link to the next one's.
func (r *running) leave(ctx context.Context, link tunnel.Link) {
	tunnel.Vacate(ctx, func() []<-chan struct{} {
		return r.node.Replace(bundle.CodeMoved, func(i bundle.LaneInfo) bool { return i.Over == link })
	})
}

// leaveTime bounds how long a session that no other one takes the place of lives on
// for what still travels on it.
const leaveTime = 30 * time.Second

// leaveInTime does what leave does, for so long at most.
func (r *running) leaveInTime(ctx context.Context, link tunnel.Link) {
	ctx, cancel := context.WithTimeout(ctx, leaveTime)
	defer cancel()
	r.leave(ctx, link)
}

// renewed has everything replaced that began with the certificate before.
func (r *running) renewed() {
	r.node.Replace(bundle.CodeCertificate, func(i bundle.LaneInfo) bool { return i.Direct })
	for _, e := range r.sessions.all() {
		e.session.Link().Wear("certificate")
	}
}

// rerouted has the direct lanes replaced that went another way than the sessions
// go now.
func (r *running) rerouted() {
	now := make(map[any]bool)
	for _, p := range r.relays {
		if route := p.used(); route != nil {
			now[route] = true
		}
	}
	r.node.Replace(bundle.CodeMoved, func(i bundle.LaneInfo) bool { return i.Direct && !now[i.Over] })
}
