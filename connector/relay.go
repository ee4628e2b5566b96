package connector

import (
	"context"
	"slices"
	"time"

	"github.com/ebbgate/ebbgate/tunnel"
)

// relay is one of the two relays that a connector keeps sessions to, or a place
// for one: its control session, on carriers over TCP a bulk session, and the way
// there. Which relay it is the roster says; streams belong to none.
type relay struct {
	// static after construction
	*running
	place                   int           // in the roster
	againControl, againBulk chan struct{} // ask the keepers of the sessions

	// guarded by running.mu
	notBefore time.Time              // of the next attempt, as the relay asked
	made      map[tunnel.Link]*route // by links that are not served yet
	last      *Failure               // what went wrong last; nil since a session is up
}

func newRelay(r *running, place int) *relay {
	return &relay{
		running: r, place: place, againControl: make(chan struct{}, 1), againBulk: make(chan struct{}, 1),
		made: make(map[tunnel.Link]*route),
	}
}

// keepControl keeps the control session up, on the best carrier.
func (p *relay) keepControl(ctx context.Context) error {
	k := &tunnel.Keeper{
		Dial: p.dial, Better: p.better, Again: p.againControl,
		Serve: func(ctx context.Context, link tunnel.Link, up func()) error {
			return p.serve(ctx, link, tunnel.RoleControl, up)
		},
		Leave: p.leave, Final: p.final, Failed: p.failed, Hurry: p.waiting, Logger: p.logger,
	}
	return k.Run(ctx)
}

// keepBulk keeps the bulk session up while the control session is on TCP: bulk
// and control never share a TCP connection.
func (p *relay) keepBulk(ctx context.Context) error {
	for ctx.Err() == nil {
		control, changed := p.sessions.control(p)
		if control == nil || control.Link().Carrier() == tunnel.QUIC {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		if err := p.keepBulkBeside(ctx, control.Link().Carrier()); err != nil {
			return err
		}
	}
	return nil
}

// keepBulkBeside keeps it up on the carrier that the control session is on, or
// was, until that one went to QUIC and no stream is open that would not survive
// the change.
func (p *relay) keepBulkBeside(ctx context.Context, carrier tunnel.Carrier) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	follow := func() { // the keeper alone does it
		if control, _ := p.sessions.control(p); control != nil && control.Link().Carrier() != tunnel.QUIC {
			carrier = control.Link().Carrier()
		}
	}
	k := &tunnel.Keeper{
		Dial: func(ctx context.Context) (tunnel.Link, error) {
			if err := p.patient(ctx); err != nil {
				return nil, err
			}
			follow()
			return p.take(ctx, func(route *route) (tunnel.Link, error) { return route.way.DialCarrier(ctx, carrier) })
		},
		Better: func(ctx context.Context, current tunnel.Carrier) (tunnel.Link, error) {
			if p.outdated(tunnel.RoleControl) || p.fragile() {
				return nil, nil // the control session goes first: it may have another carrier then
			}
			if follow(); carrier == current && !p.outdated(tunnel.RoleBulk) {
				return nil, nil
			}
			return p.replacement(ctx, func(route *route) (tunnel.Link, error) { return route.way.DialCarrier(ctx, carrier) })
		},
		Again: p.againBulk,
		Serve: func(ctx context.Context, link tunnel.Link, up func()) error {
			return p.serve(ctx, link, tunnel.RoleBulk, up)
		},
		Leave: p.leave, Final: p.final, Failed: p.failed, Hurry: p.waiting, Logger: p.logger,
	}
	over := make(chan error, 1)
	go func() { over <- k.Run(ctx) }()
	for {
		control, changed := p.sessions.control(p)
		bulk := p.sessions.newest(p, tunnel.RoleBulk)
		switch {
		case control == nil || !p.bulkMayMove():
		case control.Link().Carrier() == tunnel.QUIC:
			if bulk != nil {
				p.leaveInTime(ctx, bulk.session.Link())
			}
			if now, _ := p.sessions.control(p); now != control && ctx.Err() == nil {
				continue // it may be back on TCP
			}
			cancel()
			return <-over
		case bulk != nil && bulk.session.Link().Carrier() != control.Link().Carrier():
			kick(p.againBulk)
		}
		select {
		case err := <-over:
			return err
		case <-changed:
		}
	}
}

// bulkMayMove tells whether the bulk session can be replaced: there is none, or
// nothing is open that would not survive it.
func (p *relay) bulkMayMove() bool {
	return !p.fragile() || p.sessions.newest(p, tunnel.RoleBulk) == nil
}

// final tells refusals that trying again cannot mend, by any relay.
func (p *relay) final(err error) bool { return final(err) && p.roster.Hopeless(p.place) }

