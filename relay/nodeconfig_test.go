package relay

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/ebbgate/ebbgate/relay/admin"
	"github.com/ebbgate/ebbgate/tunnel"
)

// withNode makes a gateway with a node that is online.
func (r *running) withNode(c tunnel.Carrier) *testNode {
	r.t.Helper()
	if _, err := r.api.CreateGateway(r.t.Context(), "default", "corp"); err != nil {
		r.t.Fatal(err)
	}
	n, err := r.register(c, "corp", "n1")
	if err != nil {
		r.t.Fatal(err)
	}
	r.online(n, c, echoStore(r.t))
	return n
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	var coded interface{ Code() string }
	if !errors.As(err, &coded) || coded.Code() != code {
		t.Errorf("%v, want %s", err, code)
	}
}

// TestNodeConfig: what a node says in config takes the place of what its hello
// said, in all that the relay knows of it.
func TestNodeConfig(t *testing.T) {
	r := startRelay(t, 0)
	n := r.withNode(tunnel.TLS)
	stores := func() []string {
		t.Helper()
		nodes, err := r.api.Nodes(t.Context(), "default", "corp")
		if err != nil || len(nodes) != 1 {
			t.Fatalf("%+v, %v", nodes, err)
		}
		return nodes[0].Stores
	}
	control := n.sessions[tunnel.RoleControl]
	fresh := tunnel.NodeConfig{Stores: []tunnel.StoreInfo{{Name: "fresh", Port: 1}, {Name: "more", Port: 2, Aliases: []string{"more.example:2"}}}}
	if err := control.Call(t.Context(), tunnel.TypeConfig, fresh, nil); err != nil {
		t.Fatal(err)
	}
	live := r.relay.registry.node(keyOf(n.id))
	if _, ok := live.store("fresh"); !ok {
		t.Error("the store is not known")
	}
	if _, ok := live.store("echo"); ok {
		t.Error("the store that is gone is known")
	}
	if got := stores(); !slices.Equal(got, []string{"fresh", "more"}) {
		t.Errorf("remembered: %q", got)
	}

	// What it may not say changes nothing.
	many := tunnel.NodeConfig{Stores: make([]tunnel.StoreInfo, maxStores+1)}
	for i := range many.Stores {
		many.Stores[i].Port = 1
	}
	err := control.Call(t.Context(), tunnel.TypeConfig, many, nil)
	if err == nil {
		t.Error("too many stores were taken")
	}
	wantCode(t, n.sessions[tunnel.RoleBulk].Call(t.Context(), tunnel.TypeConfig, fresh, nil), "message-unknown")
	wantCode(t, control.Call(t.Context(), tunnel.TypeConfig, "nonsense", nil), "message-malformed")
	if live.configure(n.sessions[tunnel.RoleBulk], tunnel.NodeConfig{}) {
		t.Error("a session that is not the node's newest is heard")
	}
	if got := stores(); !slices.Equal(got, []string{"fresh", "more"}) {
		t.Errorf("after all that: %q", got)
	}
}

// TestStoreTestTakesNoMore: what a node answers is bounded, and a terminal may
// show it.
func TestStoreTestTakesNoMore(t *testing.T) {
	r := startRelay(t, 0)
	n := r.withNode(tunnel.QUIC)
	for _, tc := range []struct {
		name  string
		hops  []tunnel.Hop
		err   error
		check func(admin.NodeTest) bool
	}{
		{"good", []tunnel.Hop{{Name: "tcp", OK: true}}, nil, func(n admin.NodeTest) bool { return n.OK && len(n.Hops) == 3 && n.FirstFailure == "" }},
		{"bad", []tunnel.Hop{{Name: "dns", OK: true}, {Name: "tcp"}}, nil, func(n admin.NodeTest) bool { return !n.OK && n.FirstFailure == "tcp" }},
		{"nothing", nil, nil, func(n admin.NodeTest) bool { return !n.OK && n.FirstFailure == "node" }},
		{"an old version", nil, tunnel.Errorf("message-unknown", "node", "", "no message"), func(n admin.NodeTest) bool {
			return n.FirstFailure == "node" && strings.Contains(n.Hops[1].Advice, "version")
		}},
		{"refused", nil, tunnel.Errorf("node-busy", "node", "wait", "busy\x1b[31m"), func(n admin.NodeTest) bool {
			return n.FirstFailure == "node" && n.Hops[1].Detail == "busy [31m" && n.Hops[1].Advice == "wait"
		}},
		{"a colourful one", []tunnel.Hop{{Name: "tcp\r\n", OK: true, Detail: "\x1b]0;owned\a\xff", Advice: strings.Repeat("ä", 10_000)}}, nil, func(n admin.NodeTest) bool {
			h := n.Hops[2]
			return !strings.ContainsFunc(h.Name+h.Detail+h.Advice, func(r rune) bool { return r < ' ' }) && len(h.Advice) <= maxHopText+8
		}},
		{"a long one", make([]tunnel.Hop, 500), nil, func(n admin.NodeTest) bool { return len(n.Hops) == maxHops+2 }},
	} {
		handle := func(string) (any, error) { return tunnel.StoreTested{Hops: tc.hops}, tc.err }
		n.handle.Store(&handle)
		got, err := r.api.TestStore(t.Context(), "default", "corp", "echo", "")
		if err != nil || len(got.Nodes) != 1 || !tc.check(got.Nodes[0]) || got.OK != got.Nodes[0].OK {
			t.Errorf("%s: %+v, %v", tc.name, got, err)
		}
	}
	_, err := r.api.TestStore(t.Context(), "default", "corp", "absent", "")
	wantCode(t, err, "store-unknown")
	_, err = r.api.TestStore(t.Context(), "other", "corp", "echo", "")
	wantCode(t, err, "gateway-unknown")
}
