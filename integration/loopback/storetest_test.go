package loopback

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/rig"
)

// storeTest is what store test prints.
type storeTest struct {
	OK           bool   `json:"ok"`
	FirstFailure string `json:"first_failure"`
	Nodes        []struct {
		Node string
		OK   bool
		Hops []struct {
			Name   string
			OK     bool
			Detail string
			Advice string
		}
	}
}

// testStore runs store test, which must say that a hop failed (empty: none) and end accordingly.
func (c *company) testStore(ctx context.Context, t *testing.T, failure string, args ...string) storeTest {
	t.Helper()
	var got storeTest
	err := c.relay.Admin(ctx, &got, append([]string{"store", "test"}, args...)...)
	var failed *rig.CommandError
	if failure != "" && errors.As(err, &failed) && failed.Exit == 1 {
		if failed.Code != "store-test-failed" || !strings.Contains(failed.Message, ": "+failure+": ") || failed.Advice == "" {
			t.Errorf("store test %q: %v, want hop %q", args, err, failure)
		}
		return got
	}
	if err != nil || got.FirstFailure != failure || got.OK != (failure == "") {
		t.Errorf("store test %q: %+v, %v, want hop %q", args, got, err, failure)
	}
	return got
}

// TestStoreTest asks for stores that work at two nodes, at one only, and not at all.
func TestStoreTest(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 4*time.Minute)
	c := newCompany(ctx, t, "tls")
	c.newConnector(ctx, t, "node2",
		rig.Loopback(store, rig.FreePort(t)),
		rig.Store{Name: "unresolved", Address: "no-such-host.invalid:1433"},
		rig.Store{Name: "forbidden", Address: c.store.Addr()},
	)
	got := c.testStore(ctx, t, "", c.target(store), "--node", node)
	if len(got.Nodes) != 1 || got.Nodes[0].Node != node || len(got.Nodes[0].Hops) != 6 {
		t.Fatalf("%+v", got)
	}
	for i, want := range []string{"relay", "node", "dns", "policy", "tcp", "store"} {
		if h := got.Nodes[0].Hops[i]; h.Name != want || !h.OK || h.Detail == "" {
			t.Errorf("hop %d is %+v, want %s", i, h, want)
		}
	}
	c.testStore(ctx, t, "tcp", c.target(store)) // node2 has it, too, and does not reach it
	c.testStore(ctx, t, "tcp", c.target(store), "--node", "node2")
	c.testStore(ctx, t, "dns", c.target("unresolved"))
	c.testStore(ctx, t, "policy", c.target("forbidden"))
	c.testStore(ctx, t, "node", c.target("forbidden"), "--node", node) // it does not have it
	for _, tc := range []struct {
		args      []string
		code, hop string
	}{
		{[]string{c.target("absent")}, "store-unknown", "gateway"},
		{[]string{"elsewhere/" + store}, "gateway-unknown", "gateway"},
		{[]string{c.target(store), "--node", "nobody"}, "node-unknown", "node"},
	} {
		var failed *rig.CommandError
		err := c.relay.Admin(ctx, nil, append([]string{"store", "test"}, tc.args...)...)
		if !errors.As(err, &failed) || failed.Exit != 1 || failed.Code != tc.code || failed.Hop != tc.hop {
			t.Errorf("store test %q: %v, want %s", tc.args, err, tc.code)
		}
	}
	if err := c.connector.Stop(10 * time.Second); err != nil {
		t.Error(err)
	}
	if _, err := c.relay.Await(ctx, c.gateway, node, func(n rig.Node) bool { return n.Status == "Offline" }); err != nil {
		t.Fatal(err)
	}
	var failed *rig.CommandError
	if err := c.relay.Admin(ctx, nil, "store", "test", c.target(store), "--node", node); !errors.As(err, &failed) || failed.Code != "no-node-online" {
		t.Errorf("a node that is away: %v", err)
	}
}
