package loopback

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/oracle"
	"github.com/ebbgate/ebbgate/integration/rig"
)

// reloadChanges is what connector reload prints.
type reloadChanges struct {
	StoresAdded   []string `json:"stores_added"`
	StoresRemoved []string `json:"stores_removed"`
	StoresChanged []string `json:"stores_changed"`
	Keys          []string `json:"keys"`
	Restart       []string `json:"restart"`
	Announced     bool     `json:"announced"`
	Moving        bool     `json:"moving"`
}

// reload writes the connector's configuration and has it read.
func reload(ctx context.Context, t *testing.T, c *rig.Connector) (changes reloadChanges) {
	t.Helper()
	if err := c.Configure(); err != nil {
		t.Fatal(err)
	}
	if err := c.Program.Run(ctx, &changes, "connector", "reload", "--config", c.Config); err != nil {
		t.Fatal(err)
	}
	return changes
}

// connectorStatus is what connector status prints, as far as these tests ask.
type connectorStatus struct {
	Proxy    string
	Sessions []struct{ Role, Carrier, Proxy string }
	Stores   []struct{ Name, Address string }
	Config   struct {
		Error   *struct{ Code, Hop, Message, Advice string }
		Restart []string
		Moving  bool
	}
}

// has tells whether the connector says that it has a store.
func (s connectorStatus) has(store string) bool {
	return slices.ContainsFunc(s.Stores, func(st struct{ Name, Address string }) bool { return st.Name == store })
}

// awaitStatus asks the connector until it is as wanted.
func awaitStatus(ctx context.Context, t *testing.T, c *rig.Connector, wanted func(connectorStatus) bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		var s connectorStatus
		if err := c.Program.Run(ctx, &s, "connector", "status", "--config", c.Config); err != nil && ctx.Err() == nil {
			// The file may be wrong at the time: the connector's folder is not.
			if err := c.Program.Run(ctx, &s, "connector", "status", "--state-dir", filepath.Join(c.Options.Dir, "state")); err != nil {
				t.Fatal(err)
			}
		}
		if wanted(s) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("the connector is not as wanted: %+v", s)
		}
	}
}

// exchanges dials a store by CONNECT and reads a small object out of it.
func (c *company) exchanges(ctx context.Context, t *testing.T, in rig.Ingress, store string) {
	t.Helper()
	conn, err := in.Dial(ctx, c.host(store))
	if err != nil {
		t.Errorf("%s: %v", store, err)
		return
	}
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	script := oracle.Script{Seed: 5, Send: 100_000, End: oracle.EndFIN}
	o, _ := oracle.Job{Script: script, End: oracle.EndFIN}.Run(conn)
	if !o.Complete() {
		t.Errorf("%s: %v", store, o)
	}
}

// TestReload changes everything while an object is on its way: the object arrives, a store that is added can be dialled
// at once and one that is removed no more, the relay knows, and nothing else is touched.
func TestReload(t *testing.T) {
	for _, carrier := range carriers {
		t.Run(carrier, func(t *testing.T) {
			t.Parallel()
			ctx := deadline(t, 4*time.Minute)
			c := newCompany(ctx, t, carrier)
			all := c.newJob(ctx, t, "everything", store, "added")
			object := c.read(t, "connect", slowObject)
			c.connector.Options.Stores = []rig.Store{rig.Loopback("added", c.store.Addr())}
			got := reload(ctx, t, c.connector)
			if !slices.Equal(got.StoresAdded, []string{"added"}) || !slices.Equal(got.StoresRemoved, []string{store}) || !got.Announced {
				t.Errorf("it says %+v", got)
			}
			c.exchanges(ctx, t, all, "added")
			c.wantRefused(ctx, t, c.ingress, c.host(store), refusal{http.StatusNotFound, "store-unknown", "gateway"})
			var nodes struct{ Nodes []struct{ Stores []string } }
			if err := c.relay.Admin(ctx, &nodes, "node", "list", c.gateway); err != nil || len(nodes.Nodes) != 1 || !slices.Equal(nodes.Nodes[0].Stores, []string{"added"}) {
				t.Errorf("the relay knows %+v, %v", nodes, err)
			}
			if got := reload(ctx, t, c.connector); len(got.StoresAdded)+len(got.StoresRemoved)+len(got.StoresChanged)+len(got.Keys) > 0 {
				t.Errorf("the same again: %+v", got)
			}
			if o := <-object; !o.Complete() || o.Honest(slowObject.Seed, slowObject.Send) != nil {
				t.Errorf("the object that was on its way: %v", o)
			}
			// What a node had is remembered while it is away.
			if err := c.connector.Stop(10 * time.Second); err != nil {
				t.Error(err)
			}
			if _, err := c.relay.Await(ctx, c.gateway, node, func(n rig.Node) bool { return n.Status == "Offline" }); err != nil {
				t.Fatal(err)
			}
			c.wantRefused(ctx, t, all, c.host("added"), refusal{http.StatusServiceUnavailable, "no-node-online", "gateway"})
		})
	}
}

