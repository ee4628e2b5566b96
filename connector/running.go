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
	clock        *tunnel.Clock
	guards       *guards
	gate         *gate
	node         *bundle.Node
	roster       *tunnel.Roster
	relays       [tunnel.Places]*relay
	since        time.Time

	set atomic.Pointer[settings] // what is in force; put replaces it

	questions chan question
	returning chan struct{} // capacity 1: held while an expired certificate is replaced

	scraped net.Listener // where metrics are served; nil: nowhere

	// each guards itself
	sessions *sessions
	direct   directLanes
	ends     tunnel.Reporter
	health   health
	tests    tests
	ready    sync.Once
	looked   chan struct{} // closed once the relay and the proxy were resolved, or not

	learning sync.Mutex // held from what a relay told until the roster has it

	mu sync.Mutex
	// guarded by mu
	last     *Failure                   // what went wrong last
	routes   map[tunnel.Endpoint]*route // of the settings that are in force
	replaced chan struct{}              // closed when set is replaced
	refused  *Failure                   // why the newest configuration is not in force
	restart  []string                   // keys that wait for a restart
}

func newRunning(c *Connector, dir *stateDir, reg *registration, saved *certs.Saved) (*running, error) {
	clk := new(tunnel.Clock)
	id, err := newIdentity(saved, clk)
	if err != nil {
		return nil, dir.corrupt(certs.IdentityFile, err)
	}
	r := &running{
		Connector: c, dir: dir, registration: reg, memory: newCarrierMemory(dir, c.logger), id: id, clock: clk, guards: new(guards),
		since: time.Now().UTC(), sessions: newSessions(), looked: make(chan struct{}), routes: make(map[tunnel.Endpoint]*route),
		questions: make(chan question), returning: make(chan struct{}, 1), replaced: make(chan struct{}),
	}
	set := r.newSettings(c.cfg.File, c.proxy, 1)
	r.set.Store(set)
	r.roster = tunnel.NewRoster(set.seeds, set.only, reg.Relays)
	for i := range r.relays {
		r.relays[i] = newRelay(r, i)
	}
	r.gate = &gate{
		self: id.name, verifier: grant.NewVerifier(id.name, id.trust), find: r.store,
		dialer: &dialer{resolver: c.cfg.Resolver, guards: r.guards}, looked: r.looked,
		now: clk.Now, runs: newRuns(), failed: r.note, refused: r.ends.Add, metrics: c.metrics, logger: c.logger,
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
	log.Info("connector starts", "relays", hostPorts(r.roster.All()), "incarnation", r.incarnationText(), "stores", len(r.set.Load().stores), "certificate_expires", r.id.expires())
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
	group.Go(func() error { r.ends.Run(broken); return nil })
	group.Go(func() error { return r.remember(broken) })
	for _, p := range r.relays {
		group.Go(func() error { return p.keepControl(broken) })
		group.Go(func() error { return p.keepBulk(broken) })
	}
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

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// attrs are what a log says about a failure.
func attrs(err error) []any {
	f := failureOf(err, time.Time{})
	return []any{slog.String("code", f.Code), slog.String("hop", f.Hop), slog.String("error", f.Message), slog.String("advice", f.Advice)}
}
