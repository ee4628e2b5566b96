//go:build unix

package faults

import (
	"context"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/rig"
)

// A copy of these sizes takes some seconds: the store pauses after each 64 KiB.
const (
	sent     = 20 << 20
	uploaded = 10 << 20
	step     = 1 << 20 // between two faults
	endless  = 1 << 40
)

// disturbed makes copies by the ingresses, disturbs them several times and wants them complete.
func disturbed(ctx context.Context, t *testing.T, p *path, ingresses []string, times int, fault func() error) {
	t.Helper()
	var copies []*transfer
	for _, ingress := range ingresses {
		c, err := p.begin(ctx, ingress, sent, uploaded)
		if err != nil {
			t.Fatal(err)
		}
		copies = append(copies, c)
	}
	for range times {
		for _, c := range copies {
			if err := c.goesOn(ctx, step); err != nil {
				t.Fatal(err)
			}
		}
		if err := fault(); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range copies {
		if err := p.complete(ctx, c); err != nil {
			t.Error(err)
		}
	}
}

var both = []string{"forward", "connect"}

// everyCarrier runs a test on each.
func everyCarrier(t *testing.T, test func(ctx context.Context, t *testing.T, carrier string)) {
	for _, carrier := range []string{"quic", "tls", "wss"} {
		t.Run(carrier, func(t *testing.T) {
			t.Parallel()
			test(deadline(t), t, carrier)
		})
	}
}

// TestRelayKilled: the relay dies and comes back; it held nothing of a stream whose ingress is beside the job.
func TestRelayKilled(t *testing.T) {
	t.Parallel()
	everyCarrier(t, func(ctx context.Context, t *testing.T, carrier string) {
		p := newPath(ctx, t, carrier, "120s", false)
		disturbed(ctx, t, p, []string{"forward"}, 3, func() error {
			p.relay.Kill()
			return p.relay.Restart(ctx)
		})
	})
}

// TestRelayFrozen: the relay stands still for a while.
func TestRelayFrozen(t *testing.T) {
	t.Parallel()
	everyCarrier(t, func(ctx context.Context, t *testing.T, carrier string) {
		p := newPath(ctx, t, carrier, "120s", false)
		disturbed(ctx, t, p, both, 1, func() error {
			return frozen(ctx, p.relay.Signal, 12*time.Second)
		})
	})
}

// TestConnectorFrozen: so does the connector.
func TestConnectorFrozen(t *testing.T) {
	t.Parallel()
	everyCarrier(t, func(ctx context.Context, t *testing.T, carrier string) {
		p := newPath(ctx, t, carrier, "120s", false)
		disturbed(ctx, t, p, both, 1, func() error {
			return frozen(ctx, p.connector.Signal, 20*time.Second)
		})
	})
}

// frozen stops a process for so long.
func frozen(ctx context.Context, signal func(os.Signal) error, d time.Duration) error {
	if err := signal(syscall.SIGSTOP); err != nil {
		return err
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return signal(syscall.SIGCONT)
}

// TestLinkKilled: every connection between the connector and the relay dies, as when a proxy restarts; the relay's own
// ingress keeps its streams, too.
func TestLinkKilled(t *testing.T) {
	t.Parallel()
	ctx := deadline(t)
	p := newPath(ctx, t, "tls", "120s", true)
	disturbed(ctx, t, p, both, 5, func() error {
		p.link.kill()
		return nil
	})
}

// TestLinkFrozen: nothing comes through any more, and nobody says so: lanes and sessions are found dead by their pings.
func TestLinkFrozen(t *testing.T) {
	t.Parallel()
	ctx := deadline(t)
	p := newPath(ctx, t, "tls", "120s", true)
	disturbed(ctx, t, p, both, 1, func() error {
		p.link.freeze()
		timer := time.NewTimer(30 * time.Second)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		p.link.thaw()
		return nil
	})
}

// TestConnectorRestarted: a connector that was killed is told from one that is only away when its next process comes:
// long before the grace is over, both ends see an error.
func TestConnectorRestarted(t *testing.T) {
	t.Parallel()
	everyCarrier(t, func(ctx context.Context, t *testing.T, carrier string) {
		p := newPath(ctx, t, carrier, "1h", false)
		for _, ingress := range both {
			c, err := p.begin(ctx, ingress, endless, endless)
			if err != nil {
				t.Fatal(err)
			}
			p.connector.Kill()
			if err := p.connector.Start(ctx); err != nil {
				t.Fatal(err)
			}
			if err := p.broken(ctx, c); err != nil {
				t.Error(err)
			}
			if _, err := p.relay.Await(ctx, gateway, node, rig.Online); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestGraceOver: a relay that does not come back ends the streams at both ends once the grace is over.
func TestGraceOver(t *testing.T) {
	t.Parallel()
	ctx := deadline(t)
	p := newPath(ctx, t, "tls", "3s", false)
	c, err := p.begin(ctx, "forward", endless, endless)
	if err != nil {
		t.Fatal(err)
	}
	p.relay.Kill()
	if err := p.broken(ctx, c); err != nil {
		t.Error(err)
	}
}
