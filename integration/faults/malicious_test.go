//go:build unix

package faults

import (
	"testing"
)

// TestMaliciousRelay: whoever is between the ends flips, loses, drops, swaps, repeats and replays what he carries, puts
// something in between, and ends connections as if they were over. Lanes that he lets be carry on, and every byte is right.
func TestMaliciousRelay(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, carrier string
		at            int
		lanesOnly     bool
		pause         int // mean number of units between two deeds
		ingresses     []string
	}{
		{"lanes/forward", "tls", nearLink, true, 50, []string{"forward"}},
		{"lanes/connector", "tls", farLink, true, 50, both},
		{"all/tls", "tls", farLink, false, 500, both},
		{"all/wss", "wss", farLink, false, 500, both},
		{"all/ws", "ws", farLink, false, 500, both},
		{"all/quic", "quic", farLink, false, 200, both},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ctx := deadline(t)
			seed := seed(t)
			p := newPath(ctx, t, options{carrier: test.carrier, near: test.at == nearLink, far: test.at == farLink})
			m := newMalice(seed, test.lanesOnly, test.pause)
			l := p.links[test.at]
			l.spoil(m)
			l.kill() // connections that were there come again
			p.rough = true
			for m.least() < 1 {
				disturbed(ctx, t, p, test.ingresses, 0, nil)
				if t.Failed() {
					break
				}
			}
			t.Log(m)
			l.spoil(nil)
			l.kill()
			disturbed(ctx, t, p, both, 0, nil)
		})
	}
}
