package connector

import (
	"context"
	"slices"
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

// move has the sessions go over to the routes of a changed configuration: the old
// session ends when the new one is up, and streams go on over that. Where streams
// do not outlive their session, it waits until none is open.
func (r *running) move(ctx context.Context) error {
	pause := moveLook
	for moved := true; ; {
		_, changed := r.latest()
		relays := r.roster.Changed()
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
		case <-relays:
			next = moveLook
		case <-timer:
		}
		pause = next
	}
}

// moving tells whether a session uses another route than the one of now.
func (r *running) moving() bool {
	for _, p := range r.relays {
		if p.outdated(tunnel.RoleControl) || p.outdated(tunnel.RoleBulk) {
			return true
		}
	}
	return false
}

// again has every keeper of sessions try at once.
func (r *running) again() {
	for _, p := range r.relays {
		p.again()
	}
}

// learn takes what the relay of a session tells of the relays.
func (r *running) learn(s *tunnel.Session) {
	r.learning.Lock()
	defer r.learning.Unlock()
	if r.roster.Learn(tunnel.KnownRelays(s.Relays(), r.id.name.TrustDomain)) {
		r.logger.Info("the relays are others now", "relays", hostPorts(r.roster.All()))
	}
}

// remember keeps what relays told of each other in the registration, for the next
// start: then one may be there that is not now.
func (r *running) remember(ctx context.Context) error {
	written := r.registration.Relays
	for {
		changed := r.roster.Changed()
		if told := r.roster.Told(); !slices.Equal(told, written) {
			next := *r.registration
			next.Relays, written = told, told
			if err := r.dir.saveRegistration(&next); err != nil {
				r.logger.Warn("where the relays are was not saved", attrs(saveError(r.dir.path, err))...)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}
