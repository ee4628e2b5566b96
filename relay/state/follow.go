package state

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/stdlib"
)

const (
	// pollEvery is how often the revision is asked for where nobody told of a
	// change: what was told may be lost.
	pollEvery = time.Second
	// catchUpTime bounds how long somebody who was not found waits for the
	// database, catchUpPause how soon it is asked again.
	catchUpTime  = 2 * time.Second
	catchUpPause = 20 * time.Millisecond
	// After a failure, the pause before the next attempt doubles from the first to
	// the last.
	followFirst = 100 * time.Millisecond
	followLast  = 2 * time.Second
)

// JobEnd is a job whose token another relay ended: it was revoked, and perhaps
// made again.
type JobEnd struct{ Tenant, Name string }

// Follow takes over what other relays change until ctx ends, within a second,
// while the database can be reached; ended is told the jobs that were revoked.
// Where the state is this relay's alone there is nothing to follow.
func (s *State) Follow(ctx context.Context, ended func([]JobEnd)) {
	if !s.engine.shared() {
		<-ctx.Done()
		return
	}
	pause := followFirst
	for ctx.Err() == nil {
		err := s.listen(ctx, func() {
			pause = followFirst
			s.reached(nil)
			if list := s.takeEnded(); len(list) > 0 {
				ended(list)
			}
		})
		if ctx.Err() != nil {
			return
		}
		s.reached(err)
		timer := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		pause = min(2*pause, followLast)
	}
}

// listen follows on one connection until it fails; followed is called each time
// the state was found to be, or made, the database's.
func (s *State) listen(ctx context.Context, followed func()) error {
	connecting, cancel := bounded(ctx, s.engine)
	conn, err := s.db.Conn(connecting)
	cancel()
	if err != nil {
		return err
	}
	defer func() { discard(conn); _ = conn.Close() }()
	if err := s.subscribe(ctx, conn); err != nil {
		return err
	}
	for {
		if err := s.follow(ctx, time.Now()); err != nil {
			return err
		}
		followed()
		if err := s.await(ctx, conn); err != nil {
			return err
		}
	}
}

// subscribe listens for changes. A database that only speaks PostgreSQL's
// protocol may not know how: then there is polling.
func (s *State) subscribe(ctx context.Context, conn *sql.Conn) error {
	ctx, cancel := bounded(ctx, s.engine)
	defer cancel()
	_, err := conn.ExecContext(ctx, `LISTEN "`+channel(s.Instance())+`"`)
	if trouble := troubleOf(err); err != nil && !trouble.unsupported {
		return err
	}
	return nil
}

// await waits for a notification, or until it is time to poll.
func (s *State) await(ctx context.Context, conn *sql.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, pollEvery)
	defer cancel()
	return conn.Raw(func(c any) error {
		for {
			told, err := c.(*stdlib.Conn).Conn().WaitForNotification(ctx)
			switch {
			case err != nil && ctx.Err() != nil:
				return nil
			case err != nil || told.Payload != tellPresence:
				return err
			}
			select {
			case s.peersChanged <- struct{}{}:
			default:
			}
		}
	})
}

// discard makes the pool forget a connection.
func discard(conn *sql.Conn) {
	_ = conn.Raw(func(any) error { return driver.ErrBadConn })
}

// follow makes the state the database's, where that has changed and nobody looked
// since.
func (s *State) follow(ctx context.Context, since time.Time) error {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.turn }()
	if s.closed {
		return sql.ErrConnDone
	}
	if s.followed.After(since) {
		return nil
	}
	began := time.Now()
	ctx, cancel := bounded(ctx, s.engine)
	defer cancel()
	var mac string
	err := s.db.QueryRowContext(ctx, "SELECT mac FROM instance").Scan(&mac)
	if err == nil && (s.stale || mac != s.current.Load().instance.mac.String()) {
		s.stale = true
		err = s.refresh(ctx)
	}
	if err == nil {
		s.followed = began
	}
	return err
}

