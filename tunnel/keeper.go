package tunnel

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	backoffFirst = 250 * time.Millisecond
	backoffMost  = 30 * time.Second
	backoffHurry = 500 * time.Millisecond // at most, while somebody waits
	// backoffFresh is the same right after a session that had lasted for steadyAfter,
	// and doubles: what ended it may be a restart.
	backoffFresh = 50 * time.Millisecond
	steadyAfter  = time.Second
	healthyAfter = 30 * time.Second

	probeFirst = time.Minute
	probeMost  = 10 * time.Minute

	// The time between attempts to replace a session that is up doubles from the
	// first to the last.
	renewFirst = time.Second
	renewMost  = time.Minute
	// renewTime bounds the dialling of a session that replaces another one.
	renewTime = time.Minute
	// leaveTime bounds how long a session that was replaced lives on for what still
	// travels on it.
	leaveTime = 2 * time.Minute
)

// Keeper keeps one session up: it dials, serves, and dials again.
type Keeper struct {
	// Dial makes a link.
	Dial func(ctx context.Context) (Link, error)
	// Better makes a link that takes the place of the current one, as on a
	// better carrier, or gives nil where there is none; nil: the first link stays.
	Better func(ctx context.Context, current Carrier) (Link, error)
	// Again asks, by each value, to dial at once, or, while a session is up, to
	// look for a better one at once; nil: nobody asks.
	Again <-chan struct{}
	// Leave has what travels on a link go over to the next one's, and returns once
	// nothing travels on it any more, or ctx ends; nil: nothing does.
	Leave func(ctx context.Context, link Link)
	// Serve runs a session over a link until it is over, and calls up once it
	// is established. It closes the link. While another session takes over, two
	// run at once.
	Serve func(ctx context.Context, link Link, up func()) error
	// Final tells errors that trying again cannot mend, besides *Error with
	// Final set; nil: there are none.
	Final func(error) bool
	// Hurry tells that somebody waits for the session: pauses stay short then;
	// nil: nobody does.
	Hurry func() bool
	// Failed is told each failure and how long the keeper waits; nil: nobody.
	Failed func(err error, wait time.Duration)
	// Logger takes changes of the session; nil discards.
	Logger *slog.Logger
}

// serving is one running Serve.
type serving struct {
	link Link
	up   chan struct{}
	over chan struct{}
	err  error // once over is closed
}

func (k *Keeper) serve(ctx context.Context, link Link) *serving {
	s := &serving{link: link, up: make(chan struct{}), over: make(chan struct{})}
	go func() {
		defer close(s.over)
		s.err = k.Serve(ctx, link, func() { close(s.up) })
	}()
	return s
}

