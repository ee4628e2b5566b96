//go:build unix

package faults

import (
	"context"
	"syscall"
	"testing"

	"github.com/ebbgate/ebbgate/integration/rig"
)

// TestRevokedWhileNodeIsAway: a job is revoked while the node is away; the node hears of it when it comes back, and ends
// the streams that it has kept, long before the grace is over.
func TestRevokedWhileNodeIsAway(t *testing.T) {
	t.Parallel()
	everyCarrier(t, func(ctx context.Context, t *testing.T, carrier string) {
		p := newPath(ctx, t, options{carrier: carrier, grace: "1h", far: carrier != "quic"})
		var copies []*transfer
		for _, ingress := range both {
			c, err := p.begin(ctx, ingress, endless, endless)
			if err != nil {
				t.Fatal(err)
			}
			copies = append(copies, c)
		}
		if err := p.connector.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		if carrier != "quic" { // there the relay finds out by itself, soon
			p.links[farLink].kill()
		}
		if _, err := p.relay.Await(ctx, p.gateway, node, func(n rig.Node) bool { return !rig.Online(n) }); err != nil {
			t.Fatal(err)
		}
		if err := p.relay.Admin(ctx, nil, "job", "revoke", p.ingress.Job); err != nil {
			t.Fatal(err)
		}
		if err := p.connector.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		for _, c := range copies {
			if err := p.broken(ctx, c); err != nil {
				t.Error(err)
			}
		}
	})
}
