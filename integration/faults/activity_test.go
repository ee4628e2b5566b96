//go:build unix

package faults

import (
	"context"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/rig"
)

// run is a run of the path's job as the activity record has it.
func (p *path) run(ctx context.Context, t *testing.T, want rig.Run) rig.Run {
	t.Helper()
	want.Job, want.Gateway, want.Node, want.Store = job, gateway, node, object
	got, err := p.relay.AwaitRun(ctx, want)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestActivityResumed: a copy that outlives a killed relay is complete in the record of the next one, both ends say the
// same, and its resumptions are counted.
func TestActivityResumed(t *testing.T) {
	t.Parallel()
	ctx := deadline(t)
	p := newPath(ctx, t, options{carrier: "tls"})
	disturbed(ctx, t, p, []string{"forward"}, 2, func() error {
		p.relay.Kill()
		return p.relay.Restart(ctx)
	})
	got := p.run(ctx, t, rig.Run{Streams: 1, BytesRead: sent, Result: "complete", Reason: "ok"})
	if got.Resumes == 0 || got.BytesWritten < uploaded { // and what the script took
		t.Errorf("%+v", got)
	}
}

// TestActivityLost: what a connector that was killed had under way is lost, whoever the ingress is.
func TestActivityLost(t *testing.T) {
	t.Parallel()
	everyCarrier(t, func(ctx context.Context, t *testing.T, carrier string) {
		p := newPath(ctx, t, options{carrier: carrier, grace: "1h"})
		var copies []*transfer
		for _, ingress := range both {
			c, err := p.begin(ctx, ingress, endless, endless)
			if err != nil {
				t.Fatal(err)
			}
			copies = append(copies, c)
		}
		p.connector.Kill()
		if err := p.connector.Start(ctx); err != nil {
			t.Fatal(err)
		}
		for _, c := range copies {
			if err := p.broken(ctx, c); err != nil {
				t.Error(err)
			}
		}
		want := rig.Run{Streams: 1, Result: "lost", Reason: "end-restarted", Hop: "node", Lost: 1, OneSided: 1}
		first := p.run(ctx, t, want)
		for second := first; second.Run == first.Run; wait(ctx, 100*time.Millisecond) {
			runs, err := p.relay.Activity(ctx, "--node", gateway+"/"+node)
			if err != nil {
				t.Fatalf("%+v, and no other: %v", first, err)
			}
			for _, r := range runs {
				if r.Run != first.Run && r.Result == "lost" {
					second = r
				}
			}
		}
	})
}

// TestActivityCut: a relay that was away for longer than the grace learns, when it is back, from both ends that they lost
// each other, and of its own ingress' streams from the node alone.
func TestActivityCut(t *testing.T) {
	t.Parallel()
	ctx := deadline(t)
	p := newPath(ctx, t, options{carrier: "tls", grace: "2s"})
	var copies []*transfer
	for _, ingress := range both {
		c, err := p.begin(ctx, ingress, endless, endless)
		if err != nil {
			t.Fatal(err)
		}
		copies = append(copies, c)
	}
	p.relay.Kill()
	for _, c := range copies {
		if err := p.broken(ctx, c); err != nil {
			t.Error(err)
		}
	}
	if err := p.relay.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	p.run(ctx, t, rig.Run{Streams: 1, Result: "failed", Reason: "lanes-lost", Hop: "relay", Failed: 1})
	p.run(ctx, t, rig.Run{Streams: 1, Result: "lost", Hop: "ingress", Lost: 1, OneSided: 1})
}

// TestActivityClientKilled: of a job that was killed the node alone knows.
func TestActivityClientKilled(t *testing.T) {
	t.Parallel()
	ctx := deadline(t)
	p := newPath(ctx, t, options{carrier: "tls", grace: "2s"})
	c, err := p.begin(ctx, "forward", endless, endless)
	if err != nil {
		t.Fatal(err)
	}
	p.forward.Kill()
	if err := p.broken(ctx, c); err != nil {
		t.Error(err)
	}
	p.run(ctx, t, rig.Run{Streams: 1, Result: "lost", Reason: "lanes-lost", Hop: "ingress", Lost: 1, OneSided: 1})
}
