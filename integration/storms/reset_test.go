//go:build linux

package storms

import (
	"context"
	"sync"
	"testing"
	"time"
)

// resets are how many streams a job opens and resets.
const resets = 20000

// TestOpenAndReset has a job open 20,000 streams and reset each at once. Every store's connection is reset too, nothing
// is left of them, and other streams do not notice.
func TestOpenAndReset(t *testing.T) {
	t.Parallel()
	for _, carrier := range []string{"quic", "tls"} {
		t.Run(carrier, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
			defer cancel()
			p := newPath(ctx, t, carrier, limits{})
			m := newMeter(ctx, t, p)
			var attack sync.WaitGroup
			const jobs = 20
			for range jobs {
				attack.Go(func() {
					for range scaled(resets) / 2 / jobs {
						conn, err := p.ingress.Dial(ctx, host)
						if err != nil {
							t.Errorf("open: %v", err)
							return
						}
						_ = conn.Close() // linger 0: a reset
					}
				})
			}
			over := make(chan struct{})
			go func() { attack.Wait(); close(over) }()
			for going := true; going; {
				select {
				case <-over:
					going = false
				default:
					p.dial(ctx, t)
					p.talk(ctx, t)
				}
			}
			m.grew(ctx, t, `ebbgate_bundle_streams_opened_total`, scaled(resets)/2)
			m.grew(ctx, t, `ebbgate_bundle_streams_ended_total{reason="job-reset"}`, scaled(resets)/2)
			t.Logf("%d legitimate dials meanwhile", p.said)
			m.settle(ctx, t)
			p.talk(ctx, t)
		})
	}
}
