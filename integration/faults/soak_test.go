//go:build linux

package faults

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ebbgate/ebbgate/integration/rig"
)

// soak is three paths at one relay under load, and what happens to them.
type soak struct {
	t     *testing.T
	ctx   context.Context
	long  time.Duration
	began time.Time
	relay *rig.Relay
	paths []*soaked

	metrics string // where the relay has them

	mu   sync.Mutex
	done map[string]int // what happened, how often; guarded by mu
}

// soaked is one of the paths. What ends an end of its streams is counted: a stream that outlives none of that must be
// whole.
type soaked struct {
	*path
	soak *soak
	rand *rand.Rand // of what happens to it
	keep bool       // its processes live all the while, so that what they lose shows

	metrics string // where the connector has them

	mu       sync.Mutex
	broken   map[string]int // ends of streams that were ended, by ingress; guarded by mu
	outcomes map[string]int // guarded by mu
}

// TestSoak does at random all that the other tests do: it kills, stops and restarts the relay, connectors and forwards,
// cuts links, in one direction or both, and spoils what they carry, while streams of all shapes run. In the end everything
// is well and nothing is left: goroutines, descriptors and memory are what they were.
func TestSoak(t *testing.T) {
	t.Parallel()
	long := 20 * time.Second
	if text := os.Getenv("EBBGATE_SOAK"); text != "" {
		var err error
		if long, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	seed := seed(t)
	ctx, cancel := context.WithTimeout(t.Context(), long+8*time.Minute)
	defer cancel()
	s := &soak{t: t, ctx: ctx, long: long, metrics: freePort(t), done: make(map[string]int)}
	env := []string{"GOGC=25"} // what is free is collected soon
	s.relay = startRelay(ctx, t, options{env: env}, map[string]any{"metrics": s.metrics})
	for i, carrier := range []string{"tls", "quic", "wss"} {
		metrics := freePort(t)
		p := newPath(ctx, t, options{
			carrier: carrier, near: true, far: true, env: env, relay: s.relay, number: i, metrics: metrics,
		})
		s.paths = append(s.paths, &soaked{
			path: p, soak: s, rand: rand.New(rand.NewPCG(seed, uint64(i))), keep: i == 0, metrics: metrics,
			broken: make(map[string]int), outcomes: make(map[string]int),
		})
	}
	for _, p := range s.paths {
		p.round(ctx) // what is made once is made now
	}
	before := s.use()
	s.began = time.Now()
	t.Logf("before: %s", shown(before))

	stop := make(chan struct{}) // closed when nothing new begins
	var load, chaos sync.WaitGroup
	for _, p := range s.paths {
		for range 3 {
			load.Go(func() { p.play(ctx, stop) })
		}
		chaos.Go(func() { p.disturb(ctx, stop) })
	}
	chaos.Go(func() { s.disturbRelay(ctx, stop, rand.New(rand.NewPCG(seed, 99))) })
	chaos.Go(func() { s.watch(stop) })
	wait(ctx, long)
	close(stop)
	chaos.Wait()
	calm := time.Now()
	load.Wait()
	t.Logf("the last stream ended %v after the last fault", time.Since(calm).Round(time.Second))
	for _, p := range s.paths {
		p.round(ctx)
	}
	s.mu.Lock()
	t.Log(counted(s.done))
	s.mu.Unlock()
	for _, p := range s.paths {
		t.Logf("%s over %s: %s", p.gateway, p.carrier, counted(p.outcomes))
	}
	if !t.Failed() {
		s.settle(before)
	}
}

func counted(of map[string]int) string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(of)) {
		all = append(all, fmt.Sprintf("%s %d", name, of[name]))
	}
	return strings.Join(all, ", ")
}

func (s *soak) happened(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done[what]++
}

// short is how long a fault lasts that streams outlive: mostly a moment, sometimes until lanes and sessions are dead.
func (s *soak) short(r *rand.Rand) time.Duration {
	most := 2 * time.Second
	if s.long >= time.Minute && r.IntN(4) == 0 {
		most = 14 * time.Second
	}
	return time.Duration(r.Int64N(int64(most)))
}

// pause waits before the next fault; false: there is none.
func (s *soak) pause(stop <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-stop:
	case <-s.ctx.Done():
	}
	return false
}

