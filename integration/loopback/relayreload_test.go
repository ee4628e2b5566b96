package loopback

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ebbgate/ebbgate/integration/oracle"
)

// TestRelayReloads changes the relay's configuration again and again while copies go on by ingresses that stay, change
// and go: none may break.
func TestRelayReloads(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 4*time.Minute)
	c := newCompany(ctx, t, "tls")
	secure := c.ingress
	secure.Addr = c.relay.TLS
	text, err := os.ReadFile(c.relay.Config)
	if err != nil {
		t.Fatal(err)
	}
	write := func(ingress map[string]any) {
		var file map[string]any
		if err := json.Unmarshal(text, &file); err != nil {
			t.Fatal(err)
		}
		file["ingress"] = ingress
		body, err := json.Marshal(file)
		if err != nil {
			t.Fatal(err)
		}
		replace(t, c.relay.Config, body)
	}
	const in, gone = "the configuration was read again and is in force", "connect 127.0.0.1:0 closed"
	said := func(what string) int { return strings.Count(c.relay.Output(), what) }
	await := func(what string, n int) {
		t.Helper()
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for said(what) < n {
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatalf("the relay does not say %q for the %d. time", what, n)
			}
		}
	}

	// Copies that begin by an ingress that is about to go, and copies by one that stays.
	var group errgroup.Group
	var stop atomic.Bool
	script := oracle.Script{Seed: 5, Send: 3_000_000, Chunk: 100_000, Pause: 20 * time.Millisecond, End: oracle.EndFIN}
	slow := oracle.Scenario{Job: oracle.Job{Script: script, End: oracle.EndFIN}, Content: []oracle.Kind{oracle.KindComplete}}
	for range 4 {
		conn, err := c.ingress.Dial(ctx, c.host(store))
		if err != nil {
			t.Fatal(err)
		}
		group.Go(func() error { return slow.Run(ctx, conn, c.store) })
	}
	for i := range 2 {
		group.Go(func() error {
			for n := 0; !stop.Load() || n == 0; n++ {
				conn, err := secure.DialSecure(ctx, c.host(store))
				if err == nil {
					s := oracle.Scenario{
						Job:     oracle.Job{Script: oracle.Script{Seed: uint64(i), Send: 500_000, End: oracle.EndFIN}, End: oracle.EndFIN},
						Content: []oracle.Kind{oracle.KindComplete},
					}
					err = s.Run(ctx, conn, c.store)
				}
				if err != nil {
					return fmt.Errorf("copy %d: %w", n, err)
				}
			}
			return nil
		})
	}
	write(map[string]any{"https": true}) // nobody is told: the file is watched
	await(gone, 1)
	for i := range 10 {
		ingress := map[string]any{"https": true, "socks5": "127.0.0.1:0"}
		if i%2 == 0 {
			ingress["ports"] = []any{map[string]any{"listen": "127.0.0.1:0", "target": c.target(store), "job": c.ingress.Job}}
		}
		before := said(in)
		write(ingress)
		if err := c.relay.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		await(in, before+1)
	}
	before := said("is refused, the one before stays")
	replace(t, c.relay.Config, bytes.Replace(text, []byte(`"ingress"`), []byte(`"ingres"`), 1))
	if err := c.relay.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	await("is refused, the one before stays", before+1)
	if out := c.relay.Output(); !strings.Contains(out, `ingres: unknown key; did you mean \"ingress\"?`) {
		t.Error("the refusal does not say what is wrong")
	}
	stop.Store(true)
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

// replace replaces a file as editors do.
func replace(t *testing.T, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name+".new", b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}