// TestReloadByItself has the file change, and SIGHUP come, without a command.
func TestReloadByItself(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 4*time.Minute)
	c := newCompany(ctx, t, "tls")
	has := func(store string) func(connectorStatus) bool {
		return func(s connectorStatus) bool { return s.has(store) && s.Config.Error == nil }
	}
	c.connector.Options.Stores = append(c.connector.Options.Stores, rig.Loopback("written", c.store.Addr()))
	if err := c.connector.Configure(); err != nil {
		t.Fatal(err)
	}
	awaitStatus(ctx, t, c.connector, has("written"))

	// Replaced, as editors do.
	raw, err := os.ReadFile(c.connector.Config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.connector.Config+".new", []byte(strings.ReplaceAll(string(raw), "written", "replaced")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(c.connector.Config+".new", c.connector.Config); err != nil {
		t.Fatal(err)
	}
	awaitStatus(ctx, t, c.connector, has("replaced"))
	in := c.newJob(ctx, t, "everything", "replaced")
	for { // the relay is told right after
		conn, err := in.Dial(ctx, c.host("replaced"))
		if err == nil {
			_ = conn.Close()
			break
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
	}

	// SIGHUP, of which only the log tells when nothing changed.
	if err := c.connector.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(c.connector.Output(), `"cause":"SIGHUP"`) {
		select {
		case <-ctx.Done():
			t.Fatal("SIGHUP is not heard")
		case <-c.connector.Done():
			t.Fatal("SIGHUP ended it")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// TestReloadRefused has a configuration that is wrong: it changes nothing, and its line is named everywhere.
func TestReloadRefused(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 4*time.Minute)
	c := newCompany(ctx, t, "tls")
	good, err := os.ReadFile(c.connector.Config)
	if err != nil {
		t.Fatal(err)
	}
	bad := strings.Replace(string(good), `"stores"`, `"shops"`, 1)
	if err := os.WriteFile(c.connector.Config, []byte(bad), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, flag := range [][]string{{"--config", c.connector.Config}, {"--state-dir", filepath.Join(c.connector.Options.Dir, "state")}} {
		err := c.connector.Program.Run(ctx, nil, append([]string{"connector", "reload"}, flag...)...)
		failed, ok := err.(*rig.CommandError)
		if !ok || failed.Exit != 1 || failed.Hop != "config" || !strings.Contains(failed.Message, "connector.yaml:") || !strings.Contains(failed.Message, "shops: unknown key") {
			t.Errorf("%s: %v", flag[0], err)
		}
	}
	awaitStatus(ctx, t, c.connector, func(s connectorStatus) bool {
		return s.has(store) && s.Config.Error != nil && s.Config.Error.Hop == "config" && strings.Contains(s.Config.Error.Message, "shops: unknown key")
	})
	if !strings.Contains(c.connector.Output(), "shops: unknown key") {
		t.Error("the log does not tell")
	}
	c.exchanges(ctx, t, c.ingress, store)
	if err := os.WriteFile(c.connector.Config, good, 0o600); err != nil {
		t.Fatal(err)
	}
	awaitStatus(ctx, t, c.connector, func(s connectorStatus) bool { return s.Config.Error == nil })
}

// TestReloadProxy gives a running connector a proxy: the sessions move there, and a stream that is open goes on.
func TestReloadProxy(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 4*time.Minute)
	c := newCompany(ctx, t, "tls")
	object := c.read(t, "connect", slowObject)
	password := "opensesame"
	proxy := &basicProxy{}
	proxy.password.Store(&password)
	addr := proxyAt(t, proxy.serve)
	c.connector.Options.Proxy = rig.Proxy{URL: "http://" + addr, Username: proxyUser, Password: password}
	if got := reload(ctx, t, c.connector); !got.Moving || !slices.Equal(got.Keys, []string{"proxy"}) {
		t.Errorf("it says %+v", got)
	}
	if o := <-object; !o.Complete() || o.Honest(slowObject.Seed, slowObject.Send) != nil {
		t.Errorf("the object that was on its way: %v", o)
	}
	awaitStatus(ctx, t, c.connector, func(s connectorStatus) bool {
		for _, session := range s.Sessions {
			if session.Proxy != addr {
				return false
			}
		}
		return !s.Config.Moving && len(s.Sessions) == 2
	})
	if n, err := c.relay.Await(ctx, c.gateway, node, func(n rig.Node) bool { return n.Proxy == addr }); err != nil {
		t.Errorf("%+v, %v", n, err)
	}
	c.exchanges(ctx, t, c.ingress, store)
}
