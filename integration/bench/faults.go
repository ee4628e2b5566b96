package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// fault is something that happens to relays while one stream flows up and one down.
type fault struct {
	name   string
	relays int // it takes so many
	inject func(context.Context, *path) (restart time.Duration, err error)
}

const (
	faultFrozen    = "frozen"
	faultKilled    = "killed"
	faultRestarted = "restarted"
)

var faults = []fault{
	{faultRestarted, 1, restart},
	{faultFrozen, 2, freezeInTurn},
	{faultKilled, 2, killInTurn},
}

func faultNames() []string {
	var names []string
	for _, f := range faults {
		names = append(names, f.name)
	}
	return names
}

const (
	calm   = 2 * time.Second // before and between faults
	frozen = 4 * time.Second // how long a relay stands still
)

// restart kills the only relay and starts it again at once. It returns how long nobody served.
func restart(ctx context.Context, p *path) (time.Duration, error) {
	start := time.Now()
	err := p.revive(ctx, 0)
	return time.Since(start), err
}

// freezeInTurn stops one relay for a while, and then the other.
func freezeInTurn(ctx context.Context, p *path) (time.Duration, error) {
	for i, r := range p.relays {
		if i > 0 {
			if err := pause(ctx, calm); err != nil {
				return 0, err
			}
		}
		if err := freeze(r.Process); err != nil {
			return 0, err
		}
		err := pause(ctx, frozen)
		if err := errors.Join(err, thaw(r.Process)); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// killInTurn kills one relay, starts it again, and then the other.
func killInTurn(ctx context.Context, p *path) (time.Duration, error) {
	for i := range p.relays {
		if i > 0 {
			if err := pause(ctx, frozen); err != nil { // until everything is at both again
				return 0, err
			}
		}
		p.relays[i].Kill()
		if err := pause(ctx, calm); err != nil {
			return 0, err
		}
		if err := p.revive(ctx, i); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// revive kills a relay, unless it is dead, and starts it again.
func (p *path) revive(ctx context.Context, i int) error {
	r := p.relays[i]
	old := r.Process
	old.Kill()
	if err := r.Restart(ctx); err != nil {
		return err
	}
	p.replace(old, r.Process)
	return nil
}

// lasts is how long a fault's flow is.
func (f fault) lasts() time.Duration {
	if f.relays == 1 {
		return calm + 2*frozen
	}
	return calm + 2*(frozen+calm) + frozen
}

// take lets streams flow, injects the fault and returns the longest gap.
func (f fault) take(ctx context.Context, p *path) (sample, error) {
	flow := make(chan result, 1)
	failed := make(chan error, 1)
	go func() {
		r, err := runLoad(ctx, p.near, load{Way: p.way, Measure: kindFlowBoth, Streams: 2, For: f.lasts(), Alone: true})
		flow <- r
		failed <- err
	}()
	err := pause(ctx, calm)
	var down time.Duration
	if err == nil {
		down, err = f.inject(ctx, p)
	}
	r := <-flow
	if err := errors.Join(err, <-failed); err != nil {
		return sample{}, fmt.Errorf("bench: %s: %w", f.name, err)
	}
	s := sample{Restart: down}
	s.flow(r, 0)
	return s, nil
}

// faultSections injects the faults on loopback and on the long way with loss.
func faultSections(ctx context.Context, r *report, s site, o options) error {
	local := s
	local.near, local.far = here, here
	if err := faultSection(ctx, r.section("faults-lan", nil), local, o); err != nil {
		return err
	}
	link, err := startLink(ctx)
	if err != nil {
		return r.leaveOut("faults-wan", err)
	}
	defer link.close()
	c := &condition{RTT: longRTT, Rate: longRate, Loss: 0.01, Congestion: allowingBBR}
	if s.near, s.far, err = link.set(*c); err != nil {
		return err
	}
	return faultSection(ctx, r.section("faults-wan", c), s, o)
}

func faultSection(ctx context.Context, f *section, s site, o options) error {
	var err error
	if s.dir, err = os.MkdirTemp(s.dir, "faults-"); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	store, addr, err := startRole(ctx, s.far, "store", storeInput{Listen: s.far.addr})
	if err != nil {
		return err
	}
	defer store.Kill()
	s.store = addr
	for _, fault := range faults {
		if !wanted(o.measures, nil, fault.name) {
			continue
		}
		if err := fault.run(ctx, f, s, o); err != nil {
			return err
		}
	}
	return nil
}

// run injects a fault into a path of its own.
func (f fault) run(ctx context.Context, into *section, s site, o options) error {
	name := "forward-tls"
	if f.relays > 1 {
		name = "forward-two"
	}
	row := rows[slices.IndexFunc(rows, func(r row) bool { return r.name == name })]
	s.dir = filepath.Join(s.dir, f.name)
	found, p, err := into.start(ctx, row, s, o)
	if err != nil || p == nil {
		return err
	}
	defer p.stop()
	sample, err := f.take(ctx, p)
	return found.note(ctx, f.name, sample, err, o)
}
