package connector

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/config"
	"github.com/ebbgate/ebbgate/tunnel"
)

// sessions are those that are up.
type sessions struct {
	mu sync.Mutex
	// guarded by mu
	list    []*entry // oldest first
	turn    int      // of the relays, to be asked something
	changed chan struct{}
}

// entry is one session that is up.
type entry struct {
	session *tunnel.Session
	role    string
	at      *relay
	relay   string // identity
	since   time.Time
	route   *route

	// guarded by the sessions' mu
	said int // number of the settings whose stores the relay knows
}

func newSessions() *sessions { return &sessions{changed: make(chan struct{})} }

func (s *sessions) add(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, e)
	s.changedLocked()
}

func (s *sessions) remove(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = slices.DeleteFunc(s.list, func(o *entry) bool { return o == e })
	s.changedLocked()
}

func (s *sessions) changedLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *sessions) all() []*entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.list)
}

// newest is a relay's newest session of a role, or nil.
func (s *sessions) newest(at *relay, role string) (newest *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.list {
		if e.at == at && e.role == role {
			newest = e
		}
	}
	return newest
}

// routeOf is the route of a session that is up, or nil.
func (s *sessions) routeOf(session *tunnel.Session) *route {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.list {
		if e.session == session {
			return e.route
		}
	}
	return nil
}

// control is a relay's newest control session, or nil; changed is closed at the
// next change.
func (s *sessions) control(at *relay) (session *tunnel.Session, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.list {
		if e.at == at && e.role == tunnel.RoleControl {
			session = e.session
		}
	}
	return session, s.changed
}

// anyControl is a control session, or nil: another relay's each time, so that one
// that does not answer is not asked again and again.
func (s *sessions) anyControl() (session *tunnel.Session, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	newest := make(map[*relay]*tunnel.Session)
	var relays []*relay
	for _, e := range s.list {
		if e.role != tunnel.RoleControl {
			continue
		}
		if newest[e.at] == nil {
			relays = append(relays, e.at)
		}
		newest[e.at] = e.session
	}
	if len(relays) == 0 {
		return nil, s.changed
	}
	s.turn++
	return newest[relays[s.turn%len(relays)]], s.changed
}

// told notes that a relay knows the stores of settings.
func (s *sessions) told(e *entry, number int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.said = number
	s.changedLocked()
}

// informed tells whether each relay that there is a session with, at least one,
// knows the stores of settings.
func (s *sessions) informed(number int) (all bool, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, e := range s.list {
		newer := slices.ContainsFunc(s.list[i+1:], func(o *entry) bool { return o.at == e.at && o.role == e.role })
		if e.role != tunnel.RoleControl || newer {
			continue
		}
		if e.said < number {
			return false, s.changed
		}
		all = true
	}
	return all, s.changed
}

// errBusy is a better carrier that came while streams were open that would not
// outlive the session that carries them.
var errBusy = errors.New("connector: streams are open, the carrier stays")

// fragile tells whether streams are open that end with their session.
func (r *running) fragile() bool {
	return r.cfg.File.ResumeGrace <= 0 && r.node.Streams() > 0
}

// waiting tells whether streams wait for a session.
func (r *running) waiting() bool { return r.node.Streams() > 0 }

// serve runs a session over a link until it is over.
func (p *relay) serve(ctx context.Context, link tunnel.Link, role string, up func()) error {
	route := p.madeBy(link)
	said := p.set.Load()
	s := tunnel.NewSession(link, tunnel.SessionConfig{
		Initiator: true, Hello: p.hello(role, said.file.Stores), Handle: p.handle, Lane: p.lane, Logger: p.logger,
	})
	start := time.Now()
	hello, err := s.Start(ctx)
	if err != nil {
		return sessionError(err)
	}
	if offset := p.clock.Set(hello.Time, start); offset.Abs() > time.Minute {
		p.logger.Warn("the clocks differ: the relay's is assumed to be right", "relay_minus_here", offset.Round(time.Second))
	}
	e := &entry{session: s, role: role, at: p, relay: peerOf(link).String(), since: time.Now().UTC(), route: route, said: said.number}
	if err := p.welcome(e); err != nil {
		_ = s.Close(err.Error())
		return err
	}
	p.guardLink(link, route)
	p.sessions.add(e)
	p.limitLanes()
	gauge := p.metrics.sessions.WithLabelValues(role, string(link.Carrier()))
	gauge.Inc()
	p.logger.Info("session", "role", role, "carrier", link.Carrier(), "relay", e.relay, "remote", link.RemoteAddr().String(), "proxy", route.proxy.Status().Proxy)
	up()
	inner, cancel := context.WithCancel(ctx)
	var beats sync.WaitGroup
	if role == tunnel.RoleControl {
		p.learn(s)
		p.tellReady(link, route)
		beats.Go(func() { p.beat(inner, e, hello) })
		beats.Go(func() { p.announce(inner, e, said) })
	}
	err = s.Run(ctx)
	cancel()
	p.depart(e)
	gauge.Dec()
	beats.Wait()
	if d, ok := s.Draining(); ok {
		p.sentAway(d)
	}
	return sessionError(err)
}

