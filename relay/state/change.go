package state

import (
	"context"
	"database/sql/driver"
	"errors"
	"math/rand/v2"
	"time"
)

// edit is one row of a change: what it was, unless it is new, and what it becomes.
type edit struct {
	old *row
	new row
}

func insertion(table string, columns map[string]any) edit {
	return edit{new: row{table: table, columns: columns}}
}

func update(old row, columns map[string]any) edit {
	return edit{old: &old, new: old.with(columns)}
}

// attempts bounds how often a change is planned again because the database was
// changed meanwhile; conflictPause is the longest pause before the first of them.
const (
	attempts      = 10
	conflictPause = 5 * time.Millisecond
)

// change makes one change: plan looks at the newest snapshot and says what to
// edit; an error, or no edits, leaves everything as it is. Only one change is made
// at a time; readers wait for none. What plan found stays true until the change
// is made, for the revision is compared and set with it.
func (s *State) change(ctx context.Context, what string, plan func(*snapshot) ([]edit, error)) error {
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.turn }()
	if err := ctx.Err(); err != nil {
		return err
	}
	// From here the change is made whole or fails on its own. An interrupted
	// statement would leave the question which.
	ctx, cancel := bounded(context.WithoutCancel(ctx), s.engine)
	defer cancel()
	if s.closed {
		return unavailable(what, "the relay is stopping", "try again when the relay is back", nil)
	}
	if away := s.away.Load(); away != nil && !s.trouble(away.err).damaged { // so that changes do not wait for each other
		return s.failed(what, away.err)
	}
	var err error
	looked := !s.engine.shared()
	for attempt := range attempts {
		if attempt > 0 { // others write, too
			<-time.After(rand.N(conflictPause << attempt))
		}
		if err = s.refresh(ctx); err != nil {
			break
		}
		var edits []edit
		edits, err = plan(s.current.Load())
		if err != nil && !looked && !s.stale { // perhaps another relay made it possible
			looked, s.stale = true, true
			continue
		}
		if err != nil {
			return err
		}
		if len(edits) == 0 {
			return nil
		}
		if err = s.commit(ctx, edits); err == nil {
			return nil
		}
		// Whether it was written is known only when it is read again: the
		// journal may be gone while the directory was not synced.
		s.stale = true
		if !errors.Is(err, errConflict) {
			break
		}
	}
	return s.failed(what, err)
}

// refresh reads the database again after a change that failed. The turn is ours.
func (s *State) refresh(ctx context.Context) error {
	if !s.stale {
		return nil
	}
	var fresh *snapshot
	err := s.engine.read(ctx, s.db, func(from querier) (err error) {
		fresh, err = loadNew(ctx, from, s.keys, s.current.Load())
		return err
	})
	if err != nil {
		return err
	}
	if fresh.instance.columns["id"] != s.Instance() {
		return &damage{"it is of another instance"}
	}
	if !s.mark.same(fresh) {
		return &damage{"its CA is not the one that the marker knows"}
	}
	s.adopt(fresh)
	s.stale = false
	return nil
}

// commit writes the edits in one transaction and lets readers see them. The turn
// is ours.
func (s *State) commit(ctx context.Context, edits []edit) (err error) {
	now := s.current.Load()
	revision := now.instance.revision() + 1
	sum, err := parseSeal(now.instance.columns["digest"].(string))
	if err != nil {
		return err
	}
	var rows []row
	for i := range edits {
		edits[i].new = edits[i].new.sealed(s.keys, revision)
		sum = sum.xor(edits[i].new.mac)
		if edits[i].old != nil {
			sum = sum.xor(edits[i].old.mac)
		}
		rows = append(rows, edits[i].new)
	}
	instance := now.instance.with(map[string]any{"digest": sum.String()}).sealed(s.keys, revision)
	next, err := now.with(s.keys, append(rows, instance))
	if err != nil {
		return err
	}
	conn, err := s.db.Conn(ctx)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil { // the next change begins with a fresh connection
			_ = conn.Raw(func(any) error { return driver.ErrBadConn })
		}
		_ = conn.Close()
	}()
	tx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // nothing after Commit
	if err := instance.update(ctx, tx, now.instance); err != nil {
		return err
	}
	for _, e := range edits {
		if e.old == nil {
			err = e.new.insert(ctx, tx)
		} else {
			err = e.new.update(ctx, tx, *e.old)
		}
		if err != nil {
			return err
		}
	}
	if err := s.engine.announce(ctx, tx, s.Instance(), revision); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return unsure(err)
	}
	s.current.Store(next)
	return nil
}

// failed is the error of a change that was not made.
func (s *State) failed(what string, err error) error {
	if errors.Is(err, errConflict) {
		return unavailable(what, "another program changes the database at the same time", "try again; end the program that holds the database, if it is no relay", err)
	}
	t := s.trouble(err)
	if t.damaged {
		return s.corrupt(t.reason, t.cause)
	}
	if maybe := (*unsureError)(nil); errors.As(err, &maybe) && s.engine.shared() {
		return &Error{
			kind: ErrUnavailable, code: "state-unavailable", cause: err,
			message: "nobody knows whether " + what + " was done: " + t.reason + " in the middle of it",
			advice:  "look whether it was done before you try again; " + t.advice,
		}
	}
	return unavailable(what, t.reason, t.advice, err)
}

// unsureError is a commit that failed: perhaps its answer was lost.
type unsureError struct{ err error }

func unsure(err error) error { return &unsureError{err} }

func (e *unsureError) Error() string { return e.err.Error() }

func (e *unsureError) Unwrap() error { return e.err }

func unavailable(what, reason, advice string, cause error) *Error {
	return &Error{kind: ErrUnavailable, code: "state-unavailable", message: what + " was not done: " + reason, advice: advice, cause: cause}
}
