package state

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
)

const listNodes = "ebbgate node list GATEWAY shows a gateway's nodes"

// RegisterNode makes a node with its public key (PKIX) and counter 0. A name that
// is taken is an [ErrExists], unless it is the same node with the same key, whose
// answer was lost.
func (s *State) RegisterNode(ctx context.Context, tenant, gateway, name string, pub []byte) (Node, error) {
	if err := checkName("node", name); err != nil {
		return Node{}, err
	}
	if err := checkPublicKey(pub); err != nil {
		return Node{}, err
	}
	key := gatewayKey{tenant, gateway}
	err := s.change(ctx, "registering the node", func(now *snapshot) ([]edit, error) {
		if _, err := now.gateway(tenant, gateway); err != nil {
			return nil, err
		}
		if old := now.nodes[key][name]; old != nil {
			if old.Counter == 0 && bytes.Equal(old.PublicKey, pub) {
				return nil, nil
			}
			return nil, already("node", gateway+"/"+name, "choose another --name")
		}
		if len(now.nodes[key]) >= maxNodes {
			return nil, invalid("nodes-full", "delete nodes that are gone", "gateway %s has %d nodes, more it cannot have", gateway, maxNodes)
		}
		return []edit{insertion(tableNodes, map[string]any{
			"tenant": tenant, "gateway": gateway, "name": name,
			"public_key": encodeBytes(pub), "previous_key": "", "counter": int64(0), "stores": "[]",
			"created": s.opt.now().UnixMicro(),
		})}, nil
	})
	if err != nil {
		return Node{}, err
	}
	return s.Node(tenant, gateway, name)
}

func (s *snapshot) node(tenant, gateway, name string) (*node, error) {
	if n := s.nodes[gatewayKey{tenant, gateway}][name]; n != nil {
		return n, nil
	}
	return nil, notFound("node", gateway+"/"+name, listNodes)
}

// Node finds a node: [ErrNotFound] where there is none.
func (s *State) Node(tenant, gateway, name string) (Node, error) {
	n, err := s.current.Load().node(tenant, gateway, name)
	if err != nil {
		return Node{}, err
	}
	return n.Node, nil
}

// Nodes are a gateway's, sorted by name.
func (s *State) Nodes(tenant, gateway string) []Node {
	nodes := s.current.Load().nodes[gatewayKey{tenant, gateway}]
	list := make([]Node, 0, len(nodes))
	for _, n := range nodes {
		list = append(list, n.Node)
	}
	slices.SortFunc(list, func(a, b Node) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// RenewNode takes over the public key (PKIX) of a node's certificate number
// counter. The same counter and key again change nothing. The number that the
// node has already, with another key, replaces the key: the node never got the
// answer. Smaller numbers are an [ErrRefused]: they come from an old copy of the
// node. Greater ones are accepted: the relay may have been restored from a
// backup, and the caller knows the node by its certificate.
func (s *State) RenewNode(ctx context.Context, tenant, gateway, name string, counter int, pub []byte) (Node, error) {
	if err := checkPublicKey(pub); err != nil {
		return Node{}, err
	}
	var renewed Node
	err := s.change(ctx, "renewing the node's certificate", func(now *snapshot) ([]edit, error) {
		n, err := now.node(tenant, gateway, name)
		if err != nil {
			return nil, err
		}
		renewed = n.Node
		if counter == n.Counter && bytes.Equal(pub, n.PublicKey) {
			return nil, nil
		}
		if counter < n.Counter || counter < 1 || counter > maxCounter {
			return nil, &Error{
				kind: ErrRefused, code: "certificate-superseded",
				message: fmt.Sprintf("node %s/%s asked for its certificate number %d, the relay issued number %d", gateway, name, counter, n.Counter),
				advice:  "two machines use this node's identity, or it was restored from an old copy: register this machine under another name",
			}
		}
		renewed.Counter, renewed.PublicKey = counter, pub
		if counter != n.Counter {
			renewed.PreviousKey = n.PublicKey
		}
		return []edit{update(n.row, map[string]any{
			"counter": int64(renewed.Counter), "public_key": encodeBytes(renewed.PublicKey), "previous_key": encodeBytes(renewed.PreviousKey),
		})}, nil
	})
	if err != nil {
		return Node{}, err
	}
	return renewed, nil
}

// maxCounter leaves no room for overflow: two renewals a day for a million years.
const maxCounter = 1 << 30

// AnnounceStores remembers a node's stores. It writes only what changed.
func (s *State) AnnounceStores(ctx context.Context, tenant, gateway, name string, stores []StoreRow) error {
	if err := checkStores(stores); err != nil {
		return err
	}
	same := func(now *snapshot) (*node, bool, error) {
		n, err := now.node(tenant, gateway, name)
		if err != nil {
			return nil, false, err
		}
		return n, slices.EqualFunc(n.Stores, stores, StoreRow.equal), nil
	}
	// A node that reconnects waits for no other's change.
	if _, ok, err := same(s.current.Load()); ok || err != nil {
		return err
	}
	if stores == nil {
		stores = []StoreRow{}
	}
	return s.change(ctx, "remembering the node's stores", func(now *snapshot) ([]edit, error) {
		n, ok, err := same(now)
		if ok || err != nil {
			return nil, err
		}
		return []edit{update(n.row, map[string]any{"stores": encodeJSON(stores)})}, nil
	})
}
