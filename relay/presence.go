package relay

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/ebbgate/ebbgate/relay/admin"
	"github.com/ebbgate/ebbgate/relay/state"
)

// reportEvery is how often the load of nodes is told to the other relays; what
// changes otherwise is told at once.
const reportEvery = 30 * time.Second

// gatewayKey names a gateway.
type gatewayKey struct{ tenant, gateway string }

// sighting is what another relay says of a node.
type sighting struct {
	online bool
	saying
}

// saying is what relays tell each other of a node.
type saying struct {
	Incarnation string `json:"incarnation"`
	// Confirms is the incarnation of another process that came under the same
	// identity while this one answered.
	Confirms string     `json:"confirms,omitempty"`
	Node     admin.Node `json:"node"`
}

// mark has a node's state told to the other relays.
func (p *peers) mark(key nodeKey) {
	if p.state == nil {
		return
	}
	p.mu.Lock()
	p.dirty[key] = struct{}{}
	p.mu.Unlock()
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// markAll has the state of all nodes that are here told.
func (p *peers) markAll() {
	for _, n := range p.r.registry.snapshot() {
		p.mark(n.key)
	}
}

// publish tells what was marked. What could not be told stays marked.
func (p *peers) publish(ctx context.Context) error {
	p.mu.Lock()
	marked := p.dirty
	p.dirty = make(map[nodeKey]struct{})
	p.mu.Unlock()
	if len(marked) == 0 {
		return nil
	}
	list := make([]state.Presence, 0, len(marked))
	for key := range marked {
		if said, ok := p.describe(key); ok {
			list = append(list, said)
		}
	}
	err := p.state.Publish(ctx, list)
	if err != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		for key := range marked {
			p.dirty[key] = struct{}{}
		}
	}
	return err
}

// describe says how a node is here.
func (p *peers) describe(key nodeKey) (state.Presence, bool) {
	record, err := p.r.state.Node(key.tenant, key.gateway, key.node)
	if err != nil {
		return state.Presence{}, false
	}
	said := saying{Node: service{p.r}.nodeHere(record)}
	n := p.r.registry.node(key)
	if n != nil {
		said.Incarnation = n.incarnation
		n.mu.Lock()
		said.Confirms = n.confirms
		n.mu.Unlock()
	}
	detail, err := json.Marshal(said)
	return state.Presence{Tenant: key.tenant, Gateway: key.gateway, Node: key.node, Online: n != nil, Detail: string(detail)}, err == nil
}

// hear takes over what other relays said, and settles it where two processes have
// the same identity.
func (p *peers) hear(ctx context.Context, found state.Sight) {
	p.mu.Lock()
	p.seen = time.Now()
	p.alive = make(map[string]string)
	for _, r := range found.Relays {
		if r.Alive && r.Name != p.r.name.Name {
			p.alive[r.Name] = r.Host
		}
	}
	for _, name := range found.Anew {
		p.said[name] = make(map[gatewayKey]map[string]sighting)
	}
	p.mu.Unlock()
	for _, c := range found.Changed {
		seen := sighting{online: c.Online}
		if err := json.Unmarshal([]byte(c.Detail), &seen.saying); err != nil {
			p.r.log.Warn("what a relay says of a node cannot be read", "relay", c.Relay, "node", c.Node, "error", err)
			continue
		}
		of := gatewayKey{c.Tenant, c.Gateway}
		p.mu.Lock()
		if p.said[c.Relay] == nil {
			p.said[c.Relay] = make(map[gatewayKey]map[string]sighting)
		}
		if p.said[c.Relay][of] == nil {
			p.said[c.Relay][of] = make(map[string]sighting)
		}
		p.said[c.Relay][of][c.Node] = seen
		p.mu.Unlock()
		p.settle(ctx, nodeKey{c.Tenant, c.Gateway, c.Node}, c.Relay, seen)
	}
}

