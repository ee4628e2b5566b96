package connector

import (
	"net/netip"
	"strings"
	"sync"

	"github.com/ebbgate/ebbgate/config"
)

// guards are the endpoints that are no stores: the relay and the proxy. A job
// that could dial them through the node would speak to them as the node.
type guards struct {
	mu sync.Mutex
	// guarded by mu
	list map[guardKey]map[netip.Addr]bool // by name, with the addresses that are known
}

type guardKey struct {
	special config.Special
	host    string // lower case, without a trailing dot
	port    int
}

// add makes host:port an endpoint that is refused, at the addresses too. What
// was once added stays: a relay that moved may be a relay still.
func (g *guards) add(s config.Special, host string, port int, addrs ...netip.Addr) {
	host = canonicalHost(host)
	if a, ok := literal(host); ok {
		addrs = append(addrs, a)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.list == nil {
		g.list = make(map[guardKey]map[netip.Addr]bool)
	}
	key := guardKey{s, host, port}
	known := g.list[key]
	if known == nil {
		known = make(map[netip.Addr]bool)
		g.list[key] = known
	}
	for _, a := range addrs {
		if len(known) >= maxAddresses {
			break
		}
		known[a.Unmap().WithZone("")] = true
	}
}

// at tells what is at an address.
func (g *guards) at(to netip.AddrPort) (found []config.Special) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for key, known := range g.list {
		if key.port == int(to.Port()) && known[to.Addr()] {
			found = append(found, key.special)
		}
	}
	return found
}

// named tells what has a name. It catches what is not resolvable here, as a
// relay behind a proxy often is.
func (g *guards) named(host string, port int) (found []config.Special) {
	host = canonicalHost(host)
	g.mu.Lock()
	defer g.mu.Unlock()
	for key := range g.list {
		if key.port == port && key.host == host {
			found = append(found, key.special)
		}
	}
	return found
}

// canonicalHost makes names comparable.
func canonicalHost(host string) string {
	return strings.ToLower(strings.TrimSuffix(host, "."))
}
