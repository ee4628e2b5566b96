//go:build linux

package relays

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/rig"
)

// TestThree: of three relays, a connector and a client that know one each, not the
// same, have two each, and so one in common, whichever is killed.
func TestThree(t *testing.T) {
	t.Parallel()
	ctx := deadline(t)
	p := startPair(ctx, t)
	c := startRelay(ctx, t, rig.RelayOptions{Hostname: "127.0.0.3", Postgres: p.database, KeyOf: p.a})
	keys, err := p.a.CreateGateway(ctx, "corp")
	if err != nil {
		t.Fatal(err)
	}
	token, err := c.CreateJob(ctx, "copy", "corp/erp")
	if err != nil {
		t.Fatal(err)
	}
	node, err := rig.StartConnector(ctx, rig.Program{Path: binary}, rig.ConnectorOptions{
		Dir: t.TempDir(), Relay: p.a.Address, Key: keys.Key1, Name: "node1", Carriers: []string{"tls"},
		Stores: []rig.Store{rig.Loopback("erp", echo(t))},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		node.Kill()
		if t.Failed() {
			t.Logf("connector:\n%s", node.Tail())
		}
	})
	forward, err := rig.StartForward(ctx, rig.Program{Path: binary}, rig.ForwardOptions{
		Dir: t.TempDir(), Relay: c.Address, Token: token, Target: "corp/erp", Carriers: []string{"tls"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		forward.Kill()
		if t.Failed() {
			t.Logf("forward:\n%s", forward.Tail())
		}
	})
	reached := func(when string) {
		t.Helper()
		start := time.Now()
		var err error
		await(ctx, t, "a dial "+when, func() bool { err = say(ctx, forward.Addr); return err == nil })
		t.Logf("%s: %v", when, time.Since(start).Round(time.Millisecond))
	}
	reached("at first")
	relays := map[string]*rig.Relay{"the connector's": p.a, "the one that nobody named": p.b, "the client's": c}
	for name, r := range relays {
		r.Kill()
		reached("without " + name)
		if err := r.Restart(ctx); err != nil {
			t.Fatal(err)
		}
		reached("after " + name + " is back")
	}
}

// say has a store echo a few bytes.
func say(ctx context.Context, at string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", at)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	until, _ := ctx.Deadline()
	_ = conn.SetDeadline(until)
	if _, err := io.WriteString(conn, "tide"); err != nil {
		return err
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "tide" {
		return fmt.Errorf("%q: %w", got, err)
	}
	return nil
}