// calm is how long a path is left alone, mostly long enough for its ends to come together again.
func calm(r *rand.Rand) time.Duration {
	return time.Second + time.Duration(r.Int64N(int64(5*time.Second)))
}

// disturb does something to a path, again and again.
func (p *soaked) disturb(ctx context.Context, stop <-chan struct{}) {
	for p.soak.pause(stop, calm(p.rand)) {
		what, err := p.once(ctx)
		p.soak.happened(what)
		if err != nil {
			p.t.Errorf("%s: %s: %v", p.gateway, what, err)
			return
		}
	}
}

// once does one thing.
func (p *soaked) once(ctx context.Context) (what string, err error) {
	r := p.rand
	d := p.soak.short(r)
	at := r.IntN(2)
	name := [...]string{nearLink: "forward", farLink: "connector"}[at]
	l := p.links[at]
	switch n := r.IntN(12); {
	case n == 0 && !p.keep:
		defer p.breaks("forward", "connect")()
		p.connector.Kill()
		return "connector killed", p.connector.Start(ctx)
	case n == 1 && !p.keep:
		defer p.breaks("forward", "connect")()
		_ = p.connector.Stop(30 * time.Second)
		return "connector ended", p.connector.Start(ctx)
	case n == 2 && !p.keep:
		defer p.breaks("forward")()
		what = "forward ended"
		if p.soak.long < time.Minute { // a killed one's streams are known to be over when the grace is
			_ = p.forward.Stop(30 * time.Second)
		} else {
			p.forward.Kill()
			what = "forward killed"
		}
		p.forward, err = p.forward.Again(ctx)
		return what, err
	case n <= 3:
		return "connector stood still", frozen(ctx, p.connector.Signal, d)
	case n == 4:
		return "forward stood still", frozen(ctx, p.forward.Signal, d)
	case n == 5:
		return "connector reloaded", p.connector.Signal(syscall.SIGHUP)
	case n <= 7:
		l.kill()
		return "connections of a " + name + " reset", nil
	case n <= 9:
		ways := [][]way{{up}, {down}, {up, down}}[r.IntN(3)]
		l.freeze(ways...)
		wait(ctx, d)
		l.thaw(ways...)
		return fmt.Sprintf("link of a %s cut %v", name, ways), nil
	}
	l.spoil(newMalice(r.Uint64(), r.IntN(2) == 0, 100))
	l.kill()
	wait(ctx, max(d, time.Second))
	l.spoil(nil)
	return "link of a " + name + " spoiled", nil
}

// breaks counts that all streams of the ingresses lose an end, from now on until the function is called.
func (p *soaked) breaks(ingresses ...string) (over func()) {
	count := func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, i := range ingresses {
			p.broken[i]++
		}
	}
	count()
	return count
}

func (p *soaked) losses(ingress string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.broken[ingress]
}

func (p *soaked) ended(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.outcomes[what]++
}

// disturbRelay ends the relay in the first half of the time, and has it stand still in all of it.
func (s *soak) disturbRelay(ctx context.Context, stop <-chan struct{}, r *rand.Rand) {
	for s.pause(stop, 2*calm(r)) {
		var err error
		what := "relay stood still"
		switch n := r.IntN(4); {
		case n == 0 && time.Since(s.began) < s.long/2:
			what = "relay killed"
			over := s.breakAll()
			s.relay.Kill()
			err = s.relay.Restart(ctx)
			over()
		case n == 1 && time.Since(s.began) < s.long/2:
			what = "relay ended"
			over := s.breakAll()
			_ = s.relay.Stop(30 * time.Second)
			err = s.relay.Restart(ctx)
			over()
		default:
			err = frozen(ctx, s.relay.Signal, s.short(r))
		}
		s.happened(what)
		if err != nil {
			s.t.Errorf("%s: %v", what, err)
			return
		}
	}
}

// breakAll counts that the streams of the relay's own ingress lose that end, as breaks does.
func (s *soak) breakAll() (over func()) {
	var all []func()
	for _, p := range s.paths {
		all = append(all, p.breaks("connect"))
	}
	return func() {
		for _, over := range all {
			over()
		}
	}
}
