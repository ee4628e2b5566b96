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
	changed chan struct{}
}

// entry is one session that is up.
type entry struct {
	session *tunnel.Session
	role    string
	relay   string // identity
	since   time.Time
	route   *route
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

// newest is the newest session of a role, or nil.
func (s *sessions) newest(role string) (newest *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.list {
		if e.role == role {
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

// control is the newest control session, or nil; changed is closed at the next
// change.
func (s *sessions) control() (session *tunnel.Session, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.list {
		if e.role == tunnel.RoleControl {
			session = e.session
		}
	}
	return session, s.changed
}

// finalCodes are refusals that trying again cannot mend.
var finalCodes = []string{"node-unknown", "node-revoked", "identity-locked"}

func final(err error) bool {
	var s spoken
	return errors.As(err, &s) && slices.Contains(finalCodes, s.Code())
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

// keepControl keeps the control session up, on the best carrier.
func (r *running) keepControl(ctx context.Context) error {
	k := &tunnel.Keeper{
		Dial: r.dial, Better: r.better, Again: r.againControl,
		Serve: func(ctx context.Context, link tunnel.Link, up func()) error {
			return r.serve(ctx, link, tunnel.RoleControl, up)
		},
		Leave: r.leave, Final: final, Failed: r.failed, Hurry: r.waiting, Logger: r.logger,
	}
	return k.Run(ctx)
}

// keepBulk keeps the bulk session up while the control session is on TCP: bulk
// and control never share a TCP connection.
func (r *running) keepBulk(ctx context.Context) error {
	for ctx.Err() == nil {
		control, changed := r.sessions.control()
		if control == nil || control.Link().Carrier() == tunnel.QUIC {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		if err := r.keepBulkOn(ctx, control.Link().Carrier()); err != nil {
			return err
		}
	}
	return nil
}

// keepBulkOn keeps it up on the control session's carrier, until that one went to
// another and no stream is open that would not survive the change.
func (r *running) keepBulkOn(ctx context.Context, carrier tunnel.Carrier) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	k := &tunnel.Keeper{
		Dial: func(ctx context.Context) (tunnel.Link, error) {
			if err := r.patient(ctx); err != nil {
				return nil, err
			}
			return r.take(func(route *route) (tunnel.Link, error) { return route.way.DialCarrier(ctx, carrier) })
		},
		Better: func(ctx context.Context, _ tunnel.Carrier) (tunnel.Link, error) {
			if !r.outdated(tunnel.RoleBulk) || r.outdated(tunnel.RoleControl) || r.fragile() {
				return nil, nil // the control session goes first: it may have another carrier then
			}
			return r.replacement(ctx, func(route *route) (tunnel.Link, error) { return route.way.DialCarrier(ctx, carrier) })
		},
		Again: r.againBulk,
		Serve: func(ctx context.Context, link tunnel.Link, up func()) error {
			return r.serve(ctx, link, tunnel.RoleBulk, up)
		},
		Leave: r.leave, Final: final, Failed: r.failed, Hurry: r.waiting, Logger: r.logger,
	}
	over := make(chan error, 1)
	go func() { over <- k.Run(ctx) }()
	for {
		control, changed := r.sessions.control()
		if control != nil && control.Link().Carrier() != carrier && r.bulkMayMove() {
			cancel()
			return <-over
		}
		select {
		case err := <-over:
			return err
		case <-changed:
		}
	}
}

// bulkMayMove tells whether the bulk session can be replaced: there is none, or
// nothing is open that would not survive it.
func (r *running) bulkMayMove() bool {
	return !r.fragile() || !slices.ContainsFunc(r.sessions.all(), func(e *entry) bool { return e.role == tunnel.RoleBulk })
}

// maxPatience bounds how long a relay may send us away.
const maxPatience = 5 * time.Minute

// patient waits until the relay wants us back.
func (r *running) patient(ctx context.Context) error {
	r.mu.Lock()
	wait := time.Until(r.notBefore)
	r.mu.Unlock()
	if wait <= 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sentAway remembers when the relay that stops wants us back.
func (r *running) sentAway(d tunnel.Drain) {
	wait := min(time.Duration(d.ReconnectAfterMS)*time.Millisecond, maxPatience)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notBefore = time.Now().Add(wait)
}

// failed is told each failure of a session or of an attempt.
func (r *running) failed(err error, wait time.Duration) {
	r.note(err)
	r.logger.Warn("no session", append(attrs(err), "again_in", wait.Round(time.Millisecond))...)
}

// dial makes a link for the control session. A node whose certificate expired
// gets a new one first.
func (r *running) dial(ctx context.Context) (tunnel.Link, error) {
	if err := r.patient(ctx); err != nil {
		return nil, err
	}
	if r.id.expired() {
		if err := r.comeBack(ctx); err != nil {
			return nil, err
		}
	}
	return r.take(func(route *route) (tunnel.Link, error) { return route.way.Dial(ctx) })
}

// better makes a link on a better carrier than the current one, if there is one,
// or on the way of a changed configuration.
func (r *running) better(ctx context.Context, current tunnel.Carrier) (tunnel.Link, error) {
	if r.fragile() {
		return nil, errBusy
	}
	if r.outdated(tunnel.RoleControl) {
		return r.replacement(ctx, func(route *route) (tunnel.Link, error) { return route.way.Dial(ctx) })
	}
	return r.take(func(route *route) (tunnel.Link, error) { return route.way.Better(ctx, current) })
}

// serve runs a session over a link until it is over.
func (r *running) serve(ctx context.Context, link tunnel.Link, role string, up func()) error {
	route := r.routeOf(link)
	said := r.set.Load()
	s := tunnel.NewSession(link, tunnel.SessionConfig{
		Initiator: true, Hello: r.hello(role, said.file.Stores), Handle: r.handle, Lane: r.lane, Logger: r.logger,
	})
	start := time.Now()
	hello, err := s.Start(ctx)
	if err != nil {
		return sessionError(err)
	}
	if offset := r.clock.set(hello.Time, start); offset.Abs() > time.Minute {
		r.logger.Warn("the clocks differ: the relay's is assumed to be right", "relay_minus_here", offset.Round(time.Second))
	}
	if r.sessions.newest(role) != nil && r.fragile() {
		_ = s.Close("streams are open")
		return errBusy
	}
	e := &entry{session: s, role: role, relay: peerOf(link).String(), since: time.Now().UTC(), route: route}
	r.guardLink(link, route)
	r.sessions.add(e)
	gauge := r.metrics.sessions.WithLabelValues(role, string(link.Carrier()))
	gauge.Inc()
	r.logger.Info("session", "role", role, "carrier", link.Carrier(), "relay", e.relay, "remote", link.RemoteAddr().String(), "proxy", route.proxy.Status().Proxy)
	up()
	inner, cancel := context.WithCancel(ctx)
	var beats sync.WaitGroup
	if role == tunnel.RoleControl {
		r.tellReady(link, route)
		beats.Go(func() { r.beat(inner, s, hello) })
		beats.Go(func() { r.announce(inner, s, said) })
	}
	err = s.Run(ctx)
	cancel()
	r.sessions.remove(e)
	gauge.Dec()
	beats.Wait()
	if d, ok := s.Draining(); ok {
		r.sentAway(d)
	}
	return sessionError(err)
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
func (r *running) beat(ctx context.Context, s *tunnel.Session, hello tunnel.Hello) {
	every := beatEvery
	if n := hello.HeartbeatSeconds; n > 0 && n <= 3600 {
		every = time.Duration(n) * time.Second
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		if err := s.Notify(tunnel.TypeHeartbeat, r.heartbeat(ctx)); err != nil {
			return // the session is over
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (r *running) heartbeat(ctx context.Context) tunnel.Heartbeat {
	l := r.health.look(ctx)
	return tunnel.Heartbeat{
		CPUPercent: l.cpuPercent, MemoryAvailable: l.memoryAvailable, NetworkIn: l.networkIn, NetworkOut: l.networkOut,
		Runs: r.gate.runs.active(), Streams: r.node.Streams(), Proxy: r.used().proxy.Status().Proxy,
	}
}