// welcome decides whether a session that is up is wanted.
func (p *relay) welcome(e *entry) error {
	if p.sessions.newest(p, e.role) != nil && p.fragile() {
		return errBusy
	}
	if e.role == tunnel.RoleControl {
		if err := p.roster.Arrived(p.place, e.route.to, e.relay); err != nil {
			return err
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.last = nil
		return nil
	}
	if control := p.roster.There(p.place); control != e.relay && control != "" {
		return failure("relay-other", "relay", nil, "give each relay a name of its own: relay: [a.example.com, b.example.com]",
			"%s leads to %s now, the control session is with %s", e.route.to.Host, e.relay, control)
	}
	return nil
}

// depart takes a session that is over out.
func (p *relay) depart(e *entry) {
	p.sessions.remove(e)
	if e.role == tunnel.RoleControl && p.sessions.newest(p, e.role) == nil {
		p.roster.Left(p.place)
	}
}

// hello is what this node says first.
func (r *running) hello(role string, stores []config.Store) tunnel.Hello {
	h := tunnel.Hello{Role: role, Incarnation: r.incarnationText(), Software: r.cfg.Software}
	if role == tunnel.RoleControl {
		h.Stores = announced(stores)
	}
	return h
}

func announced(stores []config.Store) (list []tunnel.StoreInfo) {
	for _, st := range stores {
		list = append(list, tunnel.StoreInfo{Name: st.Name, Port: st.Port, Aliases: st.Aliases})
	}
	return list
}

func (r *running) tellReady(link tunnel.Link, route *route) {
	r.ready.Do(func() {
		if r.cfg.Ready != nil {
			r.cfg.Ready(Ready{
				Node: r.id.name.String(), Relay: hostPort(route.to), Carrier: string(link.Carrier()),
				Proxy: route.proxy.Status().Proxy, Status: r.dir.file(fileStatus), Metrics: r.metricsAddress(),
			})
		}
	})
}

// sessionError puts the end of a session into words where it has none.
func sessionError(err error) error {
	var s spoken
	var over *tunnel.LinkError
	switch {
	case err == nil || errors.As(err, &s) && s.Hop() != "":
		return err
	case errors.As(err, &over) && !over.Local:
		return failure("session-lost", "relay", err, "the connector tries again by itself; if it stays so, look at the relay's log and at what is between here and the relay",
			"the relay, or something in between, ended the connection: %s", over.Reason)
	}
	return failure("session-lost", "relay", err, "the connector tries again by itself; if it stays so, look at the relay's log and at what is between here and the relay",
		"the session with the relay ended: %v", err)
}

// beatEvery is how often a node reports to a relay that does not say.
const beatEvery = 15 * time.Second

// beat reports how this node is until ctx ends.
func (r *running) beat(ctx context.Context, e *entry, hello tunnel.Hello) {
	every := beatEvery
	if n := hello.HeartbeatSeconds; n > 0 && n <= 3600 {
		every = time.Duration(n) * time.Second
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		r.limitLanes() // what the network refused may be long ago
		if err := e.session.Notify(tunnel.TypeHeartbeat, r.heartbeat(ctx, e)); err != nil {
			return // the session is over
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (r *running) heartbeat(ctx context.Context, e *entry) tunnel.Heartbeat {
	l := r.health.look(ctx)
	return tunnel.Heartbeat{
		CPUPercent: l.cpuPercent, MemoryAvailable: l.memoryAvailable, NetworkIn: l.networkIn, NetworkOut: l.networkOut,
		Runs: r.gate.runs.active(), Streams: r.node.Streams(), Proxy: e.route.proxy.Status().Proxy,
	}
}
