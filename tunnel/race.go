package tunnel

import (
	"context"
	"time"
)

// attempt is what became of one carrier in a race.
type attempt struct {
	carrier Carrier
	link    Link
	err     error
}

// race is a race of carriers.
type race struct {
	dial     func(context.Context, Carrier) (Link, error)
	lost     func(Carrier, error) // is told each failure
	carriers []Carrier
	results  chan attempt
	next     int // of carriers, to be started
	running  map[Carrier]bool
	failed   failures
	won      Link // so far
}

// race has a race of carriers.
func (d *Dialer) race(ctx context.Context, carriers []Carrier) (Link, error) {
	r := &race{dial: d.DialCarrier, lost: d.failed, carriers: carriers}
	return r.run(ctx)
}

// run starts the carriers one after the other, the next one after raceStagger
// or when the last one failed. The first one that is up wins, unless it is none
// that was preferred and a better one comes within raceGrace; the others are
// ended, and waited for.
func (r *race) run(ctx context.Context) (Link, error) {
	ctx, cancel := context.WithCancel(ctx)
	r.results, r.running = make(chan attempt, len(r.carriers)), make(map[Carrier]bool)
	defer func() {
		cancel()
		for range r.running {
			if a := <-r.results; a.link != nil {
				_ = a.link.Close("another carrier was faster")
			}
		}
	}()
	r.start(ctx)
	timer := time.NewTimer(raceStagger)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			if r.won != nil {
				return r.won, nil
			}
			r.start(ctx)
			timer.Reset(raceStagger)
		case a := <-r.results:
			before := r.won
			r.take(ctx, a)
			switch {
			case r.won != nil && !r.awaitsBetter():
				return r.won, nil
			case r.won != nil && before == nil:
				timer.Reset(raceGrace)
			case r.won == nil && len(r.running) == 0:
				return nil, r.failed.err()
			}
		}
	}
}

// start starts the next carrier, if there is one.
func (r *race) start(ctx context.Context) {
	if r.next == len(r.carriers) {
		return
	}
	c := r.carriers[r.next]
	r.next++
	r.running[c] = true
	go func() {
		link, err := r.dial(ctx, c)
		r.results <- attempt{c, link, err}
	}()
}

// take takes a result: what won so far, or a failure, after which the next one
// starts.
func (r *race) take(ctx context.Context, a attempt) {
	delete(r.running, a.carrier)
	switch {
	case a.err != nil:
		r.lost(a.carrier, a.err)
		r.failed = append(r.failed, failure{a.carrier, a.err})
		if r.won == nil {
			r.start(ctx)
		}
	case r.won == nil:
		r.won = a.link
	case a.carrier.rank() < r.won.Carrier().rank():
		_ = r.won.Close("a better carrier is up, too")
		r.won = a.link
	default:
		_ = a.link.Close("another carrier was faster")
	}
}

// awaitsBetter tells whether the winner gives way if a better one comes.
func (r *race) awaitsBetter() bool {
	won := r.won.Carrier()
	if won == r.carriers[0] {
		return false
	}
	for c := range r.running {
		if c != QUIC && c.rank() < won.rank() {
			return true
		}
	}
	return false
}
