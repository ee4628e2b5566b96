package tunnel

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// TestKeeperIsAskedAgain: Again ends a pause, and has a session looked at that
// would be looked at much later; the old one ends when the new one is up.
func TestKeeperIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		again := make(chan struct{})
		up := make(chan *fakeLink)
		dials := 0
		works := false
		k := &Keeper{
			Again: again,
			Dial: func(context.Context) (Link, error) {
				dials++
				if !works {
					return nil, errors.New("down")
				}
				return newFakeLink(TLS), nil
			},
			Better: func(context.Context, Carrier) (Link, error) { return newFakeLink(TLS), nil },
			Serve: func(ctx context.Context, link Link, established func()) error {
				established()
				up <- link.(*fakeLink)
				select {
				case <-link.Done():
				case <-ctx.Done():
				}
				return errors.New("over")
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error, 1)
		go func() { over <- k.Run(ctx) }()
		time.Sleep(10 * time.Minute) // pauses are long now
		synctest.Wait()
		works = true
		before := dials
		asked := time.Now()
		again <- struct{}{}
		first := <-up
		if took := time.Since(asked); took != 0 || dials != before+1 {
			t.Errorf("dialled %d times, after %v", dials-before, took)
		}
		asked = time.Now()
		again <- struct{}{}
		second := <-up
		<-first.Done()
		if took := time.Since(asked); took != 0 || second == first {
			t.Errorf("moved after %v", took)
		}
		select {
		case <-second.Done():
			t.Error("the new one is over, too")
		default:
		}
		cancel()
		if err := <-over; err != nil {
			t.Error(err)
		}
	})
}

// TestKeeperRenews: a session that is worn, or that somebody wants renewed, ends once another one is up and nothing
// travels on it any more; until that works it stays.
func TestKeeperRenews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up, left := make(chan *fakeLink, 8), make(chan struct{})
		failures := 0
		k := &Keeper{
			Dial: func(context.Context) (Link, error) {
				if failures > 0 {
					failures--
					return nil, errors.New("down")
				}
				return newFakeLink(TLS), nil
			},
			Leave: func(ctx context.Context, _ Link) {
				select {
				case <-left:
				case <-ctx.Done():
				}
			},
			Serve: func(ctx context.Context, link Link, established func()) error {
				established()
				up <- link.(*fakeLink)
				select {
				case <-link.Done():
				case <-ctx.Done():
				}
				return errors.New("over")
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error, 1)
		go func() { over <- k.Run(ctx) }()
		first := <-up
		failures = 3
		first.Wear("records")
		second := <-up
		synctest.Wait()
		select {
		case <-first.Done():
			t.Error("the worn one ended although something travels on it")
		default:
		}
		left <- struct{}{}
		<-first.Done()
		second.Wear("certificate")
		third := <-up
		asked := time.Now()
		<-second.Done() // though it was never left
		if took := time.Since(asked); took != leaveTime {
			t.Errorf("it was left after %v", took)
		}
		third.Wear("certificate")
		<-up
		synctest.Wait() // it has its place
		cancel()
		<-third.Done() // at once
		if err := <-over; err != nil {
			t.Error(err)
		}
	})
}

// TestKeeperHurries: after a session that lasted, while somebody waits, the first attempts follow each other quickly,
// and then less so.
func TestKeeperHurries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials []time.Time
		lasts := 10 * time.Second
		up := false
		k := &Keeper{
			Hurry: func() bool { return true },
			Dial: func(context.Context) (Link, error) {
				dials = append(dials, time.Now())
				if up {
					return nil, errors.New("down")
				}
				up = true
				return newFakeLink(TLS), nil
			},
			Serve: func(ctx context.Context, link Link, established func()) error {
				established()
				time.Sleep(lasts)
				return errors.New("over")
			},
		}
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error, 1)
		go func() { over <- k.Run(ctx) }()
		time.Sleep(time.Minute)
		cancel()
		<-over
		last := dials[0].Add(lasts)
		for i, bound := range []time.Duration{backoffFresh, 2 * backoffFresh, 4 * backoffFresh, 8 * backoffFresh, backoffHurry, backoffHurry} {
			if pause := dials[i+1].Sub(last); pause > bound {
				t.Errorf("pause %d took %v, want at most %v", i, pause, bound)
			}
			last = dials[i+1]
		}
		if n := len(dials); n > 2*int(time.Minute/backoffHurry)*3 {
			t.Errorf("%d attempts in a minute", n)
		}
	})
}
