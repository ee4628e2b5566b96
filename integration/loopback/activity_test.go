package loopback

import (
	"context"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/oracle"
	"github.com/ebbgate/ebbgate/integration/rig"
)

// TestActivity: what a copy did is in the activity record, by run, and says what exec's summary says.
func TestActivity(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 3*time.Minute)
	c := newCompany(ctx, t, "quic")
	o := c.job(t)
	j := childJob{Way: "port", Script: oracle.Script{Seed: 5, Send: 3 << 20, End: oracle.EndFIN}, Upload: 1 << 20}
	p := startExec(t, o, c.target(store), j, nil)
	summary := wantExec(ctx, t, p, o, 0, 0, "ok")
	want := rig.Run{
		Job: c.ingress.Job, Gateway: corp, Node: node, Store: store, Streams: 1,
		BytesRead: summary.BytesRead, BytesWritten: summary.BytesWritten, Result: "complete", Reason: "ok",
	}
	c.awaitRun(ctx, t, want, "--job", c.ingress.Job, "--since", "1h")

	// by the relay's own ingress, in a run that the job names, with a store that resets
	named := c.ingress
	named.Job += "/night 7"
	for _, script := range []oracle.Script{
		{Seed: 1, Send: 100_000, End: oracle.EndFIN}, {Seed: 2, Send: 50_000, End: oracle.EndReset},
	} {
		conn, err := named.Dial(ctx, c.host(store))
		if err != nil {
			t.Fatal(err)
		}
		outcome, err := oracle.Job{Script: script, End: oracle.EndFIN}.Run(conn)
		if outcome.Complete() != (script.End == oracle.EndFIN) {
			t.Errorf("%v: %v, %v", script.End, outcome, err)
		}
	}
	got := c.awaitRun(ctx, t, rig.Run{
		Job: c.ingress.Job, Run: "night 7", Gateway: corp, Node: node, Store: store, Streams: 2, Result: "failed", Reason: "store-reset", Hop: "store", Failed: 1,
	}, "--node", corp+"/"+node)
	if got.BytesRead < 100_000 {
		t.Errorf("%d bytes read", got.BytesRead)
	}
}

// awaitRun waits until the newest run of a list is as wanted; names and numbers that are zero are not compared.
func (c *company) awaitRun(ctx context.Context, t *testing.T, want rig.Run, query ...string) rig.Run {
	t.Helper()
	got, err := c.relay.AwaitRun(ctx, want, query...)
	if err != nil {
		t.Fatal(err)
	}
	return got
}
