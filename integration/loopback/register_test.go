package loopback

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/rig"
)

// wantFailure checks the error that a command printed. Mentions are texts that must stand in its message or advice.
func wantFailure(t *testing.T, err error, code, hop string, mentions ...string) {
	t.Helper()
	var failed *rig.CommandError
	if !errors.As(err, &failed) {
		t.Errorf("got %v, want %s at %s", err, code, hop)
		return
	}
	if failed.Exit != 1 && failed.Exit != 2 {
		t.Errorf("exit status %d", failed.Exit)
	}
	if failed.Code != code || failed.Hop != hop {
		t.Errorf("got %s at hop %q, want %s at %q: %v", failed.Code, failed.Hop, code, hop, err)
	}
	if failed.Message == "" || failed.Advice == "" {
		t.Errorf("message or advice is missing: %+v", failed)
	}
	for _, text := range mentions {
		if !strings.Contains(failed.Message+" "+failed.Advice, text) {
			t.Errorf("%q does not stand in %q, %q", text, failed.Message, failed.Advice)
		}
	}
}

// TestRegistration registers with keys and configurations that are wrong in every way that happens.
func TestRegistration(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 4*time.Minute)
	relay, other := startRelay(ctx, t), startRelay(ctx, t)
	keys, err := relay.CreateGateway(ctx, corp)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := other.CreateGateway(ctx, corp)
	if err != nil {
		t.Fatal(err)
	}
	register := func(t *testing.T, key, name string) error {
		t.Helper()
		c, err := rig.Configure(rig.Program{Path: binary}, rig.ConnectorOptions{
			Dir: t.TempDir(), Relay: relay.Address, Key: key, Name: name,
		})
		if err != nil {
			t.Fatal(err)
		}
		err = c.Register(ctx)
		var failed *rig.CommandError
		if errors.As(err, &failed) && len(key) > 40 && strings.Contains(failed.Output, key[20:40]) {
			t.Errorf("the key stands in %q", failed.Output)
		}
		return err
	}
	middle := len(keys.Key1) / 2
	mistyped := keys.Key1[:middle] + swap(keys.Key1[middle]) + keys.Key1[middle+1:]
	for _, test := range []struct{ name, key, code, hop string }{
		{"empty", "", "key-malformed", "registration"},
		{"nonsense", "let me in", "key-malformed", "registration"},
		{"a job's token", "ebbjob_AAAA", "key-malformed", "registration"},
		{"truncated", keys.Key1[:len(keys.Key1)-5], "key-malformed", "registration"},
		{"mistyped", mistyped, "key-malformed", "registration"},
		{"another relay's", foreign.Key1, "relay-unknown", "relay"},
	} {
		t.Run(test.name, func(t *testing.T) { wantFailure(t, register(t, test.key, node), test.code, test.hop) })
	}
	t.Run("revoked", func(t *testing.T) {
		var changed rig.Keys
		if err := relay.Admin(ctx, &changed, "gateway", "regenerate-key", corp, "key1"); err != nil {
			t.Fatal(err)
		}
		wantFailure(t, register(t, keys.Key1, node), "key-refused", "registration")
		if err := register(t, keys.Key2, "by-key2"); err != nil {
			t.Errorf("the other key: %v", err)
		}
		if keys, err = keysOf(ctx, relay); err != nil {
			t.Fatal(err)
		}
		if err := register(t, keys.Key1, "by-new-key1"); err != nil {
			t.Errorf("the new key: %v", err)
		}
	})
	t.Run("name taken", func(t *testing.T) {
		if err := register(t, keys.Key2, "twice"); err != nil {
			t.Fatal(err)
		}
		wantFailure(t, register(t, keys.Key2, "twice"), "node-exists", "registration", "twice")
	})
	t.Run("already registered", func(t *testing.T) {
		c, err := rig.Configure(rig.Program{Path: binary}, rig.ConnectorOptions{
			Dir: t.TempDir(), Relay: relay.Address, Key: keys.Key2, Name: "once",
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Register(ctx); err != nil {
			t.Fatal(err)
		}
		c.Options.Name = "again"
		wantFailure(t, c.Register(ctx), "already-registered", "registration", "once")
		if err := c.Start(ctx); err != nil { // nothing lost
			t.Fatal(err)
		}
		defer c.Kill()
		if _, err := relay.Await(ctx, corp, "once", rig.Online); err != nil {
			t.Fatal(err)
		}
		second := *c
		wantFailure(t, second.Start(ctx), "connector-running", "config")
	})
	t.Run("bad name", func(t *testing.T) {
		wantFailure(t, register(t, keys.Key2, "Not A Name"), "name-invalid", "config", "Not A Name")
	})
	t.Run("no relay", func(t *testing.T) {
		c, err := rig.Configure(rig.Program{Path: binary}, rig.ConnectorOptions{
			Dir: t.TempDir(), Relay: rig.FreePort(t), Key: keys.Key2, Name: "lost", Carriers: []string{"tls"},
		})
		if err != nil {
			t.Fatal(err)
		}
		wantFailure(t, c.Register(ctx), "connection-refused", "tcp")
		c.Options.Relay = "no-such-relay.invalid"
		wantFailure(t, c.Register(ctx), "name-unresolved", "dns", "no-such-relay.invalid")
	})
	t.Run("not registered", func(t *testing.T) {
		c, err := rig.Configure(rig.Program{Path: binary}, rig.ConnectorOptions{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		wantFailure(t, c.Start(ctx), "not-registered", "registration", "connector register")
	})
}

func keysOf(ctx context.Context, relay *rig.Relay) (keys rig.Keys, err error) {
	return keys, relay.Admin(ctx, &keys, "gateway", "keys", corp)
}

// swap returns another character of the alphabet of keys.
func swap(c byte) string {
	if c == 'x' {
		return "y"
	}
	return "x"
}

// TestConfigurationErrors gives both programs files that they must reject, and say why and where.
func TestConfigurationErrors(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 4*time.Minute)
	for _, test := range []struct {
		name, command, file string
		mentions            []string
	}{
		{"unknown key", "connector", "state_dir: DIR\nproxy:\n  mode: none\n  colour: blue\n", []string{"colour", "4"}},
		{"unknown key", "relay", "hostname: 127.0.0.1\nstate: {dir: DIR}\nlisten:\n  tls: \"127.0.0.1:0\"\n  gopher: \":70\"\n", []string{"gopher", "5"}},
		{"key of a later version", "relay", "hostname: 127.0.0.1\nstate: {dir: DIR}\nqueue_timeout: 60s\n", []string{"queue_timeout", "3"}},
		{"wrong type", "connector", "state_dir: DIR\nstores: 7\n", []string{"stores", "2"}},
		{"not YAML", "connector", "state_dir: [\n", nil},
		{"key twice", "connector", "state_dir: DIR\nstate_dir: DIR\n", []string{"state_dir", "2"}},
		{"store twice", "connector", "state_dir: DIR\nstores:\n- {name: a, address: \"10.0.0.1:1\"}\n- {name: a, address: \"10.0.0.2:1\"}\n", []string{"a"}},
		{"store without a port", "connector", "state_dir: DIR\nstores:\n- {name: a, address: \"10.0.0.1\"}\n", []string{"address"}},
		{"unknown carrier", "connector", "state_dir: DIR\ncarriers: [pigeon]\n", []string{"pigeon"}},
		{"proxy without a scheme that exists", "connector", "state_dir: DIR\nproxy: {mode: custom, url: \"http://p:1\", auth: [magic]}\n", []string{"magic"}},
		{"custom proxy without a URL", "connector", "state_dir: DIR\nproxy: {mode: custom}\n", []string{"proxy.url"}},
		{"password in the URL", "connector", "state_dir: DIR\nproxy: {mode: custom, url: \"http://u:hunter2@p:1\"}\n", []string{"proxy.url"}},
	} {
		t.Run(test.command+", "+test.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "file.yaml")
			if err := os.WriteFile(path, []byte(strings.ReplaceAll(test.file, "DIR", filepath.Join(dir, "state"))), 0o600); err != nil {
				t.Fatal(err)
			}
			args := []string{test.command, "run", "--config", path}
			if test.command == "relay" {
				args = append(args, "--init")
			}
			err := rig.Program{Path: binary}.Run(ctx, nil, args...)
			wantFailure(t, err, "config-invalid", "config", append(test.mentions, path)...)
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the password stands in %v", err)
			}
			if _, err := os.Stat(filepath.Join(dir, "state")); err == nil {
				t.Error("made a state directory")
			}
		})
	}
	t.Run("no file", func(t *testing.T) {
		err := rig.Program{Path: binary}.Run(ctx, nil, "connector", "run", "--config", filepath.Join(t.TempDir(), "absent.yaml"))
		wantFailure(t, err, "config-unreadable", "config", "absent.yaml")
	})
	t.Run("wrong usage", func(t *testing.T) {
		for _, args := range [][]string{{"frobnicate"}, {"relay", "run", "--no-such-flag"}, {"forward"}} {
			err := rig.Program{Path: binary}.Run(ctx, nil, args...)
			var failed *rig.CommandError
			if !errors.As(err, &failed) || failed.Exit != 2 {
				t.Errorf("ebbgate %q: %v, want exit status 2", args, err)
			}
		}
	})
	t.Run("JSON errors are one object", func(t *testing.T) {
		err := rig.Program{Path: binary}.Run(ctx, nil, "connector", "run", "--config", filepath.Join(t.TempDir(), "absent.yaml"))
		var failed *rig.CommandError
		if !errors.As(err, &failed) || !json.Valid([]byte(strings.TrimSpace(failed.Output))) {
			t.Errorf("%v", err)
		}
	})
}
