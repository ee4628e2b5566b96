package connector

import (
	"context"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/certs/grant"
	"github.com/ebbgate/ebbgate/tunnel"
	"github.com/ebbgate/ebbgate/tunnel/bundle"
)

// running is a connector between its start and its end.
type running struct {
	// static after construction
	*Connector
	dir          *stateDir
	registration *registration
	memory       *carrierMemory
	id           *identity
	clock        *clock
	guards       *guards
	gate         *gate
	node         *bundle.Node
	since        time.Time

	set atomic.Pointer[settings] // what is in force; put replaces it

	questions               chan question
	againControl, againBulk chan struct{} // ask the keepers of the sessions

	scraped net.Listener // where metrics are served; nil: nowhere

	// each guards itself
	sessions *sessions
	direct   directLanes
	ends     tunnel.Reporter
	health   health
	tests    tests
	ready    sync.Once
	looked   chan struct{} // closed once the relay and the proxy were resolved, or not

	mu sync.Mutex
	// guarded by mu
	last      *Failure               // what went wrong last
	notBefore time.Time              // of the next attempt, as the relay asked
	taken     map[tunnel.Link]*route // by links that are not served yet
	replaced  chan struct{}          // closed when set is replaced
	refused   *Failure               // why the newest configuration is not in force
	restart   []string               // keys that wait for a restart
}

func newRunning(c *Connector, dir *stateDir, reg *registration, saved *certs.Saved) (*running, error) {
	clk := new(clock)
	id, err := newIdentity(saved, clk)
	if err != nil {
		return nil, dir.corrupt(certs.IdentityFile, err)
	}
	r := &running{
		Connector: c, dir: dir, registration: reg, memory: newCarrierMemory(dir, c.logger), id: id, clock: clk, guards: new(guards),
		since: time.Now().UTC(), sessions: newSessions(), looked: make(chan struct{}), taken: make(map[tunnel.Link]*route),
		questions: make(chan question), againControl: make(chan struct{}, 1), againBulk: make(chan struct{}, 1), replaced: make(chan struct{}),
	}
	r.set.Store(r.newSettings(c.cfg.File, c.proxy))
	r.gate = &gate{
		self: id.name, verifier: grant.NewVerifier(id.name, id.trust), find: r.store,
		dialer: &dialer{resolver: c.cfg.Resolver, guards: r.guards}, looked: r.looked,
		now: clk.now, runs: newRuns(), failed: r.note, metrics: c.metrics, logger: c.logger,
	}
	r.ends.Session, r.ends.Logger = r.awaitControl, r.logger
	r.ends.Dropped = func(n int) { r.metrics.endsDropped.Add(float64(n)) }
	bundles := c.bundles
	bundles.Ended = r.ended
	r.node = bundle.NewNode(bundles, r.gate.open)
	return r, nil
}

// run serves until ctx ends or until a session fails for good.
func (r *running) run(ctx context.Context) error {
	log := r.logger.With("node", r.id.name.String())
	log.Info("connector starts", "relay", hostPort(r.route().to), "incarnation", r.incarnationText(), "stores", len(r.set.Load().stores), "certificate_expires", r.id.expires())
	// serving outlives ctx: ingresses are told over sessions that still stand.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	r.direct.begin(serving)
	defer r.direct.end()
	group, broken := errgroup.WithContext(serving)
	group.Go(func() error { return r.serveStatus(broken) })
	group.Go(func() error { return r.serveMetrics(broken) })
	group.Go(func() error { return r.watch(broken) })
	group.Go(func() error { return r.renew(broken) })
	group.Go(func() error { return r.keepConfig(broken) })
	group.Go(func() error { return r.move(broken) })
	group.Go(func() error { return r.keepControl(broken) })
	group.Go(func() error { return r.keepBulk(broken) })
	group.Go(func() error { r.ends.Run(broken); return nil })
	select {
	case <-ctx.Done():
		log.Info("connector stops", "streams", r.node.Streams())
	case <-broken.Done():
	}
	r.node.Close(bundle.CodeNodeStopped)
	r.reportLast()
	stop()
	return group.Wait()
}

func (r *running) incarnationText() string { return strconv.FormatUint(r.incarnation, 16) }

// note remembers a failure for the status.
func (r *running) note(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = failureOf(err, time.Now().UTC())
}

// serveStatus answers on the status socket. Without it the connector does its
// work all the same.
func (r *running) serveStatus(ctx context.Context) error {
	ln, err := listenStatus(r.dir.path)
	if err != nil {
		r.logger.Warn("there is no status socket: ebbgate connector status will not work", "error", err)
		return nil
	}
	(&statusServer{report: r.report, reload: r.askReload, logger: r.logger}).run(ctx, ln)
	return nil
}

// report is the answer to a question for the status.
func (r *running) report() *Report {
	set := r.set.Load()
	proxy := r.used().proxy.Status()
	_, unsaved := r.id.current()
	rep := &Report{
		Node: r.id.name.String(), Incarnation: r.incarnationText(), Software: r.cfg.Software, Since: r.since,
		Relay: hostPort(set.route.to), Sessions: []SessionReport{}, Stores: []StoreReport{},
		Proxy: proxy.Proxy, ProxyAuth: string(proxy.Auth), ProxyRefused: set.route.proxy.Status().Refused,
		CertificateExpires: r.id.expires(), CertificateUnsaved: unsaved,
		Runs: r.gate.runs.active(), Streams: r.node.Streams(), Config: r.configReport(),
	}
	for _, e := range r.sessions.all() {
		s := SessionReport{
			Role: e.role, Carrier: string(e.session.Link().Carrier()), Relay: e.relay, Remote: e.session.Link().RemoteAddr().String(),
			Proxy: e.route.proxy.Status().Proxy, Since: e.since, RTTMillis: millis(e.session.RTT()),
		}
		rep.Sessions = append(rep.Sessions, s)
		if e.role == tunnel.RoleControl {
			rep.Online, rep.Carrier, rep.RTTMillis = true, s.Carrier, s.RTTMillis
		}
	}
	for _, st := range set.file.Stores {
		rep.Stores = append(rep.Stores, StoreReport{st.Name, address(st)})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	rep.LastError = r.last
	return rep
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// attrs are what a log says about a failure.
func attrs(err error) []any {
	f := failureOf(err, time.Time{})
	return []any{slog.String("code", f.Code), slog.String("hop", f.Hop), slog.String("error", f.Message), slog.String("advice", f.Advice)}
}
