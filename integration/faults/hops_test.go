//go:build unix

package faults

import (
	"context"
	"fmt"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/ebbgate/ebbgate/integration/oracle"
)

// TestHops: every shape of a connection looks as it does on a direct one, by each ingress on each carrier, after one way
// through the relay, and after a second and a third one: there, the store of the connector is another forward.
func TestHops(t *testing.T) {
	t.Parallel()
	const hops = 3
	for _, carrier := range []string{"quic", "tls", "wss", "ws"} {
		t.Run(carrier, func(t *testing.T) {
			t.Parallel()
			ctx := deadline(t)
			o := options{carrier: carrier}
			o.relay = startRelay(ctx, t, o, nil)
			for o.number = range hops {
				if o.number == 1 && carrier != "quic" {
					o.proxy = "http://" + startProxy(ctx, t).addr
				}
				p := newPath(ctx, t, o)
				o.store, o.proxy = p, ""
				for _, ingress := range both {
					t.Run(fmt.Sprintf("%d by %s", o.number+1, ingress), func(t *testing.T) { shapes(ctx, t, p, ingress) })
				}
			}
		})
	}
}

// shapes plays all shapes, a few at a time.
func shapes(ctx context.Context, t *testing.T, p *path, ingress string) {
	rounds := 1
	if full {
		rounds = 10
	}
	var group errgroup.Group
	group.SetLimit(4)
	for round := range rounds {
		for _, s := range oracle.Scenarios(round) {
			group.Go(func() error {
				conn, err := p.dial(ctx, ingress)
				if err == nil {
					err = s.Run(ctx, conn, p.store)
				}
				if err != nil {
					t.Errorf("%s, round %d: %v", s.Name, round, err)
				}
				return nil
			})
		}
	}
	_ = group.Wait()
}
