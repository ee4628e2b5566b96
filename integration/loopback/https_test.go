package loopback

import (
	"context"
	"errors"
	"io"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ebbgate/ebbgate/integration/oracle"
	"github.com/ebbgate/ebbgate/integration/rig"
)

// TestHonestEndsHTTPS plays every shape that a connection can have 20 times over the ingress at the relay's TLS port,
// with a job that takes nothing but a close_notify for an end.
func TestHonestEndsHTTPS(t *testing.T) {
	t.Parallel()
	const rounds, together = 20, 6
	ctx := deadline(t, 4*time.Minute)
	c := newCompany(ctx, t, "tls")
	in := c.ingress
	in.Addr = c.relay.TLS
	var group errgroup.Group
	group.SetLimit(together)
	for round := range rounds {
		for _, s := range oracle.Scenarios(round) {
			group.Go(func() error {
				conn, err := in.DialSecure(ctx, c.host(store))
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
}

// TestBareFIN has jobs whose TCP connection ends in the middle of a copy, between two records of TLS, as anybody on the
// way can make it end: the store must not take that for the end of the upload.
func TestBareFIN(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 4*time.Minute)
	c := newCompany(ctx, t, "tls")
	in := c.ingress
	in.Addr = c.relay.TLS
	for round := range 20 {
		id := "bare-" + string(rune('a'+round))
		script := oracle.Script{ID: id, Seed: 1, Send: 10, End: oracle.EndSilent, UploadSeed: 2}
		conn, err := in.DialSecure(ctx, c.host(store))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(script.Encode()); err != nil {
			t.Fatal(err)
		}
		if _, err := oracle.NewReader(2, 10_000).WriteTo(conn); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 10)); err != nil { // the store has the script
			t.Fatal(err)
		}
		if err := conn.EndTCP(); err != nil {
			t.Fatal(err)
		}
		report, err := c.store.Report(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		if report.Upload.Complete() {
			t.Errorf("round %d: the store took %d bytes for a whole upload", round, report.Upload.Bytes)
		}
		if _, err := io.ReadAll(conn); err == nil {
			t.Errorf("round %d: the job reads a clean end", round)
		}
		_ = conn.Close()
	}
}

// TestKilledRelayHTTPS kills relays in the middle of copies: no job may take that for an end.
func TestKilledRelayHTTPS(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 4*time.Minute)
	relay, err := rig.StartRelay(ctx, rig.Program{Path: binary}, rig.RelayOptions{
		Dir: filepath.Join(t.TempDir(), "relay"), Config: map[string]any{"ingress": ingressesOfRelay},
	})
	if err != nil {
		t.Fatal(err)
	}
	watch(t, relay.Process, false)
	c := joinRelay(ctx, t, relay, "tls", corp)
	in := c.ingress
	in.Addr = c.relay.TLS
	var group errgroup.Group
	began := make(chan struct{}, 10)
	for i := range cap(began) {
		conn, err := in.DialSecure(ctx, c.host(store))
		if err != nil {
			t.Fatal(err)
		}
		first := true
		j := oracle.Job{Script: oracle.Script{Seed: uint64(i), Send: 1 << 40, End: oracle.EndFIN}, Observe: func(n int64) {
			if n > 1<<20 && first {
				first = false
				began <- struct{}{}
			}
		}}
		group.Go(func() error {
			outcome, _ := j.Run(conn)
			if outcome.Complete() {
				return errors.New("a killed relay looks like an end")
			}
			return outcome.Honest(uint64(i), 1<<40)
		})
	}
	for range cap(began) {
		select {
		case <-began:
		case <-ctx.Done():
			t.Fatal(context.Cause(ctx))
		}
	}
	c.relay.Kill()
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}
