package proxycfg

import (
	"context"
	"sync"
	"time"
)

const (
	// proofAge is how long an accepted credential lets dials go side by side.
	// Then one goes alone again: passwords change while programs run.
	proofAge = time.Minute

	// Attempts with a credential that was never accepted are spaced when the one
	// before got no answer.
	firstSpacing = time.Minute
	maxSpacing   = 10 * time.Minute
)

// outcome is how a dial through a proxy ended, as far as the credential goes.
type outcome int

const (
	unsent     outcome = iota // no attempt was made and nothing learned
	notAsked                  // the proxy opened a tunnel without asking for a credential
	asked                     // 407, but this dial did not go alone: it must begin again
	outdated                  // 407 without the scheme that was learned: it must begin again
	accepted                  // an attempt was answered with anything but 407
	refused                   // an attempt was answered with 407
	unanswered                // an attempt was not answered
)

// verdict is what a dial brings back to the gate.
type verdict struct {
	outcome outcome
	scheme  Scheme // of the attempt
	refusal refusal
}

type gateState int

const (
	untried gateState = iota
	openly            // the proxy asks for no credential
	proved
	turnedDown
)

// gate lets dials through a proxy so that a wrong credential costs one attempt:
// as long as it is not known to be right, one dial goes at a time. It does no
// I/O.
type gate struct {
	mu       sync.Mutex
	cred     *credential // what the rest is about; nil before the first dial
	state    gateState
	alone    chan struct{} // not nil while a dial goes alone, closed at its end
	scheme   Scheme        // that the proxy accepted; empty: ask it
	provedAt time.Time
	accepted bool    // cred was accepted at some time
	refusal  refusal // in state turnedDown
	recorded bool    // the refusal is in the memory
	lifted   bool    // a person asked to try a refused credential again

	unanswered int
	notBefore  time.Time
}

// pass is a dial's permission. Its holder calls gate.leave exactly once.
type pass struct {
	cred   *credential
	scheme Scheme // to begin with; empty: learn what the proxy offers
	alone  bool
	// first: the credential was not accepted yet.
	first bool
	// recall: the memory decides whether there may be an attempt.
	recall bool
}

// stop is why a gate lets nobody through now.
type stop struct {
	refusal    *refusal
	recorded   bool // the memory has the refusal
	cred       *credential
	unanswered int
	wait       time.Duration // for the next attempt
}

// enter waits until the dial may go. Either the pass, or stop, or the error of
// load or of the context is what comes of it.
func (g *gate) enter(ctx context.Context, load func(context.Context) (*credential, error)) (pass, *stop, error) {
	for {
		cred, err := load(ctx)
		if err != nil {
			return pass{}, nil, err
		}
		p, s, wait := g.try(cred)
		if wait == nil {
			return p, s, nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return pass{}, nil, ctx.Err()
		}
	}
}

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// try is enter without waiting; a channel that is not nil is to be waited for,
// then the credential is to be loaded again.
func (g *gate) try(cred *credential) (pass, *stop, <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.cred != nil && cred.version < g.cred.version:
		return pass{}, nil, closed
	case g.cred == nil || cred.version > g.cred.version:
		g.adoptLocked(cred)
	}
	now := time.Now()
	switch {
	case g.state == turnedDown:
		r := g.refusal
		return pass{}, &stop{refusal: &r, recorded: g.recorded, cred: g.cred}, nil
	case g.alone != nil:
		return pass{}, nil, g.alone
	case g.state == openly:
		return pass{cred: g.cred}, nil, nil
	case g.state == proved && now.Sub(g.provedAt) < proofAge:
		return pass{cred: g.cred, scheme: g.scheme}, nil, nil
	case now.Before(g.notBefore):
		return pass{}, &stop{cred: g.cred, unanswered: g.unanswered, wait: g.notBefore.Sub(now)}, nil
	}
	g.alone = make(chan struct{})
	return pass{
		cred: g.cred, scheme: g.scheme, alone: true,
		first: !g.accepted, recall: !g.accepted && !g.lifted,
	}, nil, nil
}

// adoptLocked makes cred the one that the gate is about.
func (g *gate) adoptLocked(cred *credential) {
	was := g.cred
	g.cred = cred
	if cred.same(was) {
		// The file was touched: a person says that the same password is worth
		// another attempt.
		if g.state == turnedDown {
			g.state, g.lifted = untried, true
		}
		g.unanswered, g.notBefore = 0, time.Time{}
		return
	}
	g.state, g.accepted, g.lifted = untried, false, false
	g.unanswered, g.notBefore = 0, time.Time{}
}

// lift lets the refused credential be tried again.
func (g *gate) lift(cred *credential) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.cred == cred && g.state == turnedDown {
		g.state, g.lifted = untried, true
	}
}

// good says whether an attempt with the pass may still be made: another dial may
// have been refused meanwhile.
func (g *gate) good(p pass) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return p.cred.same(g.cred) && g.state != turnedDown
}

// leave brings back the pass and what became of it.
func (g *gate) leave(p pass, v verdict) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p.alone {
		close(g.alone)
		g.alone = nil
	}
	if !p.cred.same(g.cred) {
		return
	}
	switch v.outcome {
	case unsent:
	case notAsked:
		if g.state != turnedDown {
			g.state, g.scheme = openly, ""
		}
	case asked:
		if g.state == openly {
			g.state = untried
		}
	case outdated:
		g.scheme, g.provedAt = "", time.Time{}
	case accepted:
		g.state, g.scheme, g.provedAt, g.accepted, g.lifted = proved, v.scheme, time.Now(), true, false
		g.unanswered, g.notBefore = 0, time.Time{}
	case refused:
		g.state, g.refusal, g.recorded, g.accepted = turnedDown, v.refusal, false, false
	case unanswered:
		g.provedAt = time.Time{}
		if !g.accepted {
			g.notBefore = time.Now().Add(min(firstSpacing<<min(g.unanswered, 8), maxSpacing))
			g.unanswered++
		}
	}
}

// record notes that the memory has the refusal of cred.
func (g *gate) record(cred *credential) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state == turnedDown && cred.same(g.cred) {
		g.recorded = true
	}
}

// status tells the accepted scheme and whether the credential is refused.
func (g *gate) status() (Scheme, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state == turnedDown {
		return "", true
	}
	return g.scheme, false
}
