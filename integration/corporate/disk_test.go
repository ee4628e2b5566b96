//go:build linux

package corporate

import (
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/lab"
	"github.com/ebbgate/ebbgate/integration/oracle"
	"github.com/ebbgate/ebbgate/integration/rig"
)

// TestFullDisk fills the disk of a relay: streams and dials go on, changes fail and say why, and when there is room
// again they work without a restart.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: mounting needs root")
	}
	ctx := need(t, 2*time.Minute)
	h, err := lab.NewHost(t.TempDir(), "small", map[string]string{"/srv": "srv"})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Mount("/srv", 8<<20); err != nil {
		t.Fatal(err)
	}
	p := program(h)
	r, err := rig.StartRelay(ctx, p, rig.RelayOptions{
		Dir: t.TempDir(), Listen: "127.0.0.1:443", Config: map[string]any{"state": map[string]any{"dir": "/srv/state"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Kill()
	keys, err := r.CreateGateway(ctx, "corp")
	if err != nil {
		t.Fatal(err)
	}
	token, err := r.CreateJob(ctx, "copy", "corp/objects")
	if err != nil {
		t.Fatal(err)
	}
	store, err := oracle.StartStore(ctx, h, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer store.Kill()
	c, err := rig.StartConnector(ctx, p, rig.ConnectorOptions{
		Dir: t.TempDir(), Relay: r.Address, Key: keys.Key1, Name: node, Stores: []rig.Store{rig.Loopback("objects", store.Addr())},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Kill()
	if _, err := r.Await(ctx, "corp", node, rig.Online); err != nil {
		t.Fatal(err)
	}
	ingress := rig.Ingress{Addr: r.Connect, Job: "copy", Token: token, From: h}
	run := func() {
		t.Helper()
		conn, err := ingress.Dial(ctx, "objects.corp:0")
		if err != nil {
			t.Fatal(err)
		}
		s := oracle.Scenario{
			Job:     oracle.Job{Script: oracle.Script{Seed: 1, Send: 1 << 20, End: oracle.EndFIN}, End: oracle.EndFIN},
			Content: []oracle.Kind{oracle.KindComplete},
		}
		if err := s.Run(ctx, conn, store); err != nil {
			t.Error(err)
		}
	}
	run()
	ballast := "/srv/ballast"
	h.Do(func() { err = fillDisk(ballast) })
	if err != nil {
		t.Fatal(err)
	}
	run()
	failures := 0
	for range 50 { // pages that are already there may take the first ones
		_, err := r.CreateGateway(ctx, "g-"+lower(rand.Text()))
		var failed *rig.CommandError
		if err == nil {
			continue
		}
		if !errors.As(err, &failed) || failed.Code != "state-unavailable" || failed.Hop != "relay" {
			t.Fatalf("a change on a full disk: %v", err)
		}
		failures++
		if failures == 3 {
			break
		}
	}
	if failures == 0 {
		t.Error("no change failed on a full disk")
	}
	run()
	h.Do(func() { err = os.Remove(ballast) })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.CreateGateway(ctx, "afterwards"); err != nil {
		t.Errorf("with room again: %v", err)
	}
	run()
	if err := r.Stop(10 * time.Second); err != nil {
		t.Error(err)
	}
	if err := r.Restart(ctx); err != nil {
		t.Fatalf("after a full disk it does not start: %v", err)
	}
	var now rig.Keys
	if err := r.Admin(ctx, &now, "gateway", "keys", "corp"); err != nil || now != keys {
		t.Errorf("after a restart the keys are others: %v", err)
	}
}

// fillDisk writes a file until nothing more fits.
func fillDisk(path string) error {
	f, err := os.OpenFile(filepath.Clean(path), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	for block := make([]byte, 64<<10); len(block) > 0; block = block[:len(block)/2] {
		for {
			if _, err := f.Write(block); err != nil {
				break
			}
		}
	}
	return nil
}

// lower makes a name of a random text.
func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		b[i] = c | 0x20
	}
	return string(b[:20])
}
