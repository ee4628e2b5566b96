package loopback

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/rig"
)

// damages are what can happen to a file.
var damages = map[string]func(path string) error{
	"removed":   os.Remove,
	"emptied":   func(path string) error { return os.Truncate(path, 0) },
	"cut short": func(path string) error { return edit(path, func(b []byte) []byte { return b[:len(b)/2] }) },
	"one bit flipped": func(path string) error {
		return edit(path, func(b []byte) []byte {
			if len(b) > 0 {
				b[len(b)/2] ^= 4
			}
			return b
		})
	},
	"zeroes in the middle": func(path string) error {
		return edit(path, func(b []byte) []byte {
			clear(b[len(b)/4 : len(b)/2])
			return b
		})
	},
	"unreadable": func(path string) error { // a mode would not stop root
		if err := os.Remove(path); err != nil {
			return err
		}
		return os.Mkdir(path, 0o700)
	},
}

func edit(path string, f func([]byte) []byte) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, f(b), 0o600)
}

// TestDamagedState damages each file of a relay's state. The relay must either refuse to start and say how to restore,
// or be the same relay as before: never a new one.
func TestDamagedState(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 4*time.Minute)
	relay, err := rig.StartRelay(ctx, rig.Program{Path: binary}, rig.RelayOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { relay.Kill() })
	keys, err := relay.CreateGateway(ctx, corp)
	if err != nil {
		t.Fatal(err)
	}
	if err := relay.Stop(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	state := filepath.Join(relay.Dir, "state")
	good := t.TempDir()
	if err := os.CopyFS(filepath.Join(good, "state"), os.DirFS(state)); err != nil {
		t.Fatal(err)
	}
	var files []string
	entries, err := os.ReadDir(state)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Type().IsRegular() && !strings.HasSuffix(e.Name(), "lock") {
			files = append(files, e.Name())
		}
	}
	if len(files) < 3 { // database, key, marker
		t.Fatalf("the state is only %q", files)
	}
	survived := 0
	for _, file := range files {
		for damage, do := range damages {
			t.Run(file+" "+damage, func(t *testing.T) {
				restore(t, good, state)
				if err := do(filepath.Join(state, file)); err != nil {
					t.Fatal(err)
				}
				err := relay.Restart(ctx) // with --init
				if err != nil {
					wantStateRefused(t, err)
					return
				}
				defer relay.Kill()
				survived++
				if now, err := keysOf(ctx, relay); err != nil || now != keys {
					t.Errorf("the relay started with other keys: %v", err)
				}
			})
		}
	}
	t.Logf("%d files, %d of %d kinds of damage did no harm", len(files), survived, len(files)*len(damages))
	restore(t, good, state)
	if err := relay.Restart(ctx); err != nil {
		t.Fatalf("restored, it does not start: %v", err)
	}
	if now, err := keysOf(ctx, relay); err != nil || now != keys {
		t.Errorf("restored, it has other keys: %v", err)
	}
}

func wantStateRefused(t *testing.T, err error) {
	t.Helper()
	var failed *rig.CommandError
	if !errors.As(err, &failed) {
		t.Errorf("got %v", err)
		return
	}
	if !strings.HasPrefix(failed.Code, "state-") || failed.Hop != "relay" {
		t.Errorf("got %s at hop %q, want state-… at relay: %v", failed.Code, failed.Hop, err)
	}
	if !strings.Contains(strings.ToLower(failed.Message+failed.Advice), "restore") && !strings.Contains(failed.Message+failed.Advice, "read") {
		t.Errorf("does not say how to restore: %v", err)
	}
}

// restore puts the good state back.
func restore(t *testing.T, good, state string) {
	t.Helper()
	if err := os.RemoveAll(state); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(state, os.DirFS(filepath.Join(good, "state"))); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(state, func(path string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return os.Chmod(path, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestInit makes state once and only once, and runs nothing where none was made.
func TestInit(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 4*time.Minute)
	p := rig.Program{Path: binary}
	dir := t.TempDir()
	config := filepath.Join(dir, "relay.yaml")
	file := "hostname: 127.0.0.1\nlisten: {tls: \"127.0.0.1:0\", quic: \"\", http: \"\"}\nstate: {dir: " + filepath.Join(dir, "state") + "}\n"
	if err := os.WriteFile(config, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		return p.Run(ctx, nil, append(args, "--config", config)...)
	}
	wantFailure(t, run("relay", "run"), "state-missing", "relay", "relay init")
	if err := run("relay", "init"); err != nil {
		t.Fatal(err)
	}
	wantFailure(t, run("relay", "init"), "state-exists", "relay", filepath.Join(dir, "state"))
	relay := &rig.Relay{Program: p, Dir: dir, Config: config}
	if err := relay.Restart(ctx); err != nil {
		t.Fatal(err)
	}
	second := *relay
	wantFailure(t, second.Restart(ctx), "state-in-use", "relay")
	if err := relay.Stop(10 * time.Second); err != nil {
		t.Error(err)
	}
	wantFailure(t, run("gateway", "list"), "relay-unreachable", "relay")
}
