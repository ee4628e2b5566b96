package relay

import (
	"time"

	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// renewWithin is how long peers may take to make other sessions after the relay's
// certificate was renewed, so that they do not come all at once.
const renewWithin = 5 * time.Minute

// renewed has everything replaced that began with the relay's certificate before:
// its own direct lanes, and, by those who dial them, the sessions.
func (r *Relay) renewed() {
	for _, n := range r.registry.withBundles() {
		if b := n.bundle(); b != nil {
			b.Replace(bundle.CodeCertificate, func(i bundle.LaneInfo) bool { return i.Direct })
		}
	}
	within := min(renewWithin, r.self.lives.Relay/4)
	r.registry.tell(tunnel.TypeReplace, tunnel.Replace{Reason: "certificate", WithinMS: within.Milliseconds()}, time.Second)
}
