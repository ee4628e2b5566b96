package relay

import (
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/tunnel"
)

// A session that is over leaves the node what it had before: the older sessions
// that are still up, and their lanes. A node that knows a relay by two names has
// two control sessions there for a moment.
func TestOlderSessionIsBack(t *testing.T) {
	for _, c := range []tunnel.Carrier{tunnel.TLS, tunnel.QUIC} {
		t.Run(string(c), func(t *testing.T) {
			t.Parallel()
			r := startRelay(t, time.Second)
			if _, err := r.api.CreateGateway(t.Context(), "default", "corp"); err != nil {
				t.Fatal(err)
			}
			n, err := r.register(c, "corp", "n1")
			if err != nil {
				t.Fatal(err)
			}
			r.online(n, c, echoStore(t))
			live := r.relay.registry.node(keyOf(n.id))
			roles := []string{tunnel.RoleControl}
			if c != tunnel.QUIC {
				roles = append(roles, tunnel.RoleBulk)
			}
			for _, role := range roles {
				express := role == tunnel.RoleControl
				first := live.session(express)
				second := n.connect(role)
				until(t, "the newer session has its place", func() bool { s := live.session(express); return s != nil && s != first })
				_ = second.Close("it was one too many")
				until(t, "the older one has it again", func() bool { return live.session(express) == first })
				until(t, "the lanes are as they were", func() bool { return live.bundle() != nil && live.bundle().Lanes() == 2 })
			}
			if r.relay.registry.node(keyOf(n.id)) != live {
				t.Error("the node went and came")
			}
			_ = n.sessions[tunnel.RoleControl].Close("over")
			if c != tunnel.QUIC {
				_ = n.sessions[tunnel.RoleBulk].Close("over")
			}
			until(t, "the node is gone", func() bool { return r.relay.registry.node(keyOf(n.id)) == nil })
			live.mu.Lock()
			defer live.mu.Unlock()
			if len(live.older) > 0 {
				t.Errorf("%d sessions are left", len(live.older))
			}
		})
	}
}
