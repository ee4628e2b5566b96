package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ebbgate/ebbgate/tunnel"
)

const (
	// bulkWait is how long a bulk lane waits for the session that it would
	// rather travel on.
	bulkWait = 2 * time.Second
	// maxAway bounds how long a draining relay is left alone.
	maxAway = time.Minute
)

// sessions are the ones that are up, at each relay that has a place: on TCP
// carriers one for questions and small frames and one for bulk, on QUIC one for
// both.
type sessions struct {
	mu sync.Mutex
	// guarded by mu
	at      [tunnel.Places]pair
	turn    int           // the place that is asked first
	changed chan struct{} // closed and replaced at each change
	trouble error         // why there is none, as far as is known
	err     error         // set when there will be none any more
}

// pair are the sessions with one relay.
type pair struct {
	control *tunnel.Session
	bulk    *tunnel.Session
	clock   *tunnel.Clock // the relay's; set where control is or was
	away    time.Time     // the relay asked not to be dialled before
}

func newSessions() *sessions { return &sessions{changed: make(chan struct{})} }

func (s *sessions) notifyLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// up puts a session in; a better one takes the place of an older one.
func (s *sessions) up(via int, role string, session *tunnel.Session, clock *tunnel.Clock) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := &s.at[via]
	if role == tunnel.RoleBulk {
		at.bulk = session
	} else {
		at.control, at.clock, s.trouble = session, clock, nil
	}
	s.notifyLocked()
}

func (s *sessions) down(via int, session *tunnel.Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := &s.at[via]
	if at.control == session {
		at.control = nil
	}
	if at.bulk == session {
		at.bulk = nil
	}
	if d, ok := session.Draining(); ok {
		at.away = time.Now().Add(min(time.Duration(d.ReconnectAfterMS)*time.Millisecond, maxAway))
	}
	s.notifyLocked()
}

// troubled notes why there is no session.
func (s *sessions) troubled(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trouble = err
}

// end makes every wait return err.
func (s *sessions) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	s.notifyLocked()
}

// all are the sessions that are up.
func (s *sessions) all() (list []*tunnel.Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, at := range s.at {
		for _, session := range []*tunnel.Session{at.control, at.bulk} {
			if session != nil {
				list = append(list, session)
			}
		}
	}
	return list
}

// has tells whether there is a control session with a relay.
func (s *sessions) has(via int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at[via].control != nil
}

// of is the control session with a relay, or nil, and the relay's clock.
func (s *sessions) of(via int) (*tunnel.Session, *tunnel.Clock) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at[via].control, s.at[via].clock
}

// order is in which order the relays are asked: those that there is a session
// with, first the one that answered last.
func (s *sessions) order() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.orderLocked()
}

func (s *sessions) orderLocked() (vias []int) {
	for i := range s.at {
		if via := (s.turn + i) % len(s.at); s.at[via].control != nil {
			vias = append(vias, via)
		}
	}
	return vias
}

// answered notes which relay answers.
func (s *sessions) answered(via int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turn = via
}

// await waits until something is so. Where that does not come in time, the error
// says what was seen on the way to the relay.
func (s *sessions) await(ctx context.Context, so func() bool) error {
	for {
		s.mu.Lock()
		done, changed, trouble, err := so(), s.changed, s.trouble, s.err
		s.mu.Unlock()
		switch {
		case err != nil:
			return err
		case done:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if trouble != nil {
				return fmt.Errorf("%w: %w", errNoSession, trouble)
			}
			return fmt.Errorf("%w: %w", errNoSession, ctx.Err())
		}
	}
}

// awaitAny waits for a control session with any relay. Another one's is given each
// time, so that a relay that does not answer is not asked again and again.
func (s *sessions) awaitAny(ctx context.Context) (session *tunnel.Session, err error) {
	err = s.await(ctx, func() bool {
		for i := range s.at {
			via := (s.turn + 1 + i) % len(s.at)
			if session = s.at[via].control; session != nil {
				s.turn = via
				return true
			}
		}
		return false
	})
	return session, err
}

// awaitControl waits for the control session with a relay.
func (s *sessions) awaitControl(ctx context.Context, via int) (session *tunnel.Session, err error) {
	err = s.await(ctx, func() bool {
		session = s.at[via].control
		return session != nil
	})
	return session, err
}

// forLane gives the session that a lane through a relay should travel on.
func (s *sessions) forLane(ctx context.Context, via int, express bool) (*tunnel.Session, error) {
	control, err := s.awaitControl(ctx, via)
	if err != nil || express || control.Link().Carrier() == tunnel.QUIC {
		return control, err
	}
	waiting, cancel := context.WithTimeout(ctx, bulkWait)
	defer cancel()
	var bulk *tunnel.Session
	err = s.await(waiting, func() bool { bulk = s.at[via].bulk; return bulk != nil })
	switch {
	case err == nil:
		return bulk, nil
	case ctx.Err() == nil && errors.Is(err, errNoSession):
		return control, nil
	}
	return nil, err
}

// awaitBulkWanted waits until a bulk session with a relay makes sense, and tells on
// which carrier: the control session's.
func (s *sessions) awaitBulkWanted(ctx context.Context, via int) (tunnel.Carrier, error) {
	for {
		control, err := s.awaitControl(ctx, via)
		if err != nil {
			return "", err
		}
		if carrier := control.Link().Carrier(); carrier != tunnel.QUIC {
			return carrier, nil
		}
		select {
		case <-control.Done():
		case <-ctx.Done():
			return "", ctx.Err()
		}
		s.down(via, control)
	}
}

// awaitReturn waits until a relay that drains may be dialled again.
func (s *sessions) awaitReturn(ctx context.Context, via int) {
	s.mu.Lock()
	wait := time.Until(s.at[via].away)
	s.mu.Unlock()
	if wait > 0 {
		pause(ctx, wait)
	}
}
