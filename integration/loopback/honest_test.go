package loopback

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ebbgate/ebbgate/integration/oracle"
)

// TestHonestEnds plays every shape that a connection can have 20 times, by each ingress on each carrier.
func TestHonestEnds(t *testing.T) {
	const rounds, together = 20, 6
	for _, carrier := range carriers {
		for _, ingress := range ingresses {
			t.Run(carrier+"/"+ingress, func(t *testing.T) {
				t.Parallel()
				ctx := deadline(t, 4*time.Minute)
				c := newCompany(ctx, t, carrier)
				if ingress == "forward" {
					c.startForward(ctx, t)
				}
				var group errgroup.Group
				group.SetLimit(together)
				for round := range rounds {
					for _, s := range oracle.Scenarios(round) {
						group.Go(func() error {
							conn, err := c.dial(ctx, ingress)
							if err == nil {
								err = s.Run(ctx, conn, c.store)
							}
							if err != nil {
								t.Errorf("%s, round %d: %v", s.Name, round, err)
							}
							return nil
						})
					}
				}
				_ = group.Wait()
			})
		}
	}
}

// TestManyStreams moves 200 objects at once, so that credit and windows are shared and none is delayed for ever.
func TestManyStreams(t *testing.T) {
	for _, carrier := range carriers {
		t.Run(carrier, func(t *testing.T) {
			t.Parallel()
			ctx := deadline(t, 4*time.Minute)
			c := newCompany(ctx, t, carrier)
			c.startForward(ctx, t)
			var group errgroup.Group
			for i := range 200 {
				group.Go(func() error {
					conn, err := c.dial(ctx, ingresses[i%2])
					if err != nil {
						return err
					}
					seed := uint64(i + 1)
					s := oracle.Scenario{
						Job: oracle.Job{
							Script: oracle.Script{Seed: seed, Send: 300_000, End: oracle.EndFIN, UploadSeed: seed + 1000},
							Upload: 300_000, End: oracle.EndFIN,
						},
						Content: []oracle.Kind{oracle.KindComplete}, Upload: []oracle.Kind{oracle.KindComplete},
					}
					if err := s.Run(ctx, conn, c.store); err != nil {
						return fmt.Errorf("stream %d: %w", i, err)
					}
					return nil
				})
			}
			if err := group.Wait(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestResetWhileBusy resets connections while both directions are busy. The kernel reports a reset once: where a write
// takes the error, the next read finds a clean end, which must not be passed on. It showed once in 2000 streams.
func TestResetWhileBusy(t *testing.T) {
	t.Parallel()
	const streams, together = 1000, 6
	ctx := deadline(t, 4*time.Minute)
	c := newCompany(ctx, t, "tls")
	var group errgroup.Group
	group.SetLimit(together)
	for i := range streams / 2 {
		for _, s := range oracle.Scenarios(i) {
			if s.Name != "store resets, job still sends" && s.Name != "job resets in mid-download" {
				continue
			}
			group.Go(func() error {
				conn, err := c.dial(ctx, "connect")
				if err == nil {
					err = s.Run(ctx, conn, c.store)
				}
				if err != nil {
					return fmt.Errorf("%s, round %d: %w", s.Name, i, err)
				}
				return nil
			})
		}
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}
