//go:build linux

package faults

import (
	"context"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"

	"github.com/ebbgate/ebbgate/integration/rig"
	"github.com/ebbgate/ebbgate/relay/state/postgrestest"
)

// start starts what is disturbed: two relays, where there is PostgreSQL, and paths. One has a connector that knows the
// first relay only, one has a connector behind a proxy.
func (s *soak) start(ctx context.Context, seed uint64) {
	o := options{env: []string{"GOGC=25"}} // what is free is collected soon
	if postgrestest.Installed() {
		s.server = postgrestest.Start(s.t)
		database := s.server.Database(s.t)
		first := s.startRelay(ctx, o, rig.RelayOptions{Postgres: database})
		s.startRelay(ctx, o, rig.RelayOptions{Postgres: database, KeyOf: first, Hostname: "127.0.1.1"})
	} else {
		s.t.Log("*** ONE RELAY ONLY: PostgreSQL is missing: install Debian's package postgresql-15 ***")
		s.startRelay(ctx, o, rig.RelayOptions{})
	}
	for i, kind := range []struct {
		carrier        string
		alone, proxied bool
	}{{carrier: "tls"}, {carrier: "quic"}, {carrier: "wss", alone: true}, {carrier: "tls", proxied: true}} {
		o := o
		o.carrier, o.near, o.far, o.number, o.metrics, o.relay = kind.carrier, true, true, i, rig.FreePort(s.t), s.relays[0].Relay
		p := &soaked{
			soak: s, rand: rand.New(rand.NewPCG(seed, uint64(i))), keep: i == 0, metrics: o.metrics, at: s.relays[0],
			broken: make(map[string]int), outcomes: make(map[string]int),
		}
		if len(s.relays) > 1 && !kind.alone {
			o.second, p.at = s.relays[1].Relay, s.relays[i%2]
		}
		if kind.proxied {
			p.proxy = startProxy(ctx, s.t)
			o.proxy = "http://" + p.proxy.addr
		}
		p.path = newPath(ctx, s.t, o)
		s.paths = append(s.paths, p)
	}
}

func (s *soak) startRelay(ctx context.Context, o options, r rig.RelayOptions) *rig.Relay {
	metrics := rig.FreePort(s.t)
	r.Config = map[string]any{"metrics": metrics}
	name := [...]string{"relay", "second relay"}[len(s.relays)]
	relay := &soakedRelay{Relay: startRelayOf(ctx, s.t, o, r), soak: s, name: name, metrics: metrics}
	s.relays = append(s.relays, relay)
	return relay.Relay
}

// disturb ends the relay in the first half of the time, and has it stand still in all of it.
func (r *soakedRelay) disturb(ctx context.Context, stop <-chan struct{}, random *rand.Rand) {
	s := r.soak
	for s.pause(stop, 2*calm(random)) {
		early := time.Since(s.began) < s.long/2
		var (
			what string
			err  error
		)
		switch n := random.IntN(4); {
		case n == 0 && early:
			what, err = "killed", r.again(ctx, r.Kill)
		case n == 1 && early:
			what, err = "ended", r.again(ctx, func() { _ = r.Stop(30 * time.Second) })
		default:
			what, err = "stood still", frozen(ctx, r.Signal, s.short(random))
		}
		s.happened(r.name + " " + what)
		if err != nil {
			s.t.Errorf("%s %s: %v", r.name, what, err)
			return
		}
	}
}

// again ends the relay and starts it. The streams of its own ingress lose that end.
func (r *soakedRelay) again(ctx context.Context, end func()) error {
	r.soak.there.RLock() // without its database no relay starts
	defer r.soak.there.RUnlock()
	for _, p := range r.soak.paths {
		if p.at == r {
			defer p.breaks("connect")()
		}
	}
	end()
	return r.Restart(ctx)
}

// disturbServer takes the database away for a moment.
func (s *soak) disturbServer(ctx context.Context, stop <-chan struct{}, random *rand.Rand) {
	for s.pause(stop, 3*calm(random)) {
		what, err := s.away(ctx, random)
		s.happened(what)
		if err != nil {
			s.t.Errorf("%s: %v", what, err)
			return
		}
	}
}

func (s *soak) away(ctx context.Context, random *rand.Rand) (what string, err error) {
	s.there.Lock()
	defer s.there.Unlock()
	if random.IntN(2) == 0 {
		s.server.Kill()
		wait(ctx, s.short(random))
		return "database killed", s.server.Restart()
	}
	if err := s.server.Freeze(); err != nil {
		return "database stood still", err
	}
	wait(ctx, s.short(random))
	return "database stood still", s.server.Thaw()
}

// disturbProxy does something to the connector's proxy.
func (p *soaked) disturbProxy(ctx context.Context, d time.Duration) (what string, err error) {
	switch p.rand.IntN(3) {
	case 0:
		p.proxy.Kill()
		return "proxy killed", p.proxy.start(ctx)
	case 1:
		p.proxy.Kill()
		wait(ctx, d)
		return "proxy away", p.proxy.start(ctx)
	}
	return "proxy stood still", frozen(ctx, p.proxy.Signal, d)
}

// move has the connector go over to another carrier, or back.
func (p *soaked) move() error {
	other := "tls"
	if p.carrier == other {
		other = "wss"
	}
	to := []string{other}
	if slices.Equal(p.connector.Options.Carriers, to) {
		to = []string{p.carrier}
	}
	p.connector.Options.Carriers = to
	if err := p.connector.Configure(); err != nil {
		return err
	}
	return p.connector.Signal(syscall.SIGHUP)
}
