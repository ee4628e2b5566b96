package carriers

import (
	"context"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ebbgate/ebbgate/integration/oracle"
	"github.com/ebbgate/ebbgate/integration/rig"
)

// TestEveryCarrier plays everything that a connection can be, by each ingress on
// each carrier.
func TestEveryCarrier(t *testing.T) {
	const rounds = 3
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	relay := startRelay(ctx, t)
	seen := newTable()
	t.Run("carriers", func(t *testing.T) {
		for _, carrier := range all {
			t.Run(carrier, func(t *testing.T) {
				t.Parallel()
				p := newPath(ctx, t, relay, carrier, "corp-"+carrier)
				seen.run(t, carrier, "node enrols with the gateway's key", func() error {
					return p.register(ctx, t, rig.Proxy{}, carrier)
				})
				seen.run(t, carrier, "sessions up", func() error { return p.online(ctx, t) })
				seen.run(t, carrier, "job enrols with its token", func() error { return p.startForward(ctx, t) })
				if t.Failed() {
					return
				}
				for _, ingress := range ingresses {
					for i, s := range oracle.Scenarios(0) {
						seen.run(t, carrier, ingress+": "+s.Name, func() error {
							for round := range rounds {
								if err := p.play(ctx, ingress, oracle.Scenarios(round)[i]); err != nil {
									return fmt.Errorf("round %d: %w", round, err)
								}
							}
							return nil
						})
					}
				}
				seen.run(t, carrier, "500 streams at once", func() error { return p.many(ctx, 500) })
			})
		}
	})
	t.Log(seen)
}

func (p *path) play(ctx context.Context, ingress string, s oracle.Scenario) error {
	conn, err := p.dial(ctx, ingress)
	if err != nil {
		return err
	}
	return s.Run(ctx, conn, p.store)
}

// many moves a small object each way on n streams at once, by both ingresses.
func (p *path) many(ctx context.Context, n int) error {
	const size = 40_000
	whole := []oracle.Kind{oracle.KindComplete}
	var group errgroup.Group
	for i := range n {
		group.Go(func() error {
			seed := uint64(i + 1)
			err := p.play(ctx, ingresses[i%len(ingresses)], oracle.Scenario{
				Job: oracle.Job{
					Script: oracle.Script{Seed: seed, Send: size, End: oracle.EndFIN, UploadSeed: seed + 1000},
					Upload: size, End: oracle.EndFIN,
				},
				Content: whole, Upload: whole,
			})
			if err != nil {
				return fmt.Errorf("stream %d: %w", i, err)
			}
			return nil
		})
	}
	return group.Wait()
}