// settle looks whether another process has the identity of a node that is here.
// The one that was there first is asked, by its relay, whether it still answers:
// if not, its session ends; if so, its relay says so, and the other one's relay
// ends that.
func (p *peers) settle(ctx context.Context, key nodeKey, relay string, there sighting) {
	n := p.r.registry.node(key)
	if n == nil || !there.online || there.Incarnation == n.incarnation {
		return
	}
	n.mu.Lock()
	since, done, session := n.since, n.confirms == there.Incarnation, cmp.Or(n.control, n.bulk)
	n.mu.Unlock()
	if there.Confirms == n.incarnation {
		p.refuse(n, relay)
		return
	}
	first := cmp.Or(since.Compare(there.Node.Since), strings.Compare(p.r.name.Name, relay)) < 0
	if !first || done || session == nil {
		return
	}
	p.tasks.Go(func() {
		ping, cancel := context.WithTimeout(ctx, displacePing)
		defer cancel()
		if _, err := session.Ping(ping); err == nil {
			n.mu.Lock()
			n.confirms = there.Incarnation
			n.mu.Unlock()
			p.mark(key)
		} else if ctx.Err() == nil {
			_ = session.Close("displaced")
			p.r.registry.part(session, key, "displaced")
		}
	})
}

// refuse ends the sessions of a process whose identity another one has, which
// was there before it and answers; and refuses it for a while.
func (p *peers) refuse(n *node, relay string) {
	p.mu.Lock()
	for key, until := range p.refused {
		if time.Now().After(until) {
			delete(p.refused, key)
		}
	}
	p.refused[refusal{n.key, n.incarnation}] = time.Now().Add(refusedFor)
	p.mu.Unlock()
	p.r.log.Warn("two processes have one identity: the one that came later is sent away", "node", n.identity.String(), "other_relay", relay)
	n.mu.Lock()
	control, bulk := n.control, n.bulk
	n.mu.Unlock()
	if control != nil {
		p.tasks.Go(func() { _ = control.Close("identity-in-use") })
	}
	if bulk != nil {
		p.tasks.Go(func() { _ = bulk.Close("identity-in-use") })
	}
}

// refusedFor is how long a process is refused whose identity another one has; then
// that one is asked again.
const refusedFor = 5 * time.Second

// refusal names a process of a node.
type refusal struct {
	node        nodeKey
	incarnation string
}

// admits refuses a process that was found to share its identity with another one.
func (p *peers) admits(key nodeKey, incarnation string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Now().After(p.refused[refusal{key, incarnation}]) {
		return nil
	}
	return errIdentityInUse(key)
}

// elsewhere finds the nodes of a gateway that are online at other relays, as far
// as this one knows; each with the relay's host.
func (p *peers) elsewhere(tenant, gateway string) map[string][]elsewhere {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.seen) > peersKnown {
		return nil
	}
	found := make(map[string][]elsewhere)
	for relay, host := range p.alive {
		for name, s := range p.said[relay][gatewayKey{tenant, gateway}] {
			if s.online {
				found[name] = append(found[name], elsewhere{host, s.Node})
			}
		}
	}
	for _, list := range found {
		slices.SortFunc(list, func(a, b elsewhere) int { return strings.Compare(a.host, b.host) })
	}
	return found
}

// elsewhere is a node at another relay.
type elsewhere struct {
	host string // the relay's
	node admin.Node
}

// at finds where a node is online that has a store.
func (p *peers) at(tenant, gateway, store string) (node, host string, ok bool) {
	for name, list := range p.elsewhere(tenant, gateway) {
		if list[0].node.Status == "Online" && slices.Contains(list[0].node.Stores, store) {
			if !ok || name < node {
				node, host, ok = name, list[0].host, true
			}
		}
	}
	return node, host, ok
}

// codeElsewhere is the code of a dial at a relay where the node is not.
const codeElsewhere = "node-elsewhere"

func errElsewhere(gateway, node, host string) error {
	return failure(codeElsewhere, "gateway", "dial at that relay; or give the connector both relays in its configuration, and it has a session to each",
		"no node of gateway %s that could serve this is at this relay; node %s is at relay %s", gateway, node, host)
}
