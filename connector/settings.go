package connector

import (
	"time"

	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/proxycfg"
	"github.com/ebbgate/ebbgate/tunnel"
)

// settings are a configuration that is in force, and what was made of it. They
// do not change: a reload puts others in their place.
type settings struct {
	number int // counts upwards
	file   *config.Connector
	stores map[string]config.Store // by name
	loaded time.Time
	proxy  *proxycfg.Proxy
	// seeds are the relays that are known without asking; only: and all.
	seeds []tunnel.Endpoint
	only  bool
}

// route is how a relay is reached.
type route struct {
	to    tunnel.Endpoint
	proxy *proxycfg.Proxy
	way   *tunnel.Dialer // with the node's certificate
	back  *tunnel.Dialer // without one
}

// newSettings makes what a configuration needs.
func (r *running) newSettings(file *config.Connector, proxy *proxycfg.Proxy, number int) *settings {
	s := &settings{number: number, file: file, stores: make(map[string]config.Store, len(file.Stores)), loaded: time.Now().UTC(), proxy: proxy}
	for _, st := range file.Stores {
		s.stores[st.Name] = st
	}
	s.seeds, s.only = r.registration.seeds(file.Relays), file.RelaysOnly
	return s
}

// put puts settings in force. reroutes: relays are reached in another way.
func (r *running) put(s *settings, reroutes bool) {
	r.mu.Lock()
	r.set.Store(s)
	if reroutes {
		clear(r.routes)
	}
	close(r.replaced)
	r.replaced = make(chan struct{})
	r.mu.Unlock()
	r.roster.Reseed(s.seeds, s.only)
}

// latest are the settings that are in force; changed is closed when they are not
// any more.
func (r *running) latest() (set *settings, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.set.Load(), r.replaced
}

// routeTo is the way to a relay from now on.
func (r *running) routeTo(to tunnel.Endpoint) *route {
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.routes[to]
	if known == nil {
		set := r.set.Load()
		memory := r.memory.of(to)
		known = &route{
			to: to, proxy: set.proxy,
			way:  newWay(set.file, to, set.proxy, memory, r.id.sessionTLS, r.logger),
			back: newWay(set.file, to, set.proxy, memory, r.id.returnTLS, r.logger),
		}
		r.routes[to] = known
	}
	return known
}

// store finds a store of the configuration that is in force.
func (r *running) store(name string) (config.Store, bool) {
	st, ok := r.set.Load().stores[name]
	return st, ok
}
