package connector

import (
	"context"
	"crypto/ed25519"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/ebbgate/ebbgate/certs"
	"github.com/ebbgate/ebbgate/tunnel"
)

const (
	// renewTimeout bounds the exchange with the relay.
	renewTimeout = 30 * time.Second
	// The time between attempts to renew or to save doubles from the first to
	// the last.
	renewFirst = time.Second
	renewLast  = 5 * time.Minute
	// renewLook is how often the wall clock is looked at: timers stand still
	// while a machine sleeps.
	renewLook = 10 * time.Minute
)

// errOffline is a renewal that has to wait for a session.
var errOffline = errors.New("connector: there is no session")

// renew keeps the certificate fresh, and what is on disk the same as what is
// used.
func (r *running) renew(ctx context.Context) error {
	pause := renewFirst
	var key ed25519.PrivateKey // of a renewal that was not answered yet
	for {
		session, changed := r.sessions.anyControl()
		err := r.save()
		if err == nil && !r.clock.Now().Before(r.id.dueAt()) {
			if key, err = r.renewOnce(ctx, session, key); err == nil {
				err = r.save()
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		wait := min(max(r.id.dueAt().Sub(r.clock.Now()), renewFirst), renewLook)
		switch {
		case errors.Is(err, errOffline):
			wait = renewLook
		case err != nil:
			wait, changed = pause/2+rand.N(pause/2), nil
			pause = min(2*pause, renewLast)
			r.metrics.renewals.WithLabelValues("failed").Inc()
			r.note(err)
			r.logger.Error("the certificate was not renewed", append(attrs(err), "certificate_expires", r.id.expires(), "again_in", wait.Round(time.Millisecond))...)
		default:
			pause = renewFirst
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-changed: // a session, perhaps, and what time it is there
		case <-timer.C:
		}
		timer.Stop()
	}
}

// save writes a certificate that is used and not on disk yet. Until that works
// no other one is asked for: a crash may lose one renewal, but not two.
func (r *running) save() error {
	saved, unsaved := r.id.current()
	if !unsaved {
		return nil
	}
	if err := certs.SaveIdentity(r.dir.path, saved); err != nil {
		return saveError(r.dir.path, err)
	}
	r.id.wasSaved(saved)
	return nil
}

// renewOnce asks for a certificate for a new key, or for the one of the last
// attempt, for which the answer is the same. It gives that key back where it may
// have to be asked again.
func (r *running) renewOnce(ctx context.Context, s *tunnel.Session, key ed25519.PrivateKey) (ed25519.PrivateKey, error) {
	if s == nil {
		return key, errOffline
	}
	if key == nil {
		var err error
		if key, err = certs.GenerateKey(); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	saved, _ := r.id.current()
	req := tunnel.RenewCert{Counter: saved.Counter + 1}
	var err error
	if req.CSR, req.Proof, err = s.Possession(key); err != nil {
		return key, err
	}
	answer := new(tunnel.RenewedCert)
	if err := s.Call(ctx, tunnel.TypeRenewCert, req, answer); err != nil {
		return key, sessionError(err)
	}
	fresh := &certs.Saved{Key: key, Chain: answer.Chain, Roots: answer.Roots, Counter: answer.Counter}
	if len(fresh.Roots) == 0 {
		fresh.Roots = saved.Roots
	}
	if err := r.id.use(fresh); err != nil {
		return nil, failure("renewal-invalid", "relay", err, "use the same version at both ends", "the relay's answer cannot be used: %v", err)
	}
	r.renewed()
	r.metrics.renewals.WithLabelValues("ok").Inc()
	r.logger.Info("certificate renewed", "counter", answer.Counter, "expires", r.id.expires())
	return nil, nil
}

// comeBack gets a certificate for a node whose last one expired, by proving the
// key that the relay knows.
func (r *running) comeBack(ctx context.Context, route *route) error {
	select {
	case r.returning <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-r.returning }()
	if !r.id.expired() {
		return nil // another relay gave it
	}
	saved, _ := r.id.current()
	r.logger.Warn("the certificate has expired: coming back with the registered key", "expired", r.id.expires())
	link, err := route.back.Dial(ctx)
	if err != nil {
		return err
	}
	answer, err := tunnel.EnrolOver(ctx, link, saved.Key, tunnel.Enrol{Kind: tunnel.EnrolReturn, Identity: r.id.name.String()}, r.cfg.Software)
	if err != nil {
		return sessionError(err)
	}
	if err := r.id.use(&certs.Saved{Key: saved.Key, Chain: answer.Chain, Roots: answer.Roots, Counter: answer.Counter}); err != nil {
		return failure("enrolment-invalid", "relay", err, "use the same version at both ends", "the relay's answer cannot be used: %v", err)
	}
	r.metrics.renewals.WithLabelValues("returned").Inc()
	return nil // renew saves it when the session is up
}
