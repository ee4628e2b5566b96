package connector

import (
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/proxycfg"
	"github.com/ebbgate/ebbgate/tunnel"
)

// settings are a configuration that is in force, and what was made of it. They
// do not change: a reload puts others in their place.
type settings struct {
	file   *config.Connector
	stores map[string]config.Store // by name
	loaded time.Time
	route  *route
	told   chan struct{} // closed once the relay knows the stores
	// announced closes told; any number of times.
	announced func()
}

// route is how the relay is reached.
type route struct {
	to    config.Endpoint
	proxy *proxycfg.Proxy
	way   *tunnel.Dialer // with the node's certificate
	back  *tunnel.Dialer // without one
}

// newSettings makes what a configuration needs.
func (r *running) newSettings(file *config.Connector, proxy *proxycfg.Proxy) *settings {
	s := &settings{file: file, stores: make(map[string]config.Store, len(file.Stores)), loaded: time.Now().UTC(), told: make(chan struct{})}
	s.announced = sync.OnceFunc(func() { close(s.told) })
	for _, st := range file.Stores {
		s.stores[st.Name] = st
	}
	to := r.registration.endpoint(file.Relay)
	s.route = &route{
		to: to, proxy: proxy,
		way:  newWay(file, to, proxy, r.memory, r.id.sessionTLS, r.logger),
		back: newWay(file, to, proxy, r.memory, r.id.returnTLS, r.logger),
	}
	return s
}

// put puts settings in force.
func (r *running) put(s *settings) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.set.Store(s)
	close(r.replaced)
	r.replaced = make(chan struct{})
}

// latest are the settings that are in force; changed is closed when they are not
// any more.
func (r *running) latest() (set *settings, changed <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.set.Load(), r.replaced
}

// route is the one to take from now on.
func (r *running) route() *route { return r.set.Load().route }

// used is the route of the control session; without one, that of now.
func (r *running) used() *route {
	if e := r.sessions.newest(tunnel.RoleControl); e != nil {
		return e.route
	}
	return r.route()
}

// store finds a store of the configuration that is in force.
func (r *running) store(name string) (config.Store, bool) {
	st, ok := r.set.Load().stores[name]
	return st, ok
}

// take makes a link by the route of now, and remembers which one that was.
func (r *running) take(dial func(*route) (tunnel.Link, error)) (tunnel.Link, error) {
	route := r.route()
	link, err := dial(route)
	if link != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.taken[link] = route
	}
	return link, err
}

// routeOf gives the route that a link was made by, once.
func (r *running) routeOf(link tunnel.Link) *route {
	r.mu.Lock()
	defer r.mu.Unlock()
	route, ok := r.taken[link]
	if !ok {
		return r.set.Load().route
	}
	delete(r.taken, link)
	return route
}