// CatchUp takes over at once what other relays changed, where there are others:
// for somebody who is not known here and may have been made there a moment ago.
// It waits for a short time only, and not at all while the database is away. It
// tells whether it has.
func (s *State) CatchUp(ctx context.Context) bool {
	if !s.engine.shared() || s.Away() {
		return false
	}
	asked := time.Now()
	ctx, cancel := context.WithTimeout(ctx, catchUpTime)
	defer cancel()
	timer := time.NewTimer(catchUpPause) // strangers may ask often
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return false
	}
	if err := s.follow(ctx, asked); err != nil {
		s.opt.logger().Debug("state: changes of other relays were not looked for", "error", err)
		return false
	}
	return true
}

// Away tells whether the database that is shared with other relays is out of
// reach at the moment.
func (s *State) Away() bool { return s.away.Load() != nil }

// absence is why the database is away.
type absence struct{ err error }

// reached remembers whether the database can be reached, and logs when that
// changes.
func (s *State) reached(err error) {
	var now *absence
	if err != nil {
		now = &absence{err}
	}
	was := s.away.Swap(now) != nil
	switch {
	case err != nil && !was:
		t := s.trouble(err)
		s.opt.logger().Error("the state's database cannot be followed: changes fail until it is back, everything else goes on",
			"database", s.engine.name(), "reason", t.reason, "error", err, "advice", t.advice)
	case err == nil && was:
		s.opt.logger().Info("the state's database is back", "database", s.engine.name(), "revision", s.Revision())
	}
}

// adopt makes what others wrote the state. The turn is the caller's.
func (s *State) adopt(fresh *snapshot) {
	was := s.current.Load()
	if was.instance.revision() > fresh.instance.revision() {
		s.opt.logger().Error("the state's database went back: changes that were made are lost",
			"database", s.engine.name(), "from_revision", was.instance.revision(), "to_revision", fresh.instance.revision())
	}
	s.ended = append(s.ended, endedBetween(was, fresh)...)
	s.current.Store(fresh)
}

// endedBetween lists the jobs whose tokens ended from one snapshot to another.
func endedBetween(was, is *snapshot) (list []JobEnd) {
	for key, old := range was.jobs {
		if now := is.jobs[key]; now != old && !old.Revoked && (now == nil || now.Revoked || now.ID != old.ID) {
			list = append(list, JobEnd{key.tenant, key.name})
		}
	}
	slices.SortFunc(list, func(a, b JobEnd) int { return strings.Compare(a.Tenant+"/"+a.Name, b.Tenant+"/"+b.Name) })
	return list
}

// takeEnded gives what adopt found.
func (s *State) takeEnded() []JobEnd {
	s.turn <- struct{}{}
	defer func() { <-s.turn }()
	list := s.ended
	s.ended = nil
	return list
}

// loadNew reads what changed since a snapshot, and everything where that does not
// add up. Rows carry the revision at which they were written last, and the
// instance's row the sum of their seals.
func loadNew(ctx context.Context, q querier, k *keyring, since *snapshot) (*snapshot, error) {
	fresh, err := loadSince(ctx, q, k, since)
	var gap *damage
	if errors.As(err, &gap) || errors.Is(err, errConflict) {
		return load(ctx, q, k)
	}
	return fresh, err
}

func loadSince(ctx context.Context, q querier, k *keyring, since *snapshot) (*snapshot, error) {
	sum, err := parseSeal(since.instance.columns["digest"].(string))
	if err != nil {
		return nil, err
	}
	var all []row
	for _, table := range tables {
		after := since.instance.revision()
		if table == tableInstance {
			after = 0
		}
		rows, err := readTable(ctx, q, k, table, after)
		if err != nil {
			return nil, err
		}
		all = append(all, rows...)
		if table == tableInstance {
			if len(rows) != 1 || rows[0].revision() <= since.instance.revision() {
				return nil, errConflict
			}
			continue
		}
		for _, r := range rows {
			sum = sum.xor(r.mac)
			if old, ok := since.find(r); ok {
				sum = sum.xor(old.mac)
			}
		}
	}
	fresh, err := since.with(k, all)
	if err != nil {
		return nil, err
	}
	if fresh.instance.columns["digest"] != sum.String() {
		return nil, errConflict
	}
	return fresh, nil
}
