package connector

import (
	"context"
	"time"

	"github.com/ebbgate/ebbgate/tunnel"
)

const (
	// moveLook is how often sessions that have to move are looked at while
	// streams keep them.
	moveLook = time.Second
	// The time between attempts to move doubles from moveLook to moveLast.
	moveLast = time.Minute
)

// move has the sessions go over to the route of a changed configuration: the old
// session ends when the new one is up, and streams go on over that. Where streams
// do not outlive their session, it waits until none is open.
func (r *running) move(ctx context.Context) error {
	pause := moveLook
	for moved := true; ; {
		_, changed := r.latest()
		wait, next := moveLook, pause
		if !r.moving() && !moved {
			r.rerouted()
		}
		moved = !r.moving()
		if r.moving() && !r.fragile() {
			r.again()
			wait, next = pause, min(2*pause, moveLast)
		}
		var timer <-chan time.Time
		if r.moving() {
			timer = time.After(wait)
		} else {
			next = moveLook
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
			next = moveLook
		case <-timer:
		}
		pause = next
	}
}

// moving tells whether a session uses another route than the one of now.
func (r *running) moving() bool {
	return r.outdated(tunnel.RoleControl) || r.outdated(tunnel.RoleBulk)
}

// outdated tells whether the newest session of a role does.
func (r *running) outdated(role string) bool {
	e := r.sessions.newest(role)
	return e != nil && e.route != r.route()
}

// again has the keepers dial at once where there is no session, and look for a
// better one where there is.
func (r *running) again() {
	for _, c := range []chan struct{}{r.againControl, r.againBulk} {
		select {
		case c <- struct{}{}:
		default: // it was asked already
		}
	}
}

// replacement makes a link by the route of now for a session that uses another
// one.
func (r *running) replacement(ctx context.Context, dial func(*route) (tunnel.Link, error)) (tunnel.Link, error) {
	link, err := r.take(dial)
	if err != nil && ctx.Err() == nil {
		r.note(err)
		r.logger.Warn("the new way to the relay does not work, the session stays on the one before", attrs(err)...)
	}
	return link, err
}
