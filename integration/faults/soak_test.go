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
	"github.com/ebbgate/ebbgate/relay/state/postgrestest"
)

// soak is several paths at two relays under load, or at one where there is no PostgreSQL, and what happens to them.
type soak struct {
	t      *testing.T
	ctx    context.Context
	long   time.Duration
	began  time.Time
	calm   time.Time // nothing is disturbed any more
	relays []*soakedRelay
	paths  []*soaked

	server *postgrestest.Server // nil: none
	there  sync.RWMutex         // held while a relay starts, or while the server is away

	mu   sync.Mutex
	done map[string]int // what happened, how often; guarded by mu
}

// soakedRelay is one of the relays.
type soakedRelay struct {
	*rig.Relay
	soak    *soak
	name    string
	metrics string // where it has them
}

// soaked is one of the paths. What ends an end of its streams is counted: a stream that outlives none of that must be
// whole.
type soaked struct {
	*path
	soak *soak
	rand *rand.Rand // of what happens to it
	keep bool       // its processes live all the while, so that what they lose shows

	at      *soakedRelay // with its ingress "connect"
	proxy   *corporate   // of the connector; nil: none
	metrics string       // where the connector has them

	mu       sync.Mutex
	broken   map[string]int // ends of streams that were ended, by ingress; guarded by mu
	outcomes map[string]int // guarded by mu
}

// TestSoak does at random all that the other tests do: it kills, stops and restarts relays, connectors, forwards, a proxy
// and the relays' database, cuts links, in one direction or both, spoils what they carry, and moves connectors to other
// carriers, while streams of all shapes run. In the end everything is well and nothing is left: goroutines, descriptors
// and memory are what they were.
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
	s := &soak{t: t, ctx: ctx, long: long, done: make(map[string]int)}
	s.start(ctx, seed)
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
	for i, r := range s.relays {
		chaos.Go(func() { r.disturb(ctx, stop, rand.New(rand.NewPCG(seed, 99+uint64(i)))) })
	}
	if s.server != nil {
		chaos.Go(func() { s.disturbServer(ctx, stop, rand.New(rand.NewPCG(seed, 199))) })
	}
	chaos.Go(func() { s.watch(stop) })
	wait(ctx, long)
	close(stop)
	chaos.Wait()
	s.calm = time.Now()
	load.Wait()
	t.Logf("the last stream ended %v after the last fault", time.Since(s.calm).Round(time.Second))
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
	switch n := r.IntN(14); {
	case n >= 12 && p.proxy != nil:
		return p.disturbProxy(ctx, d)
	case n == 12:
		return "connector moved", p.move()
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