// maxPatience bounds how long a relay may send us away.
const maxPatience = 5 * time.Minute

// patient waits until the relay wants us back.
func (p *relay) patient(ctx context.Context) error {
	p.mu.Lock()
	wait := time.Until(p.notBefore)
	p.mu.Unlock()
	if wait <= 0 {
		return nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sentAway remembers when the relay that stops wants us back.
func (p *relay) sentAway(d tunnel.Drain) {
	wait := min(time.Duration(d.ReconnectAfterMS)*time.Millisecond, maxPatience)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notBefore = time.Now().Add(wait)
}

// failed is told each failure of a session or of an attempt. Another relay is
// next, where there is one that has no place.
func (p *relay) failed(err error, wait time.Duration) {
	at, ok, _ := p.roster.Place(p.place)
	p.note(err)
	p.mu.Lock()
	p.last = failureOf(err, time.Now().UTC())
	if p.notBefore.Before(time.Now()) && ok {
		defer p.roster.Failed(p.place, at)
	}
	p.mu.Unlock()
	p.logger.Warn("no session", append(attrs(err), "relay", hostPort(at), "again_in", wait.Round(time.Millisecond))...)
}

// route is the way to the relay that has the place; nil: none has.
func (p *relay) route() *route {
	at, ok, _ := p.roster.Place(p.place)
	if !ok {
		return nil
	}
	return p.routeTo(at)
}

// awaitRoute waits until a relay has the place.
func (p *relay) awaitRoute(ctx context.Context) (*route, error) {
	for {
		at, ok, changed := p.roster.Place(p.place)
		if ok {
			return p.routeTo(at), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// used is the route of the control session; without one, that of now, if any.
func (p *relay) used() *route {
	if e := p.sessions.newest(p, tunnel.RoleControl); e != nil {
		return e.route
	}
	return p.route()
}

// dial makes a link for the control session. A node whose certificate expired
// gets a new one first.
func (p *relay) dial(ctx context.Context) (tunnel.Link, error) {
	if err := p.patient(ctx); err != nil {
		return nil, err
	}
	now, err := p.awaitRoute(ctx)
	if err != nil {
		return nil, err
	}
	if p.id.expired() {
		if err := p.comeBack(ctx, now); err != nil {
			return nil, err
		}
	}
	return p.take(ctx, func(route *route) (tunnel.Link, error) { return route.way.Dial(ctx) })
}

// better makes a link on a better carrier than the current one, if there is one,
// or on the way of a changed configuration.
func (p *relay) better(ctx context.Context, current tunnel.Carrier) (tunnel.Link, error) {
	if p.fragile() {
		return nil, errBusy
	}
	if p.outdated(tunnel.RoleControl) {
		return p.replacement(ctx, func(route *route) (tunnel.Link, error) { return route.way.Dial(ctx) })
	}
	return p.take(ctx, func(route *route) (tunnel.Link, error) { return route.way.Better(ctx, current) })
}

// take makes a link by the route of now, and remembers which one that was.
func (p *relay) take(ctx context.Context, dial func(*route) (tunnel.Link, error)) (tunnel.Link, error) {
	route, err := p.awaitRoute(ctx)
	if err != nil {
		return nil, err
	}
	link, err := dial(route)
	if link != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.made[link] = route
	}
	return link, err
}

// madeBy gives the route that a link was made by, once.
func (p *relay) madeBy(link tunnel.Link) *route {
	p.mu.Lock()
	route := p.made[link]
	delete(p.made, link)
	p.mu.Unlock()
	if route == nil {
		return p.route()
	}
	return route
}

// outdated tells whether the newest session of a role uses another route than the
// one of now.
func (p *relay) outdated(role string) bool {
	e, now := p.sessions.newest(p, role), p.route()
	return e != nil && now != nil && e.route != now
}

// again has the keepers dial at once where there is no session, and look for a
// better one where there is.
func (p *relay) again() {
	kick(p.againControl)
	kick(p.againBulk)
}

func kick(again chan struct{}) {
	select {
	case again <- struct{}{}:
	default: // it was asked already
	}
}

// replacement makes a link by the route of now for a session that uses another
// one.
func (p *relay) replacement(ctx context.Context, dial func(*route) (tunnel.Link, error)) (tunnel.Link, error) {
	link, err := p.take(ctx, dial)
	if err != nil && ctx.Err() == nil {
		p.note(err)
		p.logger.Warn("the new way to the relay does not work, the session stays on the one before", attrs(err)...)
	}
	return link, err
}

// finalCodes are refusals that trying again cannot mend.
var finalCodes = []string{"node-unknown", "node-revoked", "identity-locked"}

func final(err error) bool {
	return slices.Contains(finalCodes, failureOf(err, time.Time{}).Code)
}