// Run keeps the session up until ctx ends, which is no error, or until an error
// that trying again cannot mend. Nothing that it started is left then.
func (k *Keeper) Run(ctx context.Context) error {
	if k.Logger == nil {
		k.Logger = slog.New(slog.DiscardHandler)
	}
	wait, hurry := newBackoff(), backoffHurry
	for {
		link, err := k.Dial(ctx)
		if err == nil {
			start := time.Now()
			err = k.hold(ctx, link)
			lasted := time.Since(start)
			if lasted >= healthyAfter {
				wait = newBackoff()
			}
			if lasted >= steadyAfter {
				hurry = backoffFresh
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		if k.final(err) {
			return err
		}
		pause := wait.next()
		if k.Hurry != nil && k.Hurry() && pause > hurry {
			pause = rand.N(hurry)
		}
		hurry = min(2*hurry, backoffHurry)
		if k.Failed != nil {
			k.Failed(err, pause)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-k.Again:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

func (k *Keeper) final(err error) bool {
	var own *Error
	return errors.As(err, &own) && own.Final || k.Final != nil && k.Final(err)
}

// hold serves a link, and another one as soon as it has to be replaced or there is
// a better one, until the current one is over.
func (k *Keeper) hold(ctx context.Context, link Link) error {
	var leaving sync.WaitGroup
	defer leaving.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	current := k.serve(ctx, link)
	worn := link.Worn()
	interval := probeFirst
	probe, retry := time.NewTimer(interval), time.NewTimer(interval)
	retry.Stop()
	defer probe.Stop()
	defer retry.Stop()
	wanted, pause := false, renewFirst // of a session in the place of a worn one
	for {
		since := time.Now()
		var next *serving
		select {
		case <-current.over:
			return current.err
		case <-probe.C:
			next = k.tryBetter(ctx, current)
		case <-k.Again:
			next = k.tryBetter(ctx, current)
		case <-worn:
			worn, wanted, pause = nil, true, renewFirst
			next = k.tryAgain(ctx)
		case <-retry.C:
			if wanted {
				next = k.tryAgain(ctx)
			}
		}
		if next != nil {
			k.Logger.Info("session moves", "was", current.link.Carrier(), "is", next.link.Carrier(), "worn", wanted)
			old := current
			leaving.Go(func() { k.leave(ctx, old) })
			current, worn, wanted = next, next.link.Worn(), false
		} else if wanted {
			retry.Reset(pause)
			pause = min(2*pause, renewMost)
		}
		interval = min(2*interval, probeMost)
		probe.Reset(max(interval-time.Since(since), time.Second))
	}
}

// leave ends a session whose place another one took, once nothing travels on it.
func (k *Keeper) leave(ctx context.Context, old *serving) {
	if k.Leave != nil {
		ctx, cancel := context.WithTimeout(ctx, leaveTime)
		defer cancel()
		stop := context.AfterFunc(ctx, func() { _ = old.link.Close("another session took over") })
		defer stop()
		k.Leave(ctx, old.link)
	}
	_ = old.link.Close("another session took over")
	<-old.over
}

// lateLanes is how long a link is kept for lanes that were being made on it when
// another one took its place.
const lateLanes = 2 * time.Second

// Vacate waits until nothing travels on a link that is left, or ctx ends. replace
// asks for all that does to be moved, and gives what tells when it has.
func Vacate(ctx context.Context, replace func() []<-chan struct{}) {
	for late := false; ; late = true {
		leaving := replace()
		if late && len(leaving) == 0 {
			return
		}
		for _, gone := range leaving {
			select {
			case <-gone:
			case <-ctx.Done():
				return
			}
		}
		timer := time.NewTimer(lateLanes)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}

// tryBetter probes upwards, and gives the new session once it is established.
func (k *Keeper) tryBetter(ctx context.Context, current *serving) *serving {
	if k.Better == nil {
		return nil
	}
	link, err := k.Better(ctx, current.link.Carrier())
	if err != nil || link == nil {
		return nil
	}
	return k.establish(ctx, link)
}

// tryAgain makes a session in the place of the current one.
func (k *Keeper) tryAgain(ctx context.Context) *serving {
	dialling, cancel := context.WithTimeout(ctx, renewTime)
	defer cancel()
	link, err := k.Dial(dialling)
	if err != nil {
		k.Logger.Info("the session was not replaced yet", "error", err)
		return nil
	}
	return k.establish(ctx, link)
}

// establish gives a session over a link once it is up.
func (k *Keeper) establish(ctx context.Context, link Link) *serving {
	s := k.serve(ctx, link)
	timer := time.NewTimer(handshakeTimeout)
	defer timer.Stop()
	select {
	case <-s.up:
		return s
	case <-s.over:
	case <-timer.C:
		_ = link.Close("not established in time")
		<-s.over
	}
	return nil
}

// backoff is full jitter: a random time up to a bound that doubles.
type backoff struct{ bound time.Duration }

func newBackoff() *backoff { return &backoff{backoffFirst} }

func (b *backoff) next() time.Duration {
	pause := rand.N(b.bound)
	b.bound = min(2*b.bound, backoffMost)
	return pause
}
