//go:build unix

package faults

import (
	"context"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/proc"
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
		for err != nil && p.rough && ctx.Err() == nil {
			wait(ctx, 100*time.Millisecond)
			c, err = p.begin(ctx, ingress, sent, uploaded)
		}
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
	if t.Failed() {
		return
	}
	for _, l := range p.links { // or the test is not what it says
		if l != nil && l.bytes() < sent+uploaded {
			t.Errorf("only %d bytes went over the link", l.bytes())
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
		p := newPath(ctx, t, options{carrier: carrier})
		disturbed(ctx, t, p, []string{"forward"}, 3, func() error {
			p.relay.Kill()
			return p.relay.Restart(ctx)
		})
	})
}

// TestFrozen: the relay, the connector or the forward stands still for a while.
func TestFrozen(t *testing.T) {
	t.Parallel()
	for name, who := range map[string]struct {
		long    time.Duration
		process func(*path) *proc.Process
	}{
		"relay":     {12 * time.Second, func(p *path) *proc.Process { return p.relay.Process }}, // its lanes are dead by then
		"connector": {5 * time.Second, func(p *path) *proc.Process { return p.connector.Process }},
		"forward":   {5 * time.Second, func(p *path) *proc.Process { return p.forward.Process }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			everyCarrier(t, func(ctx context.Context, t *testing.T, carrier string) {
				p := newPath(ctx, t, options{carrier: carrier})
				disturbed(ctx, t, p, both, 1, func() error {
					return frozen(ctx, who.process(p).Signal, long(who.long, 20*time.Second))
				})
			})
		})
	}
}

// frozen stops a process for so long.
func frozen(ctx context.Context, signal func(os.Signal) error, d time.Duration) error {
	if err := signal(syscall.SIGSTOP); err != nil {
		return err
	}
	wait(ctx, d)
	return signal(syscall.SIGCONT)
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// TestLinkKilled: every connection between the connector and the relay dies, as when a proxy restarts; the relay's own
// ingress keeps its streams, too.
func TestLinkKilled(t *testing.T) {
	t.Parallel()
	ctx := deadline(t)
	p := newPath(ctx, t, options{carrier: "tls", far: true})
	disturbed(ctx, t, p, both, 5, func() error {
		p.links[farLink].kill()
		return nil
	})
}

// TestLinkCut: nothing comes through any more, or nothing in one direction, and nobody says so: lanes and sessions are
// found dead by their pings, at both ends, and streams go on when the link is back.
func TestLinkCut(t *testing.T) {
	t.Parallel()
	for _, cut := range []struct {
		name      string
		ways      []way
		ingresses [2][]string // by link: the relay's own ingress does not go over the near one
	}{
		{"both ways", []way{up, down}, [2][]string{{"forward"}, both}},
		{"up", []way{up}, [2][]string{{"forward"}, both}},
		{"down", []way{down}, [2][]string{{"forward"}, both}},
	} {
		for at, name := range []string{nearLink: "forward", farLink: "connector"} {
			t.Run(cut.name+"/"+name, func(t *testing.T) {
				t.Parallel()
				everyCarrier(t, func(ctx context.Context, t *testing.T, carrier string) {
					p := newPath(ctx, t, options{carrier: carrier, near: at == nearLink, far: at == farLink})
					short := 5 * time.Second
					if carrier == "tls" && at == farLink {
						short = 12 * time.Second // lanes are dead by then
					}
					disturbed(ctx, t, p, cut.ingresses[at], 1, func() error {
						p.links[at].freeze(cut.ways...)
						wait(ctx, long(short, 30*time.Second))
						p.links[at].thaw(cut.ways...)
						return nil
					})
				})
			})
		}
	}
}

// TestConnectorRestarted: a connector that was killed is told from one that is only away when its next process comes:
// long before the grace is over, both ends see an error.
func TestConnectorRestarted(t *testing.T) {
	t.Parallel()
	everyCarrier(t, func(ctx context.Context, t *testing.T, carrier string) {
		p := newPath(ctx, t, options{carrier: carrier, grace: "1h"})
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
			if _, err := p.relay.Await(ctx, p.gateway, node, rig.Online); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// TestGraceOver: a relay that does not come back ends the streams at both ends once the grace is over.
func TestGraceOver(t *testing.T) {
	t.Parallel()
	ctx := deadline(t)
	p := newPath(ctx, t, options{carrier: "tls", grace: "3s"})
	c, err := p.begin(ctx, "forward", endless, endless)
	if err != nil {
		t.Fatal(err)
	}
	p.relay.Kill()
	if err := p.broken(ctx, c); err != nil {
		t.Error(err)
	}
}
