package relay

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/relay/admin"
	"github.com/ebbgate/ebbgate/tunnel"
)

const (
	// storeTestTimeout bounds a test of a store at one node: more than the node
	// gives itself.
	storeTestTimeout = 25 * time.Second
	// maxHops and maxHopText bound what is taken over from a node's answer.
	maxHops    = 16
	maxHopText = 2000 // bytes
	// maxReported bounds the texts that a node reports of itself.
	maxReported = 200
)

// TestStore asks every node of the gateway that is here and has the store, or the
// one that is named, how the store is. No grant is made: the question alone
// carries no byte of anybody, and the node's own configuration has the last word.
func (s service) TestStore(ctx context.Context, tenant, gateway, store, name string) (admin.StoreTest, error) {
	test := admin.StoreTest{Gateway: gateway, Store: store, OK: true, Nodes: []admin.NodeTest{}}
	nodes, err := s.testers(tenant, gateway, store, name)
	if err != nil {
		return test, err
	}
	test.Nodes = make([]admin.NodeTest, len(nodes))
	var all sync.WaitGroup
	for i, n := range nodes {
		all.Go(func() { test.Nodes[i] = n.testStore(ctx, store) })
	}
	all.Wait()
	for _, n := range test.Nodes {
		if !n.OK {
			test.OK, test.FirstFailure = false, cmp.Or(test.FirstFailure, n.FirstFailure)
		}
	}
	s.r.log.Info("store tested", "tenant", tenant, "gateway", gateway, "store", store, "nodes", len(nodes), "ok", test.OK)
	return test, nil
}

// testers are the nodes to ask, by name.
func (s service) testers(tenant, gateway, store, name string) ([]*node, error) {
	if _, err := s.r.state.Gateway(tenant, gateway); err != nil {
		return nil, failure("gateway-unknown", "gateway", "ebbgate gateway list shows the gateways", "there is no gateway %s", gateway)
	}
	if name != "" {
		if _, err := s.r.state.Node(tenant, gateway, name); err != nil {
			return nil, failure("node-unknown", "node", "ebbgate node list "+gateway+" shows the nodes", "gateway %s has no node %s", gateway, name)
		}
		n := s.r.registry.node(nodeKey{tenant, gateway, name})
		if at := s.r.peers.elsewhere(tenant, gateway)[name]; n == nil && len(at) > 0 {
			return nil, errElsewhere(gateway, name, at[0].host)
		}
		if n == nil {
			return nil, failure("no-node-online", "node", "is the connector running? ebbgate node list "+gateway+" says since when it is away", "node %s of gateway %s is not online", name, gateway)
		}
		return []*node{n}, nil // it says itself what it does not have
	}
	online := s.r.registry.gateway(tenant, gateway)
	able := slices.DeleteFunc(slices.Clone(online), func(n *node) bool { _, ok := n.store(store); return !ok })
	slices.SortFunc(able, func(a, b *node) int { return strings.Compare(a.key.node, b.key.node) })
	if len(able) > 0 {
		return able, nil
	}
	if name, host, ok := s.r.peers.at(tenant, gateway, store); ok {
		return nil, errElsewhere(gateway, name, host)
	}
	if len(online) == 0 || s.r.dials.announced(tenant, gateway, store) {
		return nil, failure("no-node-online", "gateway", "ebbgate node list "+gateway+" shows the nodes; is the connector running?", "no node of gateway %s is online that has store %s", gateway, store)
	}
	return nil, failure("store-unknown", "gateway", "declare the store in the connector's configuration", "no node of gateway %s has a store %s", gateway, store)
}

// testStore has the node test one of its stores.
func (n *node) testStore(ctx context.Context, store string) admin.NodeTest {
	ctx, cancel := context.WithTimeout(ctx, storeTestTimeout)
	defer cancel()
	t := admin.NodeTest{Node: n.key.node, OK: true}
	add := func(h admin.Hop) {
		t.Hops = append(t.Hops, h)
		if !h.OK && t.OK {
			t.OK, t.FirstFailure = false, h.Name
		}
	}
	session := n.session(true)
	if session == nil {
		add(admin.Hop{Name: "relay", Detail: "there is no control session with the node now", Advice: "try again"})
		return t
	}
	add(admin.Hop{Name: "relay", OK: true, Detail: "has a session with the node over " + string(session.Link().Carrier())})
	rtt, err := session.Ping(ctx)
	answer := new(tunnel.StoreTested)
	if err == nil {
		err = session.Call(ctx, tunnel.TypeStoreTest, tunnel.StoreTest{Store: store}, answer)
	}
	if err == nil && len(answer.Hops) == 0 {
		err = failure("message-malformed", "node", "use the same version at both ends", "the node's answer says nothing")
	}
	if err != nil {
		add(refusedHop(err))
		return t
	}
	add(admin.Hop{Name: "node", OK: true, Millis: float64(rtt.Microseconds()) / 1000, Detail: "answers"})
	for _, h := range answer.Hops[:min(len(answer.Hops), maxHops)] {
		add(admin.Hop{Name: plain(h.Name, maxHopText), OK: h.OK, Millis: h.Millis, Detail: plain(h.Detail, maxHopText), Advice: plain(h.Advice, maxHopText)})
	}
	return t
}

// refusedHop is a node that did not test the store.
func refusedHop(err error) admin.Hop {
	h := admin.Hop{Name: "node", Detail: "did not answer: " + plain(err.Error(), maxHopText), Advice: "look at the connector's log and at ebbgate node list"}
	var said *tunnel.Error
	if errors.As(err, &said) {
		h.Detail, h.Advice = plain(said.Message, maxHopText), plain(said.Advise, maxHopText)
		if said.ErrCode == "message-unknown" {
			h.Detail, h.Advice = "the connector is of a version that tests no stores", "bring the connector up to the relay's version"
		}
	}
	return h
}

// plain is a peer's text as a terminal may show it.
func plain(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s[:min(len(s), most)])
	return strings.ToValidUTF8(s, "?")
}
